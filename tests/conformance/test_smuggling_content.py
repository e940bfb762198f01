"""The public end-of-data sequences of SMTP smuggling, where content is read: none ends a message, none gets through.

The same sequences against a whole service, over sockets, are another test's.
"""

import json
import re
from collections.abc import Iterator

import pytest

from mailflow.smtp.data import BareNewline, Content, DotReader
from mailflow.smtp.dot_stuffing import DotStuffer
from tests.conformance.vectors import mark, vectors

SUITE = "smtp-smuggling"
LISTS = json.loads((vectors(SUITE) / "sequences.json").read_text())


def spell(sequence: str) -> str:
    """Give a name to a sequence that has none: CRLF.LF for `\\r\\n.\\n`."""
    return sequence.replace("\r", "CR").replace("\n", "LF").replace("\0", "NUL")


SEQUENCES: dict[str, bytes] = {
    f"{kind}-{name}": sequence.encode()
    for kind, listed in LISTS.items()
    for name, sequence in (listed.items() if isinstance(listed, dict) else [(spell(text), text) for text in listed])
}
CASES = [pytest.param(sequence, id=name, marks=mark(SUITE, name)) for name, sequence in SEQUENCES.items()]
SMUGGLED = b"MAIL FROM:<admin@example.org>\r\nRCPT TO:<joe@example.org>\r\nDATA\r\nforged\r\n"
END = b"\r\n.\r\n"


def splits(data: bytes) -> Iterator[list[bytes]]:
    """Give the data whole, octet by octet, and cut in two at every place."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    yield from ([data[:cut], data[cut:]] for cut in range(1, len(data)))


def read(pieces: list[bytes], *, normalizes: bool) -> tuple[bytes | None, bytes]:
    """Read content; give what followed its end (None where there was none) and what was taken. Raises BareNewline."""
    content = Content(max_bytes=10_000, max_line_octets=1000, normalizes_newlines=normalizes)
    reader = DotReader(content)
    rests = [rest for piece in pieces if (rest := reader.feed(piece)) is not None]
    return (rests[0] if rests else None), content.take()


def test_suite_is_complete() -> None:
    assert set(LISTS) == {"inbound_eod", "outbound_eod", "smtpsmug"}
    assert (len(SEQUENCES), len(set(SEQUENCES.values()))) == (26, 12)


@pytest.mark.parametrize("sequence", CASES)
def test_sequence_in_content_is_refused(sequence: bytes) -> None:
    for pieces in splits(b"Subject: x\r\n\r\ntext" + sequence + SMUGGLED):
        with pytest.raises(BareNewline):
            read(pieces, normalizes=False)


@pytest.mark.parametrize("sequence", CASES)
def test_sequence_where_newlines_are_normalized_never_ends_the_message(sequence: bytes) -> None:
    for pieces in splits(b"Subject: x\r\n\r\ntext" + sequence + SMUGGLED):
        try:
            rest, _ = read(pieces, normalizes=True)
        except BareNewline:
            assert b"\0" in sequence
        else:
            assert rest is None
            assert b"\0" not in sequence


@pytest.mark.parametrize("sequence", CASES)
def test_sequence_that_was_normalized_is_sent_on_without_an_end_of_data_in_it(sequence: bytes) -> None:
    if b"\0" in sequence:
        with pytest.raises(BareNewline):
            read([b"text" + sequence + SMUGGLED + END], normalizes=True)
        return
    rest, taken = read([b"text" + sequence + SMUGGLED + END + b"QUIT\r\n"], normalizes=True)
    assert rest == b"QUIT\r\n"
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", taken)
    assert SMUGGLED in taken
    stuffer = DotStuffer()
    wire = stuffer.feed(taken) + stuffer.finish()
    assert wire.index(END) == len(wire) - len(END)
