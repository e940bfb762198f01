"""The header section as bytes: where it ends and which fields it has (RFC 5322 s2.2).

Nothing is decoded or rewritten here: what a field means is decided by who reads it. A line that
is no field ends the header section, as every receiver in use does it.
"""

import re
from typing import NamedTuple

# Possessive (++, *+): what failed is not tried again in every other way, or a value without its CRLF takes for ever.
_FIELD = re.compile(rb"([\x21-\x39\x3b-\x7e]++)[ \t]*+:((?:[^\r]++|\r\n[ \t])*+)\r\n")
_OBSOLETE_FROM = re.compile(rb"From[ \t]+:")


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

    That may be text of a message that lost its empty line. No field is looked for behind `max_bytes` octets.
    """
    position = _skip_envelope_line(content)
    limit = len(content) if max_bytes is None else max_bytes
    fields = []
    while position <= limit and (match := _FIELD.match(content, position)):
        fields.append(Field(match[1].lower(), match[0]))
        position = match.end()
    is_ended = content.startswith(b"\r\n", position)
    return fields, position + 2 * is_ended


def _skip_envelope_line(content: bytes) -> int:
    """Pass over a `From ` line of an mbox in front: senders leave it there, and fields do follow it.

    `From :` is none of them but the field in its obsolete spelling (RFC 5322 s4.5.2): an author must not hide there.
    """
    if not content.startswith((b"From ", b">From ")) or _OBSOLETE_FROM.match(content):
        return 0
    return content.find(b"\r\n") + 2
