"""A fast LMTP server that keeps nothing but a line per message and recipient: the far end of the delivery tests.

Run as a program of its own, so that no kill of mailflow touches it. Prints `port N`, then `TOKEN RECIPIENT` for every
recipient of every message, always before the 250 that confirms it: what was confirmed is on record. A message whose
body is not what its Subject promises is recorded as `damaged`. Takes any user of its two domains, knows no other.
"""

import asyncio
import os
import re
import sys
import zlib
from typing import cast

DOMAINS = (b"one.example", b"two.example")
SUBJECT = re.compile(rb"^Subject: (\S+) ([0-9a-f]{8})\r$", re.MULTILINE)
PATH = re.compile(rb"<([^>]*)>")
CAPABILITIES = b"250-sink.example\r\n250-PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250 8BITMIME\r\n"
SIMPLE_REPLIES = {
    b"LHLO": CAPABILITIES,
    b"MAIL": b"250 2.1.0 Ok\r\n",
    b"RSET": b"250 2.0.0 Ok\r\n",
    b"NOOP": b"250 2.0.0 Ok\r\n",
    b"QUIT": b"221 2.0.0 Bye\r\n",
}


class LmtpSink(asyncio.Protocol):
    """One LMTP session (RFC 2033)."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._recipients: list[bytes] = []
        self._is_in_data = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(b"220 sink.example LMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        replies = bytearray()
        while True:
            end_mark = b"\r\n.\r\n" if self._is_in_data else b"\r\n"
            taken, found, rest = self._buffer.partition(end_mark)
            if not found:
                break
            self._buffer = rest
            replies += self._take_message(bytes(taken)) if self._is_in_data else self._answer(bytes(taken))
        self._transport.write(replies)

    def _answer(self, line: bytes) -> bytes:
        verb = line[:4].upper()
        if verb in {b"LHLO", b"MAIL", b"RSET"}:
            self._recipients = []
        if verb == b"RCPT":
            return self._answer_rcpt(line)
        if verb == b"DATA":
            self._is_in_data = bool(self._recipients)
            return b"354 Go ahead\r\n" if self._is_in_data else b"503 5.5.1 No valid recipients\r\n"
        return SIMPLE_REPLIES.get(verb, b"500 5.5.2 Unknown command\r\n")

    def _answer_rcpt(self, line: bytes) -> bytes:
        path = PATH.search(line)
        if path is None or path[1].rpartition(b"@")[2] not in DOMAINS:
            return b"550 5.1.1 No such user\r\n"
        self._recipients.append(path[1])
        return b"250 2.1.5 Ok\r\n"

    def _take_message(self, stuffed: bytes) -> bytes:
        self._is_in_data = False
        header, _, body = (stuffed + b"\r\n").replace(b"\r\n..", b"\r\n.").partition(b"\r\n\r\n")
        subject = SUBJECT.search(header + b"\r\n")
        token = subject[1] if subject and int(subject[2], 16) == zlib.crc32(body) else b"damaged"
        # The pipe holds less than the page size that is written at once, so a line is never cut by another.
        os.write(sys.stdout.fileno(), b"".join(b"%b %b\n" % (token, recipient) for recipient in self._recipients))
        confirmed = b"250 2.0.0 Ok\r\n" * len(self._recipients)
        self._recipients = []
        return confirmed


async def main() -> None:
    """Serve on a port of 127.0.0.1 until killed."""
    server = await asyncio.get_running_loop().create_server(LmtpSink, "127.0.0.1", 0, backlog=512)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
