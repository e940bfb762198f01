"""Mail from the Internet, port 25: what a message goes through, as a list (DESIGN of the way: docs/flow.md).

The hooks of an SMTP session: each returns the reply the client hears, or raises ProtocolError with
it. What was learnt on the way gathers in one decision event per answered command, also for mail
that was refused before it had an id. A 250 to DATA is said only after the mailbox confirmed.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from mailflow.dns import BudgetedResolver, Resolver
from mailflow.mail.address import Address
from mailflow.mail.envelope import Envelope, Recipient
from mailflow.mail.handoff import DeliveryStatus, Handoff, Outcome, RecipientStatus
from mailflow.mail.reply import Reply
from mailflow.mail.trace import Hop, received_field
from mailflow.observe.log import log_decision
from mailflow.observe.metrics import Metrics
from mailflow.observe.nursery import Nursery
from mailflow.receive.checks import refuse_loop, refuse_null_mx, take_header, verify_client_name
from mailflow.smtp.server import SmtpSession
from mailflow.smtp.transaction import Client, Transaction

DNS_QUERIES_PER_MESSAGE = 30
SENDER_DNS_S = 3.0  # a client waits for its MAIL reply meanwhile
CLIENT_DNS_S = 5.0  # runs beside the session
CLIENT_NAME_WAIT_S = 0.5  # at the end of DATA, for a reverse name that is still being asked for

MESSAGE_COMMANDS = frozenset({"DATA", "BDAT"})
ENVELOPE_COMMANDS = frozenset({"MAIL", "RCPT", *MESSAGE_COMMANDS})

log = structlog.get_logger()


@dataclass(slots=True)
class Evidence:
    """What is known of a client, and of its transaction as it goes on: the fields of the decision event."""

    client_name: asyncio.Task[str | None]
    facts: dict[str, object] = field(default_factory=dict)


class Inbound:
    """The handler of the MX listener. `may_relay(ip)` tells who may send to any domain, `now` Unix time in seconds."""

    def __init__(
        self,
        *,
        hostname: str,
        handoff: Handoff,
        postmaster: Address,
        resolver: Resolver,
        metrics: Metrics,
        nursery: Nursery,
        max_header_bytes: int,
        may_relay: Callable[[str], bool] = lambda ip: False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._hostname = hostname
        self._handoff = handoff
        self._postmaster = postmaster
        self._resolver = resolver
        self._metrics = metrics
        self._nursery = nursery
        self._max_header_bytes = max_header_bytes
        self._may_relay = may_relay
        self._now = now

    async def handle_CONNECT(self, server: SmtpSession, session: Client, envelope: Transaction) -> None:
        """Ask for the client's name while it talks."""
        self._handoff.refresh()
        resolver = BudgetedResolver(self._resolver, max_queries=DNS_QUERIES_PER_MESSAGE, max_seconds=CLIENT_DNS_S)
        client_name = self._nursery.start(verify_client_name(resolver, session.ip), name="iprev")
        session.context = Evidence(client_name)

    async def handle_MAIL(
        self, server: SmtpSession, session: Client, envelope: Transaction, address: str, options: list[str]
    ) -> None:
        """Judge the envelope sender."""
        assert envelope.mail is not None
        session.context.facts = {"mail_from": address}
        resolver = BudgetedResolver(self._resolver, max_queries=DNS_QUERIES_PER_MESSAGE, max_seconds=SENDER_DNS_S)
        await refuse_null_mx(resolver, envelope.mail.reverse_path)

    async def handle_RCPT(
        self, server: SmtpSession, session: Client, envelope: Transaction, address: str, options: list[str]
    ) -> Reply | None:
        """Judge one recipient: is it ours, does its mailbox take mail? A no is said now, not bounced later."""
        assert envelope.mail is not None
        assert envelope.rcpt is not None
        recipient = envelope.rcpt.forward_path or self._postmaster
        verification = await self._handoff.verify_recipient(
            recipient, is_smtputf8=envelope.mail.is_smtputf8, may_relay=self._may_relay(session.ip)
        )
        self._metrics.rcpts[verification.status.value,].inc()
        if verification.status is RecipientStatus.GOOD and verification.deliver_to:
            envelope.recipients.append(Recipient(recipient, verification.deliver_to, verification.is_relayed))
            session.context.facts["rcpt_to"] = address
            if verification.deliver_to != recipient:
                session.context.facts["deliver_to"] = str(verification.deliver_to)
            return None
        session.unknown_users += verification.is_unknown_user
        return verification.reply

    async def handle_DATA(self, server: SmtpSession, session: Client, envelope: Transaction) -> Reply:
        """Take a whole message: read its header, refuse loops, sign for it, hand it on, answer."""
        message_id = self._new_id()
        content = envelope.original_content or b""
        session.context.facts |= {"id": message_id, "size": len(content)}
        header = take_header(content, max_bytes=self._max_header_bytes)
        refuse_loop(header, [address for r in envelope.recipients for address in (r.address, r.deliver_to)])
        trace = await self._trace(session, envelope, message_id)
        outcomes = await self._handoff.deliver(_seal(envelope, message_id), (trace, content))
        reply = _answer(outcomes, message_id)
        session.context.facts |= _describe(outcomes)
        if reply.is_positive:
            self._decide(session, "accept", reply, session.context.facts)
            session.context.facts = {}
        return reply

    async def handle_RSET(self, server: SmtpSession, session: Client, envelope: Transaction) -> None:
        """Forget the transaction: its facts are none of the next one's."""
        session.context.facts = {}

    async def handle_REFUSED(
        self, server: SmtpSession, session: Client, envelope: Transaction, verb: str, argument: str, reply: Reply
    ) -> None:
        """Note every refusal, the session's own included: one event, with what was known by then."""
        if verb not in ENVELOPE_COMMANDS or not session.may_mail:  # a health check is no mail
            return
        facts = session.context.facts
        if verb == "MAIL":
            facts = {"mail_from": _path_in(argument)}
        elif verb == "RCPT":
            facts = (facts if envelope.mail else {}) | {"rcpt_to": _path_in(argument)}
        # A DATA or BDAT out of order, or misspelled, is no message.
        is_message = verb in MESSAGE_COMMANDS and reply.code not in (501, 503)
        self._decide(
            session, "defer" if reply.is_transient else "reject", reply, facts, command=verb, is_message=is_message
        )
        if envelope.mail is None:  # the refusal ended the transaction
            session.context.facts = {}

    async def handle_GONE(self, server: SmtpSession, session: Client, envelope: Transaction, verb: str) -> None:
        """Note a client that went in the middle of a message; it was told nothing, so it still has the message."""
        if verb in MESSAGE_COMMANDS:
            log.info("client_gone", command=verb, client_ip=session.ip, helo=session.host_name, **session.context.facts)

    def _decide(
        self,
        session: Client,
        action: str,
        reply: Reply,
        facts: dict[str, object],
        *,
        command: str = "DATA",
        is_message: bool = True,
    ) -> None:
        if is_message:
            self._metrics.messages["mx", action].inc()
        log_decision(
            "message" if is_message else "command",
            action=action,
            command=command,
            reply=str(reply),
            client_ip=session.ip,
            client_name=_result_of(session.context.client_name),
            helo=session.host_name,
            tls=session.tls[0] if session.tls else None,
            **facts,
        )

    async def _trace(self, session: Client, envelope: Transaction, message_id: str) -> bytes:
        client_name = session.context.client_name
        if not client_name.done():
            await asyncio.wait({client_name}, timeout=CLIENT_NAME_WAIT_S)
        hop = Hop(
            helo=session.host_name or "",
            client_ip=session.ip,
            client_name=_result_of(client_name),
            protocol=_protocol(session, envelope),
            tls=session.tls,
        )
        (recipient,) = envelope.recipients if len(envelope.recipients) == 1 else (None,)
        return received_field(
            hop,
            hostname=self._hostname,
            id=message_id,
            recipient=recipient.address if recipient else None,
            at=self._now(),
        )

    def _new_id(self) -> str:
        """Make an id that sorts by time and is nobody else's: milliseconds, then 40 random bits."""
        return f"{int(self._now() * 1000):011x}{secrets.token_hex(5)}"


def _seal(envelope: Transaction, message_id: str) -> Envelope:
    """Make the envelope that delivery sees."""
    assert envelope.mail is not None
    return Envelope(
        id=message_id,
        reverse_path=envelope.mail.reverse_path,
        recipients=tuple(envelope.recipients),
        is_smtputf8=envelope.mail.is_smtputf8,
        is_8bit=envelope.mail.is_8bit or not (envelope.original_content or b"").isascii(),
    )


def _answer(outcomes: list[Outcome], message_id: str) -> Reply:
    """Say what the mailbox said; a hand-off takes one recipient, so there is no mixed result."""
    (outcome,) = outcomes
    if outcome.status is DeliveryStatus.DELIVERED:
        return Reply(250, "2.0.0", f"Ok {message_id}")
    return outcome.reply


def _describe(outcomes: list[Outcome]) -> dict[str, object]:
    (outcome,) = outcomes
    return {"outcome": outcome.status.value, "backend": outcome.backend, "detail": outcome.detail}


def _path_in(argument: str) -> str:
    """Give what a refused MAIL or RCPT named: between its angle brackets, or all of it where there are none."""
    start, end = argument.find("<"), argument.rfind(">")
    return argument[start + 1 : end] if 0 <= start < end else argument


def _protocol(session: Client, envelope: Transaction) -> str:
    """Give the transmission type of RFC 3848 and RFC 6531 s4.3."""
    secured = "S" if session.tls else ""
    if envelope.mail and envelope.mail.is_smtputf8:
        return f"UTF8SMTP{secured}"
    return f"ESMTP{secured}" if session.extended_smtp else "SMTP"


def _result_of(client_name: asyncio.Task[str | None]) -> str | None:
    if not client_name.done() or client_name.cancelled() or client_name.exception():
        return None
    return client_name.result()
