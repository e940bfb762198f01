"""Replies out and in: what is sent, what is believed of what a server sends."""

import pytest

from mailflow.mail.reply import (
    MAX_REPLY_LINES,
    ProtocolError,
    Reply,
    ReplyReader,
    ReplySyntaxError,
    printable,
)


def read(*lines: bytes) -> Reply | None:
    """Feed lines; give what the last of them gave."""
    reader = ReplyReader()
    replies = [reader.feed_line(line) for line in lines]
    assert replies[:-1] == [None] * (len(lines) - 1)
    return replies[-1]


@pytest.mark.parametrize(
    ("reply", "octets"),
    [
        (Reply(250, "2.0.0", "Ok"), b"250 2.0.0 Ok\r\n"),
        (Reply(354, "", "Go on"), b"354 Go on\r\n"),
        (Reply(250, "", "mx\nPIPELINING\nSIZE 1"), b"250-mx\r\n250-PIPELINING\r\n250 SIZE 1\r\n"),
        (Reply(550, "5.7.1", "No\nreally"), b"550-5.7.1 No\r\n550 5.7.1 really\r\n"),
        (Reply(250, "", ""), b"250 \r\n"),
        (Reply(250, "", "h\u00e9"), b"250 h?\r\n"),
    ],
)
def test_reply_is_sent_with_its_code_and_enhanced_code_on_every_line(reply: Reply, octets: bytes) -> None:
    assert reply.encode() == octets


@pytest.mark.parametrize(
    "reply",
    [
        Reply(250, "2.0.0", "Ok"),
        Reply(250, "", "mx\nPIPELINING\nSIZE 1"),
        Reply(452, "4.2.2", "Mailbox\nis\nfull"),
        Reply(550, "5.1.1", ""),
    ],
)
def test_reply_that_was_sent_is_read_back_the_same(reply: Reply) -> None:
    assert read(*reply.encode().splitlines()) == reply


def test_reply_is_one_line_for_a_log() -> None:
    assert str(Reply(550, "5.7.1", "No\nreally")) == "550 5.7.1 No / really"
    assert str(Reply(354, "", "Go on")) == "354 Go on"


@pytest.mark.parametrize(
    ("code", "kind"), [(250, "positive"), (354, ""), (421, "transient"), (499, "transient"), (500, "permanent")]
)
def test_code_tells_the_kind(code: int, kind: str) -> None:
    reply = Reply(code, "", "")
    kinds = {"positive": reply.is_positive, "transient": reply.is_transient, "permanent": reply.is_permanent}
    assert [name for name, holds in kinds.items() if holds] == ([kind] if kind else [])


def test_foreign_text_is_made_printable_and_bounded() -> None:
    assert printable("a\r\n250 ok\0\x7f\u00e9") == "a??250 ok???"
    assert len(printable("x" * 1000)) == 256
    assert printable("abcdef", 3) == "abc"


def test_protocol_error_carries_its_reply() -> None:
    error = ProtocolError(Reply(501, "5.5.4", "No"), closes=True)
    assert (error.reply.code, error.closes, str(error)) == (501, True, "501 5.5.4 No")


# ReplyReader.


@pytest.mark.parametrize(
    ("lines", "reply"),
    [
        ([b"250 2.1.5 Ok"], Reply(250, "2.1.5", "Ok")),
        ([b"250 Ok"], Reply(250, "", "Ok")),
        ([b"250"], Reply(250, "", "")),
        ([b"250 "], Reply(250, "", "")),
        ([b"250 2.1.5"], Reply(250, "2.1.5", "")),
        ([b"250-mx", b"250-SIZE 1", b"250 HELP"], Reply(250, "", "mx\nSIZE 1\nHELP")),
        ([b"250-", b"250"], Reply(250, "", "\n")),
        ([b"550-5.7.1 No", b"550 5.7.1 really"], Reply(550, "5.7.1", "No\nreally")),
        ([b"550-No", b"550 5.7.1 really"], Reply(550, "5.7.1", "No\nreally")),
        ([b"552 5.2.2\tfull"], Reply(552, "5.2.2", "full")),
        ([b"559 5.999.999 x"], Reply(559, "5.999.999", "x")),
    ],
)
def test_reply_is_read(lines: list[bytes], reply: Reply) -> None:
    assert read(*lines) == reply


@pytest.mark.parametrize("text", ["5.1.1 x", "4.1.1 x", "2.1 x", "2.1.1.1 x", "2.1.1x", "2.1.1000 x", "2.\u0661.1 x"])
def test_enhanced_code_of_another_class_or_shape_is_text(text: str) -> None:
    reply = read(b"250 " + text.encode())
    assert reply is not None
    assert (reply.code, reply.enhanced, reply.text) == (250, "", printable(text))


def test_what_looks_like_an_enhanced_code_within_a_line_stays_there() -> None:
    assert read(b"250-2.0.0 server 2.0.0 here", b"250-server 2.3.4 there", b"250 2.0.0 Ok") == Reply(
        250, "2.0.0", "server 2.0.0 here\nserver 2.3.4 there\nOk"
    )


def test_text_of_a_server_is_made_printable() -> None:
    assert read("250-2.0.0 h\u00e9llo\r\x1b[2J".encode(), b"250 2.0.0 \xff\0") == Reply(250, "2.0.0", "h?llo??[2J\n??")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b"2",
        b"25",
        b"2500",
        b"250Ok",
        b"250_Ok",
        b"250\tOk",
        b" 250 Ok",
        b"150 Ok",
        b"650 Ok",
        b"050 Ok",
        b"260 Ok",
        b"2x0 Ok",
        b"-250 Ok",
        b"Ok",
        b"\xff\xfe",
        "\u0662\u0665\u0660 Ok".encode(),
        b"HTTP/1.1 400 Bad Request",
    ],
)
def test_garbage_is_no_reply(line: bytes) -> None:
    with pytest.raises(ReplySyntaxError):
        read(line)


@pytest.mark.parametrize("second", [b"251 Ok", b"251-Ok", b"550 No", b"Ok", b""])
def test_reply_that_goes_on_as_another_is_no_reply(second: bytes) -> None:
    reader = ReplyReader()
    assert reader.feed_line(b"250-Ok") is None
    with pytest.raises(ReplySyntaxError):
        reader.feed_line(second)


def test_reply_of_too_many_lines_is_no_reply() -> None:
    assert read(*[b"250-x"] * (MAX_REPLY_LINES - 1), b"250 x") is not None
    with pytest.raises(ReplySyntaxError, match="too many lines"):
        read(*[b"250-x"] * MAX_REPLY_LINES, b"250 x")


def test_reader_tells_whether_it_stands_between_replies_and_starts_anew_after_each() -> None:
    reader = ReplyReader()
    states = [reader.is_between_replies]
    replies = []
    for line in (b"250-a", b"250 b", b"550 c"):
        replies.append(reader.feed_line(line))
        states.append(reader.is_between_replies)
    assert replies == [None, Reply(250, "", "a\nb"), Reply(550, "", "c")]
    assert states == [True, False, True, True]
