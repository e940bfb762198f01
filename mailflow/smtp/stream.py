"""The bytes of one client connection: lines and message content in, replies out, an orderly end.

Replaces asyncio's StreamReader and StreamWriter under aiosmtpd's SMTP class: input stays in one
bounded buffer, content goes to its reader in the blocks in which it comes, replies gather until
the session runs out of input and then leave in one write (RFC 2920 s3.2). Nothing here cancels
anything: when the client goes, who waits for its input hears PeerGone, and who does something
else (a hand-off) is not disturbed.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Protocol

from mailflow.smtp.waiter import Waiter

INPUT_HIGH_BYTES = 16384  # above it the socket is not read: a client cannot make us hold more than a read besides
LINGER_S = 2.0
TURN_BYTES = 65536  # after as much content at once the other sessions have their turn


class PeerGone(Exception):
    """The client closed or lost the connection."""


class DeadlinePassed(Exception):
    """The client did not send, or did not read, in time."""


class LineTooLong(Exception):
    """A command line exceeded its limit; it was thrown away to its end."""


class ContentReader(Protocol):
    """Takes content as it comes: smtp.data's DotReader and ChunkReader."""

    @property
    def is_complete(self) -> bool:
        """Tells that the content is over without another byte: a chunk of no octets."""
        ...

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes; give what follows the content once it is complete."""
        ...


class PeerStream:
    """One connection's input and output. The owning protocol passes its transport's callbacks on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, max_line_octets: int) -> None:
        self._loop = loop
        self._max_line_octets = max_line_octets
        self._transport: asyncio.Transport | None = None
        self._input = bytearray()
        self._scanned = 0
        self._is_skipping_line = False
        self._is_reading_paused = False
        self._is_discarding = False
        self._output: list[bytes] = []
        self._waiter = Waiter(loop)
        self._feed: Callable[[bytes], None] | None = None
        self.is_eof = False
        self.is_lost = False
        self.is_write_paused = False  # the client has too much of ours to read still

    # Called by the owning protocol, out of the event loop.

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begin, or go on after STARTTLS with the transport that stands now."""
        self._transport = transport
        self.is_write_paused = self._is_reading_paused = False

    def data_received(self, data: bytes) -> None:
        """Take input: content to its reader, everything else to the buffer."""
        if self._is_discarding:
            return
        if self._feed is not None:
            if len(data) >= TURN_BYTES:
                self._end_turn()
            self._feed(data)
            return
        self._input += data
        if len(self._input) > INPUT_HIGH_BYTES and not self._is_reading_paused and self._transport:
            self._transport.pause_reading()
            self._is_reading_paused = True
        self._waiter.wake()

    def eof_received(self) -> None:
        """Note that the client sends no more; it may still read."""
        self.is_eof = True
        self.wake()

    def connection_lost(self) -> None:
        """Note that nothing goes in or out any more."""
        self.is_lost = True
        self.is_write_paused = False
        self.wake()

    def pause_writing(self) -> None:
        """Note that the client does not read as fast as we write."""
        self.is_write_paused = True

    def resume_writing(self) -> None:
        """Note that the client has read."""
        self.is_write_paused = False
        self.wake()

    def wake(self) -> None:
        """Let whoever waits look again."""
        self._waiter.wake()

    # Called by the session.

    def now(self) -> float:
        """Give the loop's time in seconds."""
        return self._loop.time()

    def stop_content(self, rest: bytes) -> None:
        """End content mode: `rest` and everything after it is input again."""
        self._feed = None
        if rest:
            self.data_received(rest)
        self.wake()

    @property
    def has_input(self) -> bool:
        """Tells that bytes wait to be read."""
        return bool(self._input)

    @property
    def buffered_octets(self) -> int:
        """How many octets have come and were not read."""
        return len(self._input)

    def take_line(self) -> bytes | None:
        """Take one line with its LF off the buffer; None where none is complete. Raises LineTooLong after its end."""
        end = self._input.find(b"\n", self._scanned)
        if end < 0:
            if len(self._input) > self._max_line_octets:
                self._is_skipping_line = True
                # A trailing CR may belong to the line end that is to come; nothing else is of use.
                del self._input[:-1]
            self._scanned = len(self._input)
            self._resume_reading()
            return None
        line = bytes(self._input[: end + 1])
        del self._input[: end + 1]
        self._scanned = 0
        if self._is_skipping_line or len(line) > self._max_line_octets:
            self._is_skipping_line = False
            raise LineTooLong
        return line

    def drop_input(self) -> None:
        """Throw away what has come but was not read (RFC 3207 s4.2: before the TLS handshake)."""
        self._input.clear()
        self._scanned = 0
        self._is_skipping_line = False
        self._resume_reading()

    async def wait_input(self, deadline: float) -> None:
        """Wait until something happens: input, its end, a wake. `deadline` is in loop time, seconds.

        Raises PeerGone where no more input can come, DeadlinePassed.
        """
        if self.is_eof or self.is_lost:
            raise PeerGone
        if not await self._waiter.wait(deadline):
            raise DeadlinePassed

    async def read_content(self, reader: ContentReader, *, progress_timeout_s: float, min_octets_per_s: float) -> None:
        """Let `reader` take input until its content is complete.

        Raises what the reader raises, PeerGone, and DeadlinePassed after `progress_timeout_s` seconds without a byte
        or with fewer than `min_octets_per_s` octets a second over that time.
        """
        intake = _Intake(self, reader)
        self._feed = intake.feed
        try:
            if self._input or reader.is_complete:
                first = bytes(self._input)
                self.drop_input()
                intake.feed(first)
            window_end, window_octets = self._loop.time() + progress_timeout_s, 0
            while not intake.is_done:
                if self._has_heard_all():
                    raise PeerGone
                if await self._waiter.wait(min(window_end, intake.last_at + progress_timeout_s)):
                    continue
                now = self._loop.time()
                if now >= intake.last_at + progress_timeout_s:
                    raise DeadlinePassed
                if now >= window_end:
                    if intake.octets - window_octets < min_octets_per_s * progress_timeout_s:
                        raise DeadlinePassed
                    window_end, window_octets = now + progress_timeout_s, intake.octets
        finally:
            self._feed = None
        if intake.error:
            try:
                raise intake.error
            finally:
                intake.error = None  # its traceback leads to the intake: a ring that would keep the content in memory

    def push(self, data: bytes) -> None:
        """Queue a reply; it leaves with the next flush."""
        self._output.append(data)

    def flush(self) -> None:
        """Write what is queued, in one write."""
        if self._output and self._transport and not self.is_lost:
            self._transport.write(b"".join(self._output))
        self._output.clear()

    async def wait_writable(self, deadline: float) -> None:
        """Wait until the client has read enough of what we wrote. Raises PeerGone, DeadlinePassed."""
        while self.is_write_paused:
            if self.is_lost:
                raise PeerGone
            if not await self._waiter.wait(deadline):
                raise DeadlinePassed

    async def start_tls(self, owner: asyncio.Protocol, context: ssl.SSLContext, timeout_s: float) -> asyncio.Transport:
        """Run the server's handshake on the connection; everything that came before it is thrown away.

        Raises PeerGone where the handshake failed: there is nobody left to reply to.
        """
        assert self._transport is not None
        self.flush()
        self.drop_input()
        try:
            transport = await self._loop.start_tls(
                self._transport,
                owner,
                context,
                server_side=True,
                ssl_handshake_timeout=timeout_s,
                ssl_shutdown_timeout=LINGER_S,
            )
        except (OSError, ssl.SSLError, TimeoutError) as exc:
            self._transport.abort()
            self.is_lost = True
            raise PeerGone(str(exc)) from exc
        if transport is None:  # the client went during the handshake
            self.is_lost = True
            raise PeerGone
        # Nothing in the buffer is plain text: the loop stops reading before anything more can come. What is there was
        # encrypted, in one segment with the end of the handshake; thrown away, the client would wait for its reply.
        self._resume_reading()  # the old transport, which the new one reads through
        self.connection_made(transport)
        return transport

    async def close_in_order(self, *, linger_s: float = LINGER_S) -> None:
        """Flush, shut our side down, read to the client's end for at most `linger_s` seconds, close.

        Closing with input unread sends an RST, which destroys the reply just written before the client reads it.
        TLS cannot shut down one side: there the client is left to close first, but for a `linger_s` of 0 (QUIT).
        """
        try:
            await self._close_in_order(linger_s)
        finally:
            self._waiter.close()

    async def _close_in_order(self, linger_s: float) -> None:
        transport = self._transport
        if transport is None or self.is_lost:
            return
        self.flush()
        self._is_discarding = True
        self.drop_input()
        deadline = self._loop.time() + linger_s
        if transport.can_write_eof() and not self.is_eof:
            with contextlib.suppress(OSError):  # asyncio's, of a connection whose reset it has not heard of yet
                transport.write_eof()
        if linger_s:
            while not self._has_heard_all() and await self._waiter.wait(deadline):
                pass
        if transport.get_write_buffer_size():  # close() alone would wait for ever for a client that does not read
            self._loop.call_at(deadline, self.abort)
        transport.close()

    def abort(self) -> None:
        """Drop the connection now."""
        if self._transport is not None and not self.is_lost:  # asyncio's abort() fails on a transport that has ended
            self._transport.abort()
            self.is_lost = True

    def _end_turn(self) -> None:
        """Read on only when the loop has been round: libuv takes 8 MB of a fast client before it looks at others."""
        if not self._is_reading_paused and self._transport:
            self._transport.pause_reading()
            self._is_reading_paused = True
            self._loop.call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        if len(self._input) <= INPUT_HIGH_BYTES:  # else the content is over, and much came behind it
            self._resume_reading()

    def _has_heard_all(self) -> bool:
        return self.is_eof or self.is_lost

    def _resume_reading(self) -> None:
        if self._is_reading_paused and self._transport and not self.is_lost:
            self._is_reading_paused = False
            self._transport.resume_reading()


class _Intake:
    """Content on its way from the socket's callback to its reader."""

    def __init__(self, stream: PeerStream, reader: ContentReader) -> None:
        self._stream = stream
        self._reader = reader
        self.octets = 0
        self.last_at = stream.now()
        self.is_done = False
        self.error: Exception | None = None

    def feed(self, data: bytes) -> None:
        stream = self._stream
        self.octets += len(data)
        self.last_at = stream.now()
        try:
            rest = self._reader.feed(data)
        except Exception as exc:  # whatever it is belongs to the session, not to the event loop
            self._finish(b"", exc)
        else:
            if rest is not None:
                self._finish(rest, None)

    def _finish(self, rest: bytes, error: Exception | None) -> None:
        self.is_done, self.error = True, error
        self._stream.stop_content(rest)
