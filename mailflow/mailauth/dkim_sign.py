"""Signing with DKIM: the field to put in front of a message. (RFC 6376 s5, 8301, 8463)

What is signed is oversigned: each field that a reader shows or obeys is named once more than it stands there, so that
none can be added later (s8.15). The whole body is signed, never a part of it (no l=), and never with less than 1024
bits.
"""

import base64
import hashlib
import time
from collections.abc import Iterable
from typing import Final, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mailflow.mail.headers import Field
from mailflow.mailauth.canonical import Canonicalization, canonicalize_field
from mailflow.mailauth.dkim_key import MIN_RSA_BITS
from mailflow.mailauth.dkim_tags import Algorithm, SignatureFault, read_signed_fields, to_domain
from mailflow.mailauth.signed_message import SignedMessage

PrivateKey: TypeAlias = RSAPrivateKey | Ed25519PrivateKey

OVERSIGNED_FIELDS: Final = (
    *("From", "To", "Cc", "Subject", "Date", "Reply-To"),
    *("Content-Type", "Content-Transfer-Encoding"),
)
# Signed where present; lists add some of these to mail of others, which must not break its signature (s5.4.1).
SIGNED_FIELDS: Final = (
    *("Sender", "Message-ID", "In-Reply-To", "References", "MIME-Version"),
    *("List-Id", "List-Help", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Subscribe", "List-Post"),
    *("List-Owner", "List-Archive"),
)
MAX_LINE_OCTETS: Final = 78  # RFC 5322 s2.1.1; the length that no line may exceed is 998


async def sign_dkim(
    message: bytes,
    *,
    domain: str,
    selector: str,
    key: PrivateKey | bytes,
    now: float | None = None,
    identity: str | None = None,
    header_form: Canonicalization = Canonicalization.RELAXED,
    body_form: Canonicalization = Canonicalization.RELAXED,
    oversigned_fields: Iterable[str] = OVERSIGNED_FIELDS,
    signed_fields: Iterable[str] = SIGNED_FIELDS,
    expires_after_s: int | None = None,
) -> bytes:
    """Sign a message; gives the DKIM-Signature field with its CRLF, to be put in front of it.

    `key` is a private key of RSA (rsa-sha256) or Ed25519 (ed25519-sha256), or one as PEM without a password; `now` the
    Unix time in seconds of t=, None the clock; `identity` the i=. Fields of `signed_fields` are signed as often as
    they stand there, those of `oversigned_fields` once more. Raises ValueError for a key or name that cannot sign and
    for a message that has not exactly one From field.
    """
    private_key, algorithm = load_key(key)
    _check_names(domain, selector, identity)
    view = SignedMessage(message)
    if len(view.positions(b"from")) != 1:
        raise ValueError("not exactly one From field")
    names = names_to_sign(view, oversigned_fields, signed_fields)
    try:
        selected = view.select_fields(read_signed_fields({"h": ":".join(names)}))
    except SignatureFault as exc:
        raise ValueError(exc.reason) from exc
    body_hash = base64.b64encode((await view.hash_body(body_form)).whole).decode()
    signed_at = int(time.time() if now is None else now)
    pieces = ["DKIM-Signature:", " v=1;", f" a={algorithm};", f" c={header_form}/{body_form};", f" d={domain};"]
    pieces += [f" s={selector};", f" t={signed_at};"]
    pieces += [] if expires_after_s is None else [f" x={signed_at + expires_after_s};"]
    pieces += [] if identity is None else [f" i={_quote(identity)};"]
    pieces += [" h=", *(f"{name}:" for name in names[:-1]), f"{names[-1]};", f" bh={body_hash};"]
    field = fold(pieces) + b"\r\n b="
    fields = [view.canonical_field(position, header_form) for position in selected]
    own = canonicalize_field(Field(b"dkim-signature", field + b"\r\n"), header_form)[:-2]
    return field + _fold_base64(sign(private_key, b"".join(fields) + own)) + b"\r\n"


def fold(pieces: Iterable[str], *, max_line_octets: int = MAX_LINE_OCTETS) -> bytes:
    """Put the pieces of a field in lines of at most so many octets, broken between pieces, which stay whole."""
    lines = [""]
    for piece in pieces:
        if len(lines[-1]) + len(piece) <= max_line_octets:
            lines[-1] += piece
        else:
            lines.append(" " + piece.removeprefix(" "))
    return "\r\n".join(lines).encode()


def _fold_base64(octets: bytes) -> bytes:
    text = base64.b64encode(octets)
    return b"\r\n ".join(text[start : start + 72] for start in range(0, len(text), 72))


def names_to_sign(view: SignedMessage, oversigned: Iterable[str], signed: Iterable[str]) -> list[str]:
    """Name every field of these as often as it is to be signed, for h=."""
    names = {name.lower(): (name, 1) for name in oversigned}
    names = {name.lower(): (name, 0) for name in signed} | names
    return [name for lower, (name, more) in names.items() for _ in range(len(view.positions(lower.encode())) + more)]


def load_key(key: PrivateKey | bytes) -> tuple[PrivateKey, Algorithm]:
    """Give a private key, read from PEM where it is octets, and its a=. Raises ValueError for one that cannot sign."""
    private_key = load_pem_private_key(key, None) if isinstance(key, bytes) else key
    match private_key:
        case RSAPrivateKey():
            if private_key.key_size < MIN_RSA_BITS:  # "Signers MUST use RSA keys of at least 1024 bits" (RFC 8301 s3.2)
                raise ValueError(f"the key has less than {MIN_RSA_BITS} bits")
            return private_key, Algorithm.RSA_SHA256
        case Ed25519PrivateKey():
            return private_key, Algorithm.ED25519_SHA256
        case _:
            raise ValueError("the key is neither RSA nor Ed25519")


def _check_names(domain: str, selector: str, identity: str | None) -> None:
    domain_name = to_domain(domain)
    if domain_name is None or "." not in domain_name or to_domain(selector) is None:
        raise ValueError("not a domain and a selector")
    if identity is not None:
        agent = to_domain(identity.rpartition("@")[2])
        if "@" not in identity or agent is None or not f".{agent}".endswith(f".{domain_name}"):
            raise ValueError("the identity is no address within the domain")


def _quote(identity: str) -> str:
    """Write an i= as dkim-quoted-printable (s2.11); UTF-8 may stand in it as it is (RFC 8616 s5)."""
    return "".join(f"={ord(c):02X}" if c <= " " or c in ";=\x7f" else c for c in identity)


def sign(key: PrivateKey, octets: bytes) -> bytes:
    """Sign octets as a key's a= says (RFC 6376 s3.3.1, 8463 s3)."""
    if isinstance(key, RSAPrivateKey):
        return key.sign(octets, PKCS1v15(), SHA256())
    return key.sign(hashlib.sha256(octets).digest())
