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
from mailflow.mail.message_id import RANDOM_OCTETS, make_message_id
from mailflow.mail.reply import ProtocolError, Reply
from mailflow.mailauth.forged_results import strip_forged
from mailflow.mailauth.result import AuthStatus
from mailflow.mailauth.signed_message import SignedMessage
from mailflow.observe.log import log_decision
from mailflow.observe.metrics import Metrics
from mailflow.observe.nursery import Nursery
from mailflow.receive.authenticate import Arrival, authenticate, share_budget
from mailflow.receive.checks import ReverseName, refuse_loop, refuse_null_mx, take_message, verify_client_name
from mailflow.receive.evidence import Evidence, list_results
from mailflow.receive.explanation import describe_message
from mailflow.receive.trace import trace_fields
from mailflow.receive.verdict import Action, Policy, Verdict, decide, may_report
from mailflow.smtp.server import SmtpSession
from mailflow.smtp.transaction import Client, Transaction

DNS_QUERIES_PER_CLIENT = 30
SENDER_DNS_S = 3.0  # a client waits for its MAIL reply meanwhile
CLIENT_DNS_S = 5.0  # runs beside the session
CLIENT_NAME_WAIT_S = 0.5  # at the end of DATA, for a reverse name that is still being asked for

MESSAGE_COMMANDS = frozenset({"DATA", "BDAT"})
ENVELOPE_COMMANDS = frozenset({"MAIL", "RCPT", *MESSAGE_COMMANDS})

NO_ADDRESS = Reply(421, "4.4.2", "Connection lost")
UNANSWERED = ReverseName(AuthStatus.TEMPERROR)

log = structlog.get_logger()


@dataclass(slots=True)
class Knowledge:
    """What is known of a client, and of its transaction as it goes on: the fields of the decision event."""

    reverse_name: asyncio.Task[ReverseName]
    facts: dict[str, object] = field(default_factory=dict)


class Inbound:
    """The handler of the MX listener. `may_relay(ip)` tells who may send to any domain, `now` Unix time in seconds.

    `authserv_id` is our name in Authentication-Results; `writes_received_spf` asks for a Received-SPF field as well.
    `find_refusal` tells what to say to a message that nobody could keep now, None where it is welcome.
    """

    def __init__(
        self,
        *,
        hostname: str,
        authserv_id: str,
        policy: Policy,
        handoff: Handoff,
        postmaster: Address,
        resolver: Resolver,
        metrics: Metrics,
        nursery: Nursery,
        max_header_bytes: int,
        writes_received_spf: bool = False,
        may_relay: Callable[[str], bool] = lambda ip: False,
        find_refusal: Callable[[], Reply | None] = lambda: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._hostname = hostname
        self._authserv_id = authserv_id
        self._policy = policy
        self._writes_received_spf = writes_received_spf
        self._handoff = handoff
        self._postmaster = postmaster
        self._resolver = resolver
        self._metrics = metrics
        self._nursery = nursery
        self._max_header_bytes = max_header_bytes
        self._may_relay = may_relay
        self._find_refusal = find_refusal
        self._now = now

    async def handle_CONNECT(self, server: SmtpSession, session: Client, envelope: Transaction) -> None:
        """Ask for the client's name while it talks."""
        self._handoff.refresh()
        session.context = Knowledge(self._ask_client_name(session))

    async def handle_MAIL(
        self, server: SmtpSession, session: Client, envelope: Transaction, address: str, options: list[str]
    ) -> None:
        """Judge the envelope sender's domain. SPF waits for the message: nothing is decided by it alone."""
        assert envelope.mail is not None
        if not session.ip:  # gone before it was looked at: nobody hears this, and nothing of it can be authenticated
            raise ProtocolError(NO_ADDRESS, closes=True)
        session.context.facts = {"mail_from": address}
        resolver = BudgetedResolver(self._resolver, max_queries=DNS_QUERIES_PER_CLIENT, max_seconds=SENDER_DNS_S)
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
            if any(known.address == recipient for known in envelope.recipients):
                return None  # named twice, it gets one copy
            envelope.recipients.append(
                Recipient(
                    recipient,
                    verification.deliver_to,
                    is_relayed=verification.is_relayed,
                    destination=verification.destination,
                    notify=envelope.rcpt.notify,
                    original_recipient=envelope.rcpt.original_recipient,
                )
            )
            _add_recipient(session.context.facts, address)
            if verification.deliver_to != recipient:
                session.context.facts["deliver_to"] = str(verification.deliver_to)
            return None
        session.unknown_users += verification.is_unknown_user
        return verification.reply

    async def handle_READY(self, server: SmtpSession, session: Client, envelope: Transaction) -> Reply | None:
        """Refuse a message before its content comes, where it would have no place."""
        return self._find_refusal()

    async def handle_DATA(self, server: SmtpSession, session: Client, envelope: Transaction) -> Reply:
        """Take a whole message: refuse loops, authenticate, decide, mark it with what was found, hand it on, answer."""
        message_id = make_message_id(self._now(), secrets.token_bytes(RANDOM_OCTETS))
        content = envelope.original_content or b""
        session.context.facts |= {"id": message_id, "size": len(content)}
        message = take_message(content, max_header_bytes=self._max_header_bytes)
        refuse_loop(message, [address for r in envelope.recipients for address in (r.address, r.deliver_to)])
        evidence = await self._authenticate(session, envelope, message)
        verdict = decide(evidence, self._policy)
        session.context.facts |= describe_message(evidence, verdict)
        if verdict.reply is not None:
            raise ProtocolError(verdict.reply)
        trace = trace_fields(
            session,
            envelope,
            evidence,
            id=message_id,
            at=self._now(),
            hostname=self._hostname,
            authserv_id=self._authserv_id,
            writes_received_spf=self._writes_received_spf,
        )
        kept = _without_forged(message, self._authserv_id, removes_received_spf=self._writes_received_spf)
        sealed = _seal(envelope, message_id, evidence, verdict)
        outcomes = await self._handoff.deliver(sealed, (trace, *kept))
        reply = _answer(outcomes, message_id)
        session.context.facts |= _describe(outcomes)
        if reply.is_positive:
            self._decide(session, verdict.action.value, reply, session.context.facts)
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
            client_name=_result_of(session.context.reverse_name).name or None,
            helo=session.host_name,
            tls=session.tls[0] if session.tls else None,
            **facts,
        )

    def _ask_client_name(self, session: Client) -> asyncio.Task[ReverseName]:
        resolver = BudgetedResolver(self._resolver, max_queries=DNS_QUERIES_PER_CLIENT, max_seconds=CLIENT_DNS_S)
        return self._nursery.start(verify_client_name(resolver, session.ip), name="iprev")

    async def _wait_client_name(self, session: Client) -> ReverseName:
        """Give the client's reverse name; it is waited for a moment only. Raises what its check did not expect."""
        asked: asyncio.Task[ReverseName] = session.context.reverse_name
        if not asked.done():
            await asyncio.wait({asked}, timeout=CLIENT_NAME_WAIT_S)
        if not asked.done():
            return UNANSWERED
        if asked.exception():  # a fault of ours costs this message its reply, not every later one of the session
            session.context.reverse_name = self._ask_client_name(session)
        return asked.result()

    async def _authenticate(self, session: Client, envelope: Transaction, message: SignedMessage) -> Evidence:
        """Gather the evidence about one message, within one message's budget of the DNS."""
        assert envelope.mail is not None
        arrival = Arrival(
            client_ip=session.ip.partition("%")[0],
            helo=session.host_name or "",
            reverse_name=await self._wait_client_name(session),
            reverse_path=envelope.mail.reverse_path,
            may_relay=self._may_relay(session.ip),
        )
        evidence = await authenticate(
            message,
            arrival,
            resolver_for=share_budget(self._resolver),
            now=self._now(),
            receiver=self._hostname,
        )
        for method, status in list_results(evidence):
            self._metrics.auth_results[method, status.value].inc()
        return evidence


def _seal(envelope: Transaction, message_id: str, evidence: Evidence, verdict: Verdict) -> Envelope:
    """Make the envelope that delivery sees."""
    assert envelope.mail is not None
    return Envelope(
        id=message_id,
        reverse_path=envelope.mail.reverse_path,
        recipients=tuple(envelope.recipients),
        is_smtputf8=envelope.mail.is_smtputf8,
        is_8bit=envelope.mail.is_8bit or not (envelope.original_content or b"").isascii(),
        is_quarantined=verdict.action is Action.QUARANTINE,
        may_report=may_report(evidence, verdict),
        envelope_id=envelope.mail.envelope_id,
        returns_full=envelope.mail.returns_full,
    )


def _without_forged(message: SignedMessage, authserv_id: str, *, removes_received_spf: bool) -> tuple[bytes, ...]:
    """Give the message in pieces without the fields that pretend to be ours."""
    content = message.content
    head, rest_at = strip_forged(
        content, message.fields, message.body_start, authserv_id, removes_received_spf=removes_received_spf
    )
    return (head, content[rest_at:]) if head or rest_at else (content,)


def _answer(outcomes: list[Outcome], message_id: str) -> Reply:
    """Say what the mailbox said, or that all is stored: what several mailboxes say is never mixed in one reply."""
    outcome = outcomes[0]
    if outcome.status in (DeliveryStatus.DELIVERED, DeliveryStatus.STORED):
        return Reply(250, "2.0.0", f"Ok {message_id}")
    return outcome.reply


def _describe(outcomes: list[Outcome]) -> dict[str, object]:
    outcome = outcomes[0]
    return {"outcome": outcome.status.value, "backend": outcome.backend, "detail": outcome.detail}


def _add_recipient(facts: dict[str, object], address: str) -> None:
    """Note a recipient that was taken: the address itself, a list of them where there are several."""
    match facts.get("rcpt_to"):
        case list(several):
            several.append(address)
        case str(first):
            facts["rcpt_to"] = [first, address]
        case _:
            facts["rcpt_to"] = address


def _path_in(argument: str) -> str:
    """Give what a refused MAIL or RCPT named: between its angle brackets, or all of it where there are none."""
    start, end = argument.find("<"), argument.rfind(">")
    return argument[start + 1 : end] if 0 <= start < end else argument


def _result_of(reverse_name: asyncio.Task[ReverseName]) -> ReverseName:
    """Give what is known of it by now, whatever became of its check."""
    if not reverse_name.done() or reverse_name.cancelled() or reverse_name.exception():
        return UNANSWERED
    return reverse_name.result()
