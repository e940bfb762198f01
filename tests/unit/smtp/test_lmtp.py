"""The LMTP client against a real server that keeps to the protocol, or breaks it at one stage."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mailflow.mail.address import Address, parse_mailbox
from mailflow.mail.handoff import DotWithheld, FinalDot
from mailflow.smtp.dot_stuffing import UnsafeContent
from mailflow.smtp.lmtp import Answer, LmtpConnection, Stage
from mailflow.smtp.lmtp_connect import LmtpServer, connect_lmtp, parse_server
from mailflow.smtp.lmtp_errors import (
    LmtpClosing,
    LmtpConnectionLost,
    LmtpError,
    LmtpOutOfStep,
    LmtpTimeout,
    LmtpUnreachable,
)
from mailflow.smtp.reply_stream import ReplyStream
from tests.lmtp_server import (
    Action,
    LmtpTestServer,
    close,
    close_mid_reply,
    extra,
    never_accepting,
    not_reading,
    reset_connection,
    say,
    send,
    silent,
)

ALICE = parse_mailbox("alice@example.org")
BOB = parse_mailbox("bob@example.org")
BODY = (b"Message-ID: <1@x>\r\n", b"\r\n.hidden\r\nend\r\n")
BEFORE_DOT = ("MAIL", "RCPT", "DATA")


def soon(seconds: float = 5.0) -> float:
    return asyncio.get_running_loop().time() + seconds


@contextlib.asynccontextmanager
async def connected(server: LmtpTestServer) -> AsyncIterator[LmtpConnection]:
    connection = await connect_lmtp(parse_server(str(server)), hostname="mx.example.org", deadline=soon())
    try:
        yield connection
    finally:
        connection.abort()


async def transact(
    connection: LmtpConnection,
    *recipients: Address,
    body: tuple[bytes, ...] = BODY,
    seconds: float = 5.0,
    sender: Address | None = None,
    is_8bit: bool = False,
    is_smtputf8: bool = False,
) -> list[Answer]:
    answers = await connection.open_transaction(
        sender,
        recipients or (ALICE,),
        size_bytes=sum(map(len, body)),
        is_8bit=is_8bit,
        is_smtputf8=is_smtputf8,
        deadline=soon(seconds),
    )
    if None in answers:
        await connection.send_content(body, FinalDot(), deadline=soon(seconds))
    settled = [answer or await connection.read_answer(deadline=soon(seconds)) for answer in answers]
    connection.check_in_step()
    return settled


def codes(answers: list[Answer]) -> list[tuple[Stage, int]]:
    return [(answer.stage, answer.reply.code) for answer in answers]


@pytest.mark.parametrize("capabilities", [("PIPELINING",), ()])
async def test_a_message_arrives_byte_for_byte_with_one_answer_per_recipient(capabilities: tuple[str, ...]) -> None:
    async with LmtpTestServer(capabilities=capabilities) as server, connected(server) as connection:
        answers = await transact(connection, ALICE, BOB)
        assert [answer.reply.text for answer in answers] == [
            "<alice@example.org> saved <1@x>",
            "<bob@example.org> saved <1@x>",
        ]
        assert server.messages[0].content == b"".join(BODY)
        assert connection.is_reusable


async def test_a_unix_socket_serves_as_well(tmp_path: Path) -> None:
    async with LmtpTestServer(unix_path=str(tmp_path / "lmtp")) as server, connected(server) as connection:
        assert codes(await transact(connection)) == [(Stage.CONTENT, 250)]


async def test_parameters_are_used_only_where_they_are_offered() -> None:
    sender = parse_mailbox("jörg@bücher.example")
    async with LmtpTestServer(capabilities=["SIZE", "8BITMIME", "SMTPUTF8"]) as server, connected(server) as connection:
        await transact(connection, sender=sender, is_8bit=True, is_smtputf8=True)
        assert server.commands[1][1] == "MAIL FROM:<jörg@bücher.example> SIZE=35 BODY=8BITMIME SMTPUTF8"
    async with LmtpTestServer(capabilities=[]) as server, connected(server) as connection:
        await transact(connection, sender=parse_mailbox("joerg@bücher.example"), is_8bit=True)
        assert server.commands[1][1] == "MAIL FROM:<joerg@xn--bcher-kva.example>"


async def test_a_refused_recipient_does_not_hold_the_other_up() -> None:
    async with LmtpTestServer(known=["bob@example.org"]) as server, connected(server) as connection:
        assert codes(await transact(connection, ALICE, BOB)) == [(Stage.RCPT, 550), (Stage.CONTENT, 250)]
        assert connection.is_reusable


@pytest.mark.parametrize("capabilities", [("PIPELINING",), ()])
@pytest.mark.parametrize("stage", [Stage.MAIL, Stage.RCPT, Stage.DATA])
async def test_a_refusal_before_the_content_leaves_the_connection_fit_for_the_next_transaction(
    stage: Stage, capabilities: tuple[str, ...]
) -> None:
    async with LmtpTestServer(capabilities=capabilities) as server, connected(server) as connection:
        server.at[stage.value] = say("452 4.3.1 no")
        assert codes(await transact(connection, ALICE, BOB)) == [(stage, 452)] * 2
        server.at.clear()
        assert codes(await transact(connection, BOB)) == [(Stage.CONTENT, 250)]
        assert [message.recipients for message in server.messages] == [("bob@example.org",)]


async def test_354_with_every_recipient_refused_ends_in_a_close_and_never_in_an_empty_message() -> None:
    async with LmtpTestServer(known=[]) as server, connected(server) as connection:
        server.at["DATA"] = say("354 go on")
        assert codes(await transact(connection)) == [(Stage.RCPT, 550)]
        assert not connection.is_reusable
        await server.reached("CLOSED")
        assert server.messages == []


async def test_each_recipient_may_get_another_answer_after_the_final_dot() -> None:
    async with LmtpTestServer() as server, connected(server) as connection:
        server.at["DOT", "alice@example.org"] = say("552-5.2.2 full\n552 5.2.2 really")
        answers = await transact(connection, ALICE, BOB)
        assert codes(answers) == [(Stage.CONTENT, 552), (Stage.CONTENT, 250)]
        assert answers[0].reply.enhanced == "5.2.2"


async def test_a_recipient_is_asked_for_without_a_message() -> None:
    async with LmtpTestServer(known=["bob@example.org"]) as server, connected(server) as connection:
        unknown = await connection.ask_recipient(ALICE, is_smtputf8=False, deadline=soon())
        known = await connection.ask_recipient(BOB, is_smtputf8=False, deadline=soon())
        assert codes([unknown, known]) == [(Stage.RCPT, 550), (Stage.RCPT, 250)]
        assert [line for _, line in server.commands[1:4]] == [
            "MAIL FROM:<>",
            "RCPT TO:<alice@example.org>",
            "RSET",
        ]
        assert connection.is_reusable


MISBEHAVIOUR: dict[str, tuple[Action, type[LmtpError]]] = {
    "silent": (silent(), LmtpTimeout),
    "closes": (close(), LmtpConnectionLost),
    "closes in the middle of a reply": (close_mid_reply(), LmtpConnectionLost),
    "resets": (reset_connection(), LmtpConnectionLost),
    "garbage": (say("hello there"), LmtpOutOfStep),
    "binary": (send(b"\x00\xff\x00\r\n"), LmtpOutOfStep),
    "endless line": (send(b"250 " + b"a" * 5000), LmtpOutOfStep),
    "endless reply": (send(b"250-a\r\n" * 1000), LmtpOutOfStep),
    "1xx": (say("100 what"), LmtpOutOfStep),
    "3xx": (say("334 what"), LmtpOutOfStep),
    "changing code": (send(b"250-a\r\n550 b\r\n"), LmtpOutOfStep),
}


@pytest.mark.parametrize("stage", BEFORE_DOT)
@pytest.mark.parametrize("how", MISBEHAVIOUR)
@pytest.mark.parametrize("capabilities", [("PIPELINING",), ()])
async def test_misbehaviour_before_the_final_dot_ends_the_connection_and_no_dot_leaves(
    stage: str, how: str, capabilities: tuple[str, ...]
) -> None:
    action, error = MISBEHAVIOUR[how]
    async with LmtpTestServer(capabilities=capabilities) as server, connected(server) as connection:
        server.at[stage] = action
        with pytest.raises(error) as caught:
            await transact(connection, seconds=0.2 if error is LmtpTimeout else 5)
        assert not caught.value.is_final_dot_sent
        assert not connection.is_reusable
        assert server.messages == []


@pytest.mark.parametrize("how", MISBEHAVIOUR)
async def test_misbehaviour_after_the_final_dot_says_that_the_dot_had_left(how: str) -> None:
    action, error = MISBEHAVIOUR[how]
    async with LmtpTestServer() as server, connected(server) as connection:
        server.at["DOT"] = action
        with pytest.raises(error) as caught:
            await transact(connection, seconds=0.2 if error is LmtpTimeout else 5)
        assert caught.value.is_final_dot_sent
        assert not connection.is_reusable


@pytest.mark.parametrize("capabilities", [("PIPELINING",), ()])
@pytest.mark.parametrize(
    ("stage", "code"),
    [
        (stage, code)
        for stage in BEFORE_DOT
        for code in (200, 211, 214, 220, 221, 235, 251, 252)
        if (stage, code) != ("RCPT", 251)  # a yes
    ],
)
async def test_a_2xx_that_answers_another_command_is_no_yes_and_no_dot_leaves(
    stage: str, code: int, capabilities: tuple[str, ...]
) -> None:
    async with LmtpTestServer(capabilities=capabilities) as server, connected(server) as connection:
        server.at[stage] = say(f"{code} 2.0.0 what")
        with pytest.raises(LmtpOutOfStep, match=f"answered {stage} with {code}") as caught:
            await transact(connection)
        assert not caught.value.is_final_dot_sent
        assert not connection.is_reusable
        assert server.messages == []


@pytest.mark.parametrize("code", [200, 211, 214, 220, 221, 235, 251, 252])
async def test_a_2xx_other_than_250_after_the_final_dot_confirms_nothing(code: int) -> None:
    async with LmtpTestServer() as server, connected(server) as connection:
        server.at["DOT"] = say(f"{code} 2.0.0 what")
        with pytest.raises(LmtpOutOfStep, match=f"answered final dot with {code}") as caught:
            await transact(connection)
        assert caught.value.is_final_dot_sent
        assert not connection.is_reusable


async def test_251_is_a_yes_to_rcpt() -> None:
    async with LmtpTestServer() as server, connected(server) as connection:
        server.at["RCPT"] = say("251 2.1.5 will forward")
        assert codes([await connection.ask_recipient(ALICE, is_smtputf8=False, deadline=soon())]) == [(Stage.RCPT, 251)]
        assert codes(await transact(connection)) == [(Stage.CONTENT, 250)]


@pytest.mark.parametrize("reply", ["221 2.0.0 bye", "252 2.0.0 cannot say", "451 4.3.0 no"])
async def test_a_reset_that_is_not_confirmed_with_250_ends_the_connection(reply: str) -> None:
    async with LmtpTestServer() as server, connected(server) as connection:
        server.at["RSET"] = say(reply)
        with pytest.raises(LmtpOutOfStep, match=f"RSET with {reply[:3]}"):
            await connection.ask_recipient(ALICE, is_smtputf8=False, deadline=soon())
        assert not connection.is_reusable


@pytest.mark.parametrize("stage", BEFORE_DOT)
async def test_an_extra_reply_before_the_final_dot_stops_the_dot(stage: str) -> None:
    async with LmtpTestServer() as server, connected(server) as connection:
        server.at[stage] = extra()
        with pytest.raises(LmtpOutOfStep) as caught:
            await transact(connection)
        assert not caught.value.is_final_dot_sent
        assert server.messages == []


async def test_an_extra_reply_beside_the_answer_makes_the_answer_worthless() -> None:
    async with LmtpTestServer() as server, connected(server) as connection:
        server.at["DOT"] = extra()
        with pytest.raises(LmtpOutOfStep) as caught:
            await transact(connection)
        assert caught.value.is_final_dot_sent


async def test_a_farewell_beside_the_answer_leaves_the_answer_standing() -> None:
    async with LmtpTestServer() as server, connected(server) as connection:
        server.at["DOT"] = extra("421 4.3.2 shutting down")
        assert codes(await transact(connection)) == [(Stage.CONTENT, 250)]
        assert not connection.is_reusable


@pytest.mark.parametrize("stage", BEFORE_DOT)
async def test_421_before_the_final_dot_is_the_end_of_the_session(stage: str) -> None:
    async with LmtpTestServer() as server, connected(server) as connection:
        server.at[stage] = close("421 4.3.2 going down")
        with pytest.raises(LmtpClosing):
            await transact(connection)
        assert not connection.is_reusable


async def test_421_after_the_final_dot_answers_one_recipient_and_the_connection_is_not_used_again() -> None:
    async with LmtpTestServer() as server, connected(server) as connection:
        server.at["DOT", "alice@example.org"] = say("421 4.3.2 shutting down")
        assert codes(await transact(connection, ALICE, BOB)) == [(Stage.CONTENT, 421), (Stage.CONTENT, 250)]
        assert not connection.is_reusable


@pytest.mark.parametrize("pushed", [b"250 2.0.0 hello?\r\n", b"421 4.4.2 idle for too long\r\n"])
async def test_bytes_on_an_idle_connection_make_it_useless(pushed: bytes) -> None:
    async with LmtpTestServer() as server, connected(server) as connection:
        await transact(connection)
        server.push(pushed)
        await server.reached("CLOSED")
        assert not connection.is_reusable
        with pytest.raises(LmtpError):
            await transact(connection)


async def test_half_a_reply_that_nobody_asked_for_is_enough() -> None:
    stream = ReplyStream(asyncio.get_running_loop())
    assert stream.is_quiet
    stream.data_received(b"25")
    assert not stream.is_quiet


async def test_a_closed_idle_connection_is_not_reusable() -> None:
    async with LmtpTestServer() as server, connected(server) as connection:
        await transact(connection)
        server.hang_up()
        await server.reached("CLOSED")
        assert not connection.is_reusable
        with pytest.raises(LmtpConnectionLost):
            await transact(connection)
        assert not connection.has_answered


async def test_a_body_with_a_bare_newline_never_gets_its_final_dot() -> None:
    async with LmtpTestServer() as server, connected(server) as connection:
        with pytest.raises(UnsafeContent):
            await transact(connection, body=(b"a\r\n", b"\n.\n", b"MAIL FROM:<>\r\n"))
        assert not connection.is_reusable
        connection.abort()
        await server.reached("CLOSED")
        assert server.messages == []


async def test_a_server_that_stops_reading_holds_the_message_up_only_until_the_deadline() -> None:
    async with LmtpTestServer() as server, connected(server) as connection:
        server.at["DATA"] = not_reading()
        with pytest.raises(LmtpTimeout) as caught:
            await transact(connection, body=(b"a" * 998 + b"\r\n",) * 20_000, seconds=0.5)
        assert not caught.value.is_final_dot_sent
        server.release.set()


async def test_a_large_message_arrives_whole() -> None:
    line = b"." + b"x" * 97 + b"\r\n"
    async with LmtpTestServer() as server, connected(server) as connection:
        await transact(connection, body=(line * 3, line * 50_000, b"", line))
        assert server.messages[0].content == line * 50_004


@pytest.mark.parametrize(
    "body",
    [
        [b""],
        [b"a\r\n"],
        [b"no line end"],
        [b".\r\n"],
        [b"a\r\n.\r\n", b".\r\n"],
        [b"a\r\n.", b"\r", b"\n"],
        [(b"x" * 62 + b"\r\n") * 1024],  # one slice to the octet
        [(b"x" * 62 + b"\r\n") * 1024, b".\r\n"],
        [b"." * 62 + b"\r\n"] * 5000,
    ],
)
async def test_a_final_dot_that_may_not_leave_delivers_nothing_whatever_was_written_before(body: list[bytes]) -> None:
    async with LmtpTestServer() as server, connected(server) as connection:
        await connection.open_transaction(
            None, [ALICE], size_bytes=0, is_8bit=False, is_smtputf8=False, deadline=soon()
        )
        dot = FinalDot(lambda: False)
        with pytest.raises(DotWithheld):
            await connection.send_content(body, dot, deadline=soon())
        assert (dot.has_left, connection.is_final_dot_sent, connection.is_reusable) == (False, False, False)
        connection.abort()
        await server.reached("CLOSED")
        assert (server.messages, server.count("DOT")) == ([], 0)


async def test_content_that_cannot_be_sent_never_asks_for_the_final_dot() -> None:
    async with LmtpTestServer() as server, connected(server) as connection:
        await connection.open_transaction(
            None, [ALICE], size_bytes=0, is_8bit=False, is_smtputf8=False, deadline=soon()
        )
        dot = FinalDot()
        with pytest.raises(UnsafeContent):
            await connection.send_content([b"a\r\nb\r"], dot, deadline=soon())
        assert not dot.has_left


async def test_a_cancelled_transaction_leaves_a_connection_nobody_may_use() -> None:
    async with LmtpTestServer() as server, connected(server) as connection:
        server.at["MAIL"] = silent()
        task = asyncio.create_task(transact(connection))
        await server.reached("MAIL")
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert not connection.is_reusable


async def test_reading_the_answer_goes_on_after_a_cancellation() -> None:
    async with LmtpTestServer() as server, connected(server) as connection:
        server.at["DOT"] = silent()
        answers = await connection.open_transaction(
            None, [ALICE], size_bytes=9, is_8bit=False, is_smtputf8=False, deadline=soon()
        )
        assert answers == [None]
        await connection.send_content(BODY, FinalDot(), deadline=soon())
        reading = asyncio.create_task(connection.read_answer(deadline=soon()))
        await server.reached("DOT")
        reading.cancel()
        await asyncio.wait([reading])
        server.push(b"250 2.0.0 at last\r\n")
        assert (await connection.read_answer(deadline=soon())).reply.text == "at last"
        assert connection.is_reusable


@pytest.mark.parametrize(
    ("stage", "action", "error"),
    [
        ("CONNECT", silent(), LmtpUnreachable),
        ("CONNECT", close("421 4.3.2 too many connections"), LmtpUnreachable),
        ("CONNECT", say("554 5.3.2 no service"), LmtpUnreachable),
        ("CONNECT", close(), LmtpConnectionLost),
        ("CONNECT", say("HTTP/1.1 400 Bad Request"), LmtpOutOfStep),
        ("LHLO", say("500 5.5.1 this is SMTP"), LmtpUnreachable),
        ("LHLO", close_mid_reply(), LmtpConnectionLost),
        ("LHLO", silent(), LmtpUnreachable),
    ],
)
async def test_no_session_comes_of_a_server_that_will_not_speak(
    stage: str, action: Action, error: type[LmtpError]
) -> None:
    async with LmtpTestServer() as server:
        server.at[stage] = action
        with pytest.raises(error):
            await connect_lmtp(parse_server(str(server)), hostname="mx.example.org", deadline=soon(0.5))
        await server.reached("CLOSED")


async def test_a_server_that_never_accepts_is_given_up_at_the_deadline() -> None:
    with never_accepting() as address, pytest.raises(LmtpUnreachable, match="in time"):
        await connect_lmtp(parse_server(address), hostname="mx.example.org", deadline=soon(0.2))


async def test_nothing_listening_is_unreachable(tmp_path: Path) -> None:
    for server in (LmtpServer("127.0.0.1", 1), LmtpServer(unix_path=str(tmp_path / "none"))):
        with pytest.raises(LmtpUnreachable):
            await connect_lmtp(server, hostname="mx.example.org", deadline=soon())


def test_server_addresses_are_read_and_written_alike() -> None:
    for text in ("dovecot-0:24", "[2001:db8::1]:24", "192.0.2.1:65535", "unix:/run/lmtp"):
        assert str(parse_server(text)) == text
    for text in ("dovecot", "dovecot:0", "dovecot:65536", "unix:", ":24", "a:b:24", "2001:db8::1:24"):
        with pytest.raises(ValueError, match="HOST:PORT"):
            parse_server(text)
