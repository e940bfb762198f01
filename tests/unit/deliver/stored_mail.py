"""Envelopes and a deliverer for tests of what works on the store."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from mailflow.mail.address import Address, parse_mailbox
from mailflow.mail.envelope import Envelope, Recipient
from mailflow.mail.handoff import DeliveryStatus, FinalDot, Outcome, RecipientStatus, Verification
from mailflow.mail.reply import Reply

BODY = (b"Received: by us\r\n", b"From: <a@x.example>\r\n\r\nbody\r\n")
DELIVERED = Outcome(DeliveryStatus.DELIVERED, Reply(250, "2.0.0", "Ok"), "mailboxes")
LATER = Outcome(DeliveryStatus.DEFERRED, Reply(451, "4.4.1", "later"), "mailboxes", "connection refused")
NEVER = Outcome(DeliveryStatus.REFUSED, Reply(550, "5.1.1", "No such user here"), "mailboxes")
DOUBT = Outcome(DeliveryStatus.IN_DOUBT, Reply(451, "4.4.2", "not confirmed"), "mailboxes", "connection lost")


def make_envelope(id: str, *recipients: str, destination: str = "mailboxes") -> Envelope:
    """Give an envelope to these addresses, to alice where none are named."""
    return Envelope(
        id=id,
        reverse_path=parse_mailbox("a@x.example"),
        recipients=tuple(
            Recipient(parse_mailbox(r), parse_mailbox(r), destination=destination)
            for r in recipients or ("alice@example.org",)
        ),
    )


@dataclass(slots=True)
class Mailboxes:
    """Delivers as it is told: `answers` by address, DELIVERED else. With `waits_before` or `waits_behind` the final dot
    it waits there for `release`.
    """

    answers: dict[str, Outcome] = field(default_factory=dict)
    waits_before: bool = False
    waits_behind: bool = False
    deadline_s: float = 0.05
    delivered: list[str] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: int = 0
    most_at_once: int = 0

    def refresh(self) -> None:
        """Nothing changes."""

    def handoff_deadline_s(self, envelope: Envelope) -> float:
        """The same for all."""
        return self.deadline_s

    async def verify_recipient(self, recipient: Address, *, is_smtputf8: bool, may_relay: bool) -> Verification:
        """Everybody is known."""
        return Verification(RecipientStatus.GOOD, deliver_to=recipient, destination="mailboxes")

    async def deliver(self, envelope: Envelope, body: Sequence[bytes], dot: FinalDot) -> list[Outcome]:
        """Deliver or not."""
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.begun.set()
        try:
            if self.waits_before:
                await self.release.wait()
            dot.leave()
            if self.waits_behind:
                await self.release.wait()
            outcomes = [self.answers.get(str(r.address), DELIVERED) for r in envelope.recipients]
            self.delivered += [
                f"{envelope.id} {r.address}"
                for r, o in zip(envelope.recipients, outcomes, strict=True)
                if o.status is DeliveryStatus.DELIVERED
            ]
            return outcomes
        finally:
            self.at_once -= 1
            self.ended.set()
