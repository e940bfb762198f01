from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.mail.address import parse_mailbox
from mailflow.mail.dsn import MAX_LINE_OCTETS, Action, Notification, ReportedRecipient, write_notification

ORIGINAL = (
    b"Received: by mx.test\r\n",
    b"From: <a@x.example>\r\nSubject: hello\r\nMessage-ID: <m1@x.example>\r\n\r\nthe body\r\n",
)
GONE = ReportedRecipient(
    parse_mailbox("bob@example.org"), "5.1.1", diagnostic="550 5.1.1 No such user here", original="rfc822;b@old.example"
)


def make(**changes: Any) -> Notification:
    fields: dict[str, Any] = {
        "action": Action.FAILED,
        "id": "0123456789abcdef",
        "hostname": "mx.test",
        "to": parse_mailbox("a@x.example"),
        "recipients": (GONE,),
        "arrived_at": 1_800_000_000.0,
        "now": 1_800_000_060.0,
        "envelope_id": "env1",
    }
    return Notification(**(fields | changes))


def write(notification: Notification, original: tuple[bytes, ...] = ORIGINAL) -> EmailMessage:
    """Write one and read it as a mail program does."""
    content = write_notification(notification, original)
    assert all(len(line) <= MAX_LINE_OCTETS for line in content.split(b"\r\n"))
    assert b"\n" not in content.replace(b"\r\n", b"")
    assert b"\r" not in content.replace(b"\r\n", b"")
    message = message_from_bytes(content, policy=default)
    assert isinstance(message, EmailMessage)
    assert message.defects == []
    return message


def parts(message: EmailMessage) -> list[Any]:
    found = list(message.iter_parts())
    assert len(found) == 3
    return found


def fields_of(message: EmailMessage) -> list[dict[str, str]]:
    groups: Any = parts(message)[1].get_payload()
    return [{name: str(value) for name, value in group.items()} for group in groups]


def test_header_says_who_it_is_from_and_that_no_robot_may_answer() -> None:
    message = write(make())
    assert message["From"] == "Mail Delivery System <MAILER-DAEMON@mx.test>"
    assert message["To"] == "a@x.example"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["In-Reply-To"] == "<m1@x.example>"
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"


def test_fields_are_those_of_rfc_3464() -> None:
    about, recipient = fields_of(write(make()))
    assert about["Original-Envelope-Id"] == "env1"
    assert about["Reporting-MTA"] == "dns; mx.test"
    assert recipient["Original-Recipient"] == "rfc822;b@old.example"
    assert recipient["Final-Recipient"] == "rfc822; bob@example.org"
    assert recipient["Action"] == "failed"
    assert recipient["Status"] == "5.1.1"
    assert recipient["Diagnostic-Code"] == "smtp; 550 5.1.1 No such user here"
    assert "Will-Retry-Until" not in recipient


def test_words_say_what_happened_to_whom() -> None:
    words = parts(write(make()))[0].get_content()
    assert "bob@example.org" in words
    assert "No such user here" in words


def test_a_delay_says_until_when() -> None:
    message = write(make(action=Action.DELAYED, retry_until=1_800_400_000.0))
    assert "Will-Retry-Until" in fields_of(message)[1]
    assert "You need not send it again" in parts(message)[0].get_content()


def test_the_header_alone_is_sent_back() -> None:
    part = parts(write(make()))[2]
    assert part.get_content_type() == "text/rfc822-headers"
    text = str(part.get_content())
    assert "Subject: hello" in text
    assert "the body" not in text


def test_the_whole_message_comes_back_where_that_was_asked_for() -> None:
    part = parts(write(make(returns_full=True)))[2]
    assert part.get_content_type() == "message/rfc822"
    assert b"the body" in part.as_bytes()


@pytest.mark.parametrize(
    "original",
    [
        (b"Subject: x\r\n\r\n" + b"y" * 1200 + b"\r\n",),
        (b"Subject: x\r\n\r\n" + b"line\r\n" * 300_000,),
    ],
)
def test_what_cannot_travel_whole_comes_back_as_its_header(original: tuple[bytes, ...]) -> None:
    assert parts(write(make(returns_full=True), original))[2].get_content_type() == "text/rfc822-headers"


@pytest.mark.parametrize(
    "original", [b"Subject: \xe9t\xe9\r\n\r\n", b"Subject: " + b"x" * 1500 + b"\r\n\r\n", b"\r\n", b""]
)
def test_an_odd_header_travels_all_the_same(original: bytes) -> None:
    assert parts(write(make(), (original,)))[2].get_content_type() == "text/rfc822-headers"


def test_a_huge_header_is_cut_at_a_line() -> None:
    text = parts(write(make(), (b"X: y\r\n" * 100_000 + b"\r\n",)))[2].get_content()
    assert len(text) < 70_000


def test_addresses_in_utf_8_make_it_a_global_report() -> None:
    recipient = ReportedRecipient(parse_mailbox("jörg@example.org"), "5.1.1")
    content = write_notification(make(recipients=(recipient,)), ORIGINAL)
    assert b"Content-Type: message/global-delivery-status" in content
    assert "Final-Recipient: utf-8; jörg@example.org".encode() in content


def test_a_part_of_8_bits_is_announced() -> None:
    recipient = ReportedRecipient(parse_mailbox("bob@example.org"), "5.1.1", original="utf-8;jörg@old.example")
    content = write_notification(make(recipients=(recipient,)), ORIGINAL)
    assert message_from_bytes(content)["Content-Transfer-Encoding"] == "8bit"
    assert "Original-Recipient: utf-8;jörg@old.example".encode() in content
    assert message_from_bytes(write_notification(make(), ORIGINAL))["Content-Transfer-Encoding"] is None


def test_lines_are_bounded_whatever_others_wrote() -> None:
    long = "\N{SNOWMAN}" * 2000
    recipient = ReportedRecipient(
        parse_mailbox("bob@example.org"), "5.1.1", diagnostic=long, remote=long, original=f"{long};{long}"
    )
    write(make(recipients=(recipient,), envelope_id=long))


def test_a_header_that_is_one_huge_line_is_cut() -> None:
    text = parts(write(make(), (b"X: " + b"y" * 100_000 + b"\r\n\r\n",)))[2].get_content()
    assert 60_000 < len(text) < 70_000


def test_what_the_sender_named_comes_back_unaltered() -> None:
    original = "rfc822;" + '"a  b"' + "o" * 480
    recipient = ReportedRecipient(parse_mailbox("bob@example.org"), "5.1.1", original=original)
    about, fields = fields_of(write(make(recipients=(recipient,), envelope_id="a  b+=;")))
    assert about["Original-Envelope-Id"] == "a  b+=;"
    assert fields["Original-Recipient"] == original


def test_global_headers_with_a_long_line_are_encoded() -> None:
    recipient = ReportedRecipient(parse_mailbox("jörg@example.org"), "5.1.1")
    write(make(recipients=(recipient,)), (b"Subject: " + "ü".encode() + b"x" * 3000 + b"\r\n\r\n",))


HOSTILE = st.text(max_size=80) | st.sampled_from(
    ["x\r\nFinal-Recipient: rfc822; evil@x.example", "--=_0123456789abcdef--", "a\n\nb", "\0", "x" * 2000, "\ud800"]
)


@given(diagnostic=HOSTILE, remote=HOSTILE, original=HOSTILE, envelope_id=HOSTILE)
def test_what_others_wrote_adds_no_field_and_no_part(
    diagnostic: str, remote: str, original: str, envelope_id: str
) -> None:
    recipient = ReportedRecipient(
        parse_mailbox("bob@example.org"), "5.1.1", diagnostic=diagnostic, remote=remote, original=original
    )
    content = write_notification(make(recipients=(recipient,), envelope_id=envelope_id), ORIGINAL)
    message = message_from_bytes(content, policy=default)
    assert isinstance(message, EmailMessage)
    fields = parts(message)[1]
    assert content.count(b"\r\nFinal-Recipient:") == 1
    assert content.count(b"\r\n--=_0123456789abcdef") == 4  # three parts begin, the last ends
    if fields.get_content_type() == "message/delivery-status":
        about, recipient_fields = fields.get_payload()
        assert recipient_fields.get_all("Final-Recipient") == ["rfc822; bob@example.org"]
        assert set(about.keys()) <= {"Original-Envelope-Id", "Reporting-MTA", "Arrival-Date"}


@given(st.binary(max_size=300))
def test_no_original_breaks_the_report(original: bytes) -> None:
    message = message_from_bytes(write_notification(make(), (original,)), policy=default)
    assert isinstance(message, EmailMessage)
    assert len(parts(message)) == 3
