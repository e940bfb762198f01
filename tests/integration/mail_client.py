"""An SMTP client that brings one message after another and can go away at any point of one."""

import asyncio
from typing import Self

from tests.scenario.client import SmtpClient

SENDER = "a@sender.example"


class MailClient(SmtpClient):
    """A greeted session."""

    @classmethod
    async def greeted(cls, port: int, greeting: str = "EHLO client.example") -> Self:
        """Connect to 127.0.0.1, read the banner, greet."""
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        assert (await client.reply()).startswith("220 ")
        assert (await client.command(greeting)).startswith("250")
        return client

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


def content(token: str, body: bytes = b"body\r\n") -> bytes:
    """A message with this Message-ID, without the final dot; `body` needs no dot-stuffing."""
    header = f"From: <{SENDER}>\r\nSubject: {token}\r\nMessage-ID: <{token}@sender.example>\r\n\r\n"
    return header.encode() + body
