import pytest

from mailflow.deliver.answers import NOT_NOW, UNCONFIRMED, is_about_recipient, judge_answer
from mailflow.mail.handoff import DeliveryStatus
from mailflow.mail.reply import Reply
from mailflow.smtp.lmtp import Answer, Stage

DELIVERED, REFUSED = DeliveryStatus.DELIVERED, DeliveryStatus.REFUSED
DEFERRED, IN_DOUBT = DeliveryStatus.DEFERRED, DeliveryStatus.IN_DOUBT
MAIL, RCPT, DATA, CONTENT = Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.CONTENT

REFUSALS = [
    (RCPT, 550, "5.1.1", 550, "5.1.1", "No such user here"),
    (RCPT, 550, "", 550, "5.1.1", "No such user here"),
    (RCPT, 551, "", 551, "5.1.6", "The mailbox refused this message"),
    (RCPT, 552, "5.2.2", 552, "5.2.2", "Mailbox full"),
    (RCPT, 552, "", 552, "5.2.2", "Mailbox full"),
    (RCPT, 452, "4.2.2", 452, "4.2.2", "Mailbox full"),
    (RCPT, 452, "", 452, "4.2.2", "Mailbox full"),
    (RCPT, 450, "4.2.1", 450, "4.2.1", "The mailbox refused this message"),
    (RCPT, 501, "", 501, "5.1.3", "The mailbox refused this message"),
    (RCPT, 553, "", 553, "5.1.3", "The mailbox refused this message"),
    (RCPT, 553, "5.6.7", 553, "5.6.7", "This mailbox cannot take internationalized mail"),
    (MAIL, 552, "", 552, "5.3.4", "Message too large for this mailbox"),
    (MAIL, 550, "", 550, "5.0.0", "The mailbox refused this message"),
    (DATA, 552, "", 552, "5.3.4", "Message too large for this mailbox"),
    (CONTENT, 552, "5.2.3", 552, "5.2.3", "Message too large for this mailbox"),
    (CONTENT, 552, "", 552, "5.2.2", "Mailbox full"),
    (CONTENT, 452, "4.2.2", 452, "4.2.2", "Mailbox full"),
    (CONTENT, 554, "5.7.1", 554, "5.7.1", "The mailbox refused this message"),
    (CONTENT, 550, "", 550, "5.0.0", "The mailbox refused this message"),
]


@pytest.mark.parametrize(("stage", "code", "enhanced", "told_code", "told_enhanced", "text"), REFUSALS)
def test_a_refusal_is_passed_on_with_its_codes_and_our_text(
    stage: Stage, code: int, enhanced: str, told_code: int, told_enhanced: str, text: str
) -> None:
    answer = Answer(stage, Reply(code, enhanced, "mbox /var/vmail/alice on dovecot-0"))
    assert judge_answer(answer) == (REFUSED, Reply(told_code, told_enhanced, text))


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize(
    ("code", "enhanced"),
    [
        *((code, "") for code in (500, 502, 503, 504, 521, 530, 534, 535, 538, 555)),
        *((code, "5.5.1") for code in (500, 502, 503)),
        *((451, enhanced) for enhanced in ("", "4.3.0", "4.4.1", "4.7.1", "4.1.1")),
        *((450, enhanced) for enhanced in ("", "4.3.1")),
        (452, "4.3.1"),
    ],
)
def test_trouble_of_the_server_or_with_our_session_never_bounces_a_message(
    stage: Stage, code: int, enhanced: str
) -> None:
    assert judge_answer(Answer(stage, Reply(code, enhanced, "x"))) == (DEFERRED, NOT_NOW)


@pytest.mark.parametrize("enhanced", ["", "4.3.2", "4.2.1"])
@pytest.mark.parametrize(
    ("stage", "expected"),
    [(MAIL, (DEFERRED, NOT_NOW)), (RCPT, (DEFERRED, NOT_NOW)), (CONTENT, (IN_DOUBT, UNCONFIRMED))],
)
def test_421_defers_and_after_the_final_dot_leaves_in_doubt_what_was_saved(
    stage: Stage, expected: tuple[DeliveryStatus, Reply], enhanced: str
) -> None:
    assert judge_answer(Answer(stage, Reply(421, enhanced, "shutting down"))) == expected


@pytest.mark.parametrize("code", [250, 251])
def test_a_yes_is_delivered_and_tells_nothing_of_the_server(code: int) -> None:
    status, reply = judge_answer(Answer(CONTENT, Reply(code, "2.1.5", "saved as 17 on dovecot-0")))
    assert (status, str(reply)) == (DELIVERED, "250 2.0.0 Ok")


def test_452_after_the_content_without_enhanced_code_is_the_servers_disk() -> None:
    assert judge_answer(Answer(CONTENT, Reply(452, "", "no space")))[0] is DEFERRED


@pytest.mark.parametrize(
    ("stage", "code", "enhanced", "expected"),
    [
        (RCPT, 550, "5.1.1", True),
        (RCPT, 550, "", True),
        (RCPT, 452, "4.2.2", True),
        (RCPT, 550, "5.7.1", False),  # this sender
        (RCPT, 552, "5.3.4", False),  # this size
        (CONTENT, 552, "5.2.2", False),
        (RCPT, 451, "4.1.1", False),
        (RCPT, 250, "2.1.5", False),
    ],
)
def test_only_an_address_or_mailbox_status_at_rcpt_speaks_of_the_recipient(
    stage: Stage, code: int, enhanced: str, expected: bool
) -> None:
    assert is_about_recipient(Answer(stage, Reply(code, enhanced, "x"))) is expected
