"""Mailbox servers behind LMTP as a backend: verify a recipient, deliver a message now (RFC 2033).

Each user has one server, always the same, and the next in his order while it is down: failing over
ends where the final dot has left, since a second server would then deliver a second copy. Recipients
who share a server share a transaction.

The final dot divides everything. Before it, `handoff_deadline_s` covers the wait for a connection,
the commands and the content; what fails or is cancelled is aborted and surely not delivered
(DEFERRED). After it the answer is waited for in a task that no caller cancels; where none comes
the mail is IN_DOUBT: told 451, the client will try again, and a double is possible (RFC 1047).
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from mailflow.deliver.answers import (
    NO_SMTPUTF8,
    NOT_ANSWERING,
    OWN_FAULT,
    TOO_LARGE,
    UNCONFIRMED,
    WITHHELD,
    judge_answer,
)
from mailflow.deliver.groups import deliver_in_groups
from mailflow.deliver.pool import Lease
from mailflow.deliver.server import MailboxServer, order_servers
from mailflow.deliver.verify import BAD_S, RecipientVerifier
from mailflow.mail.address import Address
from mailflow.mail.address_map import map_key
from mailflow.mail.envelope import Envelope
from mailflow.mail.handoff import DeliveryStatus, DotWithheld, FinalDot, Outcome, RecipientStatus, Verification
from mailflow.mail.reply import Reply, printable
from mailflow.observe.nursery import Nursery
from mailflow.smtp.capabilities import Capabilities
from mailflow.smtp.dot_stuffing import UnsafeContent
from mailflow.smtp.lmtp import Answer, LmtpConnection, Stage
from mailflow.smtp.lmtp_connect import LmtpServer, TlsMode, connect_lmtp
from mailflow.smtp.lmtp_errors import LmtpError, LmtpOutOfStep, LmtpTimeout, LmtpUnreachable

ALL_DOWN = "every server is down"
MAX_RECIPIENTS = 100  # of one transaction: every server must take so many (RFC 5321 s4.5.3.1.8)
VERIFY_S = 5.0  # RCPT waits no longer than this for a server that hangs


class LmtpBackend:
    """LMTP servers that share the users of a backend.

    `clock` gives monotonic seconds, `on_handoff(backend, outcome, seconds)` hears each outcome, `on_failure(backend,
    server)` and `on_circuit(backend, server, is_open)` how the servers are. `tls_context` is needed where `tls` is not
    "off". `connections` bounds deliveries and verifications together, at each server. `user_of` takes the detail off an
    address, which the server still sees.
    """

    def __init__(
        self,
        name: str,
        servers: Sequence[LmtpServer],
        *,
        hostname: str,
        nursery: Nursery,
        connections: int = 20,
        connect_timeout_s: float = 10,
        reply_timeout_s: float = 600,
        handoff_deadline_s: float = 20,
        when_unverifiable: Literal["defer", "accept"] = "defer",
        tls: TlsMode = "off",
        tls_context: ssl.SSLContext | None = None,
        user_of: Callable[[Address], Address] = lambda address: address,
        clock: Callable[[], float] = time.monotonic,
        on_handoff: Callable[[str, str, float], object] = lambda backend, outcome, seconds: None,
        on_failure: Callable[[str, str], object] = lambda backend, server: None,
        on_circuit: Callable[[str, str, bool], object] = lambda backend, server, is_open: None,
    ) -> None:
        self.name = name
        self._hostname = hostname
        self._nursery = nursery
        self._connect_timeout_s = connect_timeout_s
        self._reply_timeout_s = reply_timeout_s
        self.handoff_deadline_s = handoff_deadline_s
        self._tls: TlsMode = tls
        self._tls_context = tls_context
        self._user_of = user_of
        self._clock = clock
        self._on_handoff = on_handoff
        self._servers = [
            MailboxServer(
                str(server),
                backend=name,
                dial=partial(self._dial, server),
                connections=connections,
                nursery=nursery,
                on_failure=partial(on_failure, name, str(server)),
                on_circuit=partial(on_circuit, name, str(server)),
            )
            for server in servers
        ]
        self._verifier = RecipientVerifier(self._ask, when_unverifiable=when_unverifiable, nursery=nursery, clock=clock)
        self._offered: tuple[float, Capabilities] | None = None  # by the session used last, and when

    async def open(self) -> None:
        """Nothing is connected before it is needed."""

    async def close(self) -> None:
        """Close idle connections; those in use close when they are done."""
        for server in self._servers:
            server.close()

    async def verify(self, address: Address, *, is_smtputf8: bool) -> Verification:
        """Tell whether the server would take mail for `address`. Never raises for the server's fault."""
        if not is_smtputf8 and address.local.isascii():
            return await self._verifier.verify(address)
        verification = await self._verifier.verify(address, is_forced=self._recent_offer() is None)
        offered = self._recent_offer()
        if offered is not None and not offered.has_smtputf8:
            return Verification(RecipientStatus.REFUSED, reply=NO_SMTPUTF8)
        return verification

    async def deliver(self, envelope: Envelope, body: Sequence[bytes], dot: FinalDot) -> list[Outcome]:
        """Deliver now; one outcome per recipient, in order. Cancelled before the final dot, it aborts; after it, the
        answers are still read. Never raises for the server's fault.
        """
        deadline = asyncio.get_running_loop().time() + self.handoff_deadline_s
        message = _Message(body, sum(map(len, body)), dot, self._clock(), deadline)
        return await self._deliver_by_server(envelope, message, {})

    async def _deliver_by_server(
        self, envelope: Envelope, message: "_Message", faults: Mapping[MailboxServer, str]
    ) -> list[Outcome]:
        """Deliver to each recipient at his first server that is up and is not among the `faults`, side by side.

        Who needs SMTPUTF8 goes alone: his server may not offer it.
        """
        return await deliver_in_groups(
            envelope,
            lambda r: (self._choose_server(r.deliver_to, faults), r.deliver_to.local.isascii()),
            lambda way, part: self._deliver_at(way[0], part, message, faults),
            dot=message.dot,
            nursery=self._nursery,
            max_recipients=MAX_RECIPIENTS,
        )

    async def _deliver_at(
        self,
        server: MailboxServer | None,
        envelope: Envelope,
        message: "_Message",
        faults: Mapping[MailboxServer, str],
    ) -> list[Outcome]:
        """Deliver at one server; where that fails before the final dot, at each recipient's next one."""
        if server is None:
            words = "; ".join(f"{failed.name}: {fault}" for failed, fault in faults.items())
            return self._report_all(envelope, NOT_ANSWERING, words or ALL_DOWN, message)
        now = asyncio.get_running_loop().time()
        left = sum(not other.is_down for other in self._servers if other not in faults)
        deadline = now + (message.deadline - now) / max(1, left)  # the next one has its share
        try:
            lease, answers = await self._hand_over(server, envelope, message, deadline)
        except LmtpError as exc:
            fault = str(exc)
            exc.__traceback__ = None  # the connection knows its fault: a ring that would keep the body in memory
        except UnsafeContent as exc:
            return self._report_all(envelope, OWN_FAULT, f"content has a {exc}", message)
        except DotWithheld:
            return self._report_all(envelope, OWN_FAULT, WITHHELD, message)
        else:
            return await self._hear_answers(server, lease, envelope, answers, message.started)
        return await self._deliver_by_server(envelope, message, {**faults, server: fault})

    async def _hear_answers(
        self, server: MailboxServer, lease: Lease, envelope: Envelope, answers: list[Answer | None], started: float
    ) -> list[Outcome]:
        deadline = asyncio.get_running_loop().time() + self._reply_timeout_s
        settle = partial(self._settle, server, lease, envelope, answers, started, deadline)
        try:
            return await settle()
        except asyncio.CancelledError:
            # Our final dot has left: the answers are heard all the same, though nobody waits for them.
            settling = self._nursery.start(settle(), name="LMTP answers")
            settling.add_done_callback(partial(_release, lease))  # cut as well, perhaps before it began
            raise

    def _order(self, address: Address) -> Sequence[MailboxServer]:
        """Give the servers in the user's order."""
        if len(self._servers) == 1:
            return self._servers
        return order_servers(self._servers, map_key(self._user_of(address)))

    def _choose_server(self, address: Address, failed: Container[MailboxServer]) -> MailboxServer | None:
        return next((s for s in self._order(address) if s not in failed and not s.is_down), None)

    def _attempts(self, address: Address, seconds: float) -> Iterator[tuple[MailboxServer, float]]:
        """Give the user's servers that are up, in his order, each with a deadline that leaves the next its share."""
        now = asyncio.get_running_loop().time
        end = now() + seconds
        servers = [server for server in self._order(address) if not server.is_down]
        for left in range(len(servers), 0, -1):
            server = servers[len(servers) - left]
            if server.is_down and left > 1:  # since the list was made
                continue
            yield server, now() + (end - now()) / left

    async def _hand_over(
        self, server: MailboxServer, envelope: Envelope, message: "_Message", deadline: float
    ) -> tuple[Lease, list[Answer | None]]:
        """Do everything up to the final dot. Gives the lease that the answers will come on, and the refusals so far."""
        lease = await server.lease(deadline)
        try:
            with server.watch():
                answers = await lease.run(lambda c: self._offer(c, envelope, message.size_bytes, deadline), deadline)
                if None in answers:
                    await lease.connection.send_content(message.body, message.dot, deadline=deadline)
        except BaseException:
            lease.release()
            raise
        return lease, answers

    async def _offer(
        self, connection: LmtpConnection, envelope: Envelope, size_bytes: int, deadline: float
    ) -> list[Answer | None]:
        """Say MAIL, RCPT, DATA, unless what the server offers cannot carry the message (RFC 6531 s3.2, 1870 s6.1)."""
        offered = self._note_offer(connection)
        recipients = [recipient.deliver_to for recipient in envelope.recipients]
        is_smtputf8 = envelope.is_smtputf8 or not _have_ascii_local_parts(envelope.reverse_path, *recipients)
        if is_smtputf8 and not offered.has_smtputf8:
            return [Answer(Stage.MAIL, NO_SMTPUTF8)] * len(recipients)
        if offered.max_size_bytes and size_bytes > offered.max_size_bytes:
            return [Answer(Stage.MAIL, TOO_LARGE)] * len(recipients)
        return await connection.open_transaction(
            envelope.reverse_path,
            recipients,
            size_bytes=size_bytes,
            is_8bit=envelope.is_8bit,
            is_smtputf8=is_smtputf8,
            deadline=deadline,
        )

    async def _settle(
        self,
        server: MailboxServer,
        lease: Lease,
        envelope: Envelope,
        answers: list[Answer | None],
        started: float,
        deadline: float,
    ) -> list[Outcome]:
        """Read the answers that are still owed after the final dot, give the connection back, report.

        Cancelled, it has kept in `answers` what it had read, and may be called again.
        """
        fault = ""
        try:
            for index, answer in enumerate(answers):
                if answer is None:
                    answers[index] = await lease.connection.read_answer(deadline=deadline)
            lease.connection.check_in_step()
        except LmtpOutOfStep as exc:  # whose answer was whose is not known any more: only refusals before it count
            answers = [answer if answer and answer.stage is not Stage.CONTENT else None for answer in answers]
            fault = str(exc)
        except LmtpError as exc:
            fault = str(exc)
        except Exception:
            lease.release()
            raise
        lease.release()
        if fault:
            server.note_failure(fault)
        else:
            server.note_success()
        outcomes = [self._judge(server, answer, fault) for answer in answers]
        self._report(envelope, answers, outcomes, started)
        return outcomes

    def _judge(self, server: MailboxServer, answer: Answer | None, fault: str) -> Outcome:
        if answer is None:
            return Outcome(DeliveryStatus.IN_DOUBT, UNCONFIRMED, self.name, printable(fault), server=server.name)
        status, reply = judge_answer(answer)
        detail = printable(f"{answer.stage.value}: {answer.reply}")
        remote_reply = None if answer.reply in (NO_SMTPUTF8, TOO_LARGE) else answer.reply  # not asked at all
        return Outcome(status, reply, self.name, detail, remote_reply, server.name)

    def _report_all(self, envelope: Envelope, reply: Reply, fault: str, message: "_Message") -> list[Outcome]:
        """Defer every recipient: no final dot left."""
        outcomes = [Outcome(DeliveryStatus.DEFERRED, reply, self.name, printable(fault))] * len(envelope.recipients)
        self._report(envelope, [None] * len(outcomes), outcomes, message.started)
        return outcomes

    def _report(
        self, envelope: Envelope, answers: list[Answer | None], outcomes: list[Outcome], started: float
    ) -> None:
        """Tell the metrics, and let verification learn: the next RCPT hears at once what this one heard."""
        seconds = self._clock() - started
        for recipient, answer, outcome in zip(envelope.recipients, answers, outcomes, strict=True):
            self._on_handoff(self.name, outcome.status.value, seconds)
            if outcome.status is DeliveryStatus.DELIVERED:
                self._verifier.note_delivered(recipient.deliver_to)
            elif outcome.status is DeliveryStatus.REFUSED and answer is not None:
                self._verifier.note_refused(recipient.deliver_to, answer)

    async def _ask(self, address: Address) -> Answer:
        """Ask the user's server about one recipient, within VERIFY_S. Raises LmtpError."""
        fault: LmtpError = LmtpUnreachable(ALL_DOWN)
        for server, deadline in self._attempts(address, min(VERIFY_S, self.handoff_deadline_s)):
            try:
                return await self._ask_server(server, address, deadline)
            except LmtpError as exc:
                fault = exc
        raise fault

    async def _ask_server(self, server: MailboxServer, address: Address, deadline: float) -> Answer:
        now = asyncio.get_running_loop().time()
        # Whoever waited long would have no time left to connect, and call a server unreachable that is only busy.
        slot_deadline = now + (deadline - now) / 2
        try:
            async with asyncio.timeout_at(slot_deadline):
                await server.question_slots.acquire()
        except TimeoutError as exc:
            raise LmtpTimeout("waited too long to ask") from exc
        try:
            lease = await server.lease(deadline, slot_deadline=slot_deadline)
            try:
                with server.watch():
                    answer = await lease.run(lambda c: self._ask_on(c, address, deadline), deadline)
            finally:
                lease.release()
        finally:
            server.question_slots.release()
        server.note_success()
        return answer

    async def _ask_on(self, connection: LmtpConnection, address: Address, deadline: float) -> Answer:
        is_smtputf8 = not address.local.isascii()
        if is_smtputf8 and not self._note_offer(connection).has_smtputf8:
            return Answer(Stage.RCPT, NO_SMTPUTF8)
        answer = await connection.ask_recipient(address, is_smtputf8=is_smtputf8, deadline=deadline)
        self._note_offer(connection)
        return answer

    def _note_offer(self, connection: LmtpConnection) -> Capabilities:
        self._offered = (self._clock(), connection.capabilities)
        return connection.capabilities

    def _recent_offer(self) -> Capabilities | None:
        """Give what the server offered lately, believed as long as a bad answer: it may learn SMTPUTF8 any time."""
        if self._offered is None or self._clock() - self._offered[0] >= BAD_S:
            return None
        return self._offered[1]

    async def _dial(self, server: LmtpServer, deadline: float) -> LmtpConnection:
        loop = asyncio.get_running_loop()
        return await connect_lmtp(
            server,
            hostname=self._hostname,
            tls=self._tls,
            tls_context=self._tls_context,
            deadline=min(deadline, loop.time() + self._connect_timeout_s),
        )


@dataclass(frozen=True, slots=True)
class _Message:
    """What all groups of one delivery share: `started` by the backend's clock, `deadline` in loop time, seconds."""

    body: Sequence[bytes]
    size_bytes: int
    dot: FinalDot
    started: float
    deadline: float


def _release(lease: Lease, _task: asyncio.Task[list[Outcome]]) -> None:
    lease.release()


def _have_ascii_local_parts(*addresses: Address | None) -> bool:
    """Tell whether the addresses can travel without SMTPUTF8; a domain always can, in A-labels."""
    return all(address is None or address.local.isascii() for address in addresses)
