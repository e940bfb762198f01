"""The header section as bytes: where it ends and which fields it has (RFC 5322 s2.2).

Nothing is decoded or rewritten here: what a field means is decided by who reads it. A line that
is no field ends the header section, as every receiver in use does it.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

# Possessive (++, *+): what failed is not tried again in every other way, or a value without its CRLF takes for ever.
_FIELD = re.compile(rb"([\x21-\x39\x3b-\x7e]++)[ \t]*+:((?:[^\r]++|\r\n[ \t])*+)\r\n")


def header_length(content: bytes, *, max_bytes: int) -> int:
    """Give the octets of the header section, without the empty line that ends it; over `max_bytes` the count stops.

    It ends at the first line that is no field, whether empty or text of a message that lost its empty line.
    """
    position = _skip_envelope_line(content)
    while position <= max_bytes and (match := _FIELD.match(content, position)):
        position = match.end()
    return position


def iter_fields(header: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Walk the fields of a header section in order: (name in lower case, raw value with its folding)."""
    position = _skip_envelope_line(header)
    while match := _FIELD.match(header, position):
        yield match[1].lower(), match[2]
        position = match.end()


class Field(NamedTuple):
    """One field: its name in lower case, and all its octets, name and last CRLF included."""

    name: bytes
    raw: bytes

    @property
    def value(self) -> bytes:
        """What stands behind the colon, with its folding, without the last CRLF."""
        return self.raw[self.raw.index(b":") + 1 : -2]


def split_message(content: bytes) -> tuple[list[Field], int]:
    """Give the fields in order, and where the body begins: behind the empty line, or at a line that is no field."""
    position = _skip_envelope_line(content)
    fields = []
    while match := _FIELD.match(content, position):
        fields.append(Field(match[1].lower(), match[0]))
        position = match.end()
    is_ended = content.startswith(b"\r\n", position)
    return fields, position + 2 * is_ended


def _skip_envelope_line(content: bytes) -> int:
    """Pass over a `From ` line of an mbox in front: senders leave it there, and fields do follow it."""
    if not content.startswith((b"From ", b">From ")):
        return 0
    return content.find(b"\r\n") + 2
