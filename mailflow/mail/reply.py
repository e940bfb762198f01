"""SMTP replies: the code, the enhanced status code (RFC 3463) and a text, both ways.

`Reply` is what we tell a peer; `ReplyReader` reads what a server tells us (RFC 5321 s4.2).
A text never carries what a peer sent without `printable`: a reply is a line protocol, and a
CR LF inside it would be a second reply.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache

MAX_REPLY_LINE_OCTETS = 2048  # RFC 5321 s4.5.3.1.5 says 512; servers exceed it, none needs more than this
MAX_REPLY_LINES = 128
MAX_REMEMBERED_OCTETS = 80

_REPLY_LINE = re.compile(rb"([2-5][0-5][0-9])(?:([ -])(.*))?", re.DOTALL)
_ENHANCED = re.compile(r"\A([245]\.\d{1,3}\.\d{1,3})(?:\s+|\Z)", re.ASCII)
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply. `enhanced` is "" where the command takes none (greeting, EHLO, 354). `text` is printable
    ASCII; further lines of a multi-line reply are separated by LF.
    """

    code: int
    enhanced: str
    text: str
    _lines: bytes = field(default=b"", init=False, repr=False, compare=False)

    def __str__(self) -> str:
        """Gives the reply as one line for logs and explanations."""
        return " ".join(part for part in (str(self.code), self.enhanced, self.text.replace("\n", " / ")) if part)

    def encode(self) -> bytes:
        """Give the lines as sent, each with CRLF; the enhanced code stands on every line (RFC 2034 s4)."""
        if not self._lines:  # made once: a few constant replies are most of what is ever said
            object.__setattr__(self, "_lines", self._make_lines())
        return self._lines

    def _make_lines(self) -> bytes:
        prefix = f"{self.enhanced} " if self.enhanced else ""
        *first, last = self.text.split("\n")
        lines = [f"{self.code}-{prefix}{line}\r\n" for line in first]
        lines.append(f"{self.code} {prefix}{last}\r\n")
        return "".join(lines).encode("ascii", "replace")

    @property
    def is_positive(self) -> bool:
        """Tells 2xx."""
        return 200 <= self.code < 300

    @property
    def is_transient(self) -> bool:
        """Tells 4xx: the same may work later."""
        return 400 <= self.code < 500

    @property
    def is_permanent(self) -> bool:
        """Tells 5xx: the same will not work."""
        return self.code >= 500


class ProtocolError(Exception):
    """A peer broke the protocol or asked for what cannot be; `reply` is what it is told.

    `closes` tells that the session ends with the reply.
    """

    def __init__(self, reply: Reply, *, closes: bool = False) -> None:
        super().__init__(str(reply))
        self.reply = reply
        self.closes = closes


class ReplySyntaxError(Exception):
    """A server's reply is no reply of RFC 5321 s4.2; the connection cannot be trusted any further."""


def printable(text: str, max_chars: int = 256) -> str:
    """Make foreign text fit for a reply or a trace field: printable ASCII, bounded."""
    text = text[:max_chars]
    if text.isascii() and text.isprintable():  # as nearly always, and told ten times faster than by a regex
        return text
    return _UNPRINTABLE.sub("?", text)


class ReplyReader:
    """Assembles replies from lines; one instance per connection. Feed lines without their CRLF."""

    def __init__(self) -> None:
        self._code = 0
        self._lines: list[str] = []

    @property
    def is_between_replies(self) -> bool:
        """Tells that no multi-line reply has begun."""
        return not self._lines

    def feed_line(self, line: bytes) -> Reply | None:
        """Take one line; give the reply when it was the last one, else None.

        Raises ReplySyntaxError on anything that is no reply line, on a code that changes inside one
        reply, and on more than MAX_REPLY_LINES lines.
        """
        if not self._lines and len(line) <= MAX_REMEMBERED_OCTETS:
            reply = _parse_single(line)
            if reply is not None:
                return reply
        match = _REPLY_LINE.fullmatch(line)
        if not match or len(self._lines) >= MAX_REPLY_LINES:
            raise ReplySyntaxError("not a reply line" if not match else "reply has too many lines")
        code = int(match[1])
        if self._lines and code != self._code:
            raise ReplySyntaxError("code changes inside a reply")
        self._code = code
        self._lines.append((match[3] or b"").decode("utf-8", "replace"))
        if match[2] == b"-":
            return None
        lines, self._lines = self._lines, []
        return _assemble(code, lines)


@lru_cache(maxsize=256)  # servers repeat themselves: all but the answers to the final dot are always the same
def _parse_single(line: bytes) -> Reply | None:
    match = _REPLY_LINE.fullmatch(line)
    if not match or match[2] == b"-":
        return None
    return _assemble(int(match[1]), [(match[3] or b"").decode("utf-8", "replace")])


def _assemble(code: int, lines: list[str]) -> Reply:
    enhanced = _ENHANCED.match(lines[-1])
    # An enhanced code of another class than the reply's is noise (RFC 2034 s4): trust the code.
    if not enhanced or enhanced[1][0] != str(code)[0]:
        return Reply(code, "", _join(lines))
    return Reply(code, enhanced[1], _join([_ENHANCED.sub("", line) for line in lines]))


def _join(lines: list[str]) -> str:
    return "\n".join(printable(line, MAX_REPLY_LINE_OCTETS) for line in lines)
