"""The header section as bytes: where it ends and which fields it has (RFC 5322 s2.2).

Nothing is decoded or rewritten here: what a field means is decided by who reads it. A line that
is no field ends the header section, as every receiver in use does it.
"""

import re
from typing import NamedTuple

# Possessive (++, *+): what failed is not tried again in every other way, or a value without its CRLF takes for ever.
_FIELD = re.compile(rb"([\x21-\x39\x3b-\x7e]++)[ \t]*+:((?:[^\r]++|\r\n[ \t])*+)\r\n")
_OPEN_FIELD = re.compile(rb"[\x21-\x39\x3b-\x7e]++[ \t]*+:(?:[^\r]++|\r\n[ \t])*+\r?+\n?+\Z")
_OBSOLETE_FROM = re.compile(rb"From[ \t]++:")
MAX_FIELDS = 20_000  # of a header that is bounded; to split so many takes as long as it takes to read a quarter MB
_MAX_OPEN_OCTETS = 2048  # how far a field is followed over the bound: a long line and more


class HeaderTooLarge(ValueError):
    """A header section has more octets or fields than the caller takes; a retry does not help."""


class Field(NamedTuple):
    """One field: its name in lower case, and all its octets, name and last CRLF included."""

    name: bytes
    raw: bytes

    @property
    def value(self) -> bytes:
        """What stands behind the colon, with its folding, without the last CRLF."""
        return self.raw[self.raw.index(b":") + 1 : -2]


def split_message(content: bytes, *, max_bytes: int | None = None) -> tuple[list[Field], int]:
    """Give the fields in order, and where the body begins: behind the empty line, or at a line that is no field.

    That may be text of a message that lost its empty line. Raises HeaderTooLarge where the fields have more than
    `max_bytes` octets, or are more than MAX_FIELDS; what lies behind is not looked at.
    """
    if max_bytes is None:
        fields, position = _split(content, len(content), len(content))
    else:
        end = min(len(content), max_bytes + _MAX_OPEN_OCTETS)
        fields, position = _split(content, end, MAX_FIELDS)
        # A field is not followed to its end: folded to the size of a message it takes a second.
        is_open = end < len(content) and _OPEN_FIELD.match(content, position, end)
        if position > max_bytes or len(fields) > MAX_FIELDS or is_open:
            raise HeaderTooLarge
    is_ended = content.startswith(b"\r\n", position)
    return fields, position + 2 * is_ended


def _split(content: bytes, end: int, max_fields: int) -> tuple[list[Field], int]:
    position = _skip_envelope_line(content)
    fields: list[Field] = []
    while len(fields) <= max_fields and (match := _FIELD.match(content, position, end)):
        fields.append(Field(match[1].lower(), match[0]))
        position = match.end()
    return fields, position


def _skip_envelope_line(content: bytes) -> int:
    """Pass over a `From ` line of an mbox in front: senders leave it there, and fields do follow it.

    `From :` is none of them but the field in its obsolete spelling (RFC 5322 s4.5.2): an author must not hide there.
    """
    if not content.startswith((b"From ", b">From ")) or _OBSOLETE_FROM.match(content):
        return 0
    return content.find(b"\r\n") + 2
