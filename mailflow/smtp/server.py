"""The commands of an SMTP session: strict, and a message is never cut in two (RFC 5321).

What a command may say and when, what it answers, and the way of a message's content into the handler's
DATA hook. That hook, the hand-off, runs as a task of its own: neither the client's going nor a timer nor
a drain cancels it. A hook of ours, READY, is asked before any content is: its 4xx or 5xx refuses DATA, or
the first chunk of BDAT.
"""

import asyncio

from mailflow.mail.reply import ProtocolError, Reply
from mailflow.smtp.commands import Mail, parse_bdat, parse_greeting, parse_mail, parse_rcpt, refuse_argument
from mailflow.smtp.connection import BARE_NEWLINE, LOCAL_ERROR, SmtpConnection
from mailflow.smtp.data import BareNewline, ChunkReader, Content, ContentFault, DotReader
from mailflow.smtp.stream import DeadlinePassed, PeerGone

SENDER_OK = Reply(250, "2.1.0", "Sender ok")
RECIPIENT_OK = Reply(250, "2.1.5", "Recipient ok")
SEND_CONTENT = Reply(354, "", "End data with <CR><LF>.<CR><LF>")
OK = Reply(250, "2.0.0", "Ok")
SWALLOW_FACTOR = 4  # a BDAT chunk of more than this many times the largest message is not read to its end
CONTENT_REPLIES = {
    ContentFault.TOO_LARGE: Reply(552, "5.3.4", "Message too large"),
    ContentFault.LINE_TOO_LONG: Reply(554, "5.6.0", "Message has a line that is too long"),
    ContentFault.NO_ROOM: Reply(452, "4.3.1", "Too many messages in flight, try again later"),
}


class SmtpSession(SmtpConnection):
    """One SMTP session."""

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
            *(["DSN"] if self.options.has_dsn else []),
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
        """MAIL FROM (s4.1.1.2) with SIZE, BODY and SMTPUTF8, and with RET and ENVID where there is DSN."""
        if not self.session.host_name:
            raise ProtocolError(Reply(503, "5.5.1", "Send HELO or EHLO first"))
        if self.envelope.mail:
            raise ProtocolError(Reply(503, "5.5.1", "Sender already given"))
        self.options, self._handle_hooks = self.service.options, self.service.hooks  # what a reload changed
        mail = parse_mail(argument, is_extended=self.session.extended_smtp, has_dsn=self.options.has_dsn)
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
        """RCPT TO (s4.1.1.3), with NOTIFY and ORCPT where there is DSN."""
        mail = self._need_mail()
        if self.envelope.chunks or self.envelope.has_failed:
            raise ProtocolError(Reply(503, "5.5.1", "BDAT has begun, RCPT cannot follow"))
        rcpt = parse_rcpt(
            argument,
            is_extended=self.session.extended_smtp,
            is_smtputf8=mail.is_smtputf8,
            has_dsn=self.options.has_dsn,
        )
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
        if self.envelope.chunks or self.envelope.has_failed:
            raise ProtocolError(Reply(503, "5.5.1", "BDAT has begun, DATA cannot follow"))
        self._need_room()
        if refusal := await self._run_hook("READY"):
            return refusal
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
        if self.stream.buffered_octets < bdat.size_bytes:
            await self._flush()  # RFC 2920 s3.2: no reply waits for input that has not come
        envelope = self.envelope
        if not envelope.rcpt_tos or envelope.has_failed:
            await self._swallow_chunk(bdat.size_bytes)
            self._need_recipients()
            raise ProtocolError(Reply(503, "5.5.1", "The transaction has failed, send RSET"))
        if envelope.chunks is None and (refusal := await self._run_hook("READY")):
            await self._swallow_chunk(bdat.size_bytes)
            envelope.has_failed = True
            if bdat.is_last:
                self._set_post_data_state()
            return refusal
        if envelope.chunks is None:
            envelope.chunks_began_at = self.loop.time()
            content = self._new_content()
            reader = ChunkReader(content, bdat.size_bytes, is_last=bdat.is_last)
        else:
            content = envelope.chunks.content
            reader = ChunkReader(content, bdat.size_bytes, is_last=bdat.is_last, held=envelope.chunks.held)
        envelope.chunks = reader
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
        return await self._run_hook("DATA") or OK

    async def _run_hook(self, name: str) -> Reply | None:
        """Call a hook whose exceptions are answers too, as something is left to be done whatever it says."""
        try:
            return await self._hook(name)
        except ProtocolError as error:
            self._is_closing = self._is_closing or error.closes
            return error.reply
        except Exception:
            self._report_fault(name)
            return LOCAL_ERROR


SmtpSession.verbs = {
    name.removeprefix("smtp_"): getattr(SmtpSession, name) for name in vars(SmtpSession) if name.startswith("smtp_")
}


def _parameters(argument: str) -> list[str]:
    return [] if argument.endswith(">") else argument.rpartition(">")[2].split()
