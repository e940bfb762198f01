"""The client's end of one SMTP or LMTP connection: bytes out under flow control, replies in, strictly in step.

Every command written states how many replies it is owed, and replies are taken in that order
(RFC 2920 s3.1). A reply that nobody is owed means that the two ends disagree about where they are:
from then on "250" could answer anything, so the connection is aborted at once. The exception is an
unasked 421, by which a server says that it closes (RFC 5321 s3.8).
"""

import asyncio
import ssl
from collections import deque
from typing import NoReturn, cast

from mailflow.mail.reply import MAX_REPLY_LINE_OCTETS, Reply, ReplyReader, ReplySyntaxError, printable
from mailflow.smtp.lmtp_errors import LmtpClosing, LmtpConnectionLost, LmtpError, LmtpOutOfStep, LmtpTimeout
from mailflow.smtp.waiter import Waiter

CLOSE_S = 5.0


class ReplyStream(asyncio.Protocol):
    """One connection, used by one task at a time. Deadlines are in loop time, seconds.

    After `fault` is set the connection is aborted; replies that had come before it can still be read.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._input = bytearray()
        self._reader = ReplyReader()
        self._replies: deque[Reply] = deque()
        self._owed = 0
        self._waiter = Waiter(loop)
        self._is_write_paused = False
        self.fault: LmtpError | None = None
        self.is_final_dot_sent = False

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Take replies; a server that is out of step, or sends what is no reply, is cut off."""
        if self.fault:
            return
        self._input += data
        start = 0
        while not self.fault and (end := self._input.find(b"\n", start)) >= 0:
            self._take_line(bytes(self._input[start:end]))
            start = end + 1
        del self._input[:start]
        if len(self._input) > MAX_REPLY_LINE_OCTETS:
            self._fail(LmtpOutOfStep("reply line too long"))
        self._waiter.wake()

    def eof_received(self) -> None:
        """The server has closed; what it still owes will not come."""
        self._fail(LmtpConnectionLost("the server closed the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, by either side."""
        self._transport = None
        self._fail(LmtpConnectionLost(f"connection lost: {exc}" if exc else "connection closed"))
        self._waiter.close()

    def pause_writing(self) -> None:
        """The server does not read as fast as we write."""
        self._is_write_paused = True

    def resume_writing(self) -> None:
        """The server has read."""
        self._is_write_paused = False
        self._waiter.wake()

    # Called by the dialogue.

    @property
    def is_quiet(self) -> bool:
        """Tells that every owed reply was read, nothing else came, and the connection stands."""
        return not (self.fault or self._owed or self._replies or self._input) and self._reader.is_between_replies

    def write(self, data: bytes, *, replies: int = 0) -> None:
        """Send `data`, for which the server owes `replies` replies. Raises LmtpError where the connection is gone."""
        if self.fault or self._transport is None:
            raise self.fault or LmtpConnectionLost("not connected")
        self._owed += replies
        self._transport.write(data)

    async def drain(self, deadline: float) -> None:
        """Wait until the server has read enough. Raises LmtpError."""
        while self._is_write_paused and not self.fault:
            await self._wait(deadline, "the server to read")
        if self.fault:
            raise self.fault

    async def read_reply(self, deadline: float, what: str) -> Reply:
        """Give the next owed reply; `what` names it in errors. Raises LmtpError."""
        while not self._replies:
            if self.fault:
                raise self.fault
            await self._wait(deadline, what)
        return self._replies.popleft()

    def expect_greeting(self) -> None:
        """Let the server speak first, once."""
        self._owed += 1

    async def start_tls(self, context: ssl.SSLContext, server_hostname: str) -> None:
        """Go on under TLS. Bytes that came before it are an attack or a fault (RFC 3207 s5): raises LmtpOutOfStep."""
        if not self.is_quiet:
            self.fail_out_of_step("bytes between STARTTLS and the handshake")
        assert self._transport is not None
        transport = await self._loop.start_tls(self._transport, self, context, server_hostname=server_hostname)
        if transport is None:  # closed during the handshake
            raise LmtpConnectionLost("connection lost during the TLS handshake")
        self._transport = transport
        self._is_write_paused = False

    def fail_out_of_step(self, text: str) -> NoReturn:
        """Abort because the server broke the protocol; always raises LmtpOutOfStep."""
        error = LmtpOutOfStep(text, is_final_dot_sent=self.is_final_dot_sent)
        self._fail(error)
        raise error

    def abort(self) -> None:
        """Drop the connection now; what was written and has not left is thrown away."""
        self._fail(LmtpConnectionLost("aborted by us"))

    def close(self, farewell: bytes) -> None:
        """Send `farewell` and close."""
        if self.fault or self._transport is None:
            return
        self._transport.write(farewell)
        self.fault = LmtpConnectionLost("closed by us")
        self._transport.close()
        # A server that never reads must not keep the descriptor: the flush before a close has no deadline of its own.
        self._loop.call_later(CLOSE_S, self._transport.abort)

    def _take_line(self, line: bytes) -> None:
        if len(line) > MAX_REPLY_LINE_OCTETS:
            self._fail(LmtpOutOfStep("reply line too long"))
            return
        try:
            reply = self._reader.feed_line(line.removesuffix(b"\r"))
        except ReplySyntaxError as exc:
            self._fail(LmtpOutOfStep(f"{exc}: {printable(line.decode('latin-1'), 100)}"))
            return
        if reply is None:
            return
        if self._owed:
            self._owed -= 1
            self._replies.append(reply)
        elif reply.code == 421:
            self._fail(LmtpClosing(reply))
        else:
            self._fail(LmtpOutOfStep(f"a reply that nobody asked for: {printable(str(reply), 100)}"))

    def _fail(self, error: LmtpError) -> None:
        if self.fault is None:
            error.is_final_dot_sent = self.is_final_dot_sent
            self.fault = error
        if self._transport is not None:
            self._transport.abort()
        self._waiter.wake()

    async def _wait(self, deadline: float, what: str) -> None:
        if not await self._waiter.wait(deadline):
            self._fail(LmtpTimeout(f"waited too long for {what}"))
            assert self.fault is not None
            raise self.fault
