"""A real LMTP server on loopback that keeps what it gets, and misbehaves where a test tells it to.

    async with LmtpTestServer() as server:                 # TCP on 127.0.0.1; unix_path=… for a unix socket
        server.at["RCPT"] = say("550 5.1.1 unknown")       # instead of the usual reply
        server.at["DOT", "b@example.org"] = silent()       # per recipient: RCPT and DOT only
        ...
        await server.reached("DOT")                        # until that stage was reached (the second time: count=2)
        assert server.messages[0].content == b"..."

Stages: CONNECT LHLO STARTTLS MAIL RCPT DATA DOT RSET QUIT. DOT comes once per accepted recipient; replies leave in
order. Content is kept as sent, dots unstuffed. The usual answer to DOT names the recipient and the Message-ID, so that
a test sees whose answer it heard.
"""

import asyncio
import contextlib
import re
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

CAPABILITIES = ("PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 0", "ENHANCEDSTATUSCODES")
STAGES = ("CONNECT", "LHLO", "STARTTLS", "MAIL", "RCPT", "DATA", "DOT", "RSET", "QUIT")
LINE_LIMIT = 1 << 22

_MESSAGE_ID = re.compile(rb"^Message-ID: *(\S+)", re.IGNORECASE | re.MULTILINE)
_PATH = re.compile(r"<(.*)>(.*)")


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """What one DATA brought: `parameters` are those of MAIL, `session` counts connections from 1."""

    sender: str
    recipients: tuple[str, ...]
    parameters: str
    content: bytes
    session: int


@dataclass(slots=True)
class Session:
    """One client's connection, as an action sees it."""

    server: "LmtpTestServer"
    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    sender: str | None = None
    parameters: str = ""
    recipients: list[str] = field(default_factory=list)

    sent: bytes = b""  # in answer to the current command

    def send(self, raw: bytes) -> None:
        self.sent += raw
        self.writer.write(raw)

    def reset(self) -> None:
        self.sender, self.parameters, self.recipients = None, "", []


class Hangup(Exception):
    """Raised by an action: this connection is over."""


# An action sends what it likes instead of the usual reply `usual`.
Action = Callable[[Session, bytes], Awaitable[None]]


def say(text: str) -> Action:
    """Answer `text` (several lines with LF; CRLF is added) and go on."""
    return send(text.replace("\n", "\r\n").encode() + b"\r\n")


def send(raw: bytes) -> Action:
    """Answer exactly these bytes and go on."""

    async def action(session: Session, usual: bytes) -> None:
        session.send(raw)

    return action


def extra(text: str = "250 2.0.0 one too many") -> Action:
    """Answer as usual, and once more."""

    async def action(session: Session, usual: bytes) -> None:
        session.send(usual + text.encode() + b"\r\n")

    return action


def silent() -> Action:
    """Answer nothing, ever, and keep the connection open until the client closes it."""

    async def action(session: Session, usual: bytes) -> None:
        while await session.reader.read(65536):
            pass
        raise Hangup

    return action


def not_reading() -> Action:
    """Answer as usual, then read nothing until `server.release` is set."""

    async def action(session: Session, usual: bytes) -> None:
        session.send(usual)
        await session.writer.drain()
        await session.server.release.wait()

    return action


def close(after: str = "") -> Action:
    """Say `after`, if anything, and close in an orderly way."""

    async def action(session: Session, usual: bytes) -> None:
        session.send(after.encode() + b"\r\n" if after else b"")
        raise Hangup

    return action


def close_mid_reply() -> Action:
    """Send half of the usual reply and close."""

    async def action(session: Session, usual: bytes) -> None:
        session.send(usual[: len(usual) // 2])
        raise Hangup

    return action


def reset_connection() -> Action:
    """Answer nothing and close with RST."""

    async def action(session: Session, usual: bytes) -> None:
        sock = session.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        session.writer.transport.abort()
        raise Hangup

    return action


def late() -> Action:
    """Answer as usual, once `server.release` is set."""

    async def action(session: Session, usual: bytes) -> None:
        await session.server.release.wait()
        session.send(usual)

    return action


def once(first: Action) -> Action:
    """Do `first` the first time, answer as usual from then on."""
    actions = [first]

    async def action(session: Session, usual: bytes) -> None:
        if actions:
            await actions.pop()(session, usual)
        else:
            session.send(usual)

    return action


class LmtpTestServer:
    """The server; use it with `async with`. `str(server)` is its address as the configuration writes it."""

    def __init__(
        self,
        *,
        capabilities: Iterable[str] = CAPABILITIES,
        unix_path: str = "",
        tls_context: ssl.SSLContext | None = None,
        is_tls_implicit: bool = False,
        known: Iterable[str] | None = None,
    ) -> None:
        """`known` None takes every recipient, else only those; STARTTLS is offered where there is a `tls_context`."""
        self.capabilities = list(capabilities)
        self.known = None if known is None else set(known)
        self.at: dict[str | tuple[str, str], Action] = {}
        self.messages: list[ReceivedMessage] = []
        self.commands: list[tuple[int, str]] = []
        self.sessions = 0
        self.open_sessions: dict[int, Session] = {}
        self.release = asyncio.Event()
        self._unix_path = unix_path
        self._tls_context = tls_context
        self._is_tls_implicit = is_tls_implicit
        self._counts: Counter[str] = Counter()
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    def __str__(self) -> str:
        return f"unix:{self._unix_path}" if self._unix_path else f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; after `stop`, on the same address again."""
        implicit = self._tls_context if self._is_tls_implicit else None
        if self._unix_path:
            self._server = await asyncio.start_unix_server(self._serve, self._unix_path, ssl=implicit, limit=LINE_LIMIT)
        else:
            self._server = await asyncio.start_server(
                self._serve, "127.0.0.1", self.port, ssl=implicit, limit=LINE_LIMIT
            )
            self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the listener and cut every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def reached(self, stage: str, count: int = 1) -> None:
        """Wait until `stage` was reached `count` times in all; CLOSED is the end of a connection."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._counts[stage] >= count)

    def count(self, stage: str) -> int:
        """How many times `stage` was reached."""
        return self._counts[stage]

    def push(self, raw: bytes) -> None:
        """Send bytes that nobody asked for on every open connection."""
        for session in self.open_sessions.values():
            session.writer.write(raw)

    def hang_up(self) -> None:
        """End every open connection from our side; a client that closes in turn brings its CLOSED."""
        for session in self.open_sessions.values():
            session.writer.write_eof()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.sessions += 1
        session = self.open_sessions[self.sessions] = Session(self, self.sessions, reader, writer)
        try:
            await self._converse(session)
        except (Hangup, ConnectionError, ssl.SSLError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            del self.open_sessions[session.number]
            self._tasks.discard(task)
            await self._note("CLOSED")

    async def _converse(self, session: Session) -> None:
        await self._answer(session, "CONNECT", "220 test LMTP ready")
        while line := await session.reader.readline():
            text = line.decode().rstrip("\r\n")
            self.commands.append((session.number, text))
            verb = text[:4].upper()
            match verb:
                case "LHLO":
                    session.reset()
                    await self._answer(session, "LHLO", "\n".join(["250-test", *self._offers(session)]))
                case "STAR":
                    await self._start_tls(session)
                case "MAIL":
                    await self._take_mail(session, text)
                case "RCPT":
                    await self._take_rcpt(session, text)
                case "DATA":
                    await self._take_data(session)
                case "RSET":
                    session.reset()
                    await self._answer(session, "RSET", "250 2.0.0 flushed")
                case "QUIT":
                    await self._answer(session, "QUIT", "221 2.0.0 bye")
                    return
                case _:
                    await self._answer(session, verb, "500 5.5.2 what?")

    def _offers(self, session: Session) -> list[str]:
        is_tls = session.writer.get_extra_info("ssl_object") is not None
        offers = self.capabilities + (["STARTTLS"] if self._tls_context and not is_tls else [])
        return [*(f"250-{offer}" for offer in offers), "250 HELP"]

    async def _start_tls(self, session: Session) -> None:
        await self._answer(session, "STARTTLS", "220 2.0.0 go ahead")
        assert self._tls_context is not None
        await session.writer.start_tls(self._tls_context)

    async def _take_mail(self, session: Session, text: str) -> None:
        match = _PATH.search(text)
        if session.sender is not None or not match:
            await self._answer(session, "MAIL", "503 5.5.1 nested MAIL")
        elif (await self._answer(session, "MAIL", "250 2.1.0 ok")).startswith(b"2"):
            session.sender, session.parameters = match[1], match[2].strip()

    async def _take_rcpt(self, session: Session, text: str) -> None:
        match = _PATH.search(text)
        if session.sender is None or not match:
            await self._answer(session, "RCPT", "503 5.5.1 MAIL first")
            return
        is_known = self.known is None or match[1] in self.known
        usual = "250 2.1.5 ok" if is_known else "550 5.1.1 no such user at the test server"
        if (await self._answer(session, "RCPT", usual, match[1])).startswith(b"2"):
            session.recipients.append(match[1])

    async def _take_data(self, session: Session) -> None:
        usual = "354 go ahead" if session.recipients else "503 5.5.1 no valid recipients"
        if not (await self._answer(session, "DATA", usual)).startswith(b"354"):
            return
        content = await self._read_content(session.reader)
        recipients = tuple(session.recipients)
        self.messages.append(
            ReceivedMessage(session.sender or "", recipients, session.parameters, content, session.number)
        )
        match = _MESSAGE_ID.search(content)
        token = match[1].decode() if match else "-"
        for recipient in recipients:
            await self._answer(session, "DOT", f"250 2.0.0 <{recipient}> saved {token}", recipient)
        session.reset()

    async def _read_content(self, reader: asyncio.StreamReader) -> bytes:
        content = bytearray()
        while (line := await reader.readuntil(b"\r\n")) != b".\r\n":
            content += line.removeprefix(b".")
        return bytes(content)

    def _action(self, stage: str, recipient: str) -> Action | None:
        return self.at.get((stage, recipient)) or self.at.get(stage)

    async def _answer(self, session: Session, stage: str, usual: str, recipient: str = "") -> bytes:
        await self._note(stage)
        session.sent = b""
        raw = usual.replace("\n", "\r\n").encode() + b"\r\n"
        action = self._action(stage, recipient)
        if action is None:
            session.send(raw)
        else:
            await action(session, raw)
        await session.writer.drain()
        return session.sent

    async def _note(self, stage: str) -> None:
        self._counts[stage] += 1
        async with self._changed:
            self._changed.notify_all()


@contextlib.contextmanager
def never_accepting() -> Iterator[str]:
    """The address of a socket that listens and accepts nothing: connections stand, and nobody is there."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
