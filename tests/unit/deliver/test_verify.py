"""The memory of recipient verification, on a clock under control and a server in a dictionary."""

import asyncio
from collections.abc import Callable
from typing import Literal

import pytest

from mailflow.deliver.verify import BAD_S, GOOD_S, REFRESH_S, SILENT_S, TRUSTED_S, UNREACHABLE_S, RecipientVerifier
from mailflow.mail.address import Address, parse_mailbox
from mailflow.mail.handoff import RecipientStatus, Verification
from mailflow.mail.reply import Reply
from mailflow.observe.nursery import Nursery
from mailflow.smtp.lmtp import Answer, Stage
from mailflow.smtp.lmtp_errors import (
    LmtpClosing,
    LmtpConnectionLost,
    LmtpError,
    LmtpOutOfStep,
    LmtpTimeout,
    LmtpUnreachable,
)
from mailflow.testing import FakeClock

ALICE = parse_mailbox("alice@example.org")
BOB = parse_mailbox("bob@example.org")
GOOD, REFUSED, UNVERIFIABLE = RecipientStatus.GOOD, RecipientStatus.REFUSED, RecipientStatus.UNVERIFIABLE
OK = Answer(Stage.RCPT, Reply(250, "2.1.5", "ok"))
UNKNOWN = Answer(Stage.RCPT, Reply(550, "5.1.1", "unknown"))
FULL = Answer(Stage.RCPT, Reply(452, "4.2.2", "full"))
BUSY = Answer(Stage.RCPT, Reply(451, "4.3.2", "busy"))


class Mailboxes:
    """The server side: `answer` for everybody, `error` where it is None; `gate` holds answers back."""

    def __init__(self) -> None:
        self.answer: Answer | None = OK
        self.error: LmtpError = LmtpUnreachable("nobody there")
        self.asked: list[Address] = []
        self.was_asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def ask(self, address: Address) -> Answer:
        self.asked.append(address)
        self.was_asked.set()
        await self.gate.wait()
        if self.answer is None:
            raise self.error
        return self.answer


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def mailboxes() -> Mailboxes:
    return Mailboxes()


Make = Callable[..., RecipientVerifier]


@pytest.fixture
def make(mailboxes: Mailboxes, clock: FakeClock, nursery: Nursery) -> Make:
    def make(when_unverifiable: Literal["defer", "accept"] = "defer", max_entries: int = 100) -> RecipientVerifier:
        return RecipientVerifier(
            mailboxes.ask, when_unverifiable=when_unverifiable, nursery=nursery, clock=clock, max_entries=max_entries
        )

    return make


async def test_a_good_answer_lives_an_hour(make: Make, mailboxes: Mailboxes, clock: FakeClock) -> None:
    verifier = make()
    assert await verifier.verify(ALICE) == Verification(GOOD, deliver_to=ALICE)
    clock.advance(REFRESH_S - 1)
    await verifier.verify(ALICE)
    assert len(mailboxes.asked) == 1
    clock.advance(GOOD_S)
    await verifier.verify(ALICE)
    assert len(mailboxes.asked) == 2


async def test_a_good_answer_in_use_is_refreshed_in_the_background(
    make: Make, mailboxes: Mailboxes, clock: FakeClock, nursery: Nursery
) -> None:
    verifier = make()
    await verifier.verify(ALICE)
    clock.advance(REFRESH_S)
    mailboxes.gate.clear()
    assert (await verifier.verify(ALICE)).status is GOOD  # without waiting
    mailboxes.gate.set()
    assert await nursery.wait_empty(5)
    assert len(mailboxes.asked) == 2
    clock.advance(REFRESH_S - 1)
    await verifier.verify(ALICE)
    assert len(mailboxes.asked) == 2


async def test_a_bad_answer_lives_a_minute(make: Make, mailboxes: Mailboxes, clock: FakeClock) -> None:
    verifier = make()
    mailboxes.answer = UNKNOWN
    verification = await verifier.verify(ALICE)
    assert (verification.status, verification.is_unknown_user) == (REFUSED, True)
    assert str(verification.reply) == "550 5.1.1 No such user here"
    mailboxes.answer = OK  # the user is made
    clock.advance(BAD_S - 1)
    assert (await verifier.verify(ALICE)).status is REFUSED
    clock.advance(1)
    assert (await verifier.verify(ALICE)).status is GOOD


async def test_a_full_mailbox_is_refused_with_its_own_code_and_is_no_unknown_user(
    make: Make, mailboxes: Mailboxes
) -> None:
    mailboxes.answer = FULL
    verification = await make().verify(ALICE)
    assert (str(verification.reply), verification.is_unknown_user) == ("452 4.2.2 Mailbox full", False)


@pytest.mark.parametrize("answer", [None, BUSY, Answer(Stage.MAIL, Reply(550, "5.7.1", "no null sender"))])
async def test_without_an_answer_an_unknown_address_is_deferred(
    make: Make, mailboxes: Mailboxes, answer: Answer | None
) -> None:
    mailboxes.answer = answer
    verification = await make().verify(ALICE)
    assert verification.status is UNVERIFIABLE
    assert str(verification.reply).startswith("451 4.4.1 ")


async def test_without_an_answer_an_unknown_address_is_taken_where_the_operator_says_so(
    make: Make, mailboxes: Mailboxes
) -> None:
    mailboxes.answer = None
    assert await make("accept").verify(ALICE) == Verification(GOOD, deliver_to=ALICE)


@pytest.mark.parametrize("answer", [None, BUSY])
async def test_without_an_answer_an_address_good_within_a_week_is_taken(
    make: Make, mailboxes: Mailboxes, clock: FakeClock, answer: Answer | None
) -> None:
    verifier = make()
    await verifier.verify(ALICE)
    mailboxes.answer = answer
    clock.advance(TRUSTED_S - 1)
    assert (await verifier.verify(ALICE)).status is GOOD
    clock.advance(1)
    assert (await verifier.verify(ALICE)).status is UNVERIFIABLE


async def test_an_address_that_was_removed_is_not_taken_on_trust(
    make: Make, mailboxes: Mailboxes, clock: FakeClock
) -> None:
    verifier = make()
    await verifier.verify(ALICE)
    clock.advance(GOOD_S)
    mailboxes.answer = UNKNOWN
    await verifier.verify(ALICE)
    clock.advance(BAD_S)
    mailboxes.answer = None
    assert (await verifier.verify(ALICE)).status is UNVERIFIABLE


async def test_an_unreachable_server_is_left_alone_for_a_second(
    make: Make, mailboxes: Mailboxes, clock: FakeClock
) -> None:
    verifier = make()
    mailboxes.answer = None
    await verifier.verify(ALICE)
    for address in (ALICE, BOB):
        assert (await verifier.verify(address)).status is UNVERIFIABLE
    assert mailboxes.asked == [ALICE]
    mailboxes.answer = OK
    clock.advance(UNREACHABLE_S)
    assert (await verifier.verify(BOB)).status is GOOD
    assert (await verifier.verify(ALICE)).status is GOOD


@pytest.mark.parametrize(
    "error",
    [
        LmtpTimeout("waited too long"),
        LmtpConnectionLost("reset"),
        LmtpOutOfStep("garbage"),
        LmtpClosing(Reply(421, "4.3.0", "crashed")),
    ],
)
async def test_an_address_whose_session_broke_is_left_alone_but_others_are_asked_for(
    make: Make, mailboxes: Mailboxes, clock: FakeClock, error: LmtpError
) -> None:
    verifier = make()
    mailboxes.answer, mailboxes.error = None, error
    assert (await verifier.verify(ALICE)).status is UNVERIFIABLE
    mailboxes.answer = OK
    assert (await verifier.verify(BOB)).status is GOOD
    clock.advance(SILENT_S - 0.1)
    assert (await verifier.verify(ALICE)).status is UNVERIFIABLE
    assert mailboxes.asked == [ALICE, BOB]
    clock.advance(0.1)
    assert (await verifier.verify(ALICE)).status is GOOD


async def test_an_address_with_a_temporary_answer_is_left_alone_but_others_are_asked_for(
    make: Make, mailboxes: Mailboxes
) -> None:
    verifier = make()
    mailboxes.answer = BUSY
    await verifier.verify(ALICE)
    mailboxes.answer = OK
    assert (await verifier.verify(ALICE)).status is UNVERIFIABLE
    assert (await verifier.verify(BOB)).status is GOOD


async def test_one_question_serves_all_who_wait_and_outlives_any_of_them(make: Make, mailboxes: Mailboxes) -> None:
    verifier = make()
    mailboxes.gate.clear()
    waiters = [asyncio.create_task(verifier.verify(ALICE)) for _ in range(5)]
    await mailboxes.was_asked.wait()  # by the first; the rest began before the question did
    waiters[0].cancel()
    await asyncio.wait(waiters[:1])
    mailboxes.gate.set()
    assert [v.status for v in await asyncio.gather(*waiters[1:])] == [GOOD] * 4
    assert waiters[0].cancelled()
    assert mailboxes.asked == [ALICE]


async def test_a_delivery_teaches_what_the_next_recipient_command_hears(
    make: Make, mailboxes: Mailboxes, clock: FakeClock
) -> None:
    verifier = make()
    verifier.note_delivered(ALICE)
    assert (await verifier.verify(ALICE)).status is GOOD
    verifier.note_refused(ALICE, UNKNOWN)
    assert (await verifier.verify(ALICE)).status is REFUSED
    verifier.note_delivered(ALICE)
    assert (await verifier.verify(ALICE)).status is GOOD
    assert mailboxes.asked == []


async def test_a_refusal_after_the_content_teaches_nothing_of_the_recipient(make: Make, mailboxes: Mailboxes) -> None:
    verifier = make()
    verifier.note_delivered(ALICE)
    verifier.note_refused(ALICE, Answer(Stage.CONTENT, Reply(552, "5.2.2", "full")))
    assert (await verifier.verify(ALICE)).status is GOOD


async def test_guessed_addresses_push_no_real_one_out(make: Make, mailboxes: Mailboxes) -> None:
    verifier = make(max_entries=3)
    await verifier.verify(ALICE)
    mailboxes.answer = UNKNOWN
    for number in range(10):
        await verifier.verify(parse_mailbox(f"guess{number}@example.org"))
    mailboxes.asked.clear()
    assert (await verifier.verify(ALICE)).status is GOOD
    await verifier.verify(parse_mailbox("guess9@example.org"))
    assert mailboxes.asked == []
    await verifier.verify(parse_mailbox("guess0@example.org"))
    assert len(mailboxes.asked) == 1


async def test_of_good_addresses_the_one_used_longest_ago_is_forgotten(make: Make, mailboxes: Mailboxes) -> None:
    verifier = make(max_entries=2)
    carol = parse_mailbox("carol@example.org")
    for address in (ALICE, BOB, ALICE, carol):
        await verifier.verify(address)
    mailboxes.asked.clear()
    await verifier.verify(ALICE)
    assert mailboxes.asked == []
    await verifier.verify(BOB)
    assert mailboxes.asked == [BOB]
