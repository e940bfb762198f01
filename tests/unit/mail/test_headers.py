"""Where a header section ends, and which fields it has."""

import time

import pytest

from mailflow.mail.headers import MAX_FIELDS, HeaderTooLarge, split_message


@pytest.mark.parametrize(
    ("content", "header"),
    [
        (b"A: 1\r\nB: 2\r\n\r\nbody\r\n\r\n", b"A: 1\r\nB: 2\r\n"),
        (b"A: 1\r\n\r\n", b"A: 1\r\n"),
        (b"\r\nbody\r\n\r\nmore\r\n", b""),
        (b"\r\n", b""),
        (b"", b""),
        (b"A: 1\r\nB: 2\r\n", b"A: 1\r\nB: 2\r\n"),
        (b"no field\r\n\r\nbody\r\n", b""),
        (b"A: 1\r\ntext that lost its empty line\r\nB: 2\r\n\r\n", b"A: 1\r\n"),
        (b"From joe Mon Nov 23\r\nA: 1\r\n\r\nbody\r\n", b"From joe Mon Nov 23\r\nA: 1\r\n"),
        (b"A: 1\r\n \r\n\r\nbody\r\n", b"A: 1\r\n \r\n"),
    ],
)
def test_header_ends_before_the_first_line_that_is_no_field(content: bytes, header: bytes) -> None:
    _, body_start = split_message(content)
    assert content[:body_start] in (header, header + b"\r\n")


@pytest.mark.parametrize(
    "header",
    [
        b"A: 1\r\n" * 20,
        b"A: " + b"1" * 115 + b"\r\n",
        b"A:" + b"\r\n 1" * 29 + b"\r\n",
        b"From " + b"x" * 113 + b"\r\n",
    ],
)
@pytest.mark.parametrize("rest", [b"", b"\r\nbody\r\n", b"\r\n" + b"body" * 2000])
def test_header_of_the_limit_is_split_and_one_octet_more_is_too_large(header: bytes, rest: bytes) -> None:
    assert len(header) == 120
    assert split_message(header + rest, max_bytes=120) == split_message(header + rest)
    with pytest.raises(HeaderTooLarge):
        split_message(header + rest, max_bytes=119)


@pytest.mark.parametrize("value", [b"x" * 10_000, b"\r\n " * 5000, b" x\r\n" * 5000, b"\r\n \r\n\t" * 4000])
def test_field_that_is_not_over_where_it_is_no_longer_followed_is_too_large(value: bytes) -> None:
    for cut in range(6):
        with pytest.raises(HeaderTooLarge):
            split_message(b"A:" + value[cut:] + b"\r\n\r\nbody\r\n", max_bytes=100)


def test_line_that_is_no_field_ends_a_bounded_header_however_long_it_is() -> None:
    content = b"A: 1\r\n" + b"x" * 10_000 + b"\r\n"
    assert split_message(content, max_bytes=100) == split_message(content)


def test_fields_of_the_limit_are_split_and_one_more_is_too_large() -> None:
    fields, _ = split_message(b"A:\r\n" * MAX_FIELDS, max_bytes=1_000_000)
    assert len(fields) == MAX_FIELDS
    with pytest.raises(HeaderTooLarge):
        split_message(b"A:\r\n" * (MAX_FIELDS + 1), max_bytes=1_000_000)


@pytest.mark.parametrize("value", [b"\r\n ", b"x\r\n\t\r\n "])
def test_field_as_large_as_a_message_is_not_walked_to_its_end(value: bytes) -> None:
    content = b"A:" + value * (20_000_000 // len(value))
    begin = time.process_time()
    with pytest.raises(HeaderTooLarge):
        split_message(content, max_bytes=262_144)
    assert time.process_time() - begin < 0.1  # to its end it takes half a second


@pytest.mark.parametrize(
    ("header", "fields"),
    [
        (b"", []),
        (b"A: 1\r\nb:2\r\n", [(b"a", b" 1"), (b"b", b"2")]),
        (b"Subject:\r\n", [(b"subject", b"")]),
        (b"Subject: a\r\n b\r\n\tc\r\nTo: d\r\n", [(b"subject", b" a\r\n b\r\n\tc"), (b"to", b" d")]),
        (b"Subject: a\r\n \r\n b\r\n", [(b"subject", b" a\r\n \r\n b")]),
        (b"Subject : a\r\n", [(b"subject", b" a")]),
        (b"From : a\r\nTo: b\r\n", [(b"from", b" a"), (b"to", b" b")]),
        (b"From \t: a\r\nTo: b\r\n", [(b"from", b" a"), (b"to", b" b")]),
        (b"From a: b\r\nTo: b\r\n", [(b"to", b" b")]),
        (b"Subject: a:b:c\r\n", [(b"subject", b" a:b:c")]),
        (b"X: \xff\x80\r\n", [(b"x", b" \xff\x80")]),
        (b"A: 1\r\nA: 2\r\n", [(b"a", b" 1"), (b"a", b" 2")]),
    ],
)
def test_fields_come_in_order_with_their_folding(header: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    assert [(field.name, field.value) for field in split_message(header)[0]] == fields


@pytest.mark.parametrize(
    "line",
    [b"no colon\r\n", b" folded\r\n", b": no name\r\n", b"n\xc3me: x\r\n", b"two words: x\r\n", b"A: x\ry\r\n"],
)
def test_line_that_is_no_field_ends_the_walk(line: bytes) -> None:
    assert split_message(line + b"B: 2\r\n") == ([], 0)
    assert split_message(b"To: a\r\n\r\n" + line) == ([(b"to", b"To: a\r\n")], 9)


def test_field_without_its_line_end_is_no_field() -> None:
    assert split_message(b"A: 1\r\nB: " + b"x" * 100_000) == ([(b"a", b"A: 1\r\n")], 6)


@pytest.mark.parametrize(
    ("content", "names", "body"),
    [
        (b"A: 1\r\nb : 2\r\n 3\r\n\r\nbody\r\n", [b"a", b"b"], b"body\r\n"),
        (b"A: 1\r\n\r\n", [b"a"], b""),
        (b"A: 1\r\n", [b"a"], b""),
        (b"\r\nbody\r\n", [], b"body\r\n"),
        (b"A: 1\r\nno field\r\n\r\n", [b"a"], b"no field\r\n\r\n"),
        (b"From joe Mon Nov 23\r\nA: 1\r\n\r\nbody\r\n", [b"a"], b"body\r\n"),
    ],
)
def test_message_is_split_into_fields_and_body(content: bytes, names: list[bytes], body: bytes) -> None:
    fields, body_at = split_message(content)
    assert [field.name for field in fields] == names
    assert content[body_at:] == body


def test_value_of_a_field_keeps_its_folding() -> None:
    (field,), _ = split_message(b"B : 2:x\r\n 3\r\n\r\n")
    assert field.value == b" 2:x\r\n 3"
