"""mailauth's messages: the example of RFC 8463, and real mail: with the bh= it came with, and signed anew."""

import base64
import json
import pathlib

import dkim  # type: ignore[import-untyped]
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from mailflow.mailauth import sign_dkim, verify_dkim
from mailflow.mailauth.dkim_signature import parse_dkim_signature
from mailflow.mailauth.dkim_tags import parse_tag_list
from mailflow.mailauth.result import AuthStatus
from mailflow.mailauth.signed_message import SignedMessage
from tests.conformance.dkim_files import read_message, resolver
from tests.conformance.vectors import mark, vectors

SUITE = "dkim-mailauth"
CASE_COUNT = 6
FOLDER = vectors(SUITE)
PATHS = sorted(FOLDER.glob("*.eml"))
MESSAGES = [pytest.param(path, id=path.stem, marks=mark(SUITE, path.stem)) for path in PATHS]


def record_of(name: str) -> str:
    """Give the key record of a public key in PEM."""
    key = load_pem_public_key((FOLDER / f"public-{name}.pem").read_bytes())
    octets = (
        key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        if isinstance(key, Ed25519PublicKey)
        else key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    return f"v=DKIM1; k={name if name == 'ed25519' else 'rsa'}; p={base64.b64encode(octets).decode()}"


def test_suite_is_complete() -> None:
    assert len(PATHS) == CASE_COUNT


@pytest.mark.suite(SUITE)
async def test_both_signatures_of_rfc_8463_pass() -> None:
    zone = json.loads((FOLDER / "dns.json").read_text())
    keys = {name: "".join(records["TXT"][0]) for name, records in zone.items()}
    results = await verify_dkim(read_message(FOLDER / "signed.eml"), resolver=resolver(keys))
    assert [(result.status, result.algorithm) for result in results] == [
        (AuthStatus.PASS, "ed25519-sha256"),
        (AuthStatus.PASS, "rsa-sha256"),
    ]


@pytest.mark.suite(SUITE)
@pytest.mark.parametrize("path", [pytest.param(p, id=p.stem) for p in PATHS if p.stem != "message1"])
async def test_body_has_the_hash_it_was_signed_with(path: pathlib.Path) -> None:
    view = SignedMessage(read_message(path))
    for position in view.positions(b"dkim-signature"):
        signature, _ = parse_dkim_signature(parse_tag_list(view.fields[position].value))
        digest = await view.hash_body(signature.body_form)
        assert digest.of(signature.length) == signature.body_hash


@pytest.mark.suite(SUITE)
@pytest.mark.parametrize("key", ["rsa", "ed25519"])
@pytest.mark.parametrize("path", MESSAGES)
async def test_message_signed_anew_passes(path: pathlib.Path, key: str) -> None:
    message = read_message(path)
    private = (FOLDER / f"private-{key}.pem").read_bytes()
    field = await sign_dkim(message, domain="example.com", selector="s", key=private)
    results = await verify_dkim(field + message, resolver=resolver({"s._domainkey.example.com": record_of(key)}))
    assert results[0].status is AuthStatus.PASS


@pytest.mark.suite(SUITE)
async def test_key_of_512_bits_neither_signs_nor_verifies() -> None:
    message = read_message(FOLDER / "message1.eml")
    private = (FOLDER / "private-small.pem").read_bytes()
    with pytest.raises(ValueError, match="less than 1024 bits"):
        await sign_dkim(message, domain="example.com", selector="s", key=private)
    field = dkim.sign(message, b"s", b"example.com", private)
    (result,) = await verify_dkim(field + message, resolver=resolver({"s._domainkey.example.com": record_of("small")}))
    assert result.status is AuthStatus.PERMERROR
    assert "less than 1024 bits" in (result.reason or "")
