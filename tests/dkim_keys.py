"""Keys for the tests of signatures, made once per run, and the records that publish them."""

import base64
import functools
import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from mailflow.mailauth.canonical import BodyHasher, Canonicalization
from mailflow.mailauth.signed_message import SignedMessage

PrivateKey = RSAPrivateKey | Ed25519PrivateKey


@functools.cache
def rsa_key(bits: int = 1024) -> RSAPrivateKey:
    return generate_private_key(65537, bits)


@functools.cache
def ed25519_key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def public_octets(key: PrivateKey, *, is_bare: bool = False) -> bytes:
    """Give what p= holds in base64: SubjectPublicKeyInfo or bare RSAPublicKey, or the 32 octets of Ed25519."""
    public = key.public_key()
    if isinstance(key, Ed25519PrivateKey):
        return public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return public.public_bytes(Encoding.DER, PublicFormat.PKCS1 if is_bare else PublicFormat.SubjectPublicKeyInfo)


def key_record(key: PrivateKey, tags: str = "v=DKIM1; ", *, is_bare: bool = False) -> str:
    """Give a key record; `tags` stand before k= and p=."""
    kind = "ed25519" if isinstance(key, Ed25519PrivateKey) else "rsa"
    return f"{tags}k={kind}; p={base64.b64encode(public_octets(key, is_bare=is_bare)).decode()}"


def pem(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def sign_with_tags(message: bytes, key: PrivateKey, /, **changes: str | None) -> bytes:
    """Put a signature with any tags in front of a message; None takes a tag away.

    bh= and b= are right for the tags in force, bh= unless it is given; l= is put in only if asked for.
    """
    algorithm = "rsa-sha256" if isinstance(key, RSAPrivateKey) else "ed25519-sha256"
    tags: dict[str, str | None] = {"v": "1", "a": algorithm, "c": "relaxed/relaxed", "d": "example.com", "s": "s"}
    tags |= {"h": "from:to:subject", "bh": None} | changes
    header_form, _, body_form = (tags["c"] or "simple").partition("/")
    body = message.partition(b"\r\n\r\n")[2]
    length = int(tags["l"] or 0) if (tags.get("l") or "").isdigit() else None
    hasher = BodyHasher(Canonicalization(body_form or "simple"), [] if length is None else [length])
    hasher.feed(body)
    digest = hasher.finish()
    body_hash = digest.of(length) or digest.whole
    if "bh" not in changes:
        tags["bh"] = base64.b64encode(body_hash).decode()
    field = "DKIM-Signature: " + "; ".join(f"{name}={value}" for name, value in tags.items() if value is not None)
    unsigned = SignedMessage(field.encode() + b"; b=\r\n" + message)
    names = [name.strip().lower().encode() for name in (tags["h"] or "").split(":")]
    octets = unsigned.header_input(names, 0, Canonicalization(header_form))
    if isinstance(key, RSAPrivateKey):
        signature = key.sign(octets, PKCS1v15(), SHA256())
    else:
        signature = key.sign(hashlib.sha256(octets).digest())
    return field.encode() + b"; b=" + base64.b64encode(signature) + b"\r\n" + message
