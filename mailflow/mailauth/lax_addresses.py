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
_PARENTHESIS: Final = re.compile(r"[()]")
_AFTER_COMMENT: Final = re.compile(r"\s*+(.?)", re.DOTALL)
# A domain, what may close a quotation of it, white space, and the character that follows.
_BEHIND_AT: Final = re.compile(r"""([A-Za-z0-9._\-\x80-\U0010ffff]*+)(["')\]]*+)(\s*+)(.?)""", re.DOTALL)
MAX_ATS: Final = 400  # that are looked at in a text
_QUOTES: Final = "\"'"
_NO_LOCAL: Final = re.compile(r"[\s<>()\[\],;:@]")


def guess_addresses(text: str) -> Iterator[tuple[str, str | None]]:
    """Find every address that somebody might see in a text, with its domain, None where that is not certain.

    Behind MAX_ATS of them one without local part and certain domain stands for all the rest.
    """
    has_angle = "<" in text
    is_inside = False
    after_comments = _read_after_comments(text)
    ats = 0
    for match in _AT_OR_ANGLE.finditer(text):
        if match[0] != "@":
            is_inside = match[0] == "<"
            continue
        ats += 1
        if ats > MAX_ATS:
            yield "@", None
            return
        local = _local_before(text, match.start())
        behind = _look_behind(text, match.end(), after_comments)
        has_parts = bool(local.strip(_QUOTES) and behind.run)
        if not has_parts and has_angle and not is_inside:
            # `Support @ Company <...>`, `@jane <...>`: a name, unless what stands there looks like a domain.
            start = match.end() if behind.run else match.end() + len(behind.blank)
            behind = _look_behind(text, start, after_comments)
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


def _look_behind(text: str, position: int, after_comments: dict[int, str]) -> _Behind:
    match = _BEHIND_AT.match(text, position)
    assert match  # every part of it may be empty
    behind = _Behind(*match.groups())
    if behind.following == "(":  # what may be a comment stands between an address and what follows it
        return behind._replace(following=after_comments[match.start(4)])
    return behind


def _read_after_comments(text: str) -> dict[int, str]:
    """Give, by the place of each "(", the character behind it and all that may be comments there, "" at the end.

    From the right, so that it is linear: looked for anew behind each @, 8 KB of `(@)` take ten seconds.
    """
    after_comments: dict[int, str] = {}
    following = ""  # behind the nearest ")" to the right
    for parenthesis in reversed(list(_PARENTHESIS.finditer(text))):
        if parenthesis[0] == "(":
            after_comments[parenthesis.start()] = following
        elif after := _AFTER_COMMENT.match(text, parenthesis.end()):
            following = after_comments[after.start(1)] if after[1] == "(" else after[1]
    return after_comments


def _ends_clearly(behind: _Behind, *, is_inside: bool) -> bool:
    """Tell whether all agree on where an address ends.

    `ceo@bank co <...>` is one of bank, of bankco for those who take the blank out of a domain, or a name.
    """
    return behind.following in ({"", ">"} if is_inside else {"", "<", ">", ",", ";", ":"})


def _local_before(text: str, at: int) -> str:
    return _NO_LOCAL.split(text[max(0, at - 64) : at])[-1]
