"""Any bytes as message, signature or key record: results come back and nothing else; and dkimpy as the second opinion.

Where dkimpy's canonical forms are not the RFC's (exceptions.toml has the sentences, OUTSIDE an example of each), the
generated messages keep out of the way. It adds a From to every h= it verifies, so that messages here have one.
Ed25519 is not asked of it: that needs a library of its own.
"""

import asyncio
import base64
import contextlib
import hashlib
import itertools
import time
from operator import itemgetter

import dkim  # type: ignore[import-untyped]
import pytest
from dkim.canonicalization import Relaxed, Simple  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from mailflow.mail.headers import split_message
from mailflow.mailauth import sign_dkim, verify_dkim
from mailflow.mailauth.canonical import BodyHasher, Canonicalization, canonicalize_field, digest_body
from mailflow.mailauth.dkim_key import MAX_RECORD_OCTETS, parse_key_record
from mailflow.mailauth.dkim_tags import SignatureFault, parse_tag_list
from mailflow.mailauth.result import AuthStatus, DkimResult
from mailflow.testing import ZoneResolver
from tests.conformance.vectors import claims
from tests.dkim_keys import key_record, pem, rsa_key, sign_with_tags

RECORD = key_record(rsa_key())
NAME = "s._domainkey.example.com"
OURS = {Canonicalization.SIMPLE: Simple, Canonicalization.RELAXED: Relaxed}

BODY_PIECES = [
    b"\r\n",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b"  \t",
    b" \r\n",
    b"a",
    b"word",
    b".",
    b"\xff",
    b"\0",
    b"\x0b",
    b"\r",
    b"\n",
]
BODIES = st.lists(st.sampled_from(BODY_PIECES), max_size=40).map(b"".join) | st.binary(max_size=200)
VALUES = st.lists(
    st.sampled_from([b"a", b"Bc", b" ", b"\t", b"  ", b"\r\n ", b"\r\n\t", b":", b";", b"=", b"\xc3\xa9", b","]),
    max_size=12,
).map(b"".join)
NAMES = st.sampled_from([b"To", b"subject", b"X-A", b"X-a", b"Date ", b"Received", b"List-Id\t", b"CC"])
FORMS = st.sampled_from(Canonicalization)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    fields = draw(st.lists(st.tuples(NAMES.map(bytes.strip), VALUES), max_size=8))
    fields.insert(draw(st.integers(0, len(fields))), (b"From", b" a@example.com"))
    body = draw(st.lists(st.sampled_from(BODY_PIECES[:-2]), max_size=30)) + [b".\r\n"] * draw(st.integers(0, 1))
    text = b"".join(body).rstrip(b" \t")
    return b"".join(name + b":" + value + b"\r\n" for name, value in fields) + b"\r\n" + text


def verify(message: bytes, record: bytes | str = RECORD) -> list[DkimResult]:
    return asyncio.run(verify_dkim(message, resolver=ZoneResolver({NAME: [{"TXT": record}]}), now=1_700_000_000))


def dkimpy_verifies(message: bytes) -> bool:
    return bool(dkim.verify(message, dnsfunc=lambda name, timeout=5: RECORD.encode()))


@settings(max_examples=300, deadline=None)
@given(BODIES, FORMS, st.lists(st.integers(0, 300), max_size=6), st.lists(st.integers(0, 60), max_size=4))
def test_body_has_one_digest_however_it_is_split(
    body: bytes, form: Canonicalization, cuts: list[int], lengths: list[int]
) -> None:
    whole, split = BodyHasher(form, lengths), BodyHasher(form, lengths)
    whole.feed(body)
    bounds = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    for start, end in itertools.pairwise(bounds):
        split.feed(body[start:end])
    first, second = whole.finish(), split.finish()
    assert (first.size_octets, first.whole) == (second.size_octets, second.whole)
    assert [first.of(length) for length in lengths] == [second.of(length) for length in lengths]
    at_once = digest_body(body, form)
    assert (at_once.size_octets, at_once.whole) == (first.size_octets, first.whole)


@settings(max_examples=300, deadline=None)
@given(BODIES, FORMS)
def test_body_has_the_form_that_dkimpy_gives_it(body: bytes, form: Canonicalization) -> None:
    body = body.rstrip(b" \t")
    hasher = BodyHasher(form)
    hasher.feed(body)
    digest = hasher.finish()
    canonical = OURS[form].canonicalize_body(body)
    assert (digest.size_octets, digest.whole) == (len(canonical), hashlib.sha256(canonical).digest())


@settings(max_examples=300, deadline=None)
@given(NAMES, VALUES)
def test_field_has_the_form_that_dkimpy_gives_it(name: bytes, value: bytes) -> None:
    (field,), _ = split_message(name + b":" + value + b"\r\n")
    ((dkimpy_name, dkimpy_value),) = Relaxed.canonicalize_headers([(name, value + b"\r\n")])
    assert canonicalize_field(field, Canonicalization.RELAXED) == dkimpy_name + b":" + dkimpy_value


def differs_in_field(field: bytes) -> bool:
    (ours,), _ = split_message(field)
    name, _, value = field.partition(b":")
    ((dkimpy_name, dkimpy_value),) = Relaxed.canonicalize_headers([(name, value)])
    return canonicalize_field(ours, Canonicalization.RELAXED) != dkimpy_name + b":" + dkimpy_value


def differs_in_body(body: bytes) -> bool:
    hasher = BodyHasher(Canonicalization.RELAXED)
    hasher.feed(body)
    return hasher.finish().whole != hashlib.sha256(Relaxed.canonicalize_body(body)).digest()


def is_refused_by_dkimpy(message: bytes) -> bool:
    try:
        dkim.DKIM(message)
    except dkim.MessageFormatError:
        return True
    return False


OUTSIDE = {
    "a bare LF in a field": lambda: differs_in_field(b"A: b\nc\r\n"),
    "white space at the end of a last line without CRLF": lambda: differs_in_body(b"a\r\nb "),
    "a vertical tab at the end of a field": lambda: differs_in_field(b"A: b\v\r\n"),
    "white space before a field's colon": lambda: is_refused_by_dkimpy(b"Subject : x\r\n\r\n"),
}


@pytest.mark.parametrize(
    "claim", [claim for claim in claims("oracle") if claim["suite"] == "dkimpy"], ids=itemgetter("case")
)
def test_claimed_difference_from_dkimpy_is_one_still(claim: dict[str, str]) -> None:
    assert OUTSIDE[claim["case"]]()


@settings(max_examples=60, deadline=None)
@given(messages(), FORMS, FORMS, st.lists(NAMES, max_size=6), st.booleans())
def test_what_dkimpy_signs_passes(
    message: bytes, header: Canonicalization, body: Canonicalization, names: list[bytes], has_length: bool
) -> None:
    field = dkim.sign(
        message,
        b"s",
        b"example.com",
        pem(rsa_key()),
        canonicalize=(header.encode(), body.encode()),
        include_headers=[b"from", *(name.strip().lower() for name in names if name != b"Received")],
        length=has_length,
    )
    (result,) = verify(field + message)
    # Two of a kind of which one was signed is what we tell and dkimpy does not.
    assert result.status is AuthStatus.PASS or "more" in (result.reason or "")
    assert dkimpy_verifies(field + message)


@settings(max_examples=60, deadline=None)
@given(messages(), FORMS, FORMS)
def test_what_we_sign_passes_here_and_with_dkimpy(
    message: bytes, header: Canonicalization, body: Canonicalization
) -> None:
    field = asyncio.run(
        sign_dkim(message, domain="example.com", selector="s", key=rsa_key(), header_form=header, body_form=body)
    )
    (result,) = verify(field + message)
    assert result.status is AuthStatus.PASS
    assert dkimpy_verifies(field + message)


@settings(max_examples=60, deadline=None)
@given(messages(), FORMS, FORMS, st.data())
def test_changed_message_fails_in_both(
    message: bytes, header: Canonicalization, body: Canonicalization, data: st.DataObject
) -> None:
    field = asyncio.run(
        sign_dkim(message, domain="example.com", selector="s", key=rsa_key(), header_form=header, body_form=body)
    )
    body_start = message.index(b"\r\n\r\n") + 4
    position = data.draw(st.integers(body_start, len(message)))
    for changed in (
        message[:position] + b"X" + message[position:],
        message.replace(b"From: a", b"From: b"),
        b"To: added\r\n" + message,
    ):
        (result,) = verify(field + changed)
        assert result.status is AuthStatus.FAIL
        assert not dkimpy_verifies(field + changed)


SIGNATURE_PIECES = [
    *(b"v=1", b"a=rsa-sha256", b"bh=", b"b=", b"d=example.com", b"s=s", b"h=from", b"c=", b"relaxed", b"simple", b"/"),
    *(b"l=", b"t=", b"x=", b"i=", b"@", b"q=dns/txt", b"; ", b";", b"=", b":", b"AAAA", b"0", b"9" * 20, b" ", b"\t"),
    *(b"\r\n ", b"\r\n\t", b"\0", b"\xff", b"\xc3\xbc.example", b"\xe2\x80\xae", b"\n", b"..", b"xn--a", b"%"),
]
SIGNATURES = st.lists(st.sampled_from(SIGNATURE_PIECES), max_size=40).map(b"".join)


@settings(max_examples=500, deadline=None)
@given(SIGNATURES, st.binary(max_size=60))
def test_any_signature_gives_one_result(value: bytes, body: bytes) -> None:
    value = value.replace(b"\r\n\r\n", b"\r\n ")
    message = b"DKIM-Signature:" + value + b"\r\nFrom: a@example.com\r\n\r\n" + body
    results = verify(message)
    assert len(results) <= 1  # a bare CR makes it no field
    assert all(r.status is not AuthStatus.PASS and r.reason for r in results)


GOOD_TAGS = {"v": "1", "d": "example.com", "s": "s", "h": "from", "c": "relaxed/relaxed", "i": "@example.com"}


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["c", "d", "i", "s", "l", "t", "x", "q", "z", "h", "bh"]), st.text(max_size=30))
def test_any_value_of_a_tag_gives_a_result(name: str, value: str) -> None:
    message = b"From: a@example.com\r\n\r\nBody.\r\n"
    signed = sign_with_tags(message, rsa_key(), **GOOD_TAGS)
    text = signed.decode("ascii").replace(f"{name}={GOOD_TAGS.get(name, '')}", f"{name}={value}", 1)
    results = verify(text.encode("utf-8", "surrogatepass"))
    assert len(results) <= 1
    assert all(isinstance(r.status, AuthStatus) for r in results)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=400))
def test_any_message_gives_results(message: bytes) -> None:
    verify(message)
    verify(b"DKIM-Signature: " + message)


RECORD_PIECES = [
    *(b"v=DKIM1", b"k=rsa", b"k=ed25519", b"p=", b"h=sha256", b"s=email", b"t=y:s", b"; ", b";", b"=", b" ", b"\t"),
    *(base64.b64decode(RECORD.partition("p=")[2])[:40], RECORD.partition("p=")[2].encode(), b"AAAA", b"\xff", b"\0"),
]
RECORDS = st.lists(st.sampled_from(RECORD_PIECES), max_size=12).map(b"".join) | st.binary(max_size=300)


@settings(max_examples=500, deadline=None)
@given(RECORDS)
def test_any_key_record_is_a_key_or_a_fault(record: bytes) -> None:
    with contextlib.suppress(SignatureFault):
        parse_key_record(record)
    verify(sign_with_tags(b"From: a@example.com\r\n\r\n", rsa_key()), record)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=250), st.sampled_from(["rsa", "ed25519"]), st.integers(0, 250))
def test_any_octets_as_a_key_are_a_key_or_a_fault(octets: bytes, kind: str, position: int) -> None:
    der = base64.b64decode(RECORD.partition("p=")[2])
    for key in (octets, der[:position] + octets[:2] + der[position + 2 :]):
        with contextlib.suppress(SignatureFault):
            parsed = parse_key_record(f"k={kind}; p={base64.b64encode(key).decode()}".encode())
            parsed.verifies(b"\1" * (parsed.bits // 8), b"signed")


MEGABYTE = 1_000_000
HOSTILE = {
    "spaces": b" " * MEGABYTE,
    "folds": b"\r\n " * (MEGABYTE // 3),
    "semicolons": b";" * MEGABYTE,
    "equals": b"=" * MEGABYTE,
    "tags": b"a=b;" * (MEGABYTE // 4),
    "signed fields": b"v=1; h=" + b"from:" * (MEGABYTE // 5),
    "base64 with spaces": b"v=1; b=" + b"A " * (MEGABYTE // 2),
    "many labels": b"v=1; d=" + b"a." * (MEGABYTE // 2),
}


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE.keys())
def test_megabyte_of_hostile_signature_is_read_in_linear_time(value: bytes) -> None:
    begin = time.process_time()
    verify(b"DKIM-Signature: " + value + b"\r\nFrom: a@example.com\r\n\r\n")
    with contextlib.suppress(SignatureFault):
        parse_tag_list(value)
    with contextlib.suppress(SignatureFault):
        parse_key_record(value[:MAX_RECORD_OCTETS])
    assert time.process_time() - begin < 2


@pytest.mark.parametrize(
    "field", [b"DKIM-Signature: v=1\r\n", b"From: a@example.com\r\n", b"X: " + b" " * 1000 + b"\r\n"], ids=repr
)
def test_megabyte_of_hostile_fields_is_verified_in_linear_time(field: bytes) -> None:
    message = field * (MEGABYTE // len(field)) + b"From: a@example.com\r\n\r\n"
    signed = message
    for _ in range(10):
        signed = sign_with_tags(signed, rsa_key(), h=":".join(["from", "dkim-signature", *["x"] * 500]))
    begin = time.process_time()
    verify(signed)
    assert time.process_time() - begin < 5
