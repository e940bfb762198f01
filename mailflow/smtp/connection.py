"""An SMTP connection on aiosmtpd's SMTP class: reads command lines, runs them, answers, ends in order (RFC 5321).

aiosmtpd gives the frame (Session, Envelope, the handler hooks and their names); reading and the command
loop are ours, for the reasons docs/decisions.md gives; the commands themselves are in server.py.
`SmtpService` is what all connections of one listener share, `SmtpConnection` is one of them.

Nothing that a client does cancels anything here, and an exception of ours is `451 4.3.0` with no word
about what happened.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, cast

import structlog
from aiosmtpd.smtp import MISSING, SMTP

from mailflow.mail.reply import ProtocolError, Reply
from mailflow.observe.nursery import Nursery
from mailflow.smtp.budget import ByteBudget
from mailflow.smtp.commands import split_command
from mailflow.smtp.stream import LINGER_S, DeadlinePassed, LineTooLong, PeerGone, PeerStream
from mailflow.smtp.tls import ServerTls
from mailflow.smtp.transaction import Client, ProxiedPeer, SmtpOptions, Transaction

# Members of aiosmtpd's classes, public or not, that this module overrides or reads; a test holds the pinned
# version against it, so that an update cannot change one unseen.
RELIED_ON = (
    "connection_made",
    "connection_lost",
    "data_received",
    "eof_received",
    "pause_writing",
    "resume_writing",
    "push",
    "_create_envelope",
    "_create_session",
    "_handle_client",
    "_handle_hooks",
    "_set_post_data_state",
    "_set_rset_state",
)

LOCAL_ERROR = Reply(451, "4.3.0", "Local error in processing, try again later")
BARE_NEWLINE = Reply(521, "5.5.2", "Bare CR, bare LF or NUL received, see RFC 5321 section 2.3.8")
SHUTTING_DOWN = Reply(421, "4.3.2", "Service shutting down, try again later")
RESERVED_AHEAD_S = 10.0  # how long octets that SIZE declared are kept free for a client that does not send them
RECLAIM_EVERY_S = 1.0  # asking every session is not done for each refusal of a flood
MAX_REFUSED_LINGERING = 100  # refused clients that are given time to read why; beyond, descriptors matter more
COMMANDS_PER_TURN = 50  # then the other sessions have theirs, however much one client pipelines
# Verbs of other protocols: a browser or a proxy was tricked into talking to us (CVE-2021-38371 and its kin), or a
# client that nobody trusts would choose its own address.
FOREIGN_VERBS = frozenset({"PROXY", "GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "DELETE"})

log = structlog.get_logger()


async def admit_all(ip: str) -> Reply | None:
    """Refuse no client."""
    return None


@dataclass(slots=True)
class SmtpService:
    """What the connections of one listener share.

    `admit` is asked with the client's IP before the greeting and answers with the refusal or None;
    after None, `leave` is called when the session has ended.
    """

    handler: Any
    options: SmtpOptions
    budget: ByteBudget
    nursery: Nursery
    tls: ServerTls | None = None
    admit: Callable[[str], Awaitable[Reply | None]] = admit_all
    leave: Callable[[str], None] = lambda ip: None
    on_internal_error: Callable[[], None] = lambda: None
    on_tls_handshake: Callable[[str], None] = lambda result: None
    sessions: "set[SmtpConnection]" = field(default_factory=set)
    is_draining: bool = False
    refused_lingering: int = 0
    reclaimed_at: float = 0.0  # in loop time
    hooks: dict[str, Callable[..., Awaitable[Any]]] = field(init=False)

    def __post_init__(self) -> None:
        """Look the handler's hooks up once per listener, not once per connection."""
        self._find_hooks()

    def reconfigure(self, *, handler: Any, options: SmtpOptions, tls: ServerTls | None) -> None:
        """Take up what a reload made: sessions have it from their next transaction on."""
        self.handler, self.options, self.tls = handler, options, tls
        self._find_hooks()

    def _find_hooks(self) -> None:
        names = (name for name in dir(self.handler) if name.startswith("handle_"))
        self.hooks = {name.removeprefix("handle_"): getattr(self.handler, name) for name in names}

    def drain(self) -> None:
        """Refuse what comes now, end idle sessions with 421, let transactions finish."""
        self.is_draining = True
        for session in tuple(self.sessions):
            session.drain()

    def reserve(self, size_bytes: int) -> bool:
        """Reserve bytes in flight; where none are left, take back what was declared a while ago and never sent."""
        if self.budget.reserve(size_bytes):
            return True
        now = asyncio.get_running_loop().time()
        if now - self.reclaimed_at < RECLAIM_EVERY_S:
            return False
        self.reclaimed_at = now
        for session in self.sessions:
            session.give_up_ahead()
        return self.budget.reserve(size_bytes)


class SmtpConnection(SMTP):
    """One SMTP connection, whose commands are the methods in `verbs`."""

    verbs: ClassVar[dict[str, Callable[..., Awaitable[Reply | None]]]]

    # aiosmtpd's own costs 0.16 ms of introspection: not called.
    def __init__(self, service: SmtpService, proxied: ProxiedPeer | None = None) -> None:
        self.service = service
        self._proxied = proxied
        self.options = service.options
        self.loop = asyncio.get_running_loop()
        self.stream = PeerStream(self.loop, max_line_octets=service.options.max_line_octets)
        self.session: Client = self._create_session()
        self.envelope: Transaction = self._create_envelope()
        self._handle_hooks = service.hooks
        self.event_handler = service.handler
        self.hostname = service.options.hostname
        self.transport: asyncio.Transport | None = None
        self._verb = self._argument = ""  # the command being executed, "" between commands
        self._is_closing = False
        self._linger_s = LINGER_S

    # Callbacks of the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the session as a task of its own."""
        self.transport = cast(asyncio.Transport, transport)
        self.stream.connection_made(self.transport)
        peer = transport.get_extra_info("peername")
        if self._proxied is not None:
            self.session.may_mail = self._proxied.source is not None
            peer = self._proxied.source or peer
        self.session.peer = peer
        self.session.ip = peer[0] if peer else ""
        self.service.sessions.add(self)
        self.service.nursery.start(self._handle_client(), name="smtp session")

    def data_received(self, data: bytes) -> None:
        """Pass input on."""
        self.stream.data_received(data)

    def eof_received(self) -> bool:
        """Keep the connection for our replies after a half-close; TLS has none."""
        self.stream.eof_received()
        return self.session.tls is None

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the session, which ends by itself: aiosmtpd cancels the handler here and so cuts hand-offs in two."""
        self.stream.connection_lost()
        self.transport = None

    def pause_writing(self) -> None:
        """Pass the transport's word on."""
        self.stream.pause_writing()

    def resume_writing(self) -> None:
        """Pass the transport's word on."""
        self.stream.resume_writing()

    def drain(self) -> None:
        """End the session between transactions: by 421 where it listens, at once where the client makes it wait."""
        if self.envelope.mail is None and (self.stream.is_write_paused or self._verb == "STARTTLS"):
            self.stream.abort()
        self.stream.wake()

    def give_up_ahead(self) -> None:
        """Give back what SIZE reserved beyond the octets that came, once the client had time to send them.

        Declaring costs a client nothing; holding what others need must not. Its message goes on, octets as they come.
        """
        envelope = self.envelope
        ahead = envelope.reserved_bytes - envelope.kept_bytes
        if ahead > 0 and self.loop.time() - envelope.declared_at > RESERVED_AHEAD_S:
            self.service.budget.release(ahead)
            envelope.reserved_bytes = envelope.kept_bytes

    # aiosmtpd's frame.

    def _create_session(self) -> Client:
        return Client(self.loop)

    def _create_envelope(self) -> Transaction:
        return Transaction()

    def _set_rset_state(self) -> None:
        self._set_post_data_state()

    def _set_post_data_state(self) -> None:
        self._release_reserved()
        self.envelope = self._create_envelope()

    def _release_reserved(self) -> None:
        """Give back what the transaction holds: a message that is only read to its end keeps nobody else out."""
        self.service.budget.release(self.envelope.reserved_bytes)
        self.envelope.reserved_bytes = self.envelope.kept_bytes = 0

    async def push(self, status: Any) -> None:
        """Queue a reply for the next write; aiosmtpd's handlers call this too."""
        self.stream.push(status.encode() if isinstance(status, Reply) else _status_line(status))

    # The session.

    async def _handle_client(self) -> None:
        """Converse until one side ends it; then give back what the session held."""
        refusal = SHUTTING_DOWN if self.service.is_draining else None
        is_counted = False
        try:
            # A load balancer's health checks are nobody's client: shed, they would take every client with them.
            if refusal is None and self.session.may_mail:
                refusal = await self.service.admit(self.session.ip)
                is_counted = refusal is None
            if refusal:
                await self.push(refusal)
                self.service.refused_lingering += 1
                if self.service.refused_lingering > MAX_REFUSED_LINGERING:
                    self._linger_s = 0
            else:
                await self._converse()
        except PeerGone:
            await self._hook("GONE", self._verb)
        except DeadlinePassed:
            await self._refuse(Reply(421, "4.4.2", "Timeout, closing connection"))
        except asyncio.CancelledError:  # the drain's time is over: no time for a goodbye either
            self.stream.abort()
            raise
        except Exception:
            self._report_fault("session")
            await self.push(Reply(421, "4.3.0", "Local error, closing connection"))
        finally:
            self._set_post_data_state()
            try:
                await self.stream.close_in_order(linger_s=self._linger_s)
            finally:
                self.service.sessions.discard(self)
                if refusal:
                    self.service.refused_lingering -= 1
                if is_counted:
                    self.service.leave(self.session.ip)

    async def _converse(self) -> None:
        await self._hook("CONNECT")
        await self.push(Reply(220, "", f"{self.hostname} ESMTP"))
        turn = 0
        while not self._is_closing:
            try:
                must_drain = self.service.is_draining and self.envelope.mail is None
                line = None if must_drain else self.stream.take_line() or await self._next_line()
                if line is None:
                    await self.push(SHUTTING_DOWN)
                    return
                await self._execute(line)
            except LineTooLong:
                await self._refuse(Reply(500, "5.5.2", "Line too long"))
            turn += 1
            if turn % COMMANDS_PER_TURN == 0:
                await self._flush()
                await asyncio.sleep(0)

    async def _next_line(self) -> bytes | None:
        """Send the replies and wait for the next command line; None where a drain ends the session before it."""
        self.stream.flush()
        if self.stream.is_write_paused:
            await self._wait_writable()
            if line := self.stream.take_line():  # one that came meanwhile wakes nobody any more
                return line
        # A deadline for the whole line: it does not begin again with each byte.
        deadline = self.loop.time() + self.options.command_timeout_s
        while not (self.service.is_draining and self.envelope.mail is None):
            await self.stream.wait_input(deadline)
            if line := self.stream.take_line():
                return line
        return None

    async def _flush(self) -> None:
        self.stream.flush()
        if self.stream.is_write_paused:
            await self._wait_writable()

    async def _wait_writable(self) -> None:
        try:
            await self.stream.wait_writable(self.loop.time() + self.options.command_timeout_s)
        except DeadlinePassed as exc:
            self.stream.abort()  # who does not read would not read a 421 either
            raise PeerGone from exc

    async def _execute(self, line: bytes) -> None:
        """Run one command line and queue its reply."""
        self._verb = self._argument = ""
        try:
            self._verb, self._argument = split_command(self._strip_newline(line))
            method = self.verbs.get(self._verb)
            if method is None:
                raise _unknown_verb(self._verb)
            reply = await method(self, self._argument)
        except ProtocolError as error:
            reply = error.reply
            self._is_closing = self._is_closing or error.closes
        except (PeerGone, DeadlinePassed):
            raise
        except Exception:
            self._report_fault(self._verb)
            reply = LOCAL_ERROR
        if reply is not None and reply.code >= 400:
            await self._refuse(reply)
        elif reply is not None:
            self.stream.push(reply.encode())
        self._verb = self._argument = ""

    async def _refuse(self, reply: Reply) -> None:
        """Queue a 4xx or 5xx; count what the client did wrong; end the session of one who only does wrong."""
        await self.push(reply)
        self._is_closing = self._is_closing or reply.code in (421, 521)
        await self._hook("REFUSED", self._verb, self._argument, reply)
        self.session.errors += reply.is_permanent
        if self._is_closing:
            return
        if self.session.errors >= self.options.max_errors:
            await self._hang_up(Reply(421, "4.7.0", "Too many errors, closing connection"))
        elif self.session.unknown_users >= self.options.max_unknown_users:
            await self._hang_up(Reply(421, "4.7.0", "Too many unknown recipients, closing connection"))

    async def _hang_up(self, reply: Reply) -> None:
        await self.push(reply)
        self._is_closing = True

    def _strip_newline(self, line: bytes) -> bytes:
        if line.endswith(b"\r\n"):
            line = line[:-2]
        elif self.options.normalizes_newlines:
            line = line[:-1]
        else:
            raise ProtocolError(BARE_NEWLINE, closes=True)
        if b"\0" in line or b"\r" in line:
            raise ProtocolError(BARE_NEWLINE, closes=True)
        return line

    def _report_fault(self, verb: str) -> None:
        self.service.on_internal_error()
        log.exception("internal_error", client_ip=self.session.ip, command=verb)

    async def _hook(self, name: str, *args: Any) -> Reply | None:
        """Call a handler hook; None where there is none. aiosmtpd's handlers answer with a status line."""
        hook = self._handle_hooks.get(name)
        if hook is None:
            return None
        status = await hook(self, self.session, self.envelope, *args)
        if status is None or status is MISSING or isinstance(status, Reply):
            return status if isinstance(status, Reply) else None
        return _parse_status(str(status))


def _unknown_verb(verb: str) -> ProtocolError:
    if verb in FOREIGN_VERBS:
        return ProtocolError(Reply(521, "5.5.1", "This is an SMTP server"), closes=True)
    return ProtocolError(Reply(500, "5.5.1", "Command not recognized"))


@lru_cache(maxsize=64)  # handlers say the same again and again
def _parse_status(status: str) -> Reply:
    code, _, text = status.partition(" ")
    return Reply(int(code), "", text)


def _status_line(status: Any) -> bytes:
    return (status if isinstance(status, bytes) else str(status).encode("ascii", "replace")) + b"\r\n"
