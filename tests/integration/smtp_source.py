"""A client that brings many distinguishable messages to an SMTP server and notes what became of each.

Every message has a token of its own in its Message-ID and its Subject, beside the CRC of its body, so that the far end
can tell which one it got and that it got it whole. The server's answer to each names its queue id.
"""

import asyncio
import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

QUEUED_AS = re.compile(rb"^250 2\.0\.0 Ok: queued as (\S+)\r\n")


@dataclass(frozen=True, slots=True)
class Message:
    """One message to send: 1 to 3 recipients."""

    token: str
    sender: str
    recipients: tuple[str, ...]

    def content(self, size_bytes: int) -> bytes:
        """The message on the wire, its body about `size_bytes` long; some of its lines begin with a dot."""
        line = f"The body of {self.token}, {'all of it has to arrive. ' * 2}\r\n".encode("ascii")
        body = (line + b"." + line) * (size_bytes // (2 * len(line)) + 1)
        header = (
            f"From: <{self.sender or 'daemon@sender0.example'}>\r\n"
            f"To: {', '.join(f'<{recipient}>' for recipient in self.recipients)}\r\n"
            f"Date: Thu, 01 Jan 2026 00:00:00 +0000\r\n"
            f"Message-ID: <{self.token}@source.example>\r\n"
            f"Subject: {self.token} {zlib.crc32(body):08x}\r\n\r\n"
        ).encode("ascii")
        return header + body


def make_messages(count: int, *, domains: Sequence[str], seed: int) -> list[Message]:
    """`count` messages to users of `domains`: one in six goes to two or three of them, one in twenty has no sender."""
    rng = random.Random(seed)
    users = [f"user{number}@{domain}" for number in range(100) for domain in domains]
    return [
        Message(
            token=f"t{seed}-{number:05d}",
            sender=f"news@sender{number % 40}.example" if rng.random() > 0.05 else "",
            recipients=tuple(rng.sample(users, rng.choice((1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 3)))),
        )
        for number in range(count)
    ]


async def send_all(messages: Sequence[Message], *, port: int, connections: int, size_bytes: int) -> dict[str, str]:
    """Send them to 127.0.0.1 over reused connections; gives the queue id of every token.

    Raises AssertionError where one is not taken.
    """
    waiting = iter(messages)
    queue_ids: dict[str, str] = {}

    async def send_some() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert (await _reply(reader)).startswith(b"220")
        writer.write(b"EHLO source.example\r\n")
        await _reply(reader)
        for message in waiting:
            queue_ids[message.token] = await _send(reader, writer, message, size_bytes)
        writer.close()
        await writer.wait_closed()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(connections):
            tasks.create_task(send_some())
    return queue_ids


async def _send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: Message, size_bytes: int) -> str:
    rcpts = "".join(f"RCPT TO:<{recipient}>\r\n" for recipient in message.recipients)
    writer.write(f"MAIL FROM:<{message.sender}>\r\n{rcpts}DATA\r\n".encode("ascii"))
    replies = [await _reply(reader) for _ in range(2 + len(message.recipients))]
    assert replies[-1].startswith(b"354"), replies
    writer.write(message.content(size_bytes).replace(b"\r\n.", b"\r\n..") + b".\r\n")
    answer = await _reply(reader)
    queued = QUEUED_AS.match(answer)
    assert queued, answer
    return queued[1].decode("ascii")


async def _reply(reader: asyncio.StreamReader) -> bytes:
    """The last line of one reply."""
    while (line := await reader.readuntil(b"\r\n"))[3:4] == b"-":
        pass
    return line
