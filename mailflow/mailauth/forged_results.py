"""Which fields of an incoming message pretend to be ours, and the message without them. (RFC 8601 s5)

An Authentication-Results field that bears our authserv-id is a forgery: ours is not on the message yet. One whose
authserv-id cannot be read for certain goes too, for a lax reader behind us may read our id out of it. All other fields
stay as they are, octet for octet; ARC-Authentication-Results is another field, and vouched for by its own seal.

The body is never changed. Where the header section ends at a line that is no field, an empty line is put in, as Postfix
does: fields of ours go on top of such a message, and without it a reader that skips that line takes what follows for
header, forged results included, and a first line that begins with a blank continues our own field.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from mailflow.dns.names import canonical_name
from mailflow.mail.headers import Field

_RESULTS_ONLY = frozenset([b"authentication-results"])
_WITH_RECEIVED_SPF = _RESULTS_ONLY | {b"received-spf"}

# Fields are read closely only as far as anybody sane writes them; what is behind these bounds goes.
MAX_ID_OCTETS = 512  # of what stands before the first ";" of results
MAX_CLOSE_LOOKS = 50  # in one message

# Possessive throughout: linear on whatever a stranger wrote.
_FOLD = rb"(?:[ \t]|\r\n[ \t])"
_PLAIN_ID = re.compile(rb"%b*+([\w!#$%%&'*+.^`{|}~-]++)(?:%b++[0-9]++)?%b*+(?:;|\Z)" % (_FOLD, _FOLD, _FOLD)).match
_BLANKS = re.compile(r"[ \t]*+")
_COMMENT_PART = re.compile(r"[^()\\]++|\\.|[()]", re.DOTALL)
_VALUE = re.compile(
    r"([^\x00-\x20\x7f()<>@,;:\\\"/\[\]?=]++)|\"((?:[^\x00-\x08\x0a-\x1f\x7f\"\\]++|\\[^\x00-\x1f\x7f])*)\""
)
_VERSION = re.compile(r"[0-9]*+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_IGNORED = re.compile(r"[\s\\\"]+")


class Kept(NamedTuple):
    """What stays of a message: `head`, then its octets from `rest_at` on, which need no copy."""

    head: bytes
    rest_at: int


def strip_forged(
    content: bytes,
    fields: Sequence[Field],
    body_at: int,
    authserv_id: str,
    *,
    removes_received_spf: bool = False,
) -> Kept:
    """Leave out what claims to be ours; `fields` and `body_at` are what split_message gave for `content`.

    `removes_received_spf` also takes out every Received-SPF field: for where we add one, which readers could not tell
    from others (RFC 7208 s9.1 has no authserv-id). Kept(b"", 0) where nothing changes.
    """
    names = _WITH_RECEIVED_SPF if removes_received_spf else _RESULTS_ONLY
    suspects = [index for index, field in enumerate(fields) if field.name in names]
    is_ended = content.endswith(b"\r\n\r\n", 0, body_at) or content[:body_at] == b"\r\n"
    needs_end = not is_ended and body_at < len(content)
    forged = _find_forged(fields, suspects, authserv_id) if suspects else ()
    if not forged and not needs_end:
        return Kept(b"", 0)
    fields_end = body_at - 2 if is_ended else body_at
    fields_at = fields_end - sum(len(field.raw) for field in fields)  # behind the `From ` line of an mbox
    changed = fields if needs_end else fields[: max(forged) + 1]
    kept = [field.raw for index, field in enumerate(changed) if index not in forged]
    head = b"".join([content[:fields_at], *kept, b"\r\n" if needs_end else b""])
    return Kept(head, fields_at + sum(len(field.raw) for field in changed))


def claims_id(value: bytes, authserv_id: str) -> bool:
    """Tell whether an Authentication-Results value bears `authserv_id`, or an id that cannot be read for certain.

    The id is compared as a domain name: without regard to case, a dot at the end, or U-labels for A-labels.
    """
    is_claimed = _claims_plainly(value, authserv_id)
    return _claims_in_any_way(value, authserv_id) if is_claimed is None else is_claimed


def _find_forged(fields: Sequence[Field], suspects: Sequence[int], authserv_id: str) -> set[int]:
    forged = set()
    close_looks = 0
    for index in suspects:
        field = fields[index]
        is_claimed = field.name == b"received-spf" or _claims_plainly(field.value, authserv_id)
        if is_claimed is None:
            close_looks += 1
            is_claimed = close_looks > MAX_CLOSE_LOOKS or _claims_in_any_way(field.value, authserv_id)
        if is_claimed:
            forged.add(index)
    return forged


def _claims_plainly(value: bytes, authserv_id: str) -> bool | None:
    """Tell whether a value bears the id, None where it takes a closer look, as it hardly ever does."""
    match = _PLAIN_ID(value)
    if match is None:
        return None
    ours = _comparable_own(authserv_id)
    return ours is None or match[1].lower().rstrip(b".") == ours.encode()


def _claims_in_any_way(value: bytes, authserv_id: str) -> bool:
    try:
        text = value.decode().replace("\r\n", "")  # unfolded; RFC 6532 lets UTF-8 in
    except UnicodeDecodeError:
        return True
    ours = _comparable_own(authserv_id)
    read = _read_id(text[:MAX_ID_OCTETS])
    if read is None or ours is None or (read[1] == MAX_ID_OCTETS < len(text)):
        return True
    id, end = read
    theirs = _comparable(id)
    if theirs is None or theirs == ours:
        return True
    # A reader that knows no comments or quotes, or none inside others, must not find our id in what is before the ";".
    seen = _IGNORED.sub("", text[:end]).lower()
    return ours in seen or _IGNORED.sub("", authserv_id).lower() in seen


def _comparable(id: str) -> str | None:
    """Give an id as it is compared: as lower-case A-labels where it is a name, None where nobody could tell it."""
    if name := canonical_name(id):
        return name
    return id.lower().rstrip(".") if id.isascii() else None


_comparable_own = lru_cache(maxsize=16)(_comparable)  # ours alone: it is not for strangers' ids to fill


def _read_id(text: str) -> tuple[str, int] | None:
    """Read `[CFWS] authserv-id [CFWS version] [CFWS]` up to ";" or the end: the id, and where it was over.

    None where the text is anything else.
    """
    at = _skip_cfws(text, 0)
    match = _VALUE.match(text, at) if at >= 0 else None
    if not match:
        return None
    id = match[1] or re.sub(r"\\(.)", r"\1", match[2] or "")
    at = _skip_cfws(text, match.end())
    if at > match.end():  # a version stands behind white space
        at = _skip_cfws(text, _VERSION.match(text, at).end())  # type: ignore[union-attr]  # it matches the empty string
    is_over = at == len(text) or text.startswith(";", at)
    return (id, at) if id and is_over and not _CONTROL.search(text, 0, at) else None


def _skip_cfws(text: str, at: int) -> int:
    """Pass over white space and comments (RFC 5322 s3.2.2); -1 where a comment has no end. `at` may be -1."""
    while at >= 0:
        at = _BLANKS.match(text, at).end()  # type: ignore[union-attr]  # it matches the empty string
        if not text.startswith("(", at):
            return at
        at = _end_of_comment(text, at)
    return at


def _end_of_comment(text: str, at: int) -> int:
    depth = 0
    while part := _COMMENT_PART.match(text, at):
        at = part.end()
        depth += {"(": 1, ")": -1}.get(part[0], 0)
        if depth == 0:
            return at
    return -1
