"""An SMTP client that brings one message after another and can go away at any point of one."""

import asyncio
import socket
import ssl
import struct
from typing import Self

SENDER = "a@sender.example"
DEADLINE_S = 20.0  # of every wait for the server; a test that meets it has failed


class MailClient:
    """One TCP connection to 127.0.0.1."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> Self:
        """Connect and read nothing."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    @classmethod
    async def greeted(cls, port: int, greeting: str = "EHLO client.example") -> Self:
        """Connect, read the banner, greet."""
        client = await cls.connect(port)
        assert (await client.reply()).startswith("220 ")
        assert (await client.command(greeting)).startswith("250")
        return client

    async def reply(self) -> str:
        """Read one reply; its lines are separated by LF. "" means that the server closed."""
        lines = []
        async with asyncio.timeout(DEADLINE_S):
            while line := (await self.reader.readline()).decode().removesuffix("\r\n"):
                lines.append(line)
                if line[3:4] != "-":
                    break
        return "\n".join(lines)

    async def replies(self, count: int) -> list[str]:
        """Read `count` replies."""
        return [await self.reply() for _ in range(count)]

    async def rest(self) -> bytes:
        """Read until the server closes."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.reader.read()

    def send(self, data: bytes) -> None:
        """Send octets."""
        self.writer.write(data)

    async def command(self, line: str) -> str:
        """Send one command line, read its reply."""
        self.send(line.encode() + b"\r\n")
        return await self.reply()

    async def ask(self, recipient: str) -> str:
        """The reply to RCPT, in a transaction that is then dropped."""
        self.send(f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{recipient}>\r\nRSET\r\n".encode())
        return (await self.replies(3))[1]

    async def deliver(self, recipient: str, token: str, body: bytes = b"body\r\n") -> str:
        """The reply that settles a message with this Message-ID: to RCPT where that refuses, else to the final dot."""
        refusal = await self.begin(recipient)
        if refusal:
            return refusal
        self.send(content(token, body) + b".\r\n")
        return await self.reply()

    async def begin(self, recipient: str) -> str:
        """Say MAIL, RCPT, DATA one by one; "" when the content may come, else the refusal of RCPT."""
        assert (await self.command(f"MAIL FROM:<{SENDER}>")).startswith("250 ")
        reply = await self.command(f"RCPT TO:<{recipient}>")
        if not reply.startswith("250 "):
            assert (await self.command("RSET")).startswith("250 ")
            return reply
        assert (await self.command("DATA")).startswith("354 ")
        return ""

    async def start_tls(self, context: ssl.SSLContext, hostname: str) -> ssl.SSLObject:
        """Say STARTTLS and shake hands."""
        assert (await self.command("STARTTLS")).startswith("220 ")
        async with asyncio.timeout(DEADLINE_S):
            await self.writer.start_tls(context, server_hostname=hostname)
        tls: ssl.SSLObject = self.writer.get_extra_info("ssl_object")
        return tls

    def half_close(self) -> None:
        """Send FIN and go on reading."""
        self.writer.write_eof()

    def close(self) -> None:
        """Send FIN and read nothing any more."""
        self.writer.close()

    def reset(self) -> None:
        """Drop the connection with an RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def content(token: str, body: bytes = b"body\r\n") -> bytes:
    """A message with this Message-ID, without the final dot; `body` needs no dot-stuffing."""
    header = f"From: <{SENDER}>\r\nSubject: {token}\r\nMessage-ID: <{token}@sender.example>\r\n\r\n"
    return header.encode() + body
