"""SmtpService by itself, on a transport in memory: writes, handlers written for aiosmtpd, hand-off, budget."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from email.message import Message as EmailMessage
from typing import Any

import pytest
from aiosmtpd.handlers import Message

from mailflow.mail.reply import ProtocolError, Reply
from mailflow.observe.nursery import Nursery
from mailflow.smtp.budget import ByteBudget
from mailflow.smtp.connection import RECLAIM_EVERY_S, RESERVED_AHEAD_S, SmtpService
from mailflow.smtp.server import SmtpSession
from mailflow.smtp.transaction import Client, SmtpOptions, Transaction
from tests.scenario.memory import MemoryClient

BANNER = b"220 mx.test ESMTP\r\n"
ENVELOPE = b"MAIL FROM:<bob@client.test>\r\nRCPT TO:<alice@example.org>\r\n"
LOCAL_ERROR = "451 4.3.0 Local error in processing, try again later"


class Faults:
    """Counts what the service calls exceptions of ours."""

    def __init__(self) -> None:
        self.count = 0

    def note(self) -> None:
        self.count += 1


def make_service(handler: Any, faults: Faults | None = None, **options: Any) -> SmtpService:
    faults = faults or Faults()
    return SmtpService(
        handler=handler,
        options=SmtpOptions("mx.test", **options),
        budget=ByteBudget(100000),
        nursery=Nursery(on_failure=faults.note),
        on_internal_error=faults.note,
    )


CONNECTED: list[MemoryClient] = []


def connect(service: SmtpService) -> MemoryClient:
    client = MemoryClient(SmtpSession(service))
    CONNECTED.append(client)
    return client


@pytest.fixture(autouse=True)
async def _disconnect_clients() -> AsyncGenerator[None]:
    """A session left open at the end of the loop would linger for its client."""
    yield
    while CONNECTED:
        CONNECTED.pop().close()


async def greet(service: SmtpService) -> MemoryClient:
    client = connect(service)
    client.send(b"HELO client.test\r\n")
    assert await client.replies(2) == ["220 mx.test ESMTP", "250 mx.test"]
    return client


async def greet_extended(service: SmtpService) -> MemoryClient:
    client = connect(service)
    await client.reply()
    client.send(b"EHLO client.test\r\n")
    await client.reply()
    return client


class Gate:
    """A handler whose hand-off lasts until the test lets it end."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.may_end = asyncio.Event()
        self.has_ended = asyncio.Event()

    async def handle_DATA(self, server: SmtpSession, session: Client, envelope: Transaction) -> Reply:
        self.entered.set()
        await self.may_end.wait()
        self.has_ended.set()
        return Reply(250, "2.0.0", "Ok")


# Writes.


async def test_replies_of_a_pipelined_group_leave_in_one_write() -> None:
    client = await greet(make_service(object()))
    client.transport.writes.clear()
    client.send(b"NOOP\r\nRSET\r\n" + ENVELOPE + b"DATA\r\n")
    await client.replies(5)
    assert client.transport.writes == [
        b"250 2.0.0 Ok\r\n250 2.0.0 Ok\r\n250 2.1.0 Sender ok\r\n250 2.1.5 Recipient ok\r\n"
        b"354 End data with <CR><LF>.<CR><LF>\r\n"
    ]


async def test_reply_of_one_message_leaves_with_those_of_the_next_group() -> None:
    client = await greet(make_service(object()))
    client.send(ENVELOPE + b"DATA\r\n")
    await client.replies(3)
    client.transport.writes.clear()
    client.send(b"hello\r\n.\r\n" + ENVELOPE + b"DATA\r\n")
    await client.replies(4)
    assert len(client.transport.writes) == 1


async def test_banner_leaves_before_anything_was_said() -> None:
    client = connect(make_service(object()))
    assert await client.reply() == "220 mx.test ESMTP"
    assert client.transport.writes == [BANNER]


# Handlers written for aiosmtpd.


class Collector(Message):
    """A stock handler: aiosmtpd's own handle_DATA, which answers with a status line."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[EmailMessage] = []

    def handle_message(self, message: EmailMessage) -> None:
        self.taken.append(message)


async def test_stock_aiosmtpd_handler_takes_the_message() -> None:
    handler = Collector()
    client = await greet(make_service(handler))
    client.send(ENVELOPE + b"DATA\r\nSubject: hi\r\n\r\n..body\r\n.\r\n")
    assert (await client.replies(4))[-1] == "250 OK"
    (message,) = handler.taken
    assert message["Subject"] == "hi"
    assert message["X-MailFrom"] == "bob@client.test"
    assert message["X-RcptTo"] == "alice@example.org"
    assert message.get_payload() == ".body\r\n"


async def test_aiosmtpd_hook_that_notes_the_recipient_itself_does_not_double_it() -> None:
    seen: list[list[str]] = []

    class Handler:
        async def handle_RCPT(
            self, server: SmtpSession, session: Client, envelope: Transaction, address: str, options: list[str]
        ) -> str:
            envelope.rcpt_tos.append(address)
            return "250 OK"

        async def handle_DATA(self, server: SmtpSession, session: Client, envelope: Transaction) -> str:
            seen.append(envelope.rcpt_tos)
            return "550 5.7.1 not today"

    client = await greet(make_service(Handler()))
    client.send(ENVELOPE + b"DATA\r\nhello\r\n.\r\n")
    assert await client.replies(4) == [
        "250 2.1.0 Sender ok",
        "250 OK",
        "354 End data with <CR><LF>.<CR><LF>",
        "550 5.7.1 not today",
    ]
    assert seen == [["alice@example.org"]]


class Raises:
    """A handler with a fault at one hook."""

    def __init__(self, hook: str, error: Exception) -> None:
        async def raise_it(*_: Any) -> None:
            raise error

        setattr(self, f"handle_{hook}", raise_it)


@pytest.mark.parametrize(("hook", "place"), [("MAIL", 0), ("RCPT", 1), ("DATA", 3)])
async def test_hook_that_raises_is_451_and_the_session_goes_on(hook: str, place: int) -> None:
    faults = Faults()
    client = await greet(make_service(Raises(hook, ValueError("/etc/secret")), faults))
    segments = (b"MAIL FROM:<bob@client.test>\r\n", b"RCPT TO:<a@b.test>\r\n", b"DATA\r\n", b"hello\r\n.\r\n")
    for segment in segments[:place]:
        client.send(segment)
        assert (await client.reply())[0] in "23"
    client.send(segments[place])
    assert await client.reply() == LOCAL_ERROR
    assert faults.count == 1
    client.send(b"NOOP\r\n")
    assert await client.reply() == "250 2.0.0 Ok"


@pytest.mark.parametrize("error", [ValueError(), ProtocolError(Reply(550, "5.7.1", "No"))])
async def test_sender_that_was_refused_leaves_no_transaction(error: Exception) -> None:
    client = await greet(make_service(Raises("MAIL", error)))
    client.send(ENVELOPE)
    assert (await client.replies(2))[1] == "503 5.5.1 Send MAIL first"


async def test_fault_at_connect_ends_the_session_with_421() -> None:
    faults = Faults()
    service = make_service(Raises("CONNECT", ValueError("/etc/secret")), faults)
    client = connect(service)
    assert await client.rest() == b"421 4.3.0 Local error, closing connection\r\n"
    client.close()
    assert await service.nursery.wait_empty(5)
    assert faults.count == 1
    assert not service.sessions


async def test_hook_that_answers_421_ends_the_session() -> None:
    client = await greet(make_service(Raises("MAIL", ProtocolError(Reply(421, "4.7.0", "Go away")))))
    client.send(ENVELOPE)
    assert await client.rest() == b"421 4.7.0 Go away\r\n"


# The hand-off.


@pytest.mark.parametrize("leave", [MemoryClient.close, MemoryClient.half_close])
async def test_hand_off_is_not_cancelled_when_the_client_goes(leave: Callable[[MemoryClient], None]) -> None:
    gate = Gate()
    service = make_service(gate)
    client = await greet(service)
    client.send(ENVELOPE + b"DATA\r\nhello\r\n.\r\n")
    await gate.entered.wait()
    leave(client)
    await asyncio.sleep(0)  # the loss reaches the session
    gate.may_end.set()
    client.close()
    assert await service.nursery.wait_empty(5)
    assert gate.has_ended.is_set()


async def test_result_of_the_hand_off_is_told_after_a_half_close() -> None:
    gate = Gate()
    client = await greet(make_service(gate))
    client.send(ENVELOPE + b"DATA\r\nhello\r\n.\r\n")
    await client.replies(3)
    client.half_close()
    await gate.entered.wait()
    gate.may_end.set()
    assert await client.rest() == b"250 2.0.0 Ok\r\n"


async def test_hand_off_is_not_cut_by_a_drain_or_a_timeout() -> None:
    gate = Gate()
    service = make_service(gate, command_timeout_s=0.01, data_timeout_s=0.01)
    client = await greet(service)
    client.send(ENVELOPE + b"DATA\r\nhello\r\n.\r\n")
    await client.replies(3)
    await gate.entered.wait()
    service.drain()
    assert not await service.nursery.wait_empty(0.05)
    gate.may_end.set()
    assert await client.rest() == b"250 2.0.0 Ok\r\n421 4.3.2 Service shutting down, try again later\r\n"


async def test_session_that_is_cut_leaves_the_hand_off_alone() -> None:
    gate = Gate()
    service = make_service(gate)
    client = await greet(service)
    client.send(ENVELOPE + b"DATA\r\nhello\r\n.\r\n")
    await gate.entered.wait()
    (session_task,) = (task for task in asyncio.all_tasks() if task.get_name() == "smtp session")
    session_task.cancel()
    await asyncio.wait({session_task})
    gate.may_end.set()
    assert await service.nursery.wait_empty(5)
    assert gate.has_ended.is_set()


# The budget.

SIZED = b"MAIL FROM:<bob@client.test> SIZE=5000\r\nRCPT TO:<alice@example.org>\r\n"
PATHS = {
    "delivered": SIZED + b"DATA\r\nhello\r\n.\r\n",
    "more than declared": SIZED + b"DATA\r\n" + b"hello\r\n" * 1000 + b".\r\n",
    "RSET": SIZED + b"RSET\r\n",
    "EHLO": SIZED + b"EHLO client.test\r\n",
    "QUIT": SIZED + b"QUIT\r\n",
    "gone behind MAIL": SIZED,
    "gone inside DATA": SIZED + b"DATA\r\n" + b"hello\r\n" * 1000,
    "gone inside BDAT": SIZED + b"BDAT 9000\r\n" + b"hello\r\n" * 1000,
    "gone between chunks": SIZED + b"BDAT 7\r\nhello\r\n",
    "bare newline": SIZED + b"DATA\r\nhello\n",
    "bare newline in a command": SIZED + b"NOOP\n",
    "too large": ENVELOPE + b"DATA\r\n" + b"hello\r\n" * 2000 + b".\r\n",
    "line too long": ENVELOPE + b"DATA\r\n" + b"x" * 3000 + b"\r\n.\r\n",
    "chunk too large": ENVELOPE + b"BDAT 14000\r\n" + b"hello\r\n" * 2000,
    "chunk after a failed one": ENVELOPE + b"BDAT 14000\r\n" + b"hello\r\n" * 2000 + b"BDAT 7 LAST\r\nhello\r\n",
    "refused sender, declared size": b"MAIL FROM:<refused@client.test> SIZE=5000\r\n",
    "faulty hook, declared size": b"MAIL FROM:<fault@client.test> SIZE=5000\r\n",
    "refused message": SIZED.replace(b"bob", b"late") + b"DATA\r\nhello\r\n.\r\n",
    "message with a fault": SIZED.replace(b"bob", b"crash") + b"DATA\r\nhello\r\n.\r\n",
}


class Moody:
    """A handler that refuses or breaks by the sender's name."""

    async def handle_MAIL(
        self, server: SmtpSession, session: Client, envelope: Transaction, address: str, options: list[str]
    ) -> str | None:
        assert not address.startswith("fault")
        return "550 no" if address.startswith("refused") else None

    async def handle_DATA(self, server: SmtpSession, session: Client, envelope: Transaction) -> str:
        assert envelope.mail_from
        assert not envelope.mail_from.startswith("crash")
        return "451 later" if envelope.mail_from.startswith("late") else "250 OK"


@pytest.mark.parametrize("sent", PATHS.values(), ids=PATHS)
async def test_budget_is_given_back_on_every_path(sent: bytes) -> None:
    service = make_service(Moody(), max_message_bytes=10000)
    client = await greet_extended(service)
    client.send(sent)
    for _ in range(20):  # as many turns of the loop as it takes to run what has come
        await asyncio.sleep(0)
    client.close()
    assert await service.nursery.wait_empty(5)
    assert service.budget.reserved_bytes == 0
    assert not service.sessions


async def test_budget_holds_what_was_declared_until_more_has_come() -> None:
    service = make_service(object(), max_message_bytes=10000)
    client = await greet_extended(service)
    client.send(SIZED)
    await client.replies(2)
    assert service.budget.reserved_bytes == 5000
    client.send(b"BDAT 3500\r\n" + b"hello\r\n" * 500)
    await client.reply()
    assert service.budget.reserved_bytes == 5000
    client.send(b"BDAT 3500\r\n" + b"hello\r\n" * 500)
    await client.reply()
    assert service.budget.reserved_bytes == 7000
    client.send(b"BDAT 0 LAST\r\n")
    await client.reply()
    assert service.budget.reserved_bytes == 0
    client.close()


# Coming and going.


@pytest.mark.parametrize("leave", [MemoryClient.close, MemoryClient.half_close])
async def test_admitted_clients_are_counted_out_once(leave: Callable[[MemoryClient], None]) -> None:
    left: list[str] = []
    service = make_service(object())
    service.leave = left.append
    client = await greet(service)
    leave(client)
    assert await client.rest() == b""
    client.close()
    assert await service.nursery.wait_empty(5)
    assert left == ["127.0.0.1"]


async def test_refused_client_is_told_why_and_not_counted_out() -> None:
    left: list[str] = []
    service = make_service(object())

    async def refuse(ip: str) -> Reply:
        return Reply(421, "4.7.0", f"Not you, {ip}")

    service.admit = refuse
    service.leave = left.append
    client = connect(service)
    assert await client.rest() == b"421 4.7.0 Not you, 127.0.0.1\r\n"
    client.close()
    assert await service.nursery.wait_empty(5)
    assert left == []


async def test_a_fault_at_admission_is_no_refusal_that_lingers() -> None:
    faults = Faults()
    service = make_service(object(), faults)

    async def fail(ip: str) -> Reply:
        raise RuntimeError(ip)

    service.admit = fail
    client = connect(service)
    assert await client.rest() == b"421 4.3.0 Local error, closing connection\r\n"
    client.close()
    assert await service.nursery.wait_empty(5)
    assert (service.refused_lingering, faults.count) == (0, 1)


# What a hostile client must not hold.


async def test_octets_declared_long_ago_and_not_sent_are_taken_back_when_others_need_them() -> None:
    service = make_service(object())
    holder = await greet_extended(service)
    holder.send(b"MAIL FROM:<bob@client.test> SIZE=90000\r\n")
    assert await holder.reply() == "250 2.1.0 Sender ok"
    (session,) = service.sessions
    other = await greet_extended(service)
    other.send(b"MAIL FROM:<ann@client.test> SIZE=50000\r\n")
    assert await other.reply() == "452 4.3.1 Too many messages in flight, try again later"

    session.envelope.declared_at -= RESERVED_AHEAD_S + 1
    service.reclaimed_at -= RECLAIM_EVERY_S
    other.send(b"MAIL FROM:<ann@client.test> SIZE=50000\r\n")
    assert await other.reply() == "250 2.1.0 Sender ok"
    assert service.budget.reserved_bytes == 50000
    holder.send(b"RCPT TO:<alice@example.org>\r\nDATA\r\n")
    await holder.replies(2)
    holder.send(b"hello\r\n.\r\n")
    assert await holder.reply() == "250 2.0.0 Ok"


async def test_replies_before_a_chunk_do_not_wait_for_its_octets() -> None:
    client = await greet_extended(make_service(object()))
    client.send(ENVELOPE + b"BDAT 7 LAST\r\n")
    assert await client.replies(2) == ["250 2.1.0 Sender ok", "250 2.1.5 Recipient ok"]
    client.send(b"hello\r\n")
    assert await client.reply() == "250 2.0.0 Ok"


async def test_reply_to_an_earlier_chunk_does_not_wait_for_the_hand_off() -> None:
    gate = Gate()
    client = await greet_extended(make_service(gate))
    client.send(ENVELOPE + b"BDAT 7\r\nhello\r\nBDAT 0 LAST\r\n")
    await gate.entered.wait()
    assert (await client.replies(3))[2] == "250 2.0.0 7 octets received"
    gate.may_end.set()
    assert await client.reply() == "250 2.0.0 Ok"


async def test_chunks_together_are_held_to_the_rate_of_a_message() -> None:
    client = await greet_extended(make_service(object(), data_timeout_s=0.1, min_data_rate=10**8))
    client.send(ENVELOPE)
    await client.replies(2)
    reply = ""
    for _ in range(10_000):  # each chunk comes at once; all of them are far too little
        client.send(b"BDAT 4\r\nhi\r\n")
        reply = await client.reply()
        if not reply.startswith("250"):
            break
    assert reply == "421 4.4.2 Timeout, closing connection"


async def test_drain_does_not_wait_for_a_client_that_does_not_read() -> None:
    service = make_service(object())
    await greet(service)
    (session,) = service.sessions
    session.pause_writing()
    service.drain()
    assert await service.nursery.wait_empty(1.0)


# Refused before the content.


class Doorkeeper:
    """A handler whose READY hook does what the test says, and which keeps what it took."""

    def __init__(self, *answers: Reply | Exception | None) -> None:
        self.answers = list(answers)
        self.taken: list[bytes | None] = []

    async def handle_READY(self, server: SmtpSession, session: Client, envelope: Transaction) -> Reply | None:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def handle_DATA(self, server: SmtpSession, session: Client, envelope: Transaction) -> Reply | None:
        self.taken.append(envelope.original_content)
        return None


NO_ROOM = Reply(452, "4.3.1", "No room")


async def test_a_transaction_refused_before_its_content_can_try_data_again() -> None:
    keeper = Doorkeeper(NO_ROOM, ProtocolError(NO_ROOM), None)
    client = await greet(make_service(keeper))
    client.send(ENVELOPE + b"DATA\r\nDATA\r\nDATA\r\n")
    assert (await client.replies(5))[2:] == ["452 4.3.1 No room"] * 2 + ["354 End data with <CR><LF>.<CR><LF>"]
    client.send(b"hello\r\n.\r\n")
    assert await client.reply() == "250 2.0.0 Ok"
    assert keeper.taken == [b"hello\r\n"]


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (NO_ROOM, "452 4.3.1 No room"),
        (ProtocolError(NO_ROOM), "452 4.3.1 No room"),
        (RuntimeError("a fault of ours"), LOCAL_ERROR),
    ],
)
async def test_a_refused_chunk_is_swallowed_whatever_refused_it(answer: Reply | Exception, reply: str) -> None:
    faults = Faults()
    keeper = Doorkeeper(answer, None)
    client = await greet(make_service(keeper, faults))
    client.send(ENVELOPE + b"BDAT 6 LAST\r\nQUIT\r\n" + ENVELOPE + b"BDAT 3\r\na\r\nBDAT 3 LAST\r\nb\r\n")
    assert (await client.replies(7))[2:] == [
        reply,
        "250 2.1.0 Sender ok",
        "250 2.1.5 Recipient ok",
        "250 2.0.0 3 octets received",
        "250 2.0.0 Ok",
    ]
    assert (keeper.taken, keeper.answers) == ([b"a\r\nb\r\n"], []), "asked at the first chunk alone"
    assert faults.count == (reply == LOCAL_ERROR)


async def test_a_refusal_that_closes_ends_the_session() -> None:
    client = await greet(make_service(Doorkeeper(ProtocolError(Reply(421, "4.3.2", "Going"), closes=True))))
    client.send(ENVELOPE + b"DATA\r\n")
    assert (await client.replies(3))[2] == "421 4.3.2 Going"
    assert await client.rest() == b""


async def test_replies_before_a_refused_chunk_do_not_wait_for_its_octets() -> None:
    client = await greet(make_service(Doorkeeper(NO_ROOM)))
    client.send(ENVELOPE + b"BDAT 6 LAST\r\n")
    assert await client.replies(2) == ["250 2.1.0 Sender ok", "250 2.1.5 Recipient ok"]
    client.send(b"QUIT\r\n")
    assert await client.reply() == "452 4.3.1 No room"
