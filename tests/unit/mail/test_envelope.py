"""The envelope of one message."""

from mailflow.mail.address import parse_mailbox
from mailflow.mail.envelope import Envelope


def test_null_sender_is_written_as_nothing() -> None:
    assert Envelope("id", None, ()).sender_text == ""


def test_sender_is_written_as_in_commands() -> None:
    assert Envelope("id", parse_mailbox('"a b"@Example.org'), ()).sender_text == '"a b"@example.org'
