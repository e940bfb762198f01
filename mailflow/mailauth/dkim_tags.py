"""Tag lists: `name=value; name=value`, as DKIM-Signature, ARC fields and key records hold them. (RFC 6376 s3.2)

Sans-IO. `parse_tag_list` reads the list, the `read_*` functions one value each, and raise SignatureFault with a status
and a sentence. dkimpy's parse_tag_value is not used: it takes `b x=`, NUL and any control character, and strips white
space that is not FWS. Non-ASCII octets are let through (RFC 8616) and mean something in domains and i= only; values
keep the case they came in, as nothing in the RFC makes one of them insensitive to it, names of fields and domains
excepted.
"""

import binascii
import re
from collections import Counter
from enum import StrEnum
from typing import Final

from mailflow.dns.names import canonical_name
from mailflow.mailauth.canonical import Canonicalization
from mailflow.mailauth.result import AuthStatus

MAX_TAG_LIST_OCTETS: Final = 32_768
MAX_SIGNED_FIELDS: Final = 512

# One tag, up to its ";". What is no tag is passed over, and shows in the count.
_TAG = re.compile(r"(?:\A|(?<=;))[ \t]*+([A-Za-z][A-Za-z0-9_]*+)[ \t]*+=([^;]*+)")
_FOLD = re.compile(rb"\r\n(?=[ \t])")
_LEGAL: Final = bytes({0x09} | set(range(0x20, 0x7F)) | set(range(0x80, 0x100)))
_FIELD_NAMES = re.compile(r"[\x21-\x39\x3b-\x7e]++(?:[ \t]*+:[ \t]*+[\x21-\x39\x3b-\x7e]++)*")
# Sub-domains of RFC 5321 s4.1.2, and the underscore that selectors in use do have.
_DOMAIN = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*")


class SignatureFault(Exception):
    """A signature cannot verify; `status` and `reason` (ours, for people) are what its result says."""

    def __init__(self, status: AuthStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Algorithm(StrEnum):
    """The values of a= that still count (RFC 8301 s3.1, 8463 s3)."""

    RSA_SHA256 = "rsa-sha256"
    ED25519_SHA256 = "ed25519-sha256"


_ALGORITHMS: Final = {algorithm.value: algorithm for algorithm in Algorithm}
_CANONICALIZATIONS: Final = {form.value: (form, Canonicalization.SIMPLE) for form in Canonicalization} | {
    f"{header}/{body}": (header, body) for header in Canonicalization for body in Canonicalization
}


def permanent_fault(reason: str) -> SignatureFault:
    """Make the fault of a signature or key that no retry can mend."""
    return SignatureFault(AuthStatus.PERMERROR, reason)


def parse_tag_list(octets: bytes) -> dict[str, str]:
    """Parse a tag list into values by name, without the white space around them; the order is kept.

    Raises SignatureFault where it is no tag list, names a tag twice ("the entire tag-list is invalid") or has more than
    MAX_TAG_LIST_OCTETS.
    """
    if len(octets) > MAX_TAG_LIST_OCTETS:
        raise permanent_fault("the tag list is too long")
    octets = _FOLD.sub(b"", octets)
    if octets.translate(None, _LEGAL):
        raise permanent_fault("a control character stands in the tag list")
    text = octets.decode("utf-8", "replace").rstrip(" \t")
    pairs = _TAG.findall(text)
    if len(pairs) != text.count(";") + (not text.endswith(";")):
        raise permanent_fault("it is no list of tags")
    tags = {name: value.strip(" \t") for name, value in pairs}
    if len(tags) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise permanent_fault(f"the tag {name}= stands there twice" if len(name) < 10 else "a tag stands twice")
    return tags


def read_required(tags: dict[str, str], name: str) -> str:
    """Give a value that must be there; it may be empty."""
    if name not in tags:
        raise permanent_fault(f"the tag {name}= is missing")
    return tags[name]


def read_algorithm(tags: dict[str, str]) -> Algorithm:
    """Read a=. rsa-sha1 is refused: "verifiers MUST NOT verify" it (RFC 8301 s3.1)."""
    value = read_required(tags, "a")
    algorithm = _ALGORITHMS.get(value)
    if algorithm is None:
        is_known = value == "rsa-sha1"
        raise permanent_fault("rsa-sha1 is no longer accepted" if is_known else "the algorithm (a=) is not known")
    return algorithm


def read_base64(tags: dict[str, str], name: str) -> bytes:
    """Read a base64string, which white space may cut anywhere; padding may lack, by its grammar (s2.10)."""
    text = read_required(tags, name).replace(" ", "").replace("\t", "")
    if not text:
        raise permanent_fault(f"the tag {name}= is empty")
    try:
        padding = "" if text.endswith("=") else "=" * (-len(text) % 4)
        return binascii.a2b_base64(text + padding, strict_mode=True)
    except ValueError as exc:  # binascii.Error, and what is not ASCII
        raise permanent_fault(f"the tag {name}= is not base64") from exc


def read_canonicalizations(tags: dict[str, str]) -> tuple[Canonicalization, Canonicalization]:
    """Read c=: the forms of header and body, each simple where it is not named (s3.5)."""
    forms = _CANONICALIZATIONS.get(tags.get("c", "simple"))
    if forms is None:
        raise permanent_fault("the canonicalization (c=) is not known")
    return forms


def read_domain(tags: dict[str, str], name: str) -> str:
    """Read a domain-name of two or more labels as lower-case A-labels (s3.5 d=, RFC 8616 s5)."""
    domain = to_domain(read_required(tags, name))
    if domain is None or "." not in domain:
        raise permanent_fault(f"the tag {name}= is no domain name")
    return domain


def read_selector(tags: dict[str, str]) -> str:
    """Read s=, one or more labels, as lower-case A-labels (s3.1, RFC 8616 s5)."""
    selector = to_domain(read_required(tags, "s"))
    if selector is None:
        raise permanent_fault("the selector (s=) is no domain name")
    return selector


def read_number(tags: dict[str, str], name: str, *, max_digits: int) -> int | None:
    """Read a decimal number, None where the tag is absent."""
    if name not in tags:
        return None
    value = tags[name]
    if not (value.isascii() and value.isdigit() and len(value) <= max_digits):
        raise permanent_fault(f"the tag {name}= is no number")
    return int(value)


def read_list(value: str) -> list[str]:
    """Take apart a value whose items stand between colons, with white space around them."""
    return [item.strip(" \t") for item in value.split(":")]


def read_signed_fields(tags: dict[str, str]) -> tuple[bytes, ...]:
    """Read h=, the names of the signed fields in lower case; From must be one of them (s3.5, s5.4)."""
    value = read_required(tags, "h")
    if value.count(":") >= MAX_SIGNED_FIELDS:
        raise permanent_fault("the list of signed fields (h=) is too long")
    if not _FIELD_NAMES.fullmatch(value):
        raise permanent_fault("the tag h= is no list of field names")
    fields = tuple(value.encode("ascii").lower().translate(None, b" \t").split(b":"))
    if b"from" not in fields:
        raise permanent_fault("the From field is not signed")
    return fields


def to_domain(text: str) -> str | None:
    """Give a domain as lower-case A-labels, None where it is none; there may be one label."""
    name = canonical_name(text)
    return name if name is not None and not text.endswith(".") and _DOMAIN.fullmatch(name) else None
