"""The addresses that somebody might see in a text, who reads it by no grammar.

Every @ is looked at, in angle brackets, quotes and comments or bare, since readers differ in what they skip. What
counts is not to miss one: where it is not certain where a domain ends, it is none, for nobody knows what another makes
of it. The surprise: readers that drop white space and comments join a word to the domain before it.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from mailflow.mailauth.mailbox_list import canonical_domain

_AT_OR_ANGLE: Final = re.compile(r"[<>@]")
_AFTER_COMMENT: Final = re.compile(r"\s*+(.?)", re.DOTALL)
# A domain, what may close a quotation of it, white space, and the character that follows.
_BEHIND_AT: Final = re.compile(r"""([A-Za-z0-9._\-\x80-\U0010ffff]*+)(["')\]]*+)(\s*+)(.?)""", re.DOTALL)
_QUOTES: Final = "\"'"
_NO_LOCAL: Final = re.compile(r"[\s<>()\[\],;:@]")


def guess_addresses(text: str) -> Iterator[tuple[str, str | None]]:
    """Find every address that somebody might see in a text, with its domain, None where that is not certain."""
    has_angle = "<" in text
    is_inside = False
    for match in _AT_OR_ANGLE.finditer(text):
        if match[0] != "@":
            is_inside = match[0] == "<"
            continue
        local = _local_before(text, match.start())
        behind = _look_behind(text, match.end())
        has_parts = bool(local.strip(_QUOTES) and behind.run)
        if not has_parts and has_angle and not is_inside:
            # `Support @ Company <...>`, `@jane <...>`: a name, unless what stands there looks like a domain.
            behind = _look_behind(text, match.end() if behind.run else match.end() + len(behind.blank))
            if "." not in behind.run and behind.following != ".":
                continue
            has_parts = True
        is_clear = has_parts and _ends_clearly(behind, is_inside=is_inside)
        yield f"{local.lstrip(_QUOTES)}@{behind.run}", canonical_domain(behind.run) if is_clear else None


class _Behind(NamedTuple):
    """What stands behind an @."""

    run: str
    closing: str
    blank: str
    following: str


def _look_behind(text: str, position: int) -> _Behind:
    match = _BEHIND_AT.match(text, position)
    assert match  # every part of it may be empty
    behind = _Behind(*match.groups())
    end = match.end()
    while behind.following == "(":  # what may be a comment stands between an address and what follows it
        end = text.find(")", end) + 1
        after = _AFTER_COMMENT.match(text, end) if end else None
        behind = behind._replace(following=after[1] if after else "")
        end = after.end() if after else end
    return behind


def _ends_clearly(behind: _Behind, *, is_inside: bool) -> bool:
    """Tell whether all agree on where an address ends.

    `ceo@bank co <...>` is one of bank, of bankco for those who take the blank out of a domain, or a name.
    """
    return behind.following in ({"", ">"} if is_inside else {"", "<", ">", ",", ";", ":"})


def _local_before(text: str, at: int) -> str:
    return _NO_LOCAL.split(text[max(0, at - 64) : at])[-1]
