"""Message content on its way in: where it ends, what of it is refused, and that no split of the bytes matters."""

import random
from collections.abc import Callable, Iterable, Iterator

import pytest

from mailflow.smtp.data import BareNewline, ChunkReader, Content, ContentFault, DotReader

MESSAGE = b"Subject: x\r\n\r\nHello\r\n..stuffed\r\n...\r\nend\r\n"
TAKEN = b"Subject: x\r\n\r\nHello\r\n.stuffed\r\n..\r\nend\r\n"


def new_content(
    *,
    max_bytes: int = 10_000,
    max_line_octets: int = 1000,
    normalizes: bool = False,
    reserve: Callable[[int], bool] = lambda kept_bytes: True,
) -> Content:
    return Content(
        max_bytes=max_bytes, max_line_octets=max_line_octets, normalizes_newlines=normalizes, reserve=reserve
    )


def read_dots(pieces: Iterable[bytes], content: Content) -> bytes | None:
    """Feed DATA; give what followed the final dot (with all pieces not fed any more), None where there was no end."""
    reader = DotReader(content)
    pieces = iter(pieces)
    for piece in pieces:
        rest = reader.feed(piece)
        if rest is not None:
            return rest + b"".join(pieces)
    return None


def read_chunks(chunks: list[list[bytes]], content: Content) -> None:
    """Feed chunks, each in pieces, the last of them with LAST."""
    held = b""
    for number, pieces in enumerate(chunks):
        size = sum(map(len, pieces))
        reader = ChunkReader(content, size, is_last=number == len(chunks) - 1, held=held)
        rests = [reader.feed(piece) for piece in pieces or [b""]]
        assert rests[-1] == b""
        held = reader.held


def octets(data: bytes) -> Iterator[bytes]:
    return (data[i : i + 1] for i in range(len(data)))


def random_pieces(data: bytes, seed: int) -> list[bytes]:
    cuts = sorted(random.Random(seed).choices(range(len(data) + 1), k=8))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@pytest.mark.parametrize(
    "split",
    [lambda data: [data], octets, *(lambda data, seed=seed: random_pieces(data, seed) for seed in range(20))],
)
def test_content_is_unstuffed_and_ends_at_its_final_dot_however_it_is_split(
    split: Callable[[bytes], Iterable[bytes]],
) -> None:
    content = new_content()
    assert read_dots(split(MESSAGE + b".\r\nQUIT\r\n"), content) == b"QUIT\r\n"
    assert content.take() == TAKEN


@pytest.mark.parametrize("cut", range(len(MESSAGE) + 3))
def test_content_cut_in_two_anywhere_is_the_same(cut: int) -> None:
    data = MESSAGE + b".\r\n"
    content = new_content()
    assert read_dots([data[:cut], data[cut:]], content) == b""
    assert content.take() == TAKEN


@pytest.mark.parametrize(
    ("data", "taken"),
    [
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b"..a\r\n.\r\n", b".a\r\n"),
        (b".a\r\n.\r\n", b"a\r\n"),
        (b"a.\r\n.\r\n", b"a.\r\n"),
        (b"a\r\n..\r\n.\r\n", b"a\r\n.\r\n"),
        (b"\r\n\r\n.\r\n", b"\r\n\r\n"),
        (b"a\r\n.b\r\n.\r\n", b"a\r\nb\r\n"),
        (b"a\r\n. \r\n.\r\n", b"a\r\n \r\n"),
    ],
)
def test_dots_at_line_starts(data: bytes, taken: bytes) -> None:
    for split in (lambda data: [data], octets):
        content = new_content()
        assert read_dots(split(data), content) == b""
        assert content.take() == taken


@pytest.mark.parametrize("data", [b"", b".", b".\r", b"a\r\n.", b"a\r\n.\r", b"a.\r\n", b"a\r\n..\r\n", b"a\r\n .\r\n"])
def test_content_without_its_final_dot_goes_on(data: bytes) -> None:
    assert read_dots([data], new_content()) is None
    assert read_dots(octets(data), new_content()) is None


def test_only_the_first_final_dot_counts() -> None:
    content = new_content()
    assert read_dots([b"a\r\n.\r\nb\r\n.\r\n"], content) == b"b\r\n.\r\n"
    assert content.take() == b"a\r\n"


BARE = {
    "bare LF": b"\n",
    "bare CR": b"\r",
    "LF LF": b"\n\n",
    "CR CR LF": b"\r\r\n",
    "LF CR": b"\n\r",
    "LF dot LF": b"\n.\n",
    "LF dot CRLF": b"\n.\r\n",
    "CR dot CR": b"\r.\r",
    "CRLF dot LF": b"\r\n.\n",
    "CRLF dot CR": b"\r\n.\ra",
    "NUL": b"\0",
}


@pytest.mark.parametrize("bare", BARE.values(), ids=BARE.keys())
@pytest.mark.parametrize("place", range(0, 25, 2))
def test_bare_newline_or_nul_anywhere_is_refused_at_once(bare: bytes, place: int) -> None:
    text = b"one\r\ntwo\r\n.three\r\n\r\nfour\r\n"
    while text[place - 1 : place + 1] == b"\r\n":  # between the two it would only make another line end
        place += 1
    data = text[:place] + bare + b"x" + text[place:]
    with pytest.raises(BareNewline):
        read_dots([data], new_content())
    with pytest.raises(BareNewline):
        read_dots(octets(data), new_content())


def test_bare_newline_behind_the_final_dot_is_not_this_messages_matter() -> None:
    content = new_content()
    assert read_dots([b"a\r\n.\r\nNOOP\n\0"], content) == b"NOOP\n\0"
    assert content.take() == b"a\r\n"


def test_bare_newline_is_refused_also_in_content_that_is_no_longer_kept() -> None:
    content = new_content(max_bytes=5)
    reader = DotReader(content)
    assert reader.feed(b"0123456789\r\n") is None
    assert content.fault is ContentFault.TOO_LARGE
    with pytest.raises(BareNewline):
        reader.feed(b"a\nb\r\n")


@pytest.mark.parametrize(
    ("data", "taken"),
    [
        (b"a\nb\r\n.\r\n", b"a\r\nb\r\n"),
        (b"a\rb\r\n.\r\n", b"a\r\nb\r\n"),
        (b"a\r\rb\r\n.\r\n", b"a\r\n\r\nb\r\n"),
        (b"a\n\rb\r\n.\r\n", b"a\r\n\r\nb\r\n"),
        (b"a\r\r\nb\r\n.\r\n", b"a\r\n\r\nb\r\n"),
        (b"a\n.\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n"),
        (b"a\r.\rb\r\n.\r\n", b"a\r\n.\r\nb\r\n"),
        (b"a\n.\r\nb\r\n.\r\n", b"a\r\n.\r\nb\r\n"),
        (b"a\r\n.\nb\r\n.\r\n", b"a\r\n\r\nb\r\n"),
        (b"a\n..b\r\n.\r\n", b"a\r\n..b\r\n"),
        (b"\n.\n\r\n.\r\n", b"\r\n.\r\n\r\n"),
        (b"..a\nb\r\n.\r\n", b".a\r\nb\r\n"),
        (b"\r\r\n.\r\n", b"\r\n\r\n"),
    ],
)
def test_normalized_newlines_become_crlf_and_end_nothing(data: bytes, taken: bytes) -> None:
    for split in (lambda data: [data], octets):
        content = new_content(normalizes=True)
        assert read_dots(split(data), content) == b""
        assert content.take() == taken


def test_nul_is_refused_where_newlines_are_normalized() -> None:
    with pytest.raises(BareNewline):
        read_dots([b"a\0b\r\n.\r\n"], new_content(normalizes=True))


@pytest.mark.parametrize("excess", [0, 1])
def test_size_limit_is_exact_and_counts_no_stuffing(excess: int) -> None:
    data = b"..23456\r\n" * 10
    for split in (lambda data: [data], octets):
        content = new_content(max_bytes=80 - excess)
        assert read_dots(split(data + b".\r\nQUIT"), content) == b"QUIT"
        assert content.fault is (ContentFault.TOO_LARGE if excess else None)
        assert content.take() == (b"" if excess else data.replace(b"..", b"."))


@pytest.mark.parametrize("excess", [0, 1])
@pytest.mark.parametrize("before", [b"", b"ok\r\n", b"x" * 98 + b"\r\n", (b"y" * 30 + b"\r\n") * 7])
@pytest.mark.parametrize("after", [b"", b"ok\r\n", b"x" * 98 + b"\r\n"])
def test_line_limit_is_exact_wherever_the_line_stands(before: bytes, after: bytes, excess: int) -> None:
    data = before + b"x" * (98 + excess) + b"\r\n" + after
    for split in (lambda data: [data], octets, lambda data: random_pieces(data, 1)):
        content = new_content(max_line_octets=100)
        assert read_dots(split(data + b".\r\n"), content) == b""
        assert content.fault is (ContentFault.LINE_TOO_LONG if excess else None)


def test_line_without_an_end_is_not_kept_beyond_its_limit() -> None:
    asked: list[int] = []
    content = new_content(max_line_octets=100, reserve=lambda kept: not asked.append(kept))  # type: ignore[func-returns-value]
    reader = DotReader(content)
    for _ in range(1000):
        assert reader.feed(b"x" * 7) is None
    assert content.fault is ContentFault.LINE_TOO_LONG
    assert max(asked) <= 100


def test_reservation_is_asked_with_the_whole_of_what_would_be_kept() -> None:
    asked: list[int] = []
    content = new_content(reserve=lambda kept: not asked.append(kept))  # type: ignore[func-returns-value]
    read_dots([b"1234\r\n", b"5678\r\n", b".\r\n"], content)
    assert content.take() == b"1234\r\n5678\r\n"
    assert asked == sorted(asked)
    assert asked[-1] == 12


def test_refused_reservation_frees_what_was_kept_and_the_rest_is_read_to_its_end() -> None:
    content = new_content(reserve=lambda kept: kept <= 10)
    reader = DotReader(content)
    faults = []
    for line in (b"1234\r\n", b"5678\r\n9\r\n"):
        assert reader.feed(line + b"x") is None
        faults.append(content.fault)
    assert faults == [None, ContentFault.NO_ROOM]
    assert reader.feed(b"x\r\n.\r\nQUIT") == b"QUIT"
    assert content.take() == b""


def test_first_fault_is_the_one_told() -> None:
    content = new_content(max_bytes=20, max_line_octets=10)
    read_dots([b"123456789\r\n", b"1\r\n" * 20, b".\r\n"], content)
    assert content.fault is ContentFault.LINE_TOO_LONG


# BDAT.


@pytest.mark.parametrize("cut", range(len(TAKEN) + 1))
def test_chunks_cut_anywhere_give_the_same_content(cut: int) -> None:
    content = new_content()
    read_chunks([[TAKEN[:cut]], [TAKEN[cut:]]], content)
    assert content.take() == TAKEN


def test_chunks_byte_at_a_time_give_the_same_content() -> None:
    content = new_content()
    read_chunks([[octet] for octet in octets(TAKEN)] + [[]], content)
    assert content.take() == TAKEN


def test_chunk_gives_back_what_is_behind_it() -> None:
    content = new_content()
    reader = ChunkReader(content, 4, is_last=True)
    assert reader.feed(b"a") is None
    assert reader.feed(b"b\r\nQUIT\r\n") == b"QUIT\r\n"
    assert content.take() == b"ab\r\n"


def test_dots_mean_nothing_in_chunks() -> None:
    content = new_content()
    read_chunks([[b"..a\r\n.\r\n"], [b".b\r\n"]], content)
    assert content.take() == b"..a\r\n.\r\n.b\r\n"


def test_chunk_of_no_octets_is_complete_at_once() -> None:
    content = new_content()
    assert ChunkReader(content, 0, is_last=True).feed(b"QUIT\r\n") == b"QUIT\r\n"
    assert content.take() == b""


def test_empty_chunks_between_cr_and_lf_keep_them_together() -> None:
    content = new_content()
    read_chunks([[b"a\r"], [], [], [b"\nb\r\n"]], content)
    assert content.take() == b"a\r\nb\r\n"


@pytest.mark.parametrize(
    "chunks",
    [
        [[b"a\r"]],
        [[b"a\r"], []],
        [[b"a\r"], [b"b\r\n"]],
        [[b"a\n"]],
        [[b"a"], [b"\n"]],
        [[b"a\r"], [b"\r\n"]],
        [[b"a\r\n"], [b"\n"]],
        [[b"a\0\r\n"]],
    ],
)
def test_bare_newline_or_nul_in_chunks_is_refused(chunks: list[list[bytes]]) -> None:
    with pytest.raises(BareNewline):
        read_chunks(chunks, new_content())


def test_normalized_cr_at_the_end_of_the_last_chunk_becomes_crlf() -> None:
    content = new_content(normalizes=True)
    read_chunks([[b"a\r"], [b"b\n"], [b"c\r"]], content)
    assert content.take() == b"a\r\nb\r\nc\r\n"


def test_last_line_of_the_last_chunk_gets_the_crlf_it_lacks() -> None:
    content = new_content()
    read_chunks([[b"a\r\nb"]], content)
    assert content.take() == b"a\r\nb\r\n"


def test_line_limit_holds_across_chunks() -> None:
    content = new_content(max_line_octets=10)
    read_chunks([[b"x" * 6], [b"x" * 6 + b"\r\n"]], content)
    assert content.fault is ContentFault.LINE_TOO_LONG
