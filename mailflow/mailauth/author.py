"""The author of a message: the one domain its From field speaks for, from the raw octets of the header.

RFC 5322 s3.6.2 and RFC 6854 say what the field is, RFC 9989 s5.3.1 that exactly one domain must come out. A message
whose author cannot be told is a fault, never one without a DMARC record: whoever can hide his author would pass every
policy. So one From field, and a field outside the grammar only where everybody who reads it anyhow finds the same
domain. An address quoted in a display name is legal, judged by the addr-spec and noted. Encoded words are never decoded
into addresses. Sender and Resent- fields have no say.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Final

from mailflow.mail.headers import Field, split_message
from mailflow.mailauth.encoded_words import decode_words
from mailflow.mailauth.lax_addresses import guess_addresses
from mailflow.mailauth.mailbox_list import MailboxList, canonical_domain, parse_mailbox_list

MAX_FROM_OCTETS: Final = 8192  # eight full lines and more names than anybody reads; bounds what a field can cost
MAX_HIDDEN_OCTETS: Final = 131_072  # behind the end of a header; nobody looks for header fields further down
MAX_NOTES: Final = 3
_MAX_SHOWN: Final = 320  # characters of an address, as long as RFC 5321 lets one be
_MAX_HOST: Final = 253
_MAX_GUESSES: Final = 100  # addresses in a field outside the grammar; with more, nobody can say who the author is

_ATEXT: Final = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]"
_DOT_ATOM: Final = _ATEXT + rb"++(?:\." + _ATEXT + rb"++)*"
_HOST: Final = rb"[A-Za-z0-9_\-]{1,63}+(?:\.[A-Za-z0-9_\-]{1,63}+)*"
_QUOTED: Final = rb'"[\x20\x21\x23-\x3f\x41-\x5b\x5d-\x7e]*+"'
_PHRASE: Final = _ATEXT + rb"(?:[. \t]|" + _ATEXT + rb")*"
# Nearly every field: a name of atoms or one quoted string without an @, and one address. One match, no closer look.
_PLAIN: Final = re.compile(
    rb"[ \t]*+(?:(?:" + _QUOTED + rb"|(?:" + _PHRASE + rb")?)[ \t]*+<(" + _DOT_ATOM + rb")@(" + _HOST + rb")>"
    rb"|(" + _DOT_ATOM + rb")@(" + _HOST + rb"))[ \t]*+"
)
# What a reader that takes header lines where we see none might take for the field: white space, control characters and
# 8-bit octets before the name and behind it are nothing to some, and so is folding.
_FROM_LINE: Final = re.compile(rb"(?:\A|[\r\n])[^!-~\r\n]*+[Ff][Rr][Oo][Mm][^!-~]*+:")

_IN_NAME: Final = "the display name"
_IN_LOCAL: Final = "the local part"


class AuthorFaultKind(StrEnum):
    """Why a message has no author whose domain could be judged."""

    NO_FIELD = "no From field"
    SEVERAL_FIELDS = "several From fields"
    HIDDEN_FIELD = "a From field where the header has ended"
    CONTROL = "a control character"
    OVERLONG = "overlong"
    NO_DOMAIN = "no author domain"
    SEVERAL_DOMAINS = "several author domains"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class AuthorFault:
    """The author cannot be told. `reason` is ours, in plain words, and quotes nothing of the message."""

    kind: AuthorFaultKind
    reason: str


@dataclass(frozen=True, slots=True)
class Author:
    """Who a message says it is from.

    `address` is the addr-spec judged, of several the first, as printable text of bounded length: a stranger wrote it.
    `domain` is its domain, lower-case A-labels, or an address literal in brackets, for which no DMARC record can be.
    `notes` say what else the field shows to people. `is_strict` is False where the field is outside RFC 5322 and all
    readings of it agree.
    """

    address: str
    domain: str
    notes: tuple[str, ...] = ()
    is_strict: bool = True


def read_author(content: bytes, split: tuple[Sequence[Field], int] | None = None) -> Author | AuthorFault:
    """Find the author of a message; `split` is what `split_message` gave for it, if that was already asked."""
    fields, body_start = split or split_message(content)
    values = [field.value for field in fields if field.name == b"from"]
    if len(values) > 1:
        return AuthorFault(AuthorFaultKind.SEVERAL_FIELDS, "there is more than one From field")
    if _hides_from_field(content, fields, body_start, len(values)):
        return AuthorFault(
            AuthorFaultKind.HIDDEN_FIELD, "the header section breaks off, and a From field stands where it has ended"
        )
    if not values:
        return AuthorFault(AuthorFaultKind.NO_FIELD, "there is no From field")
    return read_from_field(values[0])


def read_from_field(value: bytes) -> Author | AuthorFault:
    """Find the author in the value of the one From field, with or without its folding."""
    if len(value) > MAX_FROM_OCTETS:
        return AuthorFault(AuthorFaultKind.OVERLONG, f"the From field is longer than {MAX_FROM_OCTETS} octets")
    value = value.replace(b"\r\n", b"")
    plain = _PLAIN.fullmatch(value)
    if plain and (author := _read_plain(value, plain)):
        return author
    if b"\0" in value or b"\r" in value or b"\n" in value:
        return AuthorFault(AuthorFaultKind.CONTROL, "the From field holds a NUL, a bare CR or a bare LF")
    text = value.decode("utf-8", "surrogateescape")
    mailbox_list = parse_mailbox_list(text)
    return _read_guessed(text) if mailbox_list is None else _read_strict(mailbox_list)


def _read_plain(value: bytes, match: re.Match[bytes]) -> Author | None:
    start = 1 if match[1] else 3
    local, host = match[start].decode(), match[start + 1].decode()
    if len(host) > _MAX_HOST or len(local) + len(host) >= _MAX_SHOWN or "=?" in local:
        return None
    domain = host.lower()
    name = value[: match.start(start)]
    notes = _note_addresses(_IN_NAME, [name.decode()], domain) if b"=?" in name else ()
    return Author(f"{local}@{host}", domain, notes)


def _hides_from_field(content: bytes, fields: Sequence[Field], body_start: int, from_count: int) -> bool:
    """Tell whether another reader might see another From field than those that were counted."""
    if content.count(b"\n", 0, body_start) != content.count(b"\r\n", 0, body_start) and (
        len(_FROM_LINE.findall(content, 0, body_start)) != from_count
    ):  # a bare LF ends a line for some
        return True
    if not content.startswith(fields[0].raw if fields else b"") and _FROM_LINE.search(
        content, 0, content.find(b"\r\n")
    ):
        return True  # it is in what was taken for the line of an mbox
    if body_start == len(content) or content.endswith(b"\r\n\r\n", 0, body_start) or content.startswith(b"\r\n"):
        return False
    # A line that is no field has ended the header. Who skips it, reads on to the first empty line.
    start = max(body_start - 1, 0)  # at the end of the line before
    last = start + MAX_HIDDEN_OCTETS
    end = content.find(b"\r\n\r\n", body_start, last)
    return _FROM_LINE.search(content, start, end if end >= 0 else last) is not None


def _read_strict(found: MailboxList) -> Author | AuthorFault:
    fault = _find_fault({canonical_domain(written) for written in {mailbox.domain for mailbox in found.mailboxes}})
    if fault:
        return fault
    first = found.mailboxes[0]
    domain = canonical_domain(first.domain) or ""
    notes = _note_addresses(_IN_NAME, found.texts, domain)
    notes += _note_addresses(_IN_LOCAL, [mailbox.local for mailbox in found.mailboxes], domain)
    return Author(_printable(f"{first.local}@{first.domain}"), domain, notes[:MAX_NOTES])


def _read_guessed(text: str) -> Author | AuthorFault:
    """Read a field outside the grammar as the lax do, wherever they look: every address anywhere in it counts.

    Between angle brackets, the first or the last of them, and bare, inside quotes and comments too, as nobody knows
    where those end. An address of which it is not certain where it ends belongs to no domain (None). What encoded words
    say can only disagree.
    """
    guesses = list(islice(guess_addresses(text), _MAX_GUESSES))
    domains = {domain for _, domain in guesses}
    if len(guesses) == _MAX_GUESSES:
        domains.add(None)
    decoded = decode_words(text)
    if guesses and decoded != text:
        domains |= {domain for _, domain in islice(guess_addresses(decoded), _MAX_GUESSES)}
    named = [guess for guess in guesses if not guess[0].startswith("@")]
    if guesses and not named:
        domains.add(None)
    fault = _find_fault(domains)
    if fault:
        return fault
    address, domain = named[0]
    return Author(_printable(address), domain or "", (), is_strict=False)


def _find_fault(domains: set[str | None]) -> AuthorFault | None:
    if not domains:
        return AuthorFault(AuthorFaultKind.NO_DOMAIN, "the From field names no address")
    if None in domains:
        return AuthorFault(AuthorFaultKind.UNCLEAR, "the From field has an address whose domain cannot be told")
    if len(domains) > 1:
        return AuthorFault(AuthorFaultKind.SEVERAL_DOMAINS, "the From field names authors of more than one domain")
    return None


def _note_addresses(where: str, texts: Sequence[str], domain: str) -> tuple[str, ...]:
    notes: list[str] = []
    for text in texts:
        if "@" not in text and "=?" not in text:
            continue
        for address, _ in islice(guess_addresses(decode_words(text)), _MAX_GUESSES):
            local, _, shown = address.rpartition("@")
            if local and shown and canonical_domain(shown) != domain:
                notes.append(f"{where} quotes another address: {_printable(address)}")
        if len(notes) >= MAX_NOTES:
            break
    return tuple(notes[:MAX_NOTES])


def _printable(text: str) -> str:
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:_MAX_SHOWN])
    return shown[:_MAX_SHOWN]
