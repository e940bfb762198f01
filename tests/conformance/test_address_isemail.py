"""The address suite of isemail against the Mailbox of RFC 5321: what is one is taken, all else refused.

Categories: VALID, DNSWARN (valid, but DNS has no such domain) and RFC5321 (valid for SMTP, if unusual) are Mailboxes.
CFWS, DEPREC and RFC5322 are good in a header field at most, ERR nowhere.
"""

import xml.etree.ElementTree as ET

import pytest

from mailflow.mail.address import AddressSyntaxError, parse_mailbox
from tests.conformance.vectors import mark, vectors

SUITE = "address-isemail"
CASE_COUNT = 164
MAILBOX_CATEGORIES = {"ISEMAIL_VALID_CATEGORY", "ISEMAIL_DNSWARN", "ISEMAIL_RFC5321"}
TESTS = ET.parse(vectors(SUITE) / "tests.xml").getroot().findall("test")  # noqa: S314  # vectors, not a stranger's XML


def depict(text: str) -> str:
    """Turn the pictures U+2400.. that stand for control characters back into them."""
    return "".join(chr(ord(char) - 0x2400) if 0x2400 <= ord(char) < 0x2420 else char for char in text)


def cases(*, are_mailboxes: bool) -> list[object]:
    """Give the addresses that must, or must not, parse; ids are the suite's number and diagnosis."""
    return [
        pytest.param(
            depict(test.findtext("address") or ""),
            id=f"{test.get('id')}-{(test.findtext('diagnosis') or '').removeprefix('ISEMAIL_')}",
            marks=mark(SUITE, test.get("id") or ""),
        )
        for test in TESTS
        if (test.findtext("category") in MAILBOX_CATEGORIES) is are_mailboxes
    ]


def test_suite_is_complete() -> None:
    assert len(TESTS) == CASE_COUNT


@pytest.mark.suite(SUITE)
@pytest.mark.parametrize("address", cases(are_mailboxes=True))
def test_mailbox_of_rfc_5321_is_taken(address: str) -> None:
    assert parse_mailbox(str(parse_mailbox(address))) == parse_mailbox(address)


@pytest.mark.suite(SUITE)
@pytest.mark.parametrize("address", cases(are_mailboxes=False))
def test_what_is_no_mailbox_of_rfc_5321_is_refused(address: str) -> None:
    with pytest.raises(AddressSyntaxError):
        parse_mailbox(address)
