"""Signing: what the field says, what it covers, what is refused."""

import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mailflow.mailauth import sign_dkim, verify_dkim
from mailflow.mailauth.canonical import Canonicalization
from mailflow.mailauth.dkim_sign import OVERSIGNED_FIELDS, fold
from mailflow.mailauth.dkim_tags import parse_tag_list
from mailflow.mailauth.result import AuthStatus, DkimResult
from mailflow.testing import ZoneResolver
from tests.dkim_keys import PrivateKey, ed25519_key, key_record, pem, rsa_key

NOW = 1_700_000_000
MESSAGE = (
    b"Received: from here\r\nFrom: a@example.com\r\nTo: b@example.org\r\nSubject: Hello\r\n"
    b"Message-ID: <1@example.com>\r\nContent-Type: text/plain\r\n"
    b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n\r\nOne line.\r\n"
)
# 512 bits, made for this test and good for nothing.
WEAK_PEM = b"""-----BEGIN RSA PRIVATE KEY-----
MIIBOwIBAAJBANmBe10IgY+u7h3enWTukkqtUD5PR52Tb/mPfjC0QJTocVBq6Za/
PlzfV+Py92VaCak19F4WrbVTK5Gg5tW220MCAwEAAQJAYFUKsD+uMlcFu1D3YNaR
EGYGXjJ6w32jYGJ/P072M3yWOq2S1dvDthI3nRT8MFjZ1wHDAYHrSpfDNJ3v2fvZ
cQIhAPgRPmVYn+TGd59asiqG1SZqh+p+CRYHW7B8BsicG5t3AiEA4HYNOohlgWan
8tKgqLJgUdPFbaHZO1nDyBgvV8hvWZUCIQDDdCq6hYKuKeYUy8w3j7cgJq3ih922
2qNWwdJCfCWQbwIgTY0cBvQnNe0067WQIpj2pG7pkHZR6qqZ9SE+AjNTHX0CIQCI
Mgq55Y9MCq5wqzy141rnxrJxTwK9ABo3IAFMWEov3g==
-----END RSA PRIVATE KEY-----
"""


async def verify(message: bytes, key: PrivateKey | None = None) -> DkimResult:
    zone = ZoneResolver({"s._domainkey.example.com": [{"TXT": key_record(key or rsa_key())}]})
    (result,) = await verify_dkim(message, resolver=zone, now=NOW)
    return result


async def sign(message: bytes = MESSAGE, /, **options: object) -> bytes:
    arguments: dict[str, object] = {"domain": "example.com", "selector": "s", "key": rsa_key(), "now": NOW}
    return await sign_dkim(message, **(arguments | options))  # type: ignore[arg-type]  # options are of any kind


def tags_of(field: bytes) -> dict[str, str]:
    return parse_tag_list(field.partition(b":")[2].removesuffix(b"\r\n"))


@pytest.mark.parametrize("key", [rsa_key(), rsa_key(2048), ed25519_key()], ids=["rsa-1024", "rsa-2048", "ed25519"])
@pytest.mark.parametrize("header_form", Canonicalization)
@pytest.mark.parametrize("body_form", Canonicalization)
async def test_what_was_signed_passes(
    key: PrivateKey, header_form: Canonicalization, body_form: Canonicalization
) -> None:
    field = await sign(key=key, header_form=header_form, body_form=body_form)
    result = await verify(field + MESSAGE, key)
    assert result.status is AuthStatus.PASS
    assert result.algorithm == ("rsa-sha256" if isinstance(key, RSAPrivateKey) else "ed25519-sha256")


async def test_field_says_what_was_asked_for_and_never_a_length() -> None:
    tags = tags_of(await sign(identity="joe=x@mail.example.com", expires_after_s=60))
    assert list(tags) == ["v", "a", "c", "d", "s", "t", "x", "i", "h", "bh", "b"]
    assert (tags["t"], tags["x"], tags["c"]) == (str(NOW), str(NOW + 60), "relaxed/relaxed")
    assert tags["i"] == "joe=3Dx@mail.example.com"


async def test_time_is_the_clock_s_where_none_is_given() -> None:
    before = int(time.time())
    assert before <= int(tags_of(await sign(now=None))["t"]) <= time.time()


async def test_fields_are_named_once_more_than_they_stand_there() -> None:
    names = tags_of(await sign())["h"].lower().replace(" ", "").split(":")
    assert {name: names.count(name) for name in names} == {
        **dict.fromkeys(map(str.lower, OVERSIGNED_FIELDS), 1),
        **dict.fromkeys(("from", "to", "subject", "content-type"), 2),
        **dict.fromkeys(("message-id", "list-unsubscribe-post"), 1),
    }


@pytest.mark.parametrize("name", OVERSIGNED_FIELDS)
async def test_no_oversigned_field_can_be_added(name: str) -> None:
    signed = await sign() + MESSAGE
    assert (await verify(f"{name}: other\r\n".encode() + signed)).status is AuthStatus.FAIL


async def test_other_fields_can_be_added() -> None:
    signed = await sign() + MESSAGE
    added = b"Received: from there\r\nSender: list@example.net\r\nList-Id: <a.example.net>\r\n"
    assert (await verify(added + signed)).status is not AuthStatus.FAIL


@pytest.mark.parametrize("key", [rsa_key(2048), ed25519_key()], ids=["rsa", "ed25519"])
async def test_no_line_is_longer_than_78_octets(key: PrivateKey) -> None:
    field = await sign(key=key, identity="someone.with.a.name@example.com")
    assert field.endswith(b"\r\n")
    lines = field.removesuffix(b"\r\n").split(b"\r\n")
    assert max(map(len, lines)) <= 78
    assert all(line.startswith(b" ") and line.strip() for line in lines[1:])


def test_line_is_filled_up_to_78_octets_and_no_more() -> None:
    assert fold(["a" * 70, " " + "b" * 7]) == b"a" * 70 + b" " + b"b" * 7
    assert fold(["a" * 70, " " + "b" * 8]) == b"a" * 70 + b"\r\n " + b"b" * 8


async def test_key_may_be_pem() -> None:
    assert (await verify(await sign(key=pem(rsa_key())) + MESSAGE)).status is AuthStatus.PASS
    assert (await verify(await sign(key=pem(ed25519_key())) + MESSAGE, ed25519_key())).status is AuthStatus.PASS


async def test_fields_can_be_chosen() -> None:
    tags = tags_of(await sign(oversigned_fields=["From", "X-None"], signed_fields=["To", "From", "X-Other"]))
    assert sorted(tags["h"].split(":")) == ["From", "From", "To", "X-None"]


async def test_key_that_is_too_weak_does_not_sign() -> None:
    with pytest.raises(ValueError, match="1024"):
        await sign(key=WEAK_PEM)
    assert (await verify(await sign(key=rsa_key()) + MESSAGE)).status is AuthStatus.PASS


async def test_key_of_another_type_does_not_sign() -> None:
    key = generate_ec_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ValueError, match="neither RSA nor Ed25519"):
        await sign(key=key)
    with pytest.raises(ValueError, match="PEM"):
        await sign(key=b"no key")


@pytest.mark.parametrize(
    "options",
    [
        {"domain": "com"},
        {"domain": "a;b.example"},
        {"domain": ""},
        {"selector": ""},
        {"selector": "a; d=b"},
        {"identity": "example.com"},
        {"identity": "joe@example.org"},
        {"identity": "joe@badexample.com"},
        {"oversigned_fields": ["To"]},
        {"oversigned_fields": ["From", "X Y"]},
    ],
)
async def test_what_would_not_verify_is_not_signed(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        await sign(**options)


@pytest.mark.parametrize("start", [b"", b"From: b@example.com\r\n"])
async def test_message_has_exactly_one_from_field(start: bytes) -> None:
    message = start + (MESSAGE if start else MESSAGE.replace(b"From: a", b"X: a"))
    with pytest.raises(ValueError, match="From"):
        await sign(message)
