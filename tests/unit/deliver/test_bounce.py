from dataclasses import replace
from email import message_from_bytes
from email.policy import default
from typing import Any

import pytest

from mailflow.deliver.bounce import Judge, Judgement
from mailflow.deliver.schedule import DELAY_TOLD_S, Schedule
from mailflow.mail.address import Address, parse_mailbox
from mailflow.mail.dsn import Action
from mailflow.mail.envelope import Envelope, Notify, Recipient
from mailflow.mail.handoff import DeliveryStatus, Outcome
from mailflow.mail.reply import Reply
from mailflow.store import Entry, State
from tests.unit.deliver.stored_mail import BODY, DELIVERED, DOUBT, LATER, NEVER

EXPIRE_S = 432_000.0
FULL = Outcome(DeliveryStatus.REFUSED, Reply(452, "4.2.2", "Mailbox full"), "mailboxes")
SENDER = parse_mailbox("a@x.example")
WAY = Recipient(SENDER, parse_mailbox("a@inbox.example"), destination="mailboxes")


def make_judge(*, way: Recipient | None = WAY) -> Judge:
    def find_recipient(address: Address) -> Recipient | None:
        assert address == SENDER
        return way

    return Judge(
        hostname="mx.test",
        schedule=Schedule(300, EXPIRE_S),
        find_recipient=find_recipient,
        new_id=lambda: "report1",
        now=lambda: 1_800_000_000.0,
        draw=lambda: 0.5,
    )


def make_entry(*notify: Notify | None, age_s: float = 60.0, attempts: int = 1) -> Entry:
    recipients = tuple(
        Recipient(parse_mailbox(f"r{n}@example.org"), parse_mailbox(f"box{n}@example.org"), notify=wanted)
        for n, wanted in enumerate(notify or (None,))
    )
    envelope = Envelope("m1", SENDER, recipients, may_report=True, envelope_id="env1")
    return Entry(envelope, 100, 1_799_999_000.0, age_s, State.ACTIVE, None, attempts=attempts)


def judge(entry: Entry, *outcomes: Outcome, way: Recipient | None = WAY) -> Judgement:
    return make_judge(way=way).judge(entry, BODY, outcomes)


def test_what_is_delivered_leaves_nothing() -> None:
    judgement = judge(make_entry(), DELIVERED)
    assert judgement.settlement.owed == []
    assert judgement.settlement.reports == []
    assert judgement.untold == []


@pytest.mark.parametrize("outcome", [LATER, DOUBT, FULL])
def test_what_may_work_later_is_owed_and_nobody_is_told_yet(outcome: Outcome) -> None:
    entry = make_entry(attempts=2)
    judgement = judge(entry, outcome)
    assert judgement.settlement.owed == list(entry.envelope.recipients)
    assert judgement.settlement.retry_s == 600
    assert judgement.settlement.last_error
    assert judgement.settlement.reports == []


def test_a_failure_is_reported_to_the_sender_from_the_null_sender() -> None:
    judgement = judge(make_entry(), NEVER)
    [report] = judgement.settlement.reports
    assert judgement.told == [Action.FAILED]
    assert report.envelope.id == "report1"
    assert report.envelope.reverse_path is None
    assert report.envelope.recipients == (WAY,)
    assert not report.envelope.may_report
    text = b"".join(report.body)
    assert b"Final-Recipient: rfc822; r0@example.org" in text
    assert b"box0" not in text  # where an alias led is not told
    assert b"Original-Envelope-Id: env1" in text


def test_failures_of_one_attempt_are_one_report() -> None:
    judgement = judge(make_entry(None, None, None), NEVER, DELIVERED, NEVER)
    [report] = judgement.settlement.reports
    assert b"".join(report.body).count(b"Action: failed") == 2


def test_failed_and_owed_recipients_go_their_own_ways() -> None:
    entry = make_entry(None, None)
    judgement = judge(entry, NEVER, LATER)
    assert judgement.settlement.owed == [entry.envelope.recipients[1]]
    assert len(judgement.settlement.reports) == 1


def test_what_expired_is_returned_as_such() -> None:
    judgement = judge(make_entry(age_s=EXPIRE_S), LATER)
    assert judgement.settlement.owed == []
    [report] = judgement.settlement.reports
    assert b"Status: 4.4.7" in b"".join(report.body)


@pytest.mark.parametrize(
    ("notify", "told"),
    [
        (None, True),
        (Notify.FAILURE, True),
        (Notify.FAILURE | Notify.SUCCESS, True),
        (Notify.NEVER, False),
        (Notify.SUCCESS, False),
        (Notify.DELAY, False),
    ],
)
def test_notify_decides_about_failures(notify: Notify | None, told: bool) -> None:
    judgement = judge(make_entry(notify), NEVER)
    assert bool(judgement.settlement.reports) is told
    assert [untold.reason for untold in judgement.untold] == ([] if told else ["the sender asked not to be told"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"reverse_path": None}, "it has the null sender"),
        ({"is_quarantined": True}, "it was quarantined"),
        ({"may_report": False}, "nothing stands for its sender"),
    ],
)
def test_a_stranger_is_never_told(change: dict[str, Any], reason: str) -> None:
    entry = make_entry()
    judgement = judge(replace(entry, envelope=replace(entry.envelope, **change)), NEVER)
    assert judgement.settlement.reports == []
    assert [untold.reason for untold in judgement.untold] == [reason]


def test_where_no_route_leads_nobody_is_told() -> None:
    judgement = judge(make_entry(), NEVER, way=None)
    assert judgement.settlement.reports == []
    assert [untold.reason for untold in judgement.untold] == ["no route leads to its sender"]


def test_the_delay_is_told_once() -> None:
    entry = make_entry(age_s=DELAY_TOLD_S)
    judgement = judge(entry, LATER)
    assert judgement.told == [Action.DELAYED]
    assert judgement.settlement.is_delay_told
    assert b"Will-Retry-Until:" in b"".join(judgement.settlement.reports[0].body)
    again = judge(replace(entry, is_delay_told=True, age_s=2 * DELAY_TOLD_S), LATER)
    assert again.told == []


@pytest.mark.parametrize("notify", [Notify.NEVER, Notify.FAILURE, Notify.SUCCESS])
def test_who_did_not_ask_for_delays_hears_of_none(notify: Notify) -> None:
    assert judge(make_entry(notify, age_s=DELAY_TOLD_S), LATER).told == []


def test_success_is_told_where_it_was_asked_for() -> None:
    judgement = judge(make_entry(Notify.SUCCESS, None), DELIVERED, DELIVERED)
    assert judgement.told == [Action.DELIVERED]
    text = b"".join(judgement.settlement.reports[0].body)
    assert b"r0@example.org" in text
    assert b"r1@example.org" not in text


def test_a_report_is_read_by_a_mail_program() -> None:
    [report] = judge(make_entry(), NEVER).settlement.reports
    message = message_from_bytes(b"".join(report.body), policy=default)
    assert message.get_content_type() == "multipart/report"
    assert message["Auto-Submitted"] == "auto-replied"
