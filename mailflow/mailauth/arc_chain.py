"""The ARC fields of a message, gathered into sets, and what a set's seal and signature say. (RFC 8617 s4)

Sans-IO. A chain is whole or it is none: `collect_chain` raises SignatureFault for the first thing that is wrong with
its structure (s5.2 steps 1 to 3), before any key is asked for. Of a message signature only the tags are read there: an
older one that cannot verify breaks no chain, it only dates the last change of the message (step 5).
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from mailflow.mail.headers import Field
from mailflow.mailauth.canonical import Canonicalization
from mailflow.mailauth.dkim_signature import MessageSignature, parse_message_signature
from mailflow.mailauth.dkim_tags import (
    MAX_SIGNED_FIELDS,
    Algorithm,
    SignatureFault,
    parse_tag_list,
    permanent_fault,
    read_algorithm,
    read_base64,
    read_domain,
    read_list,
    read_number,
    read_required,
    read_selector,
)

MAX_SETS: Final = 50  # s4.2.1, s5.2 step 1
RESULTS: Final = b"arc-authentication-results"
SIGNATURE: Final = b"arc-message-signature"
SEAL: Final = b"arc-seal"
ARC_FIELDS: Final = (RESULTS, SIGNATURE, SEAL)  # in the order in which a seal covers them (s5.1.1)

# A comment in a comment is not read: nobody writes one before an instance.
_CFWS = rb"(?:[ \t\r\n]++|\((?:[^()\\]++|\\.)*\))*"
_INSTANCE = re.compile(rb"%(c)si%(c)s=%(c)s([0-9]{1,2})%(c)s;" % {b"c": _CFWS}, re.DOTALL)
_TIME_DIGITS: Final = 12

_Member = tuple[int, dict[str, str]]


@dataclass(frozen=True, slots=True)
class Seal:
    """What an ARC-Seal says (s4.1.3); `status` is its cv=, `position` that of its field in the header."""

    position: int
    status: str
    algorithm: Algorithm
    domain: str
    selector: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class SealedSet:
    """One set of a chain. `results` and `signature` are positions in the header; `payload` stands behind `i=n;`."""

    instance: int
    results: int
    payload: str
    signature: int
    signature_tags: dict[str, str]
    seal: Seal


def collect_chain(fields: Sequence[Field]) -> list[SealedSet]:
    """Gather the sets of a header in the order of their instance; empty where there is no ARC field at all.

    Raises SignatureFault for a chain of another structure than s5.2 asks for.
    """
    found = [(position, field) for position, field in enumerate(fields) if field.name in ARC_FIELDS]
    if len(found) > MAX_SETS * len(ARC_FIELDS):
        raise permanent_fault(f"there are more than {MAX_SETS} sets")
    sets: dict[int, dict[bytes, _Member]] = {}
    for position, field in found:
        instance, tags = _read_instance(field)
        members = sets.setdefault(instance, {})
        if field.name in members:
            raise permanent_fault(f"set {instance} has a field twice")
        members[field.name] = position, tags
    if sets and max(sets) > len(sets):
        raise permanent_fault("a set is missing")
    if any(len(members) < len(ARC_FIELDS) for members in sets.values()):
        raise permanent_fault("a set lacks a field")
    return [_read_set(instance, sets[instance], fields) for instance in sorted(sets)]


def highest_instance(fields: Sequence[Field]) -> int:
    """Give the highest instance that can be read in any ARC field, however broken the chain; 0 where none can."""
    return max((instance for _, instance, _ in _readable_fields(fields)), default=0)


def has_ended(fields: Sequence[Field]) -> bool:
    """True if the latest seal that can be read says that the chain had failed (s5.1 step 2)."""
    seals = [(instance, tags.get("cv") == "fail") for name, instance, tags in _readable_fields(fields) if name == SEAL]
    return max(seals, default=(0, False))[1]


def read_message_signature(tags: dict[str, str]) -> list[MessageSignature]:
    """Read an ARC-Message-Signature; raises SignatureFault where it is none that could verify.

    It need not sign From, and its h= may be empty or have empty names. v= means nothing here (s4.1.2). Without c= there
    are two readings: simple, as DKIM has it, which s4.1.2 imports, and relaxed, as sealers and their suite have it.
    """
    names = read_list(read_required(tags, "h"))
    if len(names) > MAX_SIGNED_FIELDS:
        raise permanent_fault("the list of signed fields (h=) is too long")
    signed_fields = tuple(name.lower().encode() for name in names)
    if SEAL in signed_fields:  # "MUST NOT be included"; of the two others the suite of ValiMail has passing cases
        raise permanent_fault("it signs an ARC-Seal")
    signature = parse_message_signature(tags, signed_fields)
    if "c" in tags:
        return [signature]
    relaxed = Canonicalization.RELAXED
    return [signature, replace(signature, header_form=relaxed, body_form=relaxed)]


def _read_set(instance: int, members: dict[bytes, _Member], fields: Sequence[Field]) -> SealedSet:
    position, tags = members[SEAL]
    try:
        seal = _read_seal(position, tags)
    except SignatureFault as fault:
        raise permanent_fault(f"the seal of set {instance}: {fault.reason}") from fault
    if seal.status == "fail":
        raise permanent_fault(f"the seal of set {instance} says that the chain had failed (cv=)")
    if seal.status != ("none" if instance == 1 else "pass"):  # s5.2 step 3 C
        raise permanent_fault(f"the seal of set {instance} has the wrong status (cv=)")
    results, _ = members[RESULTS]
    return SealedSet(instance, results, _payload(fields[results]), *members[SIGNATURE], seal)


def _read_seal(position: int, tags: dict[str, str]) -> Seal:
    if "h" in tags:  # "NOT allowed and, if found, MUST result in a cv status of fail" (s4.1.3)
        raise permanent_fault("there is a tag h=")
    read_number(tags, "t", max_digits=_TIME_DIGITS)
    return Seal(
        position=position,
        status=read_required(tags, "cv"),
        algorithm=read_algorithm(tags),
        domain=read_domain(tags, "d"),
        selector=read_selector(tags),
        signature=read_base64(tags, "b"),
    )


def _read_instance(field: Field) -> tuple[int, dict[str, str]]:
    """Read i=, which leads the results and is a tag of the two others (s4.2.1: 1 to 50); with it, the tags."""
    tags: dict[str, str] = {}
    if field.name == RESULTS:
        match = _INSTANCE.match(field.value)
        digits = match[1].decode() if match else ""
    else:
        try:
            tags = parse_tag_list(field.value)
        except SignatureFault as fault:
            raise permanent_fault(f"an ARC field cannot be read: {fault.reason}") from fault
        digits = tags.get("i", "")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 2 and 1 <= int(digits) <= MAX_SETS):
        raise permanent_fault(f"an ARC field has no instance (i=) of 1 to {MAX_SETS}")
    return int(digits), tags


def _readable_fields(fields: Sequence[Field]) -> Iterator[tuple[bytes, int, dict[str, str]]]:
    for field in fields:
        if field.name in ARC_FIELDS:
            with contextlib.suppress(SignatureFault):
                yield field.name, *_read_instance(field)


def _payload(results: Field) -> str:
    value = results.value
    match = _INSTANCE.match(value)
    return value[match.end() if match else 0 :].replace(b"\r\n", b"").decode("utf-8", "replace")
