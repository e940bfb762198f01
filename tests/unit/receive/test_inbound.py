"""What the hand-off is given: the envelope of one message, as its commands and its evidence made it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from mailflow.mail.address import Address, parse_mailbox
from mailflow.mail.envelope import Envelope, Notify, Recipient
from mailflow.mail.handoff import DeliveryStatus, Outcome, RecipientStatus, Verification
from mailflow.mail.reply import Reply
from mailflow.observe.metrics import Metrics
from mailflow.observe.nursery import Nursery
from mailflow.receive.inbound import Inbound
from mailflow.receive.verdict import Policy
from mailflow.smtp.budget import ByteBudget
from mailflow.smtp.connection import SmtpService
from mailflow.smtp.server import SmtpSession
from mailflow.smtp.transaction import SmtpOptions
from mailflow.testing import ZoneResolver
from tests.scenario.memory import MemoryClient

MAIL = "MAIL FROM:<bob@sender.example>"
RCPT = "RCPT TO:<alice@example.org>"
CONTENT = b"From: <bob@sender.example>\r\n\r\nhello\r\n"
PERMITTED: dict[str, list[Any]] = {"sender.example": [{"TXT": "v=spf1 ip4:192.0.2.1 -all"}]}
FORBIDDEN: dict[str, list[Any]] = {"sender.example": [{"TXT": "v=spf1 -all"}]}
SUSPECT = FORBIDDEN | {"_dmarc.sender.example": [{"TXT": "v=DMARC1; p=quarantine"}]}


class OneBox:
    """A hand-off that takes every recipient and keeps what it was given."""

    max_recipients = 1

    def __init__(self) -> None:
        self.taken: list[Envelope] = []

    def refresh(self) -> None:
        pass

    async def verify_recipient(self, recipient: Address, *, is_smtputf8: bool, may_relay: bool) -> Verification:
        home = parse_mailbox("home@example.org")
        return Verification(RecipientStatus.GOOD, deliver_to=home, destination="box")

    async def deliver(self, envelope: Envelope, body: Sequence[bytes]) -> list[Outcome]:
        self.taken.append(envelope)
        return [Outcome(DeliveryStatus.DELIVERED, Reply(250, "2.0.0", "Ok"), "box")]


async def receive(
    *commands: str, zone: dict[str, list[Any]], content: bytes = CONTENT, may_relay: bool = False
) -> Envelope:
    """Send one message from 192.0.2.1 and give the envelope that was handed on."""
    box, nursery = OneBox(), Nursery()
    inbound = Inbound(
        hostname="mx.test",
        authserv_id="mx.test",
        policy=Policy(),
        handoff=box,
        postmaster=parse_mailbox("postmaster@example.org"),
        resolver=ZoneResolver(zone),
        metrics=Metrics(),
        nursery=nursery,
        max_header_bytes=65536,
        may_relay=lambda ip: may_relay,
    )
    options = SmtpOptions("mx.test", has_dsn=True)
    service = SmtpService(handler=inbound, options=options, budget=ByteBudget(100000), nursery=nursery)
    client = MemoryClient(SmtpSession(service), ip="192.0.2.1")
    assert (await client.reply()).startswith("220 ")
    for command in ("EHLO mail.sender.example", *commands, "DATA", f"{content.decode()}."):
        client.send(f"{command}\r\n".encode())
        reply = await client.reply()
        assert reply[0] in "23", reply
    client.close()
    await asyncio.wait_for(nursery.wait_empty(5), 6)
    (envelope,) = box.taken
    return envelope


async def test_what_the_client_asks_of_notifications_is_kept_in_the_envelope() -> None:
    envelope = await receive(
        f"{MAIL} RET=HDRS ENVID=QQ+2B1", f"{RCPT} NOTIFY=SUCCESS,DELAY ORCPT=rfc822;old@example.org", zone=PERMITTED
    )
    assert (envelope.envelope_id, envelope.returns_full) == ("QQ+1", False)
    assert envelope.recipients == (
        Recipient(
            parse_mailbox("alice@example.org"),
            parse_mailbox("home@example.org"),
            destination="box",
            notify=Notify.SUCCESS | Notify.DELAY,
            original_recipient="rfc822;old@example.org",
        ),
    )


async def test_a_client_that_asks_nothing_leaves_the_defaults() -> None:
    envelope = await receive(MAIL, RCPT, zone=PERMITTED)
    assert (envelope.envelope_id, envelope.returns_full) == ("", None)
    assert (envelope.recipients[0].notify, envelope.recipients[0].original_recipient) == (None, "")


@pytest.mark.parametrize(
    ("mail", "zone", "may_relay", "is_quarantined", "may_report"),
    [
        (MAIL, PERMITTED, False, False, True),
        (MAIL, FORBIDDEN, False, False, False),
        (MAIL, FORBIDDEN, True, False, True),
        (MAIL, SUSPECT, False, True, False),
        ("MAIL FROM:<>", PERMITTED, True, False, False),
    ],
)
async def test_whether_a_notification_may_be_sent_is_decided_by_the_evidence(
    mail: str, zone: dict[str, list[Any]], may_relay: bool, is_quarantined: bool, may_report: bool
) -> None:
    envelope = await receive(mail, RCPT, zone=zone, may_relay=may_relay)
    assert (envelope.is_quarantined, envelope.may_report) == (is_quarantined, may_report)
