"""Key records: what they allow, which keys are too weak or too large, and finding them in the DNS."""

import base64
import hashlib
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mailflow.dns import Answer, RdType, Record
from mailflow.mailauth.dkim_key import (
    MAX_KEY_RECORDS,
    MAX_RECORD_OCTETS,
    MAX_RSA_BITS,
    MAX_TXT_RECORDS,
    find_all_keys,
    find_keys,
    parse_key_record,
    select_keys,
)
from mailflow.mailauth.dkim_tags import Algorithm, SignatureFault
from mailflow.mailauth.result import AuthStatus
from mailflow.testing import ZoneResolver
from mailflow.testing.zone import Zone
from tests.dkim_keys import ed25519_key, key_record, public_octets, rsa_key

SIGNED = b"what is signed"
P = key_record(rsa_key()).partition("p=")[2]
# 1,023 bits of which none is checked for being a product of primes: the size alone decides.
WEAK_KEY = base64.b64encode(
    RSAPublicNumbers(65537, 2**1022 + 1).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
).decode()


def large_key(*, bits: int = 2048, exponent: int = 65537) -> str:
    numbers = RSAPublicNumbers(exponent, 2 ** (bits - 1) + 1)
    octets = numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"p={base64.b64encode(octets).decode()}"


def reason_of(record: str | bytes) -> str:
    with pytest.raises(SignatureFault) as caught:
        parse_key_record(record if isinstance(record, bytes) else record.encode())
    assert caught.value.status is AuthStatus.PERMERROR
    return caught.value.reason


@pytest.mark.parametrize("is_bare", [False, True], ids=["SubjectPublicKeyInfo", "RSAPublicKey"])
def test_rsa_key_verifies_what_its_private_key_signed(is_bare: bool) -> None:
    key = parse_key_record(key_record(rsa_key(), is_bare=is_bare).encode())
    signature = rsa_key().sign(SIGNED, PKCS1v15(), SHA256())
    assert key.bits == 1024
    assert key.verifies(signature, SIGNED)
    assert not key.verifies(signature, SIGNED + b".")
    assert not key.verifies(signature[:-1], SIGNED)
    assert not key.verifies(b"", SIGNED)


def test_ed25519_key_verifies_the_digest_that_its_private_key_signed() -> None:
    key = parse_key_record(key_record(ed25519_key()).encode())
    assert key.verifies(ed25519_key().sign(hashlib.sha256(SIGNED).digest()), SIGNED)
    assert not key.verifies(ed25519_key().sign(SIGNED), SIGNED)
    assert not key.verifies(b"", SIGNED)
    assert key.bits == 256


def test_key_fits_the_algorithm_of_its_type() -> None:
    rsa, ed25519 = (parse_key_record(key_record(key).encode()) for key in (rsa_key(), ed25519_key()))
    assert [rsa.fits(algorithm) for algorithm in Algorithm] == [True, False]
    assert [ed25519.fits(algorithm) for algorithm in Algorithm] == [False, True]


@pytest.mark.parametrize(
    "record",
    [
        f"p={P}",
        f"v=DKIM1; p={P}",
        f"v=DKIM1;k=rsa;p={P};",
        f"v=DKIM1; g=*; n=; x=unknown; p={P}",
        f"v=DKIM1; h=sha1 : sha256; p={P}",
        f"v=DKIM1; s=*; p={P}",
        f"v=DKIM1; s=other : email; p={P}",
        f"v=DKIM1; n=notes with blanks; p={P}",
        f"p={P[:50]} {P[50:]}",
        f"p={P.rstrip('=')}",
        f"v=DKIM1; t=; p={P}",
    ],
)
def test_record_with_a_key_for_mail_is_taken(record: str) -> None:
    key = parse_key_record(record.encode())
    assert key.bits == 1024
    assert not key.is_testing
    assert not key.is_strict


@pytest.mark.parametrize(
    ("flags", "is_testing", "is_strict"),
    [("y", True, False), ("s", False, True), ("y:s", True, True), ("x : s", False, True), ("Y", False, False)],
)
def test_flags_are_read_and_unknown_ones_ignored(flags: str, is_testing: bool, is_strict: bool) -> None:
    key = parse_key_record(f"v=DKIM1; t={flags}; p={P}".encode())
    assert (key.is_testing, key.is_strict) == (is_testing, is_strict)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("v=DKIM1; p=", "revoked"),
        ("v=DKIM1; k=future; p=", "revoked"),
        ("v=DKIM1", "p= is missing"),
        (f"v=DKIM2; p={P}", "no DKIM key record"),
        (f"v=dkim1; p={P}", "no DKIM key record"),
        (f"v=DKIM1: g=*; p={P}", "no DKIM key record"),
        (f"k=rsa; v=DKIM1; p={P}", "no DKIM key record"),
        ("v=spf1 -all", "no DKIM key record"),
        ("some text", "no list of tags"),
        ("", "no list of tags"),
        (f"v=DKIM1; h=sha1; p={P}", "sha256"),
        (f"v=DKIM1; h=; p={P}", "sha256"),
        (f"v=DKIM1; s=other; p={P}", "not for mail"),
        (f"v=DKIM1; s=; p={P}", "not for mail"),
        (f"v=DKIM1; s=tlsrpt; p={P}", "not for mail"),
        (f"v=DKIM1; k=dsa; p={P}", "k="),
        (f"v=DKIM1; k=RSA; p={P}", "k="),
        (f"v=DKIM1; k=ed25519; p={P}", "cannot be read"),
        (f"v=DKIM1; p={P}; p={P}", "twice"),
        ("v=DKIM1; p=?", "not base64"),
        ("v=DKIM1; p=AAAA", "cannot be read"),
        (f"p={P[:-8]}", "cannot be read"),
        (f"p={WEAK_KEY}", "less than 1024 bits"),
        (f"k=rsa; p={key_record(ed25519_key()).partition('p=')[2]}", "cannot be read"),
    ],
)
def test_record_without_a_key_for_mail_is_a_permanent_fault(record: str, reason: str) -> None:
    assert reason in reason_of(record)


def test_key_of_another_type_inside_is_refused() -> None:
    octets = generate_ec_key(SECP256R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert "another type" in reason_of(f"p={base64.b64encode(octets).decode()}")


def test_ed25519_key_has_32_octets_and_no_more() -> None:
    octets = public_octets(ed25519_key())
    for wrong in (octets[:-1], octets + b"\0"):
        assert "cannot be read" in reason_of(f"k=ed25519; p={base64.b64encode(wrong).decode()}")


def test_rsa_key_may_have_so_many_bits_and_no_more() -> None:
    assert parse_key_record(large_key(bits=MAX_RSA_BITS).encode()).bits == MAX_RSA_BITS
    assert "too large" in reason_of(large_key(bits=MAX_RSA_BITS + 1))
    assert parse_key_record(large_key(exponent=2**33 - 1).encode()).bits == 2048
    assert "too large" in reason_of(large_key(exponent=2**33 + 1))


def test_largest_key_costs_little() -> None:
    key = parse_key_record(large_key(bits=MAX_RSA_BITS, exponent=2**33 - 1).encode())
    begin = time.process_time()
    assert not key.verifies(b"\1" * (MAX_RSA_BITS // 8), SIGNED)
    assert time.process_time() - begin < 0.02


def test_even_modulus_verifies_nothing() -> None:
    octets = public_octets(rsa_key())
    modulus = rsa_key().public_key().public_numbers().n.to_bytes(128, "big")
    even = octets.replace(modulus, modulus[:-1] + b"\0")
    assert even != octets
    try:
        key = parse_key_record(b"p=" + base64.b64encode(even))
    except SignatureFault:
        return
    assert not key.verifies(b"\1" * 128, SIGNED)


def test_record_may_have_so_many_octets_and_no_more() -> None:
    record = f"p={P}; n="
    assert parse_key_record((record + "x" * (MAX_RECORD_OCTETS - len(record))).encode()).bits == 1024
    assert "too long" in reason_of(record + "x" * (MAX_RECORD_OCTETS - len(record) + 1))


def test_good_key_is_found_among_other_records() -> None:
    other = key_record(ed25519_key()).encode()
    keys = select_keys([b"v=spf1 -all", f"p={P}".encode(), b"v=DKIM1; p=", other])
    assert [key.bits for key in keys] == [1024, 256]


def test_no_more_than_so_many_keys_are_taken() -> None:
    records = [f"p={P}; n={number}".encode() for number in range(MAX_KEY_RECORDS + 1)]
    assert len(select_keys(records)) == MAX_KEY_RECORDS


def test_where_no_record_is_good_the_first_says_why() -> None:
    with pytest.raises(SignatureFault, match="revoked"):
        select_keys([b"v=DKIM1; p=", b"v=spf1 -all"])


async def test_key_is_asked_for_below_its_domain() -> None:
    resolver = ZoneResolver({"sel.two._domainkey.example.com": [{"TXT": [f"v=DKIM1; p={P[:90]}", P[90:]]}]})
    (key,) = await find_keys(resolver, "example.com", "sel.two")
    assert key.bits == 1024
    assert resolver.queries == [("sel.two._domainkey.example.com", "TXT")]


@pytest.mark.parametrize(
    ("zone", "status"),
    [
        ({}, AuthStatus.PERMERROR),
        ({"s._domainkey.example.com": [{"A": "192.0.2.1"}]}, AuthStatus.PERMERROR),
        ({"s._domainkey.example.com": [{"TXT": "v=DKIM1; p="}]}, AuthStatus.PERMERROR),
        ({"s._domainkey.example.com": ["TIMEOUT"]}, AuthStatus.TEMPERROR),
        ({"s._domainkey.example.com": ["SERVFAIL"]}, AuthStatus.TEMPERROR),
    ],
)
async def test_missing_key_is_permanent_and_a_silent_dns_is_not(zone: dict[str, list], status: AuthStatus) -> None:
    with pytest.raises(SignatureFault) as caught:
        await find_keys(ZoneResolver(zone), "example.com", "s")
    assert caught.value.status is status


@pytest.mark.parametrize("known", [0, 1, 2, 3, 4])
async def test_keys_of_several_selectors_are_found_whatever_is_at_hand(known: int) -> None:
    class Known(ZoneResolver):
        def peek(self, name: str, rdtype: RdType | str) -> Answer[Record] | None:
            return at_hand.get(name)

    def owner(name: tuple[str, str]) -> str:
        return f"{name[1]}._domainkey.{name[0]}"

    names = [("a.example", "s"), ("b.example", "s"), ("none.example", "s"), ("silent.example", "s")]
    keys = [{"TXT": key_record(rsa_key())}]
    zone: Zone = {owner(names[0]): keys, owner(names[1]): keys, owner(names[3]): ["TIMEOUT"]}
    answers = ZoneResolver(zone)
    at_hand = {owner(name): await answers.resolve(owner(name), "TXT") for name in names[: min(known, 3)]}
    resolver = Known(zone)
    found = await find_all_keys(resolver, names[: max(known, 2)])
    assert {name: getattr(keys, "status", None) for name, keys in found.items()} == {
        name: {"none.example": AuthStatus.PERMERROR, "silent.example": AuthStatus.TEMPERROR}.get(name[0])
        for name in names[: max(known, 2)]
    }
    assert [name for name, _ in resolver.queries] == [
        owner(name) for name in names[: max(known, 2)] if owner(name) not in at_hand
    ]


async def test_name_that_is_too_long_for_the_dns_has_no_key() -> None:
    with pytest.raises(SignatureFault) as caught:
        await find_keys(ZoneResolver({}), "example.com", ".".join(["a" * 60] * 4))
    assert caught.value.status is AuthStatus.PERMERROR


def test_key_is_looked_for_in_so_many_records_and_no_further() -> None:
    records = [b"v=spf1 -all"] * (MAX_TXT_RECORDS - 1) + [f"p={P}".encode()]
    assert len(select_keys(records)) == 1
    with pytest.raises(SignatureFault):
        select_keys([b"v=spf1 -all", *records])
