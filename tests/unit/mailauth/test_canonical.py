"""Canonical forms of bodies and fields, the examples of RFC 6376 s3.4 among them."""

import hashlib
import itertools
import time

import pytest

from mailflow.mail.headers import Field, split_message
from mailflow.mailauth.canonical import (
    BodyDigest,
    BodyHasher,
    Canonicalization,
    canonicalize_field,
    digest_body,
    erase_signature,
)

SIMPLE, RELAXED = Canonicalization.SIMPLE, Canonicalization.RELAXED
MEGABYTE = 1_000_000


def hash_body(
    body: bytes, form: Canonicalization, *, slice_octets: int = 65536, lengths: tuple[int, ...] = ()
) -> BodyDigest:
    hasher = BodyHasher(form, lengths)
    for start in range(0, len(body), slice_octets):
        hasher.feed(body[start : start + slice_octets])
    return hasher.finish()


def sha256(octets: bytes) -> bytes:
    return hashlib.sha256(octets).digest()


BODIES = [
    pytest.param(SIMPLE, b"", b"\r\n", id="simple-empty-body-is-one-CRLF"),
    pytest.param(SIMPLE, b"\r\n", b"\r\n", id="simple-one-empty-line"),
    pytest.param(SIMPLE, b"\r\n\r\n\r\n", b"\r\n", id="simple-empty-lines-alone"),
    pytest.param(SIMPLE, b"a", b"a\r\n", id="simple-missing-CRLF-is-added"),
    pytest.param(SIMPLE, b"a\r\n", b"a\r\n", id="simple-ordinary"),
    pytest.param(SIMPLE, b" C \r\nD \t E\r\n\r\n\r\n", b" C \r\nD \t E\r\n", id="simple-example-of-s3.4.5"),
    pytest.param(SIMPLE, b"\r\n\r\na\r\n", b"\r\n\r\na\r\n", id="simple-empty-lines-in-front-stay"),
    pytest.param(SIMPLE, b"a\r\n \r\n", b"a\r\n \r\n", id="simple-a-line-with-a-space-is-not-empty"),
    pytest.param(SIMPLE, b"a\r", b"a\r\r\n", id="simple-bare-CR-at-the-end-is-text"),
    pytest.param(SIMPLE, b"a\n\r\n\r\n", b"a\n\r\n", id="simple-bare-LF-before-line-ends-is-text"),
    pytest.param(SIMPLE, b"\n", b"\n\r\n", id="simple-bare-LF-alone-is-text"),
    pytest.param(RELAXED, b"", b"", id="relaxed-empty-body-is-nothing"),
    pytest.param(RELAXED, b"\r\n", b"", id="relaxed-one-empty-line-is-nothing"),
    pytest.param(RELAXED, b" \t\r\n\r\n \r\n", b"", id="relaxed-blank-lines-alone-are-nothing"),
    pytest.param(RELAXED, b" \t", b"", id="relaxed-white-space-without-line-end-is-nothing"),
    pytest.param(RELAXED, b"a", b"a\r\n", id="relaxed-missing-CRLF-is-added"),
    pytest.param(RELAXED, b"a \t ", b"a\r\n", id="relaxed-white-space-at-the-very-end-is-dropped"),
    pytest.param(RELAXED, b" C \r\nD \t E\r\n\r\n\r\n", b" C\r\nD E\r\n", id="relaxed-example-of-s3.4.5"),
    pytest.param(RELAXED, b"\r\n \r\na\r\n", b"\r\n\r\na\r\n", id="relaxed-empty-lines-in-front-stay"),
    pytest.param(RELAXED, b"a\r\n \t\r\n\t\r\n", b"a\r\n", id="relaxed-blank-lines-at-the-end-go"),
    pytest.param(RELAXED, b"a\r\n\r\n \r\nb\r\n", b"a\r\n\r\n\r\nb\r\n", id="relaxed-blank-lines-inside-stay"),
    pytest.param(RELAXED, b"a \rb \n c", b"a \rb \n c\r\n", id="relaxed-bare-CR-and-LF-end-no-line"),
    pytest.param(RELAXED, b"a \r", b"a \r\r\n", id="relaxed-bare-CR-at-the-end-is-text"),
    pytest.param(RELAXED, b"\x0b\x0c a\x00\xff\r\n", b"\x0b\x0c a\x00\xff\r\n", id="relaxed-other-octets-are-text"),
    pytest.param(RELAXED, b"\t\ta\t\t\tb\r\n", b" a b\r\n", id="relaxed-tabs-are-white-space"),
]


@pytest.mark.parametrize(("form", "body", "canonical"), BODIES)
@pytest.mark.parametrize("slice_octets", [65536, 1, 2, 3])
def test_body_has_its_canonical_form_however_it_is_split(
    form: Canonicalization, body: bytes, canonical: bytes, slice_octets: int
) -> None:
    digest = hash_body(body, form, slice_octets=slice_octets)
    assert (digest.size_octets, digest.whole) == (len(canonical), sha256(canonical))
    assert digest_body(body, form) == digest


@pytest.mark.parametrize("form", Canonicalization)
def test_every_split_of_every_short_body_gives_one_digest(form: Canonicalization) -> None:
    for octets in itertools.product(b"a \t\r\n", repeat=6):
        body = bytes(octets)
        digest = hash_body(body, form)
        assert digest_body(body, form) == digest
        for cut in range(1, len(body)):
            hasher = BodyHasher(form)
            hasher.feed(body[:cut])
            hasher.feed(memoryview(body)[cut:])
            assert hasher.finish() == digest, (body, cut)


@pytest.mark.parametrize("slice_octets", [65536, 1, 4])
@pytest.mark.parametrize(("form", "body", "canonical"), BODIES)
def test_beginnings_are_of_the_canonical_body(
    form: Canonicalization, body: bytes, canonical: bytes, slice_octets: int
) -> None:
    lengths = tuple(range(len(canonical) + 3))
    digest = hash_body(body, form, slice_octets=slice_octets, lengths=lengths)
    assert [digest.of(length) for length in lengths] == [
        *(sha256(canonical[:length]) for length in range(len(canonical) + 1)),
        None,
        None,
    ]
    assert digest.of(None) == sha256(canonical)


HOSTILE = {
    "spaces": b" " * 20 * MEGABYTE,
    "tabs": b"\t" * 20 * MEGABYTE,
    "CRLFs": b"\r\n" * 10 * MEGABYTE,
    "CRLFs and a letter": b"\r\n" * 10 * MEGABYTE + b"a",
    "blank lines": b" \t\r\n" * 5 * MEGABYTE,
    "CRs": b"\r" * 20 * MEGABYTE,
    "LFs": b"\n" * 20 * MEGABYTE,
    "LFs and CRs": b"\n\r" * 10 * MEGABYTE,
    "spaces and CRs": b" \r" * 10 * MEGABYTE,
    "short runs": b"  a" * 7 * MEGABYTE,
    "long runs and text": (b" " * 32768 + b"text" * 8192) * 300,
}


@pytest.mark.parametrize("form", Canonicalization)
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_twenty_megabytes_of_hostile_body_cost_no_more_than_their_length(body: bytes, form: Canonicalization) -> None:
    begin = time.process_time()
    hash_body(body, form)
    assert time.process_time() - begin < 5  # takes half a second; what is quadratic takes hours


FIELDS = [
    pytest.param(b"A: X\r\n", b"a:X\r\n", id="example-of-s3.4.5"),
    pytest.param(b"B : Y\t\r\n\tZ  \r\n", b"b:Y Z\r\n", id="folded-example-of-s3.4.5"),
    pytest.param(b"SUBJect \t:\t  a  \t b\r\n", b"subject:a b\r\n", id="white-space-around-the-colon"),
    pytest.param(b"A:\r\n", b"a:\r\n", id="name-alone"),
    pytest.param(b"A: \t\r\n \r\n", b"a:\r\n", id="white-space-alone"),
    pytest.param(b"A: b:c : d\r\n", b"a:b:c : d\r\n", id="colons-in-the-value"),
    pytest.param(b"A: b\r\n c\r\n\td\r\n", b"a:b c d\r\n", id="folded-twice"),
    pytest.param(b"A: \xc3\xa9\xff\x0b\x0c \r\n", b"a:\xc3\xa9\xff\x0b\x0c\r\n", id="octets-that-are-no-white-space"),
    pytest.param(b"A: a\nb \n\r\n", b"a:a\nb \n\r\n", id="bare-LF"),
]


@pytest.mark.parametrize(("raw", "relaxed"), FIELDS)
def test_field_has_its_relaxed_form_and_simple_changes_nothing(raw: bytes, relaxed: bytes) -> None:
    (field,), _ = split_message(raw)
    assert canonicalize_field(field, RELAXED) == relaxed
    assert canonicalize_field(field, SIMPLE) == raw


@pytest.mark.parametrize(
    ("value", "erased"),
    [
        (b" v=1; b=abc; d=x", b" v=1; b=; d=x"),
        (b" v=1; bh=abc; b=abc", b" v=1; bh=abc; b="),
        (b"b=abc;", b"b=;"),
        (b" b = a\r\n b\r\n ; v=1", b" b =; v=1"),
        (b" v=1;\r\n\tb\r\n =\r\n a=\r\n", b" v=1;\r\n\tb\r\n ="),
        (b" h=from:b=x:to; b=abc", b" h=from:b=x:to; b="),
        (b" v=1; B=abc; b=abc", b" v=1; B=abc; b="),
        (b" v=1", b" v=1"),
    ],
)
def test_signature_is_erased_with_the_white_space_around_it(value: bytes, erased: bytes) -> None:
    field = Field(b"dkim-signature", b"DKIM-Signature:" + value.removesuffix(b"\r\n") + b"\r\n")
    assert erase_signature(field).raw == b"DKIM-Signature:" + erased + b"\r\n"
