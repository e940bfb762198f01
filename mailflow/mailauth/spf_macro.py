"""SPF macro-strings: read once, expanded for each message. (RFC 7208 s7)

Pure. `parse_macro_string` checks the whole grammar, so that expansion cannot fail. A name is expanded from its right
end, and no further than a DNS name can be long: what the left would hold is dropped anyway (s7.3), so a record full
of macros costs no more than its own length. The surprise: a domain-spec may end in a macro, and then nothing is known
of its last label before it is expanded.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

MAX_NAME_CHARS: Final = 253  # s7.3
MAX_SHOWN_CHARS: Final = 80

_TOKEN = re.compile(r"%(?:\{([slodiphcrtv])([0-9]*)(r?)([-.+,/_=]*)\}|([%_-]))|([ -$&-~]+)", re.IGNORECASE)
_TOP_LABEL = re.compile(r"[0-9A-Za-z](?:[0-9A-Za-z-]*[0-9A-Za-z])?")
_UNPRINTABLE = re.compile(r"[^ -~]")
_ESCAPES: Final = {"%": "%", "_": " ", "-": "%20"}
_EXPLANATION_LETTERS: Final = frozenset("crt")
_MANY_DIGITS: Final = 4  # 127 must be understood (s7.3); no name has a thousand parts


class SpfSyntaxError(ValueError):
    """Text that is not what RFC 7208 s12 says it must be; the message is printable and bounded."""


@dataclass(frozen=True, slots=True)
class Macro:
    """`%{letter count r delimiters}`: `count` 0 is "all parts", `is_escaped` an upper-case letter (s7.3)."""

    letter: str
    count: int
    is_reversed: bool
    delimiters: str
    is_escaped: bool


@dataclass(frozen=True, slots=True)
class MacroString:
    """Literal text and macros in order; `letters` has the macro letters used, in lower case."""

    parts: tuple[str | Macro, ...]
    letters: frozenset[str]


def shown(text: str) -> str:
    """Give a stranger's text as a reason may quote it: printable ASCII, at most 80 characters and three dots."""
    cut = text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "..."
    return _UNPRINTABLE.sub("?", cut)


def parse_macro_string(text: str) -> MacroString:
    """Read a macro-string of a record (s7.1). Raises SpfSyntaxError."""
    return _parse_in_record(text)[0]


def parse_explain_string(text: str) -> MacroString:
    """Read the text that exp= leads to (s6.2): blanks and the letters c, r and t too. Raises SpfSyntaxError."""
    return _parse(text)[0]


def parse_domain_spec(text: str) -> MacroString:
    """Read a domain-spec: a macro-string that ends in a macro or in a top label behind a dot. Raises SpfSyntaxError."""
    string, tail = _parse_in_record(text)
    if tail is not None:
        _, dot, label = tail.removesuffix(".").rpartition(".")
        if not dot or label.isdigit() or not _TOP_LABEL.fullmatch(label):
            raise SpfSyntaxError(f'"{shown(text)}" does not end like a domain name')
    return string


def expand_name(string: MacroString, values: Mapping[str, str]) -> str:
    """Expand a domain-spec to the name to ask about: no trailing dot, left labels dropped beyond 253 characters.

    `values` has a value for each of `string.letters`. What cannot be cut to a name that short stays too long.
    """
    pieces: list[str] = []
    room = MAX_NAME_CHARS + 2  # a dot in front of the name and one behind it
    for part in reversed(string.parts):
        piece = part if isinstance(part, str) else _expand_macro(part, values[part.letter])
        pieces.append(piece)
        room -= len(piece)
        if room < 0:
            break
    name = "".join(reversed(pieces)).removesuffix(".")
    if len(name) > MAX_NAME_CHARS:
        cut = name.find(".", len(name) - MAX_NAME_CHARS - 1)
        name = name[cut + 1 :]
    return name


def expand_text(string: MacroString, values: Mapping[str, str], *, max_chars: int) -> str:
    """Expand an explain-string; the text is cut at `max_chars`."""
    pieces: list[str] = []
    room = max_chars
    for part in string.parts:
        piece = part if isinstance(part, str) else _expand_macro(part, values[part.letter])
        pieces.append(piece)
        room -= len(piece)
        if room <= 0:
            break
    return "".join(pieces)[:max_chars]


def _parse_in_record(text: str) -> tuple[MacroString, str | None]:
    string, tail = _parse(text)
    if " " in text or string.letters & _EXPLANATION_LETTERS:  # s7.2: "allowed only in "exp" text"
        raise SpfSyntaxError(f'"{shown(text)}" holds what only explanations may')
    return string, tail


def _parse(text: str) -> tuple[MacroString, str | None]:
    """The string, and its literal end; None where it ends in a macro-expand, which `%%` is too."""
    parts: list[str | Macro] = []
    tail: str | None = ""
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise SpfSyntaxError(f'"{shown(text)}" has a wrong macro or character')
        position = token.end()
        letter, digits, reverse, delimiters, escape, tail = token.groups()
        if letter is None:
            parts.append(tail or _ESCAPES[escape])
            continue
        # Each delimiter once: how often it is written must not count in the work of expanding.
        delimiters = "".join(dict.fromkeys(delimiters)) or "."
        parts.append(Macro(letter.lower(), _parse_count(digits), bool(reverse), delimiters, letter.isupper()))
    return MacroString(tuple(parts), frozenset(part.letter for part in parts if isinstance(part, Macro))), tail


def _parse_count(digits: str) -> int:
    if not digits:
        return 0
    significant = digits.lstrip("0")
    if not significant:
        raise SpfSyntaxError("a macro asks for 0 parts")  # s7.3: "the value MUST be nonzero"
    return int(significant[:_MANY_DIGITS])


def _expand_macro(macro: Macro, value: str) -> str:
    if macro.count or macro.is_reversed or macro.delimiters != ".":
        first = macro.delimiters[0]
        for other in macro.delimiters[1:]:
            value = value.replace(other, first)
        parts = value.split(first)
        if macro.is_reversed:
            parts.reverse()
        value = ".".join(parts[-macro.count :])  # a count of 0 is all of them
    return quote(value, safe="", errors="replace") if macro.is_escaped else value
