import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.smtp.data import Content, DotReader
from mailflow.smtp.dot_stuffing import MAX_SLICE_BYTES, DotStuffer, UnsafeContent, iter_slices

LINES = st.lists(st.sampled_from([b"", b".", b"..", b".a", b"a.", b"a", b"\x80."]), max_size=8)


def stuff(blocks: list[bytes]) -> bytes:
    stuffer = DotStuffer()
    return b"".join(map(stuffer.feed, blocks)) + stuffer.finish()


def cut(text: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges)]


@given(lines=LINES, places=st.lists(st.integers(0, 100), max_size=6))
def test_reading_undoes_stuffing_wherever_the_message_is_cut(lines: list[bytes], places: list[int]) -> None:
    message = b"".join(line + b"\r\n" for line in lines)
    content = Content(max_bytes=1000, max_line_octets=1000, normalizes_newlines=False)
    assert DotReader(content).feed(stuff(cut(message, places)) + b"NEXT") == b"NEXT"
    assert content.take() == message


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\0", b".", b"a", b"\r\n"]), max_size=8))
def test_content_is_refused_exactly_where_it_has_a_bare_newline_or_nul(pieces: list[bytes]) -> None:
    message = b"".join(pieces)
    rest = message.replace(b"\r\n", b"")
    if b"\r" in rest or b"\n" in rest or b"\0" in rest:
        with pytest.raises(UnsafeContent):
            stuff(pieces)
    else:
        assert stuff(pieces).endswith(b"\r\n.\r\n" if message else b".\r\n")


def test_the_last_line_gets_the_line_end_it_lacks() -> None:
    assert stuff([b"a"]) == b"a\r\n.\r\n"


def test_a_cr_that_ends_the_message_is_refused() -> None:
    with pytest.raises(UnsafeContent):
        stuff([b"a\r"])


def test_slices_are_bounded_and_lose_nothing() -> None:
    pieces = [b"a", bytes(MAX_SLICE_BYTES), b"b" * (2 * MAX_SLICE_BYTES + 1)]
    slices = list(iter_slices(pieces))
    assert b"".join(slices) == b"".join(pieces)
    assert max(map(len, slices)) == MAX_SLICE_BYTES
