"""Sealing with ARC: the three fields to put in front of a message that is passed on. (RFC 8617 s5.1)

They say what was found when the message came, and how its chain stood then. A chain is never mended: one that failed is
sealed as failed, under a seal that covers its own set alone (s5.1.2), one that ended so before is left alone, and so is
one whose state nobody knows yet (a key without an answer from the DNS).

The surprise: a seal covers the message signature as it is folded. Tags stand in the order of the alphabet, and lines
may be long, so that the fields can be those of the public suite of sealers byte for byte.
"""

import base64
import re
import time
from collections.abc import Iterator, Sequence
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from mailflow.mail.headers import Field
from mailflow.mailauth.arc_chain import (
    ARC_FIELDS,
    MAX_SETS,
    RESULTS,
    collect_chain,
    has_ended,
    highest_instance,
)
from mailflow.mailauth.canonical import Canonicalization, canonicalize_field, erase_signature
from mailflow.mailauth.dkim_sign import (
    MAX_LINE_OCTETS,
    OVERSIGNED_FIELDS,
    SIGNED_FIELDS,
    PrivateKey,
    fold,
    load_key,
    names_to_sign,
    sign,
)
from mailflow.mailauth.dkim_tags import SignatureFault, read_signed_fields, to_domain
from mailflow.mailauth.result import ArcResult, AuthStatus
from mailflow.mailauth.signed_message import SignedMessage

_UNSIGNED: Final = frozenset({b"authentication-results", *ARC_FIELDS})  # s4.1.2: "MUST NOT be included"
_AUTHORITY: Final = re.compile(r"[!#-'*+\-.0-9A-Z^_`a-z{|}~\x80-\U0010ffff]+")  # a token, RFC 8601 s2.2
_UNFOLDED_CONTROL: Final = re.compile(r"\r\n(?![ \t])|\r(?!\n)|(?<!\r)\n|[\0-\x08\x0b\x0c\x0e-\x1f\x7f]")
_RELAXED: Final = Canonicalization.RELAXED


async def seal_arc(
    message: bytes,
    *,
    domain: str,
    selector: str,
    key: PrivateKey | bytes,
    authserv_id: str,
    authentication_results: str,
    arc: ArcResult,
    now: float | None = None,
    signed_fields: Sequence[str] | None = None,
    max_line_octets: int = MAX_LINE_OCTETS,
) -> bytes:
    """Seal a message: gives ARC-Seal, ARC-Message-Signature and ARC-Authentication-Results, to be put in front of it.

    Nothing (b"") where the chain has ended, is full (50 sets), or `arc` is a temperror. `arc` is what verify_arc said
    of this message when it came; it may have been changed since, except for its ARC fields.

    `authentication_results` are all results of this service, `method=result …; …`, without the authserv-id, safe to
    print; they may be folded. `key` and `now` are as for sign_dkim. `signed_fields` is the h= of the message signature,
    None for the fields that sign_dkim signs and DKIM-Signature. Lines have at most `max_line_octets`, up to 998. Raises
    ValueError for a key, name or text that cannot be used, for an `arc` that is not of this message, and for a message
    with more fields to sign than h= may name.
    """
    view = SignedMessage(message)
    before = _covered_fields(view, arc)
    instance = highest_instance(view.fields) + 1
    if before is None or instance > MAX_SETS:
        return b""
    private_key, algorithm = load_key(key)
    tags = {
        "a": algorithm.value,
        "d": _checked(domain, needs_dot=True),
        "i": str(instance),
        "s": _checked(selector, needs_dot=False),
        "t": str(int(time.time() if now is None else now)),
    }
    results = _results_field(instance, authserv_id, authentication_results)

    names = signed_fields or names_to_sign(view, OVERSIGNED_FIELDS, (*SIGNED_FIELDS, "DKIM-Signature"))
    selected = view.select_fields(_read_names(names))
    body_hash = base64.b64encode((await view.hash_body(_RELAXED)).whole).decode()
    own = tags | {"bh": body_hash, "c": "relaxed/relaxed", "h": ":".join(names)}
    signed = b"".join(view.canonical_field(position, _RELAXED) for position in selected)
    signature = _signed_field("ARC-Message-Signature", own, private_key, signed, max_line_octets)

    status = arc.status.value
    covered = b"".join([*before, canonicalize_field(results, _RELAXED), canonicalize_field(signature, _RELAXED)])
    seal = _signed_field("ARC-Seal", tags | {"cv": status}, private_key, covered, max_line_octets)
    return seal.raw + signature.raw + results.raw


def _covered_fields(view: SignedMessage, arc: ArcResult) -> list[bytes] | None:
    """Give the fields of earlier sets that the seal covers, in canonical form; None where nothing is to be sealed."""
    match arc.status:
        case AuthStatus.FAIL:
            return None if has_ended(view.fields) else []  # s5.1 step 2, s5.1.2
        case AuthStatus.NONE | AuthStatus.PASS:
            try:
                sets = collect_chain(view.fields)
            except SignatureFault as fault:
                raise ValueError("this ARC result is of another message") from fault
            if len(sets) != len(arc.sets):
                raise ValueError("this ARC result is of another message")
            positions = [place for each in sets for place in (each.results, each.signature, each.seal.position)]
            return [view.canonical_field(position, _RELAXED) for position in positions]
        case _:
            return None


def _results_field(instance: int, authserv_id: str, payload: str) -> Field:
    payload = payload.strip(" \t\r\n")
    if not payload or _UNFOLDED_CONTROL.search(payload):
        raise ValueError("not a payload of Authentication-Results")
    if not _AUTHORITY.fullmatch(authserv_id):
        raise ValueError("not an authserv-id")
    return Field(RESULTS, f"ARC-Authentication-Results: i={instance}; {authserv_id}; {payload}\r\n".encode())


def _signed_field(name: str, tags: dict[str, str], key: PrivateKey, covered: bytes, max_line_octets: int) -> Field:
    """Make the field that signs what it covers and then itself with b= empty (RFC 6376 s3.7)."""
    # Where h= is folded depends on how long b= is, so that it must be as long when it is erased.
    unsigned = _write_field(name, tags, bytes(_signature_octets(key)), max_line_octets)
    octets = sign(key, covered + canonicalize_field(erase_signature(unsigned), _RELAXED).removesuffix(b"\r\n"))
    return _write_field(name, tags, octets, max_line_octets)


def _signature_octets(key: PrivateKey) -> int:
    return (key.key_size + 7) // 8 if isinstance(key, RSAPrivateKey) else 64


def _write_field(name: str, tags: dict[str, str], signature: bytes, max_line_octets: int) -> Field:
    tags = tags | {"b": base64.b64encode(signature).decode()}
    raw = fold(_pieces(name, tags, max_line_octets), max_line_octets=max_line_octets) + b"\r\n"
    return Field(name.lower().encode(), raw)


def _pieces(name: str, tags: dict[str, str], max_line_octets: int) -> Iterator[str]:
    """Give the pieces between which the field may be folded."""
    room = max_line_octets - 1
    yield f"{name}:"
    last = max(tags)
    for tag, value in sorted(tags.items()):
        text = f"{tag}={value}" if tag == last else f"{tag}={value};"
        if tag == "b":  # the only value that white space may cut anywhere
            yield " " + text[:room]
            yield from (text[start : start + room] for start in range(room, len(text), room))
        elif tag == "h" and len(text) > room:
            yield from (" " + text).replace(":", ":\0").split("\0")
        else:
            yield " " + text


def _read_names(names: Sequence[str]) -> tuple[bytes, ...]:
    """Give the names of h= as a verifier reads them."""
    try:
        fields = read_signed_fields({"h": ":".join(names)})
    except SignatureFault as fault:
        raise ValueError(fault.reason) from fault
    if not _UNSIGNED.isdisjoint(fields) or any(b";" in field for field in fields):
        raise ValueError("not the fields that a message signature may sign")
    return fields


def _checked(name: str, *, needs_dot: bool) -> str:
    if to_domain(name) is None or (needs_dot and "." not in name):
        raise ValueError("not a domain and a selector")
    return name
