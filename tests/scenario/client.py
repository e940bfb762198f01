"""An SMTP client that sends octets and reads lines, and knows no better: it breaks every rule it is told to break."""

import asyncio
import socket
import ssl
import struct
from pathlib import Path

DEADLINE_S = 5.0  # of every wait for the server; a test that meets it has failed


class LineReader:
    """The reading half: lines and replies, each within DEADLINE_S."""

    reader: asyncio.StreamReader

    async def line(self) -> bytes:
        """Read one line, without its CRLF; b"" means that the server closed."""
        async with asyncio.timeout(DEADLINE_S):
            line = await self.reader.readline()
        assert not line or line.endswith(b"\r\n"), f"line without CRLF: {line!r}"
        return line.removesuffix(b"\r\n")

    async def reply(self) -> str:
        """Read one reply; its lines are separated by LF. "" means that the server closed."""
        lines = []
        while line := (await self.line()).decode():
            lines.append(line)
            if line[3:4] != "-":
                break
        return "\n".join(lines)

    async def replies(self, count: int) -> list[str]:
        """Read `count` replies."""
        return [await self.reply() for _ in range(count)]

    async def octets(self, count: int) -> bytes:
        """Read exactly so many octets."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.readexactly(count)

    async def rest(self) -> bytes:
        """Read until the server closes; an RST raises ConnectionResetError."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.read()


class SmtpClient(LineReader):
    """One TCP connection to a server on loopback."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, *, address: str = "127.0.0.1", receive_bytes: int = 0) -> "SmtpClient":
        """Connect from `address`; `receive_bytes` makes the receive buffer of the kernel that small."""
        sock = socket.socket()
        sock.setblocking(False)
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.bind((address, 0))
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return cls(*await asyncio.open_connection(sock=sock))

    def send(self, data: bytes) -> None:
        """Hand octets to the kernel, as many at once as it takes."""
        self.writer.write(data)

    async def send_all(self, data: bytes) -> None:
        """Send, and wait while the server does not read."""
        self.writer.write(data)
        async with asyncio.timeout(DEADLINE_S):
            await self.writer.drain()

    async def command(self, line: str) -> str:
        """Send one command line, read its reply."""
        self.send(line.encode() + b"\r\n")
        return await self.reply()

    async def start_tls(self, chain: Path) -> None:
        """Shake hands, trusting the certificate in `chain`."""
        context = ssl.create_default_context(cafile=str(chain))
        async with asyncio.timeout(DEADLINE_S):
            await self.writer.start_tls(context, server_hostname="mx.test")

    def read_no_more(self) -> None:
        """Leave what the server says in the kernel."""
        transport = self.writer.transport
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "pause_reading")
        transport.pause_reading()

    def half_close(self) -> None:
        """Send FIN and go on reading."""
        self.writer.write_eof()

    def reset(self) -> None:
        """Drop the connection with an RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        """Drop the connection with a FIN, or an RST where something was not read."""
        self.writer.transport.abort()
