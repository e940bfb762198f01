"""The header section as bytes: where it ends and which fields it has (RFC 5322 s2.2).

Nothing is decoded or rewritten here: what a field means is decided by who reads it. A line that
is no field ends the header section, as every receiver in use does it.
"""

import re
from collections.abc import Iterator

# Possessive (++, *+): what failed is not tried again in every other way, or a value without its CRLF takes for ever.
_FIELD = re.compile(rb"([\x21-\x39\x3b-\x7e]++)[ \t]*+:((?:[^\r]++|\r\n[ \t])*+)\r\n")


def header_length(content: bytes) -> int:
    """Give the octets of the header section, without the empty line that ends it.

    A message without an empty line is all header (RFC 5322 s2.1).
    """
    if content.startswith(b"\r\n"):
        return 0
    end = content.find(b"\r\n\r\n")
    return len(content) if end < 0 else end + 2


def iter_fields(header: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Walk the fields of a header section in order: (name in lower case, raw value with its folding)."""
    position = 0
    while match := _FIELD.match(header, position):
        yield match[1].lower(), match[2]
        position = match.end()
