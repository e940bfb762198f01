"""Any bytes as a header: the walk ends, and hostile ones cost no more than their length."""

import contextlib
import time
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailflow.mail.address import parse_mailbox
from mailflow.mail.headers import split_message
from mailflow.mail.reply import ProtocolError
from mailflow.mailauth.signed_message import SignedMessage
from mailflow.receive.checks import refuse_loop

PIECES = [
    b"\r\n",
    b"\r\n ",
    b"\r\n\t",
    b"\r",
    b"\n",
    b":",
    b" ",
    b"\t",
    b"a",
    b"Received",
    b"Delivered-To: ",
    b"\xff",
    b"\0",
]
HEADERS = st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join) | st.binary(max_size=200)
MEGABYTE = 1_000_000
HOSTILE = {
    "value without an end": b"X: " + b"a" * MEGABYTE,
    "white space without an end": b"X:" + b" " * MEGABYTE,
    "name without a colon": b"a" * MEGABYTE,
    "name and white space without a colon": b"a" + b" \t" * (MEGABYTE // 2),
    "folds without an end": b"X:" + b"\r\n " * (MEGABYTE // 3),
    "folds with text without an end": b"X:" + b"a\r\n \t" * (MEGABYTE // 5) + b"\r",
    "folds that end": b"X:" + b"\r\n " * (MEGABYTE // 3) + b"\r\n",
    "bare CRs": b"X: a" + b"\r" * MEGABYTE,
    "bare LFs": b"X: a" + b"\n" * MEGABYTE,
    "many fields": b"X:\r\n" * (MEGABYTE // 4),
    "many Delivered-To": b"Delivered-To: a@b\r\n" * (MEGABYTE // 19),
    "one long Delivered-To": b"Delivered-To: " + b"a." * (MEGABYTE // 2) + b"\r\n",
    "one long quoted Delivered-To": b'Delivered-To: "' + b"\\\\" * (MEGABYTE // 2) + b"\r\n",
    "one long Delivered-To domain": b"Delivered-To: a@" + "ü.".encode() * (MEGABYTE // 3) + b"\r\n",
}


def find_loop(header: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        refuse_loop(SignedMessage(header), [parse_mailbox("joe@example.org")])


@settings(max_examples=500, deadline=None)
@given(HEADERS)
@example(b"X: " + b"a" * 100)
def test_walk_over_any_bytes_ends_and_gives_fields_in_order(header: bytes) -> None:
    position = 0
    fields, body_start = split_message(header)
    for field in fields:
        assert field.name == field.name.lower()
        assert b"\r" not in field.value.replace(b"\r\n ", b"").replace(b"\r\n\t", b"")
        position = header.index(field.raw, position) + len(field.raw)
    assert position <= body_start <= len(header)


@pytest.mark.parametrize("walk", [split_message, find_loop])
@pytest.mark.parametrize("header", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.timeout(20)
def test_a_megabyte_of_hostile_header_is_walked_in_linear_time(walk: Callable[[bytes], object], header: bytes) -> None:
    begin = time.process_time()
    walk(header)
    assert time.process_time() - begin < 5  # what is quadratic takes hours; what is linear, well under a second
