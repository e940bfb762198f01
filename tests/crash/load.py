"""Senders that never stop: each brings message after message, and notes which ones it was promised."""

import asyncio
import contextlib
import itertools
import random
import zlib

from tests.crash.ledger import Ledger

SENDER = "sender@two.example"
DEADLINE_S = 30.0
PAUSE_S = 0.05
SIZES = (200, 200, 2_000, 4_000, 100_000)  # small ones in the database, large ones beside it


class Senders:
    """So many sessions at once to a port of 127.0.0.1."""

    def __init__(self, port: int, ledger: Ledger, *, sessions: int, rng: random.Random) -> None:
        self._port = port
        self._ledger = ledger
        self._sessions = sessions
        self._rng = rng
        self._numbers = itertools.count(1)
        self._is_stopping = False
        self._running: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        self._running = [asyncio.create_task(self._send_on()) for _ in range(self._sessions)]

    async def stop(self) -> None:
        """Bring the message under way to its end, and no other."""
        self._is_stopping = True
        await asyncio.gather(*self._running)

    async def _send_on(self) -> None:
        while not self._is_stopping:
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                await self._one_session()
            await asyncio.sleep(PAUSE_S)

    async def _one_session(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            await _reply(reader)
            await _say(reader, writer, "EHLO client.two.example")
            for _ in range(self._rng.randint(1, 20)):
                if self._is_stopping:
                    break
                await self._send(reader, writer)
        finally:
            writer.close()

    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        token = f"t{next(self._numbers)}"
        recipients = self._pick_recipients(token)
        await _say(reader, writer, f"MAIL FROM:<{SENDER}>")
        taken = [r for r in recipients if (await _say(reader, writer, f"RCPT TO:<{r}>")).startswith("250")]
        if not taken or not (await _say(reader, writer, "DATA")).startswith("354"):
            self._ledger.refused += 1
            await _say(reader, writer, "RSET")
            return
        body = self._rng.randbytes(self._rng.choice(SIZES) // 2).hex().encode()
        body = b"\r\n".join(body[at : at + 76] for at in range(0, len(body), 76)) + b"\r\n"
        head = f"From: <{SENDER}>\r\nSubject: {token} {zlib.crc32(body):08x}\r\nMessage-ID: <{token}@two.example>\r\n"
        writer.write(head.encode() + b"\r\n" + body)
        if (await _say(reader, writer, ".")).startswith("250"):
            self._ledger.promised[token] = tuple(taken)
        else:
            self._ledger.refused += 1

    def _pick_recipients(self, token: str) -> list[str]:
        """Give one to three users; one alone is never refused after its 250, several may be."""
        count = self._rng.choice((1, 1, 2, 3))
        kinds = ("good", "good", "slow") if count == 1 else ("good", "good", "slow", "gone")
        domains = ("one.example", "two.example")
        return [f"{self._rng.choice(kinds)}{token}.{n}@{self._rng.choice(domains)}" for n in range(count)]


async def _say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: str) -> str:
    writer.write(line.encode() + b"\r\n")
    return await _reply(reader)


async def _reply(reader: asyncio.StreamReader) -> str:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            line = (await reader.readline()).decode()
            if not line:
                raise EOFError
            if line[3:4] != "-":
                return line
