"""Any bytes as message content, in any split, against a reference that is slow and plain."""

import re
from dataclasses import dataclass

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailflow.smtp.data import BareNewline, ChunkReader, Content, ContentFault, DotReader
from mailflow.smtp.dot_stuffing import DotStuffer

EXAMPLES = settings(max_examples=500, deadline=None)
MAX_BYTES = 60
MAX_LINE_OCTETS = 24

PIECES = [b"\r\n", b"\r\n", b"\r", b"\n", b".", b".", b"\r\n.\r\n", b"\r\n.", b"a", b"bc", b"x" * 11, b"\0", b" "]
HOSTILE = st.lists(st.sampled_from(PIECES), max_size=20).map(b"".join)
# Without bare newlines and NUL, so that most examples get past the first check.
CLEAN = st.lists(st.sampled_from([b"\r\n", b"\r\n.", b"\r\n..", b".", b"a", b"x" * 11]), max_size=20).map(b"".join)
INPUT = HOSTILE | CLEAN | CLEAN.map(lambda data: data + b"\r\n.\r\nQUIT\r\n") | st.binary(max_size=60)
CUTS = st.lists(st.integers(0, 120), max_size=12)


@dataclass
class Result:
    """What became of the input: `rest` None where no end was seen."""

    content: bytes | None = None
    fault: ContentFault | None = None
    rest: bytes | None = None
    is_refused: bool = False


def new_content(*, normalizes: bool) -> Content:
    return Content(max_bytes=MAX_BYTES, max_line_octets=MAX_LINE_OCTETS, normalizes_newlines=normalizes)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted(min(cut, len(data)) for cut in cuts)
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def read(pieces: list[bytes], *, normalizes: bool) -> Result:
    content = new_content(normalizes=normalizes)
    reader = DotReader(content)
    for number, piece in enumerate(pieces):
        try:
            rest = reader.feed(piece)
        except BareNewline:
            return Result(is_refused=True)
        if rest is not None:
            return Result(content.take(), content.fault, rest + b"".join(pieces[number + 1 :]))
    return Result(fault=content.fault)


def read_plainly(data: bytes, *, normalizes: bool) -> Result:
    """The reference: the end first, then line by line. It wants an end."""
    end = 0 if data.startswith(b".\r\n") else data.index(b"\r\n.\r\n") + 2
    text, rest = data[:end], data[end + 3 :]
    if b"\0" in text or (not normalizes and re.search(rb"\r(?!\n)|(?<!\r)\n", text)):
        return Result(is_refused=True)
    lines = [line.removeprefix(b".") for line in text.split(b"\r\n")[:-1]]
    lines = [piece + b"\r\n" for line in lines for piece in re.split(rb"\r|\n", line)]
    kept = 0
    for line in lines:
        kept += len(line)
        if len(line) > MAX_LINE_OCTETS:
            return Result(b"", ContentFault.LINE_TOO_LONG, rest)
    if kept > MAX_BYTES:
        return Result(b"", ContentFault.TOO_LARGE, rest)
    return Result(b"".join(lines), None, rest)


def has_end(data: bytes) -> bool:
    return data.startswith(b".\r\n") or b"\r\n.\r\n" in data


def agree(one: Result, other: Result) -> None:
    """The same in all, but for which fault came first where a message has two: that hangs on the split."""
    both_faulty = one.fault is not None and other.fault is not None
    if both_faulty:
        other.fault = one.fault
    assert one == other


@EXAMPLES
@given(INPUT, CUTS, st.booleans())
@example(b".\r\n", [1, 2], False)
@example(b"\r\n.\r\n", [1, 2, 3, 4], False)
@example(b"a\r\r\n.\r\n", [2], True)
@example(b"\n.\n\r\n.\r\n", [], True)
def test_no_split_changes_what_becomes_of_the_input(data: bytes, cuts: list[int], normalizes: bool) -> None:
    whole = read([data], normalizes=normalizes)
    for pieces in (split(data, cuts), [data[i : i + 1] for i in range(len(data))]):
        cut = read(pieces, normalizes=normalizes)
        if whole.rest is None and not whole.is_refused and not cut.is_refused:
            continue  # unfinished: what is still held differs, by design
        agree(cut, whole)


@EXAMPLES
@given(INPUT, CUTS, st.booleans())
def test_content_agrees_with_a_plain_reading_line_by_line(data: bytes, cuts: list[int], normalizes: bool) -> None:
    if not has_end(data):
        data += b"\r\n.\r\n"
    agree(read(split(data, cuts), normalizes=normalizes), read_plainly(data, normalizes=normalizes))


@EXAMPLES
@given(INPUT, CUTS, st.booleans())
def test_no_bare_newline_or_nul_ever_gets_through(data: bytes, cuts: list[int], normalizes: bool) -> None:
    result = read(split(data + b"\r\n.\r\n", cuts), normalizes=normalizes)
    if result.content is not None:
        assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", result.content)
        assert result.content == b"" or result.content.endswith(b"\r\n")


@EXAMPLES
@given(INPUT, CUTS, st.booleans())
def test_what_is_taken_and_sent_on_is_the_same_message_to_the_next(
    data: bytes, cuts: list[int], normalizes: bool
) -> None:
    result = read(split(data + b"\r\n.\r\n", cuts), normalizes=normalizes)
    if result.content is None or result.fault:
        return
    stuffer = DotStuffer()
    wire = stuffer.feed(result.content) + stuffer.finish()
    assert wire.find(b"\r\n.\r\n", 0, len(wire) - 1) == -1 or result.content == b""
    again = read([wire], normalizes=False)
    assert (again.content, again.rest) == (result.content, b"")


@EXAMPLES
@given(INPUT, CUTS, st.booleans())
def test_chunks_give_what_they_hold_or_refuse_it_wherever_they_are_cut(
    data: bytes, cuts: list[int], normalizes: bool
) -> None:
    content, held = new_content(normalizes=normalizes), b""
    chunks = split(data, cuts)
    is_bare = b"\0" in data or (not normalizes and re.search(rb"\r(?!\n)|(?<!\r)\n", data) is not None)
    try:
        for number, chunk in enumerate(chunks):
            reader = ChunkReader(content, len(chunk), is_last=number == len(chunks) - 1, held=held)
            assert reader.feed(chunk + b"next") == b"next"
            held = reader.held
    except BareNewline:
        assert is_bare
        return
    assert not is_bare
    lines = re.split(rb"\r\n|\r|\n", data)
    if content.fault is None:
        assert content.take() == b"".join(line + b"\r\n" for line in lines[:-1]) + (lines[-1] and lines[-1] + b"\r\n")
    else:
        assert len(data) > MAX_BYTES - len(lines) or max(map(len, lines)) + 2 > MAX_LINE_OCTETS
