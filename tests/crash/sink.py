"""The mailboxes of the campaign: an LMTP server that confirms, defers, refuses, and records what it confirmed.

A program of its own that no kill touches (`python -m tests.crash.sink` prints `port N`). Users of one.example and
two.example exist. By the first letters of the user it takes a message (good), takes it at the second to fourth time
(slow: 451 after the final dot before), or refuses it after the final dot (gone: 550). Before the 250 that confirms it,
a line `TIME delivered TOKEN RECIPIENT` is written; for a failure notification to the campaign's sender one
`TIME returned TOKEN RECIPIENT` for each recipient it names. A message that is not what its Subject promises is
recorded as `damaged`.
"""

import asyncio
import os
import random
import re
import sys
import time
import zlib

SUBJECT = re.compile(rb"^Subject: (t[0-9]+) ([0-9a-f]{8})\r$", re.MULTILINE)
FAILED = re.compile(rb"^Final-Recipient: *rfc822; *(\S+)\r$", re.MULTILINE | re.IGNORECASE)
IS_REPORT = re.compile(rb"^Content-Type: multipart/report", re.MULTILINE | re.IGNORECASE)
PATH = re.compile(rb"<([^>]*)>")
DOMAINS = (b"one.example", b"two.example")
SENDER = b"sender@two.example"
MOST_DEFERRALS = 3


class Mailboxes:
    """What is decided about each copy: how often it is still deferred."""

    def __init__(self) -> None:
        self._deferrals: dict[tuple[bytes, bytes], int] = {}

    def take(self, recipient: bytes, content: bytes) -> bytes:
        """Record a copy, unless it is refused; give the reply."""
        if recipient == SENDER and IS_REPORT.search(content):
            _record("returned", _token(content, is_whole=False), FAILED.findall(content))
            return b"250 2.0.0 Ok\r\n"
        token = _token(content, is_whole=True)
        if recipient.startswith(b"gone"):
            return b"550 5.1.1 No such user\r\n"
        if recipient.startswith(b"slow"):
            left = self._deferrals.setdefault((token, recipient), random.randint(1, MOST_DEFERRALS))
            self._deferrals[token, recipient] = left - 1
            if left > 0:
                return b"451 4.3.0 Not now\r\n"
        _record("delivered", token, [recipient])
        return b"250 2.0.0 Ok\r\n"


def _token(content: bytes, *, is_whole: bool) -> bytes:
    found = SUBJECT.search(content)
    if found is None:
        return b"damaged"
    body = content.partition(b"\r\n\r\n")[2]
    return found[1] if not is_whole or int(found[2], 16) == zlib.crc32(body) else b"damaged"


def _record(what: str, token: bytes, recipients: list[bytes]) -> None:
    # The pipe holds less than the page size that is written at once, so a line is never cut by another.
    for recipient in recipients:
        os.write(sys.stdout.fileno(), b"%.3f %b %b %b\n" % (time.time(), what.encode(), token, recipient))


class Session(asyncio.Protocol):
    """One LMTP session (RFC 2033)."""

    def __init__(self, mailboxes: Mailboxes) -> None:
        self._mailboxes = mailboxes
        self._buffer = bytearray()
        self._recipients: list[bytes] = []
        self._is_in_data = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(b"220 sink.example LMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            taken, found, rest = self._buffer.partition(b"\r\n.\r\n" if self._is_in_data else b"\r\n")
            if not found:
                return
            self._buffer = rest
            self._transport.write(self._end_data(bytes(taken)) if self._is_in_data else self._answer(bytes(taken)))

    def _answer(self, line: bytes) -> bytes:
        verb = line[:4].upper()
        if verb in (b"LHLO", b"MAIL", b"RSET"):
            self._recipients = []
        if verb == b"LHLO":
            return b"250-sink.example\r\n250-PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250 8BITMIME\r\n"
        if verb == b"RCPT":
            path = PATH.search(line)
            if path is None or path[1].rpartition(b"@")[2] not in DOMAINS:
                return b"550 5.1.1 No such user\r\n"
            self._recipients.append(path[1])
        if verb == b"DATA":
            self._is_in_data = bool(self._recipients)
            return b"354 Go ahead\r\n" if self._is_in_data else b"503 5.5.1 No valid recipients\r\n"
        return b"221 2.0.0 Bye\r\n" if verb == b"QUIT" else b"250 2.0.0 Ok\r\n"

    def _end_data(self, stuffed: bytes) -> bytes:
        self._is_in_data = False
        content = (stuffed + b"\r\n").replace(b"\r\n..", b"\r\n.")
        return b"".join(self._mailboxes.take(recipient, content) for recipient in self._recipients)


async def _main() -> None:
    mailboxes = Mailboxes()
    server = await asyncio.get_running_loop().create_server(lambda: Session(mailboxes), "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"port {server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
