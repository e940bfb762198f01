"""A client that costs little: many messages over parallel SMTP sessions, out of one epoll loop. Run as a program.

Every byte it sends is made beforehand, so what it measures is the server. It checks that each reply
is the one expected and ends at the first that is not. Prints one JSON object: seconds from the first
connection to the last reply, messages, how long one took (from its connection or from MAIL to its last
reply; median and p99), its own CPU seconds. With `--spin` it never sleeps: waking a
sleeping client is work of the kernel (and of the hypervisor) that is counted to the server, and not
of interest where servers are compared by what they do themselves.
"""

import argparse
import errno
import json
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.corpus import read_corpus

READ_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Step:
    """Something to send, and the replies that are awaited before the next step: how many, and the code of the last."""

    data: bytes | memoryview
    replies: int
    code: bytes


def make_content(size_bytes: int) -> bytes:
    """A plain message of about this size, as it stands on the wire between 354 and the reply."""
    header = (
        b"From: Sender <user@sender.example>\r\nTo: <user@rcpt.example>\r\n"
        b"Date: Thu, 01 Jan 2026 00:00:00 +0000\r\nMessage-ID: <load@sender.example>\r\n"
        b"Subject: A message like many others\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    )
    line = b"The quick brown fox jumps over the lazy dog, seventy-six octets to the line.\r\n"
    return header + line * max(1, (size_bytes - len(header)) // len(line)) + b".\r\n"


def make_transaction(content: bytes | memoryview, *, sender: str, recipients: list[str], pipelines: bool) -> list[Step]:
    """The steps of one message; with PIPELINING two round trips instead of three and one per recipient."""
    commands = [(f"MAIL FROM:<{sender}>\r\n".encode("ascii"), b"250")]
    commands += [(f"RCPT TO:<{recipient}>\r\n".encode("ascii"), b"250") for recipient in recipients]
    commands += [(b"DATA\r\n", b"354")]
    if pipelines:
        return [Step(b"".join(data for data, _ in commands), len(commands), b"354"), Step(content, 1, b"250")]
    return [*(Step(data, 1, code) for data, code in commands), Step(content, 1, b"250")]


GREETING = [Step(b"", 1, b"220"), Step(b"EHLO client.example\r\n", 1, b"250")]
FAREWELL = [Step(b"QUIT\r\n", 1, b"221")]


@dataclass(slots=True)
class Session:
    """One connection and where it is in its dialogue."""

    sock: socket.socket
    steps: list[Step]
    position: int = 0
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    input: bytes = b""
    seen: int = 0
    began: float = field(default_factory=time.monotonic)

    def send(self) -> bool:
        """Send what is left of the step; tells whether some still is."""
        while self.unsent:
            try:
                self.unsent = self.unsent[self.sock.send(self.unsent) :]
            except BlockingIOError:
                return True
        return False


class Load:
    """All sessions together; the transactions come in turn, and again from the first where more are to be sent.

    `took_s` has how long each message took.
    """

    def __init__(
        self,
        port: int,
        transactions: Sequence[list[Step]],
        *,
        messages: int,
        sessions: int,
        reuses: bool,
        spins: bool,
    ) -> None:
        self.sent = 0
        self.took_s: list[float] = []
        self._wait_s = 0 if spins else None
        self._address = ("127.0.0.1", port)
        self._transactions = transactions
        self._left = messages
        self._sessions = sessions
        self._reuses = reuses
        self._epoll = select.epoll()
        self._open: dict[int, Session] = {}

    def run(self) -> None:
        """Send every message."""
        for _ in range(min(self._sessions, self._left)):
            self._connect()
        while self._open:
            for fd, events in self._epoll.poll(self._wait_s):
                session = self._open[fd]
                if events & select.EPOLLOUT and not session.send():
                    self._epoll.modify(fd, select.EPOLLIN)
                if events & ~select.EPOLLOUT:
                    self._read(session)

    def stop(self) -> None:
        """Begin no other message."""
        self._left = 0

    def _take(self) -> list[Step]:
        """Give the next message's steps."""
        transaction = self._transactions[self.sent % len(self._transactions)]
        self._left -= 1
        self.sent += 1
        return transaction

    def _connect(self) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        if sock.connect_ex(self._address) not in (0, errno.EINPROGRESS):
            sys.exit("cannot connect")
        steps = GREETING + self._take() + ([] if self._reuses else FAREWELL)
        self._open[sock.fileno()] = Session(sock, steps)
        self._epoll.register(sock, select.EPOLLIN)

    def _read(self, session: Session) -> None:
        data = session.sock.recv(READ_BYTES)
        if not data:
            sys.exit(f"the server closed in step {session.position} after {session.input!r}")
        session.input += data
        step = session.steps[session.position]
        while (end := session.input.find(b"\n") + 1) > 0:
            line, session.input = session.input[:end], session.input[end:]
            if line[3:4] == b" ":
                session.seen += 1
                if session.seen == step.replies:
                    if line[:3] != step.code:
                        sys.exit(f"{bytes(step.data[:60])!r} was answered {line!r}")
                    self._advance(session)
                    return

    def _advance(self, session: Session) -> None:
        session.seen = 0
        session.position += 1
        if session.position == len(session.steps) and not self._next_message(session):
            return
        session.unsent = memoryview(session.steps[session.position].data)
        if session.send():
            self._epoll.modify(session.sock, select.EPOLLIN | select.EPOLLOUT)

    def _next_message(self, session: Session) -> bool:
        """Begin another message on the session, or end it; tells whether it goes on."""
        now = time.monotonic()
        self.took_s.append(now - session.began)
        if self._reuses and self._left:
            session.steps, session.position, session.began = self._take(), 0, now
            return True
        del self._open[session.sock.fileno()]
        session.sock.close()
        if not self._reuses and self._left:
            self._connect()
        return False


def main() -> None:
    """Send as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--messages", type=int, default=sys.maxsize)
    parser.add_argument("--seconds", type=int, default=0, help="begin no message after this time")
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--size-bytes", type=int, default=4096)
    parser.add_argument("--corpus", type=Path, help="a file of messages to send in place of one of that size")
    parser.add_argument("--recipient", action="append", help="may be repeated; user@rcpt.example by default")
    parser.add_argument("--new-connections", action="store_true", help="one for each message")
    parser.add_argument("--pipelining", action="store_true")
    parser.add_argument("--spin", action="store_true", help="never sleep")
    arguments = parser.parse_args()
    sent: Sequence[tuple[str, bytes | memoryview]] = [("user@sender.example", make_content(arguments.size_bytes))]
    if arguments.corpus:
        sent = read_corpus(arguments.corpus)
    recipients = arguments.recipient or ["user@rcpt.example"]
    load = Load(
        arguments.port,
        [
            make_transaction(content, sender=sender, recipients=recipients, pipelines=arguments.pipelining)
            for sender, content in sent
        ],
        messages=arguments.messages,
        sessions=arguments.sessions,
        reuses=not arguments.new_connections,
        spins=arguments.spin,
    )
    if arguments.seconds:
        signal.signal(signal.SIGALRM, lambda number, frame: load.stop())
        signal.alarm(arguments.seconds)
    began = time.monotonic()
    load.run()
    seconds = time.monotonic() - began
    took_s = sorted(load.took_s)
    figures = {
        "messages": load.sent,
        "seconds": seconds,
        "median_ms": 1000 * took_s[len(took_s) // 2],
        "p99_ms": 1000 * took_s[len(took_s) * 99 // 100],
        "cpu_s": time.process_time(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
