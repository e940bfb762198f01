"""What a server offers in its answer to EHLO or LHLO (RFC 5321 s4.1.1.1, RFC 2033 s4.1).

Sans-IO. Only what the way out asks about is kept. A keyword is what the server says of itself now,
on this connection: another connection, or the same one after STARTTLS, may say otherwise.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The extensions one session may use. `max_size_bytes` 0 is SIZE without a limit, None no SIZE (RFC 1870)."""

    has_pipelining: bool = False
    has_8bitmime: bool = False
    has_smtputf8: bool = False
    has_starttls: bool = False
    has_enhanced_codes: bool = False
    max_size_bytes: int | None = None


def parse_capabilities(text: str) -> Capabilities:
    """Read the text of an EHLO or LHLO reply: lines separated by LF, the first of which is the greeting.

    Keywords compare without case (s2.4); unknown ones and broken parameters are passed over.
    """
    keywords = {}
    for line in text.split("\n")[1:]:
        keyword, _, parameter = line.strip().partition(" ")
        keywords[keyword.upper()] = parameter.strip()
    size = keywords.get("SIZE")
    return Capabilities(
        has_pipelining="PIPELINING" in keywords,
        has_8bitmime="8BITMIME" in keywords,
        has_smtputf8="SMTPUTF8" in keywords,
        has_starttls="STARTTLS" in keywords,
        has_enhanced_codes="ENHANCEDSTATUSCODES" in keywords,
        max_size_bytes=None if size is None else _read_size(size),
    )


def _read_size(text: str) -> int:
    # RFC 1870 s4: at most 20 digits; anything else limits nothing we could obey.
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else 0
