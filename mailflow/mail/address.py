"""Mailbox addresses of the SMTP envelope: RFC 5321 s4.1.2 with the UTF-8 of RFC 6531 s3.3.

This is the strict grammar of commands, not the lax one of header fields (RFC 5322): no comments,
no white space, no obsolete forms. `"joe"@example.org` and `joe@example.org` are one mailbox
(s4.1.2), so the local part is kept unquoted and quoted again on output only where it must be.
Never decides whether a mailbox exists; never touches DNS.
"""

import re
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv6Address

import idna

MAX_LOCAL_OCTETS = 64  # RFC 5321 s4.5.3.1.1
MAX_DOMAIN_OCTETS = 255  # s4.5.3.1.2
MAX_PATH_OCTETS = 256  # s4.5.3.1.3, with the angle brackets

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"
_UTF8 = r"\u0080-\ud7ff\ue000-\U0010ffff"  # no surrogates: they have no UTF-8
_DOT_STRING = re.compile(rf"[{_ATEXT}{_UTF8}]+(?:\.[{_ATEXT}{_UTF8}]+)*")
_QUOTED_STRING = re.compile(rf'"((?:[\x20\x21\x23-\x5b\x5d-\x7e{_UTF8}]|\\[\x20-\x7e])*)"')
_LDH = r"[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?"
_LDH_LABEL = re.compile(_LDH)
# Nearly every address is of this form, and needs no closer look than one match.
_PLAIN_MAILBOX = re.compile(rf"([{_ATEXT}]+(?:\.[{_ATEXT}]+)*)@({_LDH}(?:\.{_LDH})*)")
_QUOTED_PAIR = re.compile(r"\\(.)")
_IPV4 = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")


class AddressSyntaxError(ValueError):
    """The text is not a Mailbox of RFC 5321; the message says which part is wrong."""


@dataclass(frozen=True, slots=True)
class Address:
    """One mailbox. `local` is unquoted and keeps its case; `domain` is lower case, as written (U-label or
    A-label or `[literal]`); `ascii_domain` is the same in A-labels, for DNS, routes and comparison.

    Two addresses are equal where local part and A-label domain are.
    """

    local: str
    domain: str = field(compare=False)
    ascii_domain: str

    def __str__(self) -> str:
        """Gives the Mailbox as written in commands: the local part quoted only where it must be."""
        if _DOT_STRING.fullmatch(self.local):
            return f"{self.local}@{self.domain}"
        escaped = self.local.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"@{self.domain}'

    @property
    def is_ascii(self) -> bool:
        """Tells whether the address can travel without SMTPUTF8."""
        return self.local.isascii() and self.domain.isascii()


def parse_mailbox(text: str) -> Address:
    """Parse `Local-part "@" ( Domain / address-literal )`, the whole text and nothing else.

    Raises AddressSyntaxError; UTF-8 is accepted here, the caller knows whether SMTPUTF8 was asked for.
    """
    plain = _PLAIN_MAILBOX.fullmatch(text)
    if plain and plain.end(1) <= MAX_LOCAL_OCTETS and len(text) <= MAX_PATH_OCTETS - 2:
        domain = plain[2].lower()
        return Address(plain[1], domain, domain)
    local, rest = _take_local_part(text)
    if not rest.startswith("@"):
        raise AddressSyntaxError("no @ after the local part")
    if len(text[: len(text) - len(rest)].encode()) > MAX_LOCAL_OCTETS:  # as written: the quotes count
        raise AddressSyntaxError(f"local part longer than {MAX_LOCAL_OCTETS} octets")
    _check_path_length(text)
    if rest.startswith("@["):
        literal = _parse_literal(rest[1:])
        return Address(local, literal, literal)
    domain = _fold_domain(rest[1:])
    address = Address(local, domain, parse_domain(domain))
    _check_path_length(str(address))  # UTS 46 can make a domain longer
    return address


def parse_domain(text: str) -> str:
    """Give the domain in lower-case A-labels (RFC 5321 s4.1.2 `Domain`, RFC 5891 for U-labels).

    One label is enough; a trailing dot, an underscore or an empty label is not a Domain.
    Raises AddressSyntaxError.
    """
    text = _fold_domain(text)
    if not text.isascii():
        try:
            text = idna.encode(text).decode("ascii")
        except UnicodeError as exc:  # IDNAError is one
            raise AddressSyntaxError("domain is not valid IDNA") from exc
    if len(text) > MAX_DOMAIN_OCTETS:
        raise AddressSyntaxError(f"domain longer than {MAX_DOMAIN_OCTETS} octets")
    for label in text.split("."):
        if not _LDH_LABEL.fullmatch(label):
            raise AddressSyntaxError("domain label is empty, too long or has characters no host name has")
    return text


def _fold_domain(text: str) -> str:
    """Give the domain in lower case, or as UTS 46 maps it: str.lower() would make `ΕΛΛΑΣ` another domain's name."""
    if text.isascii():
        return text.lower()
    try:
        return idna.uts46_remap(text, std3_rules=False)
    except UnicodeError as exc:
        raise AddressSyntaxError("domain is not valid IDNA") from exc


def _check_path_length(mailbox: str) -> None:
    try:
        octets = len(mailbox.encode())
    except UnicodeEncodeError as exc:
        raise AddressSyntaxError("not Unicode text") from exc
    if octets > MAX_PATH_OCTETS - 2:
        raise AddressSyntaxError(f"path longer than {MAX_PATH_OCTETS} octets")


def _take_local_part(text: str) -> tuple[str, str]:
    match = _DOT_STRING.match(text)
    if match:
        return match[0], text[match.end() :]
    match = _QUOTED_STRING.match(text)
    if match:
        return _QUOTED_PAIR.sub(r"\1", match[1]), text[match.end() :]
    raise AddressSyntaxError("local part is neither a dot-string nor a quoted string")


def _parse_literal(text: str) -> str:
    """Check `[192.0.2.1]` or `[IPv6:2001:db8::1]` (s4.1.3); other tags have no registered meaning."""
    if not text.endswith("]"):
        raise AddressSyntaxError("address literal is not closed")
    inner = text[1:-1]
    try:
        if inner[:5].lower() == "ipv6:":
            # A zone (`%eth0`) is ours alone and no part of the grammar.
            if "%" in inner:
                raise AddressSyntaxError("address literal has a zone")
            IPv6Address(inner[5:])
            _check_compression(inner[5:])
            return f"[IPv6:{inner[5:].lower()}]"
        if not _IPV4.fullmatch(inner):
            raise AddressSyntaxError("address literal is neither IPv4 nor IPv6")
        return f"[{IPv4Address(inner)}]"
    except AddressValueError as exc:
        raise AddressSyntaxError("address literal is not an IP address") from exc


def _check_compression(ipv6: str) -> None:
    """`::` stands for two groups or more (RFC 5321 s4.1.3), where RFC 4291 lets it stand for one."""
    groups = [group for group in ipv6.split(":") if group]
    if "::" in ipv6 and len(groups) + ("." in ipv6) > 6:
        raise AddressSyntaxError("address literal compresses a single group")
