"""A message split for signatures: which fields h= names, and digests that are worked out once."""

import hashlib

import pytest

from mailflow.mailauth.canonical import Canonicalization
from mailflow.mailauth.signed_message import WHOLE_OCTETS, SignedMessage, read_message

SIMPLE, RELAXED = Canonicalization.SIMPLE, Canonicalization.RELAXED
CONTENT = b"A: 1\r\nB: 2\r\na : 3\r\nSig: x; b=y\r\nA: 4\r\n\r\nBody.\r\n"
VIEW = SignedMessage(CONTENT)


def test_fields_of_a_name_are_known_by_their_positions() -> None:
    assert list(VIEW.positions(b"a")) == [0, 2, 4]
    assert list(VIEW.positions(b"none")) == []


@pytest.mark.parametrize(
    ("names", "besides", "selected"),
    [
        ([b"a"], None, [4]),
        ([b"a", b"b", b"a"], None, [4, 1, 2]),
        ([b"a", b"a", b"a", b"a", b"a"], None, [4, 2, 0]),
        ([b"none", b"b", b"b"], None, [1]),
        ([b"a", b"a", b"a"], 2, [4, 0]),
        ([b"a", b"a", b"a"], 0, [4, 2]),
        ([b"sig"], 3, []),
        ([], None, []),
    ],
)
def test_fields_are_selected_from_the_bottom(names: list[bytes], besides: int | None, selected: list[int]) -> None:
    assert VIEW.select_fields(names, besides=besides) == selected


def test_header_input_ends_with_the_signature_itself_without_its_value_and_line_end() -> None:
    assert VIEW.header_input([b"a", b"a", b"none"], 3, RELAXED) == b"a:4\r\na:3\r\nsig:x; b="
    assert VIEW.header_input([b"a", b"a", b"none"], 3, SIMPLE) == b"A: 4\r\na : 3\r\nSig: x; b="


async def test_known_digest_is_given_again_and_new_beginnings_are_added() -> None:
    view = SignedMessage(CONTENT)
    first = await view.hash_body(SIMPLE, [2])
    assert await view.hash_body(SIMPLE) is first
    assert await view.hash_body(SIMPLE, [2, 100]) is first
    more = await view.hash_body(SIMPLE, [4])
    assert (more.of(2), more.of(4)) == (hashlib.sha256(b"Bo").digest(), hashlib.sha256(b"Body").digest())
    assert more.of(100) is None
    assert more.whole == first.whole == hashlib.sha256(b"Body.\r\n").digest()


@pytest.mark.parametrize("octets", [WHOLE_OCTETS - 1, WHOLE_OCTETS, WHOLE_OCTETS + 1, 3 * WHOLE_OCTETS])
async def test_body_of_several_slices_has_the_digest_of_all(octets: int) -> None:
    body = (b"text \t " * (octets // 7 + 1))[: octets - 2] + b"\r\n"
    digest = await SignedMessage(b"A: b\r\n\r\n" + body).hash_body(SIMPLE)
    assert (digest.size_octets, digest.whole) == (octets, hashlib.sha256(body).digest())


@pytest.mark.parametrize("content", [b"", b"\r\n", b"A: b\r\n", b"A: b\r\n\r\n"])
async def test_message_without_body_has_an_empty_one(content: bytes) -> None:
    view = SignedMessage(content)
    assert (await view.hash_body(RELAXED)).size_octets == 0
    assert (await view.hash_body(SIMPLE)).whole == hashlib.sha256(b"\r\n").digest()


@pytest.mark.parametrize(
    ("message", "names", "body"),
    [
        (b"A: 1\n 2\nB: 3\n\nbody\n", [b"a", b"b"], b"body\r\n"),
        (b"A: 1\n", [b"a"], b""),
        (b"A: 1\r\nB: 2\nC: 3\r\n\r\nbo\ndy", [b"a", b"b"], b"bo\ndy"),  # as it stands: text
        (b"", [], b""),
    ],
)
def test_bare_lf_ends_lines_where_there_is_no_other_line_end(message: bytes, names: list[bytes], body: bytes) -> None:
    view = read_message(message)
    assert [field.name for field in view.fields] == names
    assert view.content[view.body_start :] == body
