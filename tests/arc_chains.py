"""Chains for the tests of ARC: well sealed ones, and sets whose tags can be made wrong and are signed all the same."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from mailflow.mail.headers import Field
from mailflow.mailauth import seal_arc, verify_arc
from mailflow.mailauth.arc_chain import ARC_FIELDS
from mailflow.mailauth.canonical import BodyHasher, Canonicalization, canonicalize_field, erase_signature
from mailflow.mailauth.dkim_sign import sign
from mailflow.mailauth.result import ArcResult
from mailflow.mailauth.signed_message import SignedMessage
from mailflow.testing import ZoneResolver
from tests.dkim_keys import PrivateKey, key_record, rsa_key

MESSAGE = b"From: a@author.example\r\nTo: list@list.example\r\nSubject: Hello\r\n\r\nHello  there\r\n\r\nBye\r\n"
NOW = 1_700_000_000
HOPS = tuple(f"hop{number}.example" for number in range(1, 6))
SELECTOR = "s"
RELAXED = Canonicalization.RELAXED
NAMES = {"ARC-Seal": ARC_FIELDS[2], "ARC-Message-Signature": ARC_FIELDS[1], "ARC-Authentication-Results": ARC_FIELDS[0]}

Tags = Mapping[str, str | None]


def zone(*domains: str, key: PrivateKey | None = None, selector: str = SELECTOR) -> dict[str, list[Any]]:
    """Give the zone data that publishes a key at each domain."""
    record = key_record(key or rsa_key())
    return {f"{selector}._domainkey.{domain}": [{"TXT": record}] for domain in domains}


def resolver(*domains: str) -> ZoneResolver:
    return ZoneResolver(zone(*domains))


async def verify(message: bytes, *domains: str) -> ArcResult:
    """Verify a chain whose sealers have their keys published."""
    return await verify_arc(message, resolver=resolver(*(domains or ("list.example",))), now=NOW)


async def pass_on(message: bytes, *domains: str, change: tuple[bytes, bytes] = (b"", b"")) -> bytes:
    """Let the message go through the hands of each of these HOPS in turn, who verify and seal it.

    The first of them changes it in between: one text for another.
    """
    for domain in domains:
        arc = await verify_arc(message, resolver=resolver(*HOPS), now=NOW)
        if domain == domains[0] and change[0]:
            message = message.replace(*change)
        sealed = await seal_arc(
            message,
            domain=domain,
            selector=SELECTOR,
            key=rsa_key(),
            authserv_id=f"mx.{domain}",
            authentication_results="dmarc=pass",
            arc=arc,
            now=NOW,
        )
        message = sealed + message
    return message


def forge(
    message: bytes,
    instance: int = 1,
    *,
    seal: Tags | None = None,
    signature: Tags | None = None,
    results: str | None = None,
    key: PrivateKey | None = None,
    algorithm: str = "rsa-sha256",
    forms: str = "simple/simple",
) -> bytes:
    """Put a set in front of a message, in good form but for the tags given (None: left out), and well signed.

    `forms` are those of a message signature without c=.
    """
    key = key or rsa_key()
    common = {"i": str(instance), "a": algorithm, "d": "list.example", "s": SELECTOR, "t": str(NOW)}
    seal_tags = common | {"cv": "none" if instance == 1 else "pass", "b": ""} | dict(seal or {})
    signature_tags = (
        common | {"c": "relaxed/relaxed", "h": "from:to:subject", "bh": "", "b": ""} | dict(signature or {})
    )
    results_field = _field("ARC-Authentication-Results", results or f"i={instance}; mx.list.example; dmarc=pass")
    signature_field = _sign_message(SignedMessage(results_field.raw + message), signature_tags, forms, key)
    earlier = [field for field in SignedMessage(message).fields if field.name in ARC_FIELDS]
    covered = [*reversed(earlier), results_field, signature_field]
    octets = b"".join(canonicalize_field(field, RELAXED) for field in covered)
    seal_field = _with_signature("ARC-Seal", seal_tags, octets, RELAXED, key)
    return seal_field.raw + signature_field.raw + results_field.raw + message


def _sign_message(view: SignedMessage, tags: Tags, forms: str, key: PrivateKey) -> Field:
    header_form, _, body_form = (forms if tags["c"] is None else tags["c"]).partition("/")
    hasher = BodyHasher(_form(body_form))
    hasher.feed(view.content[view.body_start :])
    tags = dict(tags) | ({"bh": _encode(hasher.finish().whole)} if tags["bh"] == "" else {})
    names = [name.strip().lower().encode() for name in (tags["h"] or "").split(":")]
    octets = b"".join(view.canonical_field(at, _form(header_form)) for at in view.select_fields(names))
    return _with_signature("ARC-Message-Signature", tags, octets, _form(header_form), key)


def _with_signature(name: str, tags: Tags, octets: bytes, form: Canonicalization, key: PrivateKey) -> Field:
    unsigned = _field(name, _write(tags))
    if tags["b"] != "":
        return unsigned
    signature = sign(key, octets + canonicalize_field(erase_signature(unsigned), form).removesuffix(b"\r\n"))
    return _field(name, _write(dict(tags) | {"b": _encode(signature)}))


def _form(word: str) -> Canonicalization:
    return RELAXED if word == "relaxed" else Canonicalization.SIMPLE


def _write(tags: Tags) -> str:
    return "; ".join(f"{name}={value}" for name, value in tags.items() if value is not None)


def _field(name: str, value: str) -> Field:
    return Field(NAMES[name], f"{name}: {value}\r\n".encode())


def _encode(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def short_body_hash(message: bytes, length: int) -> str:
    """Give the bh= of the first octets of a body that relaxed leaves as it is."""
    view = SignedMessage(message)
    return _encode(hashlib.sha256(view.content[view.body_start :][:length]).digest())
