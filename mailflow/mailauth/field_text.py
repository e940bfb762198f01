"""Strangers' words inside header fields of ours: spelled so that they stay what they are, values. (RFC 8601 s2.2, s7.1)

Whatever was in d=, s=, MAIL FROM, HELO or a DNS record comes out as one word: a token, a plain address, or a
quoted-string of printable ASCII, bounded in length. There is no other way into the fields written here, so no stranger
adds, removes or alters a result.

The surprise: `=pass` in such a word becomes `?pass`. To a parser a quoted "dmarc=pass" is harmless; to the many mailbox
rules that only search the field for `dmarc=pass`, or leave out quotes and comments first, it is not.
"""

import re
from collections.abc import Sequence

from mailflow.dns.names import canonical_name

MAX_VALUE_CHARS = 320  # local-part 64, "@", domain 255 (RFC 5321 s4.5.3.1): what is cut was no legal name
MAX_REASON_CHARS = 200
MAX_LINE_CHARS = 78  # RFC 5322 s2.1.1, without CRLF; only a single word can make a line longer, up to 700

# Possessive (++, *+): linear on whatever is written.
_LABEL = r"[A-Za-z0-9]++(?:-++[A-Za-z0-9]++)*"
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]++"
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+").fullmatch  # RFC 2045 s5.1
# [ [ local-part ] "@" ] domain-name of RFC 8601 s2.2; the domain as in RFC 6376 s3.5: two labels or more.
_ADDRESS = re.compile(rf"(?:{_ATEXT}(?:\.{_ATEXT})*+)?@{_LABEL}(?:\.{_LABEL})+").fullmatch
_UNPRINTABLE = re.compile(r"[^ -~]")
_CLAIM = re.compile(r"=(?=(?:\([^()]*+\)|[^A-Za-z0-9])*pass)", re.IGNORECASE)


def spell_value(text: str) -> str:
    """Spell a name or address as a pvalue of RFC 8601 s2.2: bare where it is a token or an address, else quoted.

    A domain with U-labels is given in A-labels; other octets outside printable ASCII become "?". Over
    MAX_VALUE_CHARS it is cut, and ends in "...".
    """
    if not text.isascii():
        text = _with_a_labels(text)
    if len(text) <= MAX_VALUE_CHARS and _TOKEN(text):
        return text
    text = _printable(text, MAX_VALUE_CHARS)
    return text if _ADDRESS(text) else _quoted(text)


def spell_text(text: str) -> str:
    """Spell a sentence as a quoted-string of printable ASCII, cut at MAX_REASON_CHARS."""
    return _quoted(_printable(text, MAX_REASON_CHARS))


def fold_field(name: str, clauses: Sequence[Sequence[str]]) -> bytes:
    """Write a field of clauses, between them ";" and a fold, with its CRLF.

    Clauses are words that no fold may cut; a clause longer than MAX_LINE_CHARS is folded between its words.
    """
    lines: list[str] = []
    for words in clauses[:-1]:
        _lay_out(lines, f"{name}:" if not lines else "", [*words[:-1], words[-1] + ";"])
    _lay_out(lines, f"{name}:" if not lines else "", clauses[-1])
    return ("\r\n".join(lines) + "\r\n").encode("ascii")


def _lay_out(lines: list[str], start: str, words: Sequence[str]) -> None:
    """Append the lines of one clause: they begin with `start`, or with the tab of a fold."""
    line = f"{start} {' '.join(words)}" if start else "\t" + " ".join(words)
    if len(line) <= MAX_LINE_CHARS:
        lines.append(line)
        return
    line = start
    for word in words:
        if line and len(line) + 1 + len(word) > MAX_LINE_CHARS:
            lines.append(line)
            line = ""
        line = f"{line} {word}" if line else "\t" + word
    lines.append(line)


def _quoted(text: str) -> str:
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _printable(text: str, max_chars: int) -> str:
    if len(text) > max_chars:
        text = text[:max_chars] + "..."
    if not (text.isascii() and text.isprintable()):
        text = _UNPRINTABLE.sub("?", text)
    return _CLAIM.sub("?", text) if "=" in text else text


def _with_a_labels(text: str) -> str:
    local, at, domain = text.rpartition("@")
    return f"{local}{at}{domain if domain.isascii() else canonical_name(domain) or domain}"
