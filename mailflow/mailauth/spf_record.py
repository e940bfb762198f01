"""The SPF record as published: its terms, strictly. (RFC 7208 s3, s4.5, s4.6, s5, s6, s12)

Pure. A record is good as a whole or not at all: a fault in any term is permerror before anything is evaluated (s4.6).
Networks become numbers and fixed names canonical here, once for all messages: parsed records are kept by their octets.
The surprise is the order of reading a term: `name=` first, and a modifier of known name that is wrong is a fault,
never an unknown modifier; a CIDR length is taken off the end before the rest must be a domain-spec, which may hold `/`.
"""

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, NamedTuple

from mailflow.dns.names import canonical_name
from mailflow.mailauth.result import AuthStatus
from mailflow.mailauth.spf_macro import (
    MacroString,
    SpfSyntaxError,
    expand_name,
    parse_domain_spec,
    parse_macro_string,
    shown,
)

MAX_RECORD_OCTETS: Final = 16_384  # s3.4 asks for 450 and less; of an answer of the DNS, 64 KB is what can be

_VERSION: Final = b"v=spf1"
# A record of "a a a ..." grows a hundredfold by parsing, so a hostile one is not worth keeping.
MAX_KEPT_OCTETS: Final = 2_048
_MAX_KEPT_RECORDS: Final = 512

_MODIFIER = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*)=(.*)", re.DOTALL)
_DIRECTIVE = re.compile(r"([+?~-]?)([A-Za-z0-9]+)((?:[:/].*)?)", re.DOTALL)
_DUAL_CIDR = re.compile(r"(?::(.*?))?(?:/(0|[1-9][0-9]?))?(?://(0|[1-9][0-9]{0,2}))?", re.DOTALL)
_IP4 = re.compile(r":([0-9.]+)(?:/(0|[1-9][0-9]?))?")
_IP6 = re.compile(r":([0-9A-Fa-f:.]+)(?:/(0|[1-9][0-9]{0,2}))?")
_QUALIFIERS: Final = {
    "": AuthStatus.PASS,
    "+": AuthStatus.PASS,
    "-": AuthStatus.FAIL,
    "~": AuthStatus.SOFTFAIL,
    "?": AuthStatus.NEUTRAL,
}


class MechanismKind(Enum):
    """The mechanisms of s5."""

    ALL = "all"
    INCLUDE = "include"
    A = "a"
    MX = "mx"
    PTR = "ptr"
    IP4 = "ip4"
    IP6 = "ip6"
    EXISTS = "exists"


_KINDS: Final = {kind.value: kind for kind in MechanismKind}


class TargetName(NamedTuple):
    """A name: as macros see it, canonical, and as a Resolver is asked for it; the latter two "" where it cannot be one.

    `name` is for comparing: its escapes would be text of their own in a question.
    """

    text: str
    name: str
    question: str

    @property
    def is_domain(self) -> bool:
        """True for a well-formed name of several labels (s4.3)."""
        return "." in self.name


def read_target(text: str) -> TargetName:
    """Give a name that macros made, or a sender wrote, in its three forms; the dot behind it is already gone."""
    name = "" if text.endswith(".") else canonical_name(text) or ""
    return TargetName(text, name, text if "\\" in name else name)


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """A domain-spec as published and parsed; `fixed` is the name it always means, None where it has macros."""

    text: str
    string: MacroString
    fixed: TargetName | None


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One directive: its `text` as published, qualifier included, and the result if it matches.

    `domain` is None where the record's own domain is meant. ip4 and ip6 have `family` 4 or 6 and match an address of
    that family whose number under `mask` is `network`; for others `family` is 0. a and mx compare the first `prefix4`
    or `prefix6` bits.
    """

    kind: MechanismKind
    text: str
    status: AuthStatus
    domain: DomainSpec | None = None
    family: int = 0
    network: int = 0
    mask: int = 0
    prefix4: int = 32
    prefix6: int = 128

    @property
    def asks_dns(self) -> bool:
        """True for what counts towards the limit of 10 terms (s4.6.4)."""
        return self.family == 0 and self.kind is not MechanismKind.ALL


@dataclass(frozen=True, slots=True)
class SpfRecord:
    """A record without fault: its mechanisms in order, and its two modifiers (s6)."""

    text: str
    mechanisms: tuple[Mechanism, ...]
    redirect: DomainSpec | None
    explanation: DomainSpec | None


@dataclass(frozen=True, slots=True)
class RecordFault:
    """Why a record is none (permerror, s4.6): plain words, printable, bounded."""

    reason: str


def is_spf_record(record: bytes) -> bool:
    """Tell whether a TXT record is an SPF record, good or not: `v=spf1` and a blank or the end (s4.5)."""
    return record[:6].lower() == _VERSION and record[6:7] in (b"", b" ")


def parse_record(record: bytes) -> SpfRecord | RecordFault:
    """Read a record that `is_spf_record`; anything wrong anywhere in it is a fault."""
    return _parse_kept(record) if len(record) <= MAX_KEPT_OCTETS else _parse(record)


def _parse(record: bytes) -> SpfRecord | RecordFault:
    if len(record) > MAX_RECORD_OCTETS:  # s11.1: what a hostile domain can make us do has its limit
        return RecordFault(f"the record is longer than {MAX_RECORD_OCTETS} octets")
    if not record.isascii():  # s3.1: US-ASCII
        return RecordFault("the record is not ASCII")
    text = record.decode("ascii")
    modifiers: dict[str, DomainSpec] = {}
    mechanisms: dict[str, Mechanism] = {}  # equal terms are parsed once
    terms = [term for term in text[len(_VERSION) :].split(" ") if term]  # blanks alone separate, not white space
    directives: list[Mechanism] = []
    try:
        for term in terms:
            if modifier := _MODIFIER.fullmatch(term):
                _add_modifier(modifiers, modifier[1].lower(), modifier[2])
                continue
            if term not in mechanisms:
                mechanisms[term] = _parse_directive(term)
            directives.append(mechanisms[term])
    except SpfSyntaxError as fault:
        return RecordFault(str(fault))
    return SpfRecord(text, tuple(directives), modifiers.get("redirect"), modifiers.get("exp"))


_parse_kept = lru_cache(maxsize=_MAX_KEPT_RECORDS)(_parse)


def _add_modifier(modifiers: dict[str, DomainSpec], name: str, value: str) -> None:
    if name not in {"redirect", "exp"}:
        parse_macro_string(value)  # ignored, but for its syntax (s6)
        return
    if name in modifiers:  # s6: "MUST NOT appear in a record more than once each"
        raise SpfSyntaxError(f"{name}= appears twice")
    modifiers[name] = _parse_domain(value)


def _parse_directive(term: str) -> Mechanism:
    directive = _DIRECTIVE.fullmatch(term)
    kind = _KINDS.get(directive[2].lower()) if directive else None
    if directive is None or kind is None:
        raise SpfSyntaxError(f'"{shown(term)}" is no mechanism')
    status, rest = _QUALIFIERS[directive[1]], directive[3]
    match kind:
        case MechanismKind.ALL if not rest:
            return Mechanism(kind, term, status)
        case MechanismKind.PTR if not rest:
            return Mechanism(kind, term, status)
        case MechanismKind.INCLUDE | MechanismKind.EXISTS | MechanismKind.PTR if rest.startswith(":"):
            return Mechanism(kind, term, status, _parse_domain(rest[1:]))
        case MechanismKind.A | MechanismKind.MX:
            return _parse_host(kind, term, status, rest)
        case MechanismKind.IP4:
            return _parse_network(kind, term, status, _IP4.fullmatch(rest))
        case MechanismKind.IP6:
            return _parse_network(kind, term, status, _IP6.fullmatch(rest))
    raise SpfSyntaxError(f'"{shown(term)}" is not how {kind.value} is written')


def _parse_host(kind: MechanismKind, term: str, status: AuthStatus, rest: str) -> Mechanism:
    match = _DUAL_CIDR.fullmatch(rest)
    if match is None:
        raise SpfSyntaxError(f'"{shown(term)}" is not how {kind.value} is written')
    domain = None if match[1] is None else _parse_domain(match[1])
    prefix4, prefix6 = int(match[2] or 32), int(match[3] or 128)
    if prefix4 > 32 or prefix6 > 128:
        raise SpfSyntaxError(f'"{shown(term)}" has a prefix length that is too large')
    return Mechanism(kind, term, status, domain, prefix4=prefix4, prefix6=prefix6)


def _parse_network(kind: MechanismKind, term: str, status: AuthStatus, match: re.Match[str] | None) -> Mechanism:
    if match is None:
        raise SpfSyntaxError(f'"{shown(term)}" is no network')
    family, bits = (4, 32) if kind is MechanismKind.IP4 else (6, 128)
    prefix = int(match[2] or bits)
    try:
        number = int(IPv4Address(match[1]) if family == 4 else IPv6Address(match[1]))
    except AddressValueError:
        raise SpfSyntaxError(f'"{shown(term)}" has no address') from None
    if prefix > bits:
        raise SpfSyntaxError(f'"{shown(term)}" has a prefix length that is too large')
    mask = (1 << bits) - (1 << (bits - prefix))
    return Mechanism(kind, term, status, family=family, network=number & mask, mask=mask)


def _parse_domain(text: str) -> DomainSpec:
    string = parse_domain_spec(text)
    if string.letters:
        return DomainSpec(text, string, None)
    return DomainSpec(text, string, read_target(expand_name(string, {})))
