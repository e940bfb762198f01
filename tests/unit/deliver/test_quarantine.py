"""Quarantined mail is marked, and goes to a subaddress where its domain has such."""

import pytest

from mailflow.deliver.quarantine import QUARANTINE_FIELD, quarantine_address
from mailflow.deliver.route import Route, Router
from mailflow.mail.address import parse_mailbox
from mailflow.mail.envelope import Envelope, Recipient
from tests.unit.deliver.test_route import POSTMASTER, Mailboxes


@pytest.mark.parametrize(
    ("address", "subaddress", "separator", "diverted"),
    [
        ("alice@example.org", "", "+", "alice@example.org"),
        ("alice@example.org", "+Junk", "+", "alice+Junk@example.org"),
        ("alice+lists@example.org", "+Junk", "+", "alice+Junk@example.org"),
        ("alice-lists@example.org", "-Junk", "-", "alice-Junk@example.org"),
        ("alice@example.org", "+Junk", "-", "alice@example.org"),
        ("alice@example.org", "+Junk", "", "alice@example.org"),
        ("a" * 60 + "@example.org", "+Junk", "+", "a" * 60 + "@example.org"),  # longer than a local part may be
    ],
)
def test_quarantine_replaces_the_detail(address: str, subaddress: str, separator: str, diverted: str) -> None:
    assert str(quarantine_address(parse_mailbox(address), subaddress, separator)) == diverted


@pytest.mark.parametrize(("is_quarantined", "user"), [(True, "alice+Junk"), (False, "alice")])
async def test_router_diverts_and_marks_what_is_quarantined(is_quarantined: bool, user: str) -> None:
    backend = Mailboxes("box", {})
    router = Router(
        [Route(["example.org"], "box")], {"box": backend}, postmaster=POSTMASTER, quarantine={"box": "+Junk"}
    )
    alice = parse_mailbox("alice@example.org")
    envelope = Envelope("1", None, (Recipient(alice, alice),), is_quarantined=is_quarantined)
    await router.deliver(envelope, [b"Subject: x\r\n"])
    ((delivered, body),) = backend.delivered
    assert str(delivered.recipients[0].deliver_to) == f"{user}@example.org"
    assert delivered.recipients[0].address == alice
    assert b"".join(body) == QUARANTINE_FIELD * is_quarantined + b"Subject: x\r\n"


async def test_relayed_recipient_keeps_its_address_in_quarantine() -> None:
    backend = Mailboxes("out", {})
    routes = [Route(["example.org"], "out"), Route(["*"], "out")]
    router = Router(routes, {"out": backend}, postmaster=POSTMASTER, quarantine={"out": "+Junk"})
    there = parse_mailbox("bob@elsewhere.example")
    await router.deliver(Envelope("1", None, (Recipient(there, there, True),), is_quarantined=True), [b"x\r\n"])
    ((delivered, _),) = backend.delivered
    assert delivered.recipients[0].deliver_to == there
