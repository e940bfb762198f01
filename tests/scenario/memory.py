"""A client in the same process: a session's protocol on a transport in memory, each event made by the test."""

import asyncio
from pathlib import Path
from typing import Any

from mailflow.smtp.server import SmtpSession
from tests.scenario.client import LineReader


class MemoryTransport(asyncio.Transport):
    """A transport without a socket: what the protocol writes is what `reader` reads."""

    def __init__(self, protocol: asyncio.Protocol, reader: asyncio.StreamReader, ip: str) -> None:
        super().__init__({"peername": (ip, 40000) if ip else None})
        self._protocol = protocol
        self._reader = reader
        self._is_closing = False
        self.writes: list[bytes] = []
        self.may_feed = asyncio.Event()
        self.may_feed.set()

    def write(self, data: Any) -> None:
        assert not self._is_closing, "written after close"
        self.writes.append(bytes(data))
        self._reader.feed_data(bytes(data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._reader.feed_eof()

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        self.may_feed.clear()

    def resume_reading(self) -> None:
        self.may_feed.set()

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self.may_feed.set()
            self._reader.feed_eof()
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    abort = close


class MemoryClient(LineReader):
    """A client of one session, with the methods of SmtpClient that a dialogue uses.

    Without an `ip` it has reset its connection, as far as the kernel says, before the server looked at it.
    """

    def __init__(self, protocol: SmtpSession, *, ip: str = "127.0.0.1") -> None:
        self.reader = asyncio.StreamReader(limit=1 << 22)
        self.protocol = protocol
        self.transport = MemoryTransport(self.protocol, self.reader, ip)
        self.protocol.connection_made(self.transport)

    def send(self, data: bytes) -> None:
        """Feed octets as one event."""
        self.protocol.data_received(data)

    async def send_all(self, data: bytes) -> None:
        """Feed octet by octet, and let the session run behind each."""
        for octet in data:
            await self.transport.may_feed.wait()
            if self.transport.is_closing():
                return
            self.protocol.data_received(bytes((octet,)))
            await asyncio.sleep(0)

    async def start_tls(self, chain: Path) -> None:
        """Fail: TLS needs a socket."""
        raise AssertionError("a dialogue with TLS cannot run in memory")

    def half_close(self) -> None:
        """Feed the end of input."""
        assert self.protocol.eof_received(), "the session would not keep its half of the connection"

    def close(self) -> None:
        """Lose the connection."""
        self.transport.close()

    reset = close
