"""The seam between receiving and delivering: may this recipient get mail, and deliver it now.

`receive` holds a Handoff and knows nothing of backends; `deliver` implements it and knows nothing
of SMTP sessions. Facts come back as values: a backend that is down or refuses is no exception.
The replies inside are ours, fit to be told to the client: never a backend's own text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from mailflow.mail.address import Address
from mailflow.mail.envelope import Envelope
from mailflow.mail.reply import Reply


class RecipientStatus(Enum):
    """What is known of a recipient at RCPT."""

    GOOD = "good"
    REFUSED = "refused"  # unknown, mailbox full, cannot take SMTPUTF8: `reply` says which
    NOT_OURS = "not_ours"  # no route leads there
    UNVERIFIABLE = "unverifiable"  # the backend could not be asked


@dataclass(frozen=True, slots=True)
class Verification:
    """Answer to RCPT. `deliver_to` is set where the recipient may be accepted, `reply` where it may not.

    `is_unknown_user` marks 5.1.1, which a client that guesses addresses collects; `is_relayed` a recipient in a domain
    that is not ours, taken because the client may relay. `destination` names where the way of one that is taken leads.
    """

    status: RecipientStatus
    deliver_to: Address | None = None
    reply: Reply | None = None
    is_unknown_user: bool = False
    is_relayed: bool = False
    destination: str = ""


class DeliveryStatus(Enum):
    """What became of one recipient's copy."""

    DELIVERED = "delivered"  # confirmed by its mailbox
    REFUSED = "refused"  # the mailbox's own answer, passed on (5xx, or 4.2.x)
    DEFERRED = "deferred"  # surely not delivered; may work later
    STORED = "stored"  # committed to the store, which delivers it
    IN_DOUBT = "in_doubt"  # our final dot left and no answer came: delivered or not, nobody knows


@dataclass(frozen=True, slots=True)
class Outcome:
    """One recipient's outcome: `reply` for the client, `detail` (the backend's words, an errno) for the log only.

    `remote_reply` is what the server `server` said, None where what is told is ours alone.
    """

    status: DeliveryStatus
    reply: Reply
    backend: str
    detail: str = ""
    remote_reply: Reply | None = None
    server: str = ""

    @property
    def is_final(self) -> bool:
        """Tells that another try is no use: delivered, or refused by 5xx.

        A mailbox's own 4.2.x is REFUSED as well, so that a client that waits hears it; whoever owns the message defers.
        """
        is_refused = self.status is DeliveryStatus.REFUSED and self.reply.is_permanent
        return is_refused or self.status is DeliveryStatus.DELIVERED


class DotWithheld(Exception):
    """The final dot may not leave: who delivers has lost the message meanwhile.

    A backend aborts the delivery and defers its recipients.
    """


class FinalDot:
    """The moment that divides a delivery: before it nothing happened, after it the message may be delivered.

    A backend calls `leave` with nothing between it and the last octets that make the delivery final, perhaps in a
    thread, and for several mailboxes several times. `may_leave` is asked each time. Whoever cancels a delivery looks at
    `has_left` once it has ended: what had not left by then never will.
    """

    def __init__(self, may_leave: Callable[[], bool] = lambda: True) -> None:
        self._may_leave = may_leave
        self.has_left = False

    def leave(self) -> None:
        """Note that it leaves now. Raises DotWithheld where it may not."""
        if not self._may_leave():
            raise DotWithheld
        self.has_left = True


class Handoff(Protocol):
    """What the receiving side asks of the delivering side."""

    @property
    def max_recipients(self) -> int:
        """Recipients one hand-off can take: a mixed result needs an owner for what was not delivered."""
        ...

    def refresh(self) -> None:
        """Hear that a client came: look whether what recipients are judged by has changed. Returns at once."""
        ...

    async def verify_recipient(self, recipient: Address, *, is_smtputf8: bool, may_relay: bool) -> Verification:
        """Tell whether mail for `recipient` would be taken now: it is ours, or the client `may_relay`.

        Never raises for a backend's fault.
        """
        ...

    async def deliver(self, envelope: Envelope, body: Sequence[bytes]) -> list[Outcome]:
        """Deliver now; one outcome per recipient, in order.

        `body` is the whole message in pieces (trace fields first), CRLF lines, not dot-stuffed.
        Never raises for a backend's fault; cancelling it aborts a delivery whose final dot has not left.
        """
        ...
