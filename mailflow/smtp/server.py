"""An SMTP session on aiosmtpd's SMTP class: strict, fast, and never cut in two (RFC 5321).

aiosmtpd gives the frame (Session, Envelope, the handler hooks and their names); reading, the
command loop and the commands are ours, for the reasons docs/decisions.md gives. `SmtpService` is
what all connections of one listener share, `SmtpSession` is one connection.

A hand-off (the DATA hook) runs as a task of its own: neither the client's going nor a timer nor a
drain cancels it. An exception of ours is `451 4.3.0` with no word about what happened.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import structlog
from aiosmtpd.smtp import MISSING, SMTP, Envelope, Session

from mailflow.mail.envelope import Recipient
from mailflow.mail.reply import ProtocolError, Reply
from mailflow.observe.nursery import Nursery
from mailflow.smtp.budget import ByteBudget
from mailflow.smtp.commands import (
    Mail,
    Rcpt,
    parse_bdat,
    parse_greeting,
    parse_mail,
    parse_rcpt,
    refuse_argument,
    split_command,
)
from mailflow.smtp.data import BareNewline, ChunkReader, Content, ContentFault, DotReader
from mailflow.smtp.stream import LINGER_S, DeadlinePassed, LineTooLong, PeerGone, PeerStream
from mailflow.smtp.tls import ServerTls

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

SENDER_OK = Reply(250, "2.1.0", "Sender ok")
RECIPIENT_OK = Reply(250, "2.1.5", "Recipient ok")
SEND_CONTENT = Reply(354, "", "End data with <CR><LF>.<CR><LF>")
OK = Reply(250, "2.0.0", "Ok")
LOCAL_ERROR = Reply(451, "4.3.0", "Local error in processing, try again later")
BARE_NEWLINE = Reply(521, "5.5.2", "Bare CR, bare LF or NUL received, see RFC 5321 section 2.3.8")
SHUTTING_DOWN = Reply(421, "4.3.2", "Service shutting down, try again later")
SWALLOW_FACTOR = 4  # a BDAT chunk of more than this many times the largest message is not read to its end
RESERVED_AHEAD_S = 10.0  # how long octets that SIZE declared are kept free for a client that does not send them
RECLAIM_EVERY_S = 1.0  # asking every session is not done for each refusal of a flood
MAX_REFUSED_LINGERING = 100  # refused clients that are given time to read why; beyond, descriptors matter more
COMMANDS_PER_TURN = 50  # then the other sessions have theirs, however much one client pipelines
# Verbs of other protocols: a browser or a proxy was tricked into talking to us (CVE-2021-38371 and its kin), or a
# client that nobody trusts would choose its own address.
FOREIGN_VERBS = frozenset({"PROXY", "GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "DELETE"})
CONTENT_REPLIES = {
    ContentFault.TOO_LARGE: Reply(552, "5.3.4", "Message too large"),
    ContentFault.LINE_TOO_LONG: Reply(554, "5.6.0", "Message has a line that is too long"),
    ContentFault.NO_ROOM: Reply(452, "4.3.1", "Too many messages in flight, try again later"),
}

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SmtpOptions:
    """What one listener allows. Times in seconds, sizes in octets."""

    hostname: str
    max_message_bytes: int = 52428800
    max_recipients: int = 1000
    max_errors: int = 20
    max_unknown_users: int = 10
    max_line_octets: int = 2048
    command_timeout_s: float = 300
    data_timeout_s: float = 180
    min_data_rate: float = 100
    normalizes_newlines: bool = False


@dataclass(frozen=True, slots=True)
class ProxiedPeer:
    """What a PROXY header told: the client's address and port, None where it told none (LOCAL, UNKNOWN)."""

    source: tuple[str, int] | None


class Client(Session):
    """The session's facts; aiosmtpd's Session with what we add. `tls` is version and cipher, None in plain text."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.ip = ""
        self.may_mail = True  # False where a load balancer speaks for itself: whose mail it were, nobody knows
        self.tls: tuple[str, str] | None = None
        self.errors = 0
        self.unknown_users = 0
        self.context: Any = None  # the handler's own, for what it learns about this client


class Transaction(Envelope):
    """One mail transaction; aiosmtpd's Envelope with the parsed commands and what it holds of the budget."""

    def __init__(self) -> None:
        super().__init__()
        self.mail: Mail | None = None
        self.rcpt: Rcpt | None = None  # the RCPT command being judged
        self.recipients: list[Recipient] = []
        self.reserved_bytes = 0
        self.kept_bytes = 0
        self.declared_at = 0.0  # in loop time
        self.chunks_began_at = 0.0
        self.chunk_octets = 0
        self.chunks: ChunkReader | None = None
        self.has_failed = False


async def admit_all(ip: str) -> Reply | None:
    """Refuse no client."""
    return None


@dataclass(slots=True)
class SmtpService:
    """What the connections of one listener share; called, it makes the protocol of a new connection.

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
    sessions: "set[SmtpSession]" = field(default_factory=set)
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

    def __call__(self) -> "SmtpSession":
        """Make the protocol of one connection."""
        return SmtpSession(self)

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


class SmtpSession(SMTP):
    """One SMTP connection."""

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
        code, _, text = str(status).partition(" ")
        return Reply(int(code), "", text)

    # Commands.

    async def smtp_HELO(self, argument: str) -> Reply:
        """HELO (RFC 5321 s4.1.1.1): no extensions."""
        self.session.host_name = parse_greeting(argument)
        self.session.extended_smtp = False
        self._set_rset_state()
        return Reply(250, "", self.hostname)

    async def smtp_EHLO(self, argument: str) -> Reply:
        """EHLO: lists what works on this connection."""
        self.session.host_name = parse_greeting(argument)
        self.session.extended_smtp = True
        self._set_rset_state()
        words = [
            self.hostname,
            "PIPELINING",
            f"SIZE {self.options.max_message_bytes}",
            "8BITMIME",
            "SMTPUTF8",
            "ENHANCEDSTATUSCODES",
            "CHUNKING",
            f"LIMITS RCPTMAX={self.options.max_recipients}",
        ]
        if self.service.tls and not self.session.tls:
            words.append("STARTTLS")
        return Reply(250, "", "\n".join(words))

    async def smtp_STARTTLS(self, argument: str) -> Reply | None:
        """STARTTLS (RFC 3207): what was said before the handshake is forgotten, what came unasked thrown away."""
        refuse_argument("STARTTLS", argument)
        if not self.service.tls or self.session.tls:
            raise ProtocolError(Reply(503, "5.5.1", "TLS is active" if self.session.tls else "TLS not available"))
        context = self.service.tls.context()
        await self.push(Reply(220, "2.0.0", "Ready to start TLS"))
        self._set_rset_state()
        try:
            self.transport = await self.stream.start_tls(self, context, min(60.0, self.options.command_timeout_s))
        except PeerGone:
            self.service.on_tls_handshake("failed")
            raise
        self.service.on_tls_handshake("done")
        fresh = self._create_session()
        fresh.peer, fresh.ip, fresh.context = self.session.peer, self.session.ip, self.session.context
        fresh.may_mail = self.session.may_mail
        fresh.errors, fresh.unknown_users = self.session.errors, self.session.unknown_users
        tls = self.transport.get_extra_info("ssl_object")
        fresh.tls = (tls.version() or "", tls.cipher()[0])
        self.session = fresh
        return None

    async def smtp_MAIL(self, argument: str) -> Reply:
        """MAIL FROM (s4.1.1.2) with SIZE, BODY and SMTPUTF8."""
        if not self.session.host_name:
            raise ProtocolError(Reply(503, "5.5.1", "Send HELO or EHLO first"))
        if self.envelope.mail:
            raise ProtocolError(Reply(503, "5.5.1", "Sender already given"))
        self.options, self._handle_hooks = self.service.options, self.service.hooks  # what a reload changed
        mail = parse_mail(argument, is_extended=self.session.extended_smtp)
        if not self.session.may_mail:
            raise ProtocolError(Reply(550, "5.7.1", "This connection told no client's address and may not send mail"))
        self._reserve_declared(mail)
        sender = "" if mail.reverse_path is None else str(mail.reverse_path)
        self.envelope.mail = mail
        options = _parameters(argument)
        reply = None
        try:
            reply = await self._hook("MAIL", sender, options) or SENDER_OK
        finally:
            # Also where the hook raised: a refused sender leaves nothing that RCPT could go on with.
            if reply is None or not reply.is_positive:
                self._set_rset_state()
        if reply.is_positive:
            self.envelope.mail_from = sender
            self.envelope.mail_options = options
            self.envelope.smtp_utf8 = mail.is_smtputf8
        return reply

    async def smtp_RCPT(self, argument: str) -> Reply:
        """RCPT TO (s4.1.1.3)."""
        mail = self._need_mail()
        if self.envelope.chunks:
            raise ProtocolError(Reply(503, "5.5.1", "BDAT has begun, RCPT cannot follow"))
        rcpt = parse_rcpt(argument, is_extended=self.session.extended_smtp, is_smtputf8=mail.is_smtputf8)
        if len(self.envelope.rcpt_tos) >= self.options.max_recipients:
            raise ProtocolError(Reply(452, "4.5.3", "Too many recipients, send the others in another transaction"))
        address = "postmaster" if rcpt.forward_path is None else str(rcpt.forward_path)
        self.envelope.rcpt = rcpt
        accepted = len(self.envelope.rcpt_tos)
        reply = await self._hook("RCPT", address, _parameters(argument)) or RECIPIENT_OK
        # A hook written for aiosmtpd notes the recipient itself.
        if reply.is_positive and len(self.envelope.rcpt_tos) == accepted:
            self.envelope.rcpt_tos.append(address)
        return reply

    async def smtp_DATA(self, argument: str) -> Reply:
        """DATA (s4.1.1.4): 354, the content to its final dot, the hand-off, the reply."""
        refuse_argument("DATA", argument)
        self._need_recipients()
        if self.envelope.chunks:
            raise ProtocolError(Reply(503, "5.5.1", "BDAT has begun, DATA cannot follow"))
        self._need_room()
        self.stream.push(SEND_CONTENT.encode())
        await self._flush()
        content = self._new_content()
        await self._read_content(content, DotReader(content))
        return await self._finish_message(content)

    async def smtp_BDAT(self, argument: str) -> Reply:
        """BDAT (RFC 3030 s2): its octets are read whatever the answer, or the session would lose its place."""
        bdat = parse_bdat(argument)
        if bdat.size_bytes > SWALLOW_FACTOR * self.options.max_message_bytes:
            raise ProtocolError(CONTENT_REPLIES[ContentFault.TOO_LARGE], closes=True)
        envelope = self.envelope
        if not envelope.rcpt_tos or envelope.has_failed:
            await self._swallow_chunk(bdat.size_bytes)
            self._need_recipients()
            raise ProtocolError(Reply(503, "5.5.1", "The transaction has failed, send RSET"))
        if envelope.chunks is None:
            envelope.chunks_began_at = self.loop.time()
            content = self._new_content()
            reader = ChunkReader(content, bdat.size_bytes, is_last=bdat.is_last)
        else:
            content = envelope.chunks.content
            reader = ChunkReader(content, bdat.size_bytes, is_last=bdat.is_last, held=envelope.chunks.held)
        envelope.chunks = reader
        if self.stream.buffered_octets < bdat.size_bytes:
            await self._flush()  # RFC 2920 s3.2: no reply waits for input that has not come
        await self._read_content(content, reader)
        self._require_rate(bdat.size_bytes)
        if bdat.is_last:
            return await self._finish_message(content)
        if content.fault:
            envelope.has_failed = True
            return CONTENT_REPLIES[content.fault]
        return Reply(250, "2.0.0", f"{bdat.size_bytes} octets received")

    async def smtp_RSET(self, argument: str) -> Reply:
        """RSET (s4.1.1.5)."""
        refuse_argument("RSET", argument)
        self._set_rset_state()
        await self._hook("RSET")
        return OK

    async def smtp_NOOP(self, argument: str) -> Reply:
        """NOOP (s4.1.1.9); an argument is ignored."""
        return OK

    async def smtp_VRFY(self, argument: str) -> Reply:
        """VRFY (s3.5.3): nobody learns here which mailboxes exist."""
        if not argument:
            raise ProtocolError(Reply(501, "5.5.4", "Syntax: VRFY address"))
        return Reply(252, "2.5.0", "Cannot verify, send some mail and see")

    async def smtp_EXPN(self, argument: str) -> Reply:
        """EXPN: not offered (s7.3)."""
        return Reply(502, "5.5.1", "EXPN not implemented")

    async def smtp_HELP(self, argument: str) -> Reply:
        """HELP (s4.1.1.8)."""
        return Reply(214, "2.0.0", "See RFC 5321")

    async def smtp_QUIT(self, argument: str) -> Reply:
        """QUIT (s4.1.1.10)."""
        refuse_argument("QUIT", argument)
        self._is_closing = True
        if self.session.tls and not self.stream.has_input:
            self._linger_s = 0
        return Reply(221, "2.0.0", f"{self.hostname} closing connection")

    # Steps of the commands.

    def _need_mail(self) -> Mail:
        if self.envelope.mail is None:
            raise ProtocolError(Reply(503, "5.5.1", "Send MAIL first"))
        return self.envelope.mail

    def _need_recipients(self) -> None:
        self._need_mail()
        if not self.envelope.rcpt_tos:
            raise ProtocolError(Reply(503, "5.5.1", "No valid recipients"))

    def _need_room(self) -> None:
        if self.service.budget.is_full and not self.envelope.reserved_bytes:
            raise ProtocolError(CONTENT_REPLIES[ContentFault.NO_ROOM])

    def _reserve_declared(self, mail: Mail) -> None:
        """Refuse at MAIL what SIZE tells cannot be taken (RFC 1870 s6.1)."""
        if mail.size_bytes is None:
            return
        if mail.size_bytes > self.options.max_message_bytes:
            raise ProtocolError(CONTENT_REPLIES[ContentFault.TOO_LARGE])
        if not self.service.reserve(mail.size_bytes):
            raise ProtocolError(CONTENT_REPLIES[ContentFault.NO_ROOM])
        self.envelope.reserved_bytes = mail.size_bytes
        self.envelope.declared_at = self.loop.time()

    def _new_content(self) -> Content:
        return Content(
            max_bytes=self.options.max_message_bytes,
            max_line_octets=self.options.max_line_octets,
            normalizes_newlines=self.options.normalizes_newlines,
            reserve=self._reserve_received,
            on_discard=self._release_reserved,
        )

    def _reserve_received(self, kept_bytes: int) -> bool:
        """Hold the budget to what was really kept, where that is more than was declared."""
        missing = kept_bytes - self.envelope.reserved_bytes
        if missing > 0:
            if not self.service.reserve(missing):
                return False
            self.envelope.reserved_bytes = kept_bytes
        self.envelope.kept_bytes = kept_bytes
        return True

    def _release_reserved(self) -> None:
        """Give back what the transaction holds: a message that is only read to its end keeps nobody else out."""
        self.service.budget.release(self.envelope.reserved_bytes)
        self.envelope.reserved_bytes = self.envelope.kept_bytes = 0

    async def _read_content(self, content: Content, reader: DotReader | ChunkReader) -> None:
        try:
            await self.stream.read_content(
                reader,
                progress_timeout_s=self.options.data_timeout_s,
                min_octets_per_s=self.options.min_data_rate,
            )
        except BareNewline as exc:
            raise ProtocolError(BARE_NEWLINE, closes=True) from exc

    def _require_rate(self, octets: int) -> None:
        """Hold the chunks of a message together to the rate that one read of content is held to."""
        envelope = self.envelope
        envelope.chunk_octets += octets
        elapsed_s = self.loop.time() - envelope.chunks_began_at
        if elapsed_s > self.options.data_timeout_s and envelope.chunk_octets < self.options.min_data_rate * elapsed_s:
            raise DeadlinePassed

    async def _swallow_chunk(self, size_bytes: int) -> None:
        content = self._new_content()
        content.discard(ContentFault.TOO_LARGE)
        await self._read_content(content, ChunkReader(content, size_bytes, is_last=True))

    async def _finish_message(self, content: Content) -> Reply:
        """Hand the message on and end the transaction, whatever came of it."""
        try:
            if content.fault:
                return CONTENT_REPLIES[content.fault]
            self.envelope.content = self.envelope.original_content = content.take()
            self.stream.flush()  # the replies to earlier chunks do not wait for a mailbox server
            handoff = self.service.nursery.start(self._run_data_hook(), name="hand-off")
            # Shielded: only the worker's end, after the drain's time, cuts a session here, and the hand-off goes on.
            return await asyncio.shield(handoff)
        finally:
            self._set_post_data_state()

    async def _run_data_hook(self) -> Reply:
        try:
            return await self._hook("DATA") or OK
        except ProtocolError as error:
            self._is_closing = self._is_closing or error.closes
            return error.reply
        except Exception:
            self._report_fault("DATA")
            return LOCAL_ERROR


SmtpSession.verbs = {
    name.removeprefix("smtp_"): getattr(SmtpSession, name) for name in vars(SmtpSession) if name.startswith("smtp_")
}


def _unknown_verb(verb: str) -> ProtocolError:
    if verb in FOREIGN_VERBS:
        return ProtocolError(Reply(521, "5.5.1", "This is an SMTP server"), closes=True)
    return ProtocolError(Reply(500, "5.5.1", "Command not recognized"))


def _parameters(argument: str) -> list[str]:
    return [] if argument.endswith(">") else argument.rpartition(">")[2].split()


def _status_line(status: Any) -> bytes:
    return (status if isinstance(status, bytes) else str(status).encode("ascii", "replace")) + b"\r\n"
