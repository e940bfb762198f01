"""What of a message is signed, in the form that is hashed. (RFC 6376 s3.4, s3.7)

Sans-IO and linear: a body is fed in slices, split anywhere, and never held; white space without end costs no more than
text. Only bytes operations touch the slices, as they run at the speed of C (a regex takes ten times as long). Lines end
with CRLF alone and white space is space and tab alone: a bare CR or LF is text.

The surprise: empty lines are hashed as they come, since text may follow, and from a copy made before them where none
did. To hold them back would mean to hash 20 MB at once when it does.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from mailflow.mail.headers import Field

_REVERSED_LINE_ENDS = re.compile(rb"(?:\n\r)*+")


class Canonicalization(StrEnum):
    """How much a message may change on its way and still verify; the words of c=."""

    SIMPLE = "simple"
    RELAXED = "relaxed"


@dataclass(frozen=True, slots=True)
class BodyDigest:
    """The SHA-256 of a canonical body of `size_octets`, and of those beginnings of it that were asked for."""

    size_octets: int
    whole: bytes
    beginnings: dict[int, bytes]

    def of(self, length: int | None) -> bytes | None:
        """The digest of the first `length` octets (l=), of all for None; None where the body is shorter (s3.5)."""
        if length is None or length == self.size_octets:
            return self.whole
        return self.beginnings[length] if length < self.size_octets else None


class BodyHasher:
    """Hashes a body once in one canonical form; `lengths` are the l= of the signatures that want it."""

    def __init__(self, canonicalization: Canonicalization, lengths: Iterable[int] = ()) -> None:
        self._is_relaxed = canonicalization is Canonicalization.RELAXED
        self._cuts = sorted(set(lengths), reverse=True)
        self._beginnings: dict[int, bytes] = {}
        self._hash = hashlib.sha256()
        self._octets = 0
        self._held = b""  # the end of the last slice, where what it means depends on the next: at most 2 octets
        self._has_text = False
        self._line_ends = 0  # since the last text
        self._at_text_end = self._hash, self._octets

    def feed(self, piece: bytes | memoryview) -> None:
        """Take the next piece of the body; its length bounds the time this takes."""
        data = self._held + piece
        if self._is_relaxed:
            data = self._relax(data)
        else:
            self._held = b"\r" if data.endswith(b"\r") else b""
            data = data.removesuffix(b"\r")
        self._add_lines(data)

    def finish(self) -> BodyDigest:
        """End the body: one CRLF stands for the empty lines at its end, or for none (s3.4.3, s3.4.4)."""
        if self._held.endswith(b"\r"):
            self._add_lines(self._held)
        # else it is white space at the end of a line without CRLF: "Ignore all whitespace at the end of lines"
        if self._line_ends:
            self._hash, self._octets = self._at_text_end
        if self._has_text or not self._is_relaxed:  # of a body without text simple makes one CRLF, relaxed nothing
            self._update(b"\r\n")
        return BodyDigest(self._octets, self._hash.digest(), self._beginnings)

    def _relax(self, data: bytes) -> bytes:
        """Reduce white space inside lines to one space and drop it at their ends (s3.4.4); hold back what is open."""
        held = b""
        if data.endswith(b"\r"):
            data, held = data[:-1], b"\r"
        text = data.rstrip(b" \t")
        self._held = b" " + held if len(text) < len(data) else held
        return _end_lines(_reduce_blanks(text))

    def _add_lines(self, data: bytes) -> None:
        text = data[: len(data) - _count_line_end_octets(data)]
        if text:
            self._update(text)
            self._has_text = True
            self._line_ends = 0
        if ends := data[len(text) :]:
            if self._line_ends == 0:
                self._at_text_end = self._hash.copy(), self._octets
            self._line_ends += len(ends) // 2
            self._update(ends)

    def _update(self, data: bytes) -> None:
        while self._cuts and self._cuts[-1] <= self._octets + len(data):
            length = self._cuts.pop()
            self._hash.update(data[: length - self._octets])
            self._beginnings[length] = self._hash.digest()
            data = data[length - self._octets :]
            self._octets = length
        self._hash.update(data)
        self._octets += len(data)


def digest_body(body: bytes, canonicalization: Canonicalization) -> BodyDigest:
    """Hash a body that is at hand as a whole: as a BodyHasher without `lengths` does, in half the time."""
    is_relaxed = canonicalization is Canonicalization.RELAXED
    if is_relaxed:
        body = _end_lines(_reduce_blanks(body.rstrip(b" \t")))
    ends = _count_line_end_octets(body)
    if is_relaxed and ends == len(body):
        body = b""
    elif ends:
        body = body[: len(body) - ends + 2]  # no copy where one CRLF ends it
    else:
        body += b"\r\n"
    return BodyDigest(len(body), hashlib.sha256(body).digest(), {})


def _reduce_blanks(text: bytes) -> bytes:
    """Make one space of every run of spaces and tabs."""
    if b"\t" in text:
        text = text.replace(b"\t", b" ")
    # Taken apart and put together again: replace() looks for everything twice. Each round halves every run.
    while len(pieces := text.split(b"  ")) > 1:
        text = b" ".join(pieces)
    return text


def _end_lines(text: bytes) -> bytes:
    """Leave out the one space that a line may have at its end."""
    return b"\r\n".join(text.split(b" \r\n"))


def _count_line_end_octets(data: bytes) -> int:
    """Count the octets of the CRLFs at the end; a bare CR or LF there is text, and so is all before it."""
    ends = data[len(data.rstrip(b"\r\n")) :]
    match = _REVERSED_LINE_ENDS.match(ends[::-1])
    return match.end() if match else 0


def canonicalize_field(field: Field, canonicalization: Canonicalization) -> bytes:
    """Give a field as it is hashed, with its CRLF (s3.4.1, s3.4.2)."""
    if canonicalization is Canonicalization.SIMPLE:
        return field.raw
    name, raw = field
    value = raw[raw.index(b":") + 1 :].replace(b"\r\n", b"")
    if b"\t" in value or b"  " in value:
        value = _reduce_blanks(value)
    return name + b":" + value.strip(b" ") + b"\r\n"


def erase_signature(field: Field) -> Field:
    """Give a signature field as it is hashed for itself: nothing behind b=, white space included (s3.7)."""
    name, _, value = field.raw[:-2].partition(b":")
    tags = value.split(b";")
    for index, tag in enumerate(tags):
        tag_name, equals, _ = tag.partition(b"=")
        if tag_name.strip(b" \t\r\n") == b"b":
            tags[index] = tag_name + equals
            break
    return Field(field.name, name + b":" + b";".join(tags) + b"\r\n")
