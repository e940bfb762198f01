"""The hand-off of a worker that has a store: what cannot be delivered now has an owner all the same.

One recipient is cut through, within the client's own transaction; a mailbox's refusal is the client's to hear. What
does not work now is committed and answered 250. Two or more recipients are committed first, so that no mixed result is
left without an owner. Once begun, a hand-off is a task of its own: no client, timer or drain cuts it in two.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from mailflow.deliver.answers import NOT_ANSWERING, UNCONFIRMED
from mailflow.deliver.tenure import Tenure
from mailflow.deliver.watch import wait_delivery
from mailflow.mail.address import Address
from mailflow.mail.envelope import Envelope, Notify
from mailflow.mail.handoff import DeliveryStatus, FinalDot, Outcome, Verification
from mailflow.mail.reply import Reply
from mailflow.observe.nursery import Nursery
from mailflow.store import Claim, MessageStore, StoreUnavailable, Unhealthy
from mailflow.store.record import shared_destination

STORE_S = 20.0  # that a commit may take; a client waits for longer (RFC 5321 s4.5.3.2.6)
STORED = Reply(250, "2.0.0", "Ok")
NO_ROOM = Reply(452, "4.3.1", "Insufficient system storage, try again later")
NOT_STORED = Reply(451, "4.3.0", "Mail cannot be stored now, try again later")


class Deliverer(Protocol):
    """What delivers now: the router."""

    def refresh(self) -> None:
        """Look whether what recipients are judged by has changed."""
        ...

    async def verify_recipient(self, recipient: Address, *, is_smtputf8: bool, may_relay: bool) -> Verification:
        """Tell whether mail for `recipient` would be taken now."""
        ...

    async def deliver(self, envelope: Envelope, body: Sequence[bytes], dot: FinalDot) -> list[Outcome]:
        """Deliver now; one outcome per recipient, in order."""
        ...

    def handoff_deadline_s(self, envelope: Envelope) -> float:
        """Give how long a delivery may take until its final dot."""
        ...


class Courier(Protocol):
    """What follows up a claim that a hand-off made."""

    def has_room(self, destination: str, size_bytes: int) -> bool:
        """Tell whether an attempt could begin at once."""
        ...

    def take(self, claim: Claim, body: Sequence[bytes]) -> None:
        """Attempt what was just accepted."""
        ...

    def expect(self, seconds: float) -> None:
        """Hear that something comes due then."""
        ...

    def adopt(self, claim: Claim, body: Sequence[bytes], delivery: "asyncio.Task[list[Outcome]]") -> None:
        """Wait for the answers of a delivery in doubt, and settle."""
        ...


class StoringHandoff:
    """Delivers by `router`, or stores (mail.handoff.Handoff). `first_retry_s` is how long a deferred message waits."""

    def __init__(
        self,
        router: Deliverer,
        store: MessageStore,
        tenure: Tenure,
        courier: Courier,
        *,
        max_recipients: int,
        find_first_retry_s: Callable[[], float],
        nursery: Nursery,
    ) -> None:
        self._router = router
        self._store = store
        self._tenure = tenure
        self._courier = courier
        self._max_recipients = max_recipients
        self._find_first_retry_s = find_first_retry_s
        self._nursery = nursery

    @property
    def max_recipients(self) -> int:
        """As many as the configuration allows: what is not delivered is stored."""
        return self._max_recipients

    def refresh(self) -> None:
        """See Handoff."""
        self._router.refresh()

    async def verify_recipient(self, recipient: Address, *, is_smtputf8: bool, may_relay: bool) -> Verification:
        """See Handoff."""
        return await self._router.verify_recipient(recipient, is_smtputf8=is_smtputf8, may_relay=may_relay)

    async def deliver(self, envelope: Envelope, body: Sequence[bytes]) -> list[Outcome]:
        """Deliver now or store; see Handoff."""
        cuts_through = len(envelope.recipients) == 1 and not _reports_success(envelope)
        handing = self._cut_through(envelope, body) if cuts_through else self._keep_for_all(envelope, body)
        return await asyncio.shield(self._nursery.start(handing, name="hand-off"))

    async def _cut_through(self, envelope: Envelope, body: Sequence[bytes]) -> list[Outcome]:
        dot = FinalDot()
        delivery = self._nursery.start(self._router.deliver(envelope, body, dot), name="delivery")
        patience_s = self._router.handoff_deadline_s(envelope)
        if not await wait_delivery(delivery, dot, patience_s=patience_s):
            return [await self._keep_in_doubt(envelope, body, delivery)]
        if delivery.cancelled():
            gave_up = Outcome(DeliveryStatus.DEFERRED, NOT_ANSWERING, _destination(envelope), "gave up in time")
            return [await self._keep_deferred(envelope, body, gave_up)]
        outcomes = delivery.result()
        (outcome,) = outcomes
        if outcome.status in (DeliveryStatus.DELIVERED, DeliveryStatus.REFUSED):
            return outcomes
        return [await self._keep_deferred(envelope, body, outcome)]

    async def _keep_for_all(self, envelope: Envelope, body: Sequence[bytes]) -> list[Outcome]:
        """Commit, and begin to deliver at once where there is room."""
        size_bytes = sum(map(len, body))
        begins = self._courier.has_room(_destination(envelope), size_bytes)
        try:
            claim = await self._store.accept(
                envelope, body, deadline=_deadline(), owner=self._tenure.epoch if begins else None
            )
        except StoreUnavailable as exc:
            return [_not_stored(envelope, exc)] * len(envelope.recipients)
        if claim is not None:
            self._courier.take(claim, body)
        return [_stored(envelope)] * len(envelope.recipients)

    async def _keep_deferred(self, envelope: Envelope, body: Sequence[bytes], outcome: Outcome) -> Outcome:
        """Commit what did not work now; where that fails too, the client keeps it."""
        retry_s = self._find_first_retry_s()
        try:
            await self._store.accept(
                envelope, body, deadline=_deadline(), retry_s=retry_s, last_error=outcome.detail or outcome.reply.text
            )
        except StoreUnavailable as exc:
            return _not_stored(envelope, exc, outcome)
        self._courier.expect(retry_s)
        return _stored(envelope, outcome.detail)

    async def _keep_in_doubt(
        self, envelope: Envelope, body: Sequence[bytes], delivery: "asyncio.Task[list[Outcome]]"
    ) -> Outcome:
        """Commit what may be delivered or not, as ours, while its answer is waited for."""
        epoch = self._tenure.epoch
        unconfirmed = Outcome(DeliveryStatus.IN_DOUBT, UNCONFIRMED, _destination(envelope), "no answer in time")
        if epoch is None:  # nobody would own it: the client tries again, and a double is possible
            return unconfirmed
        try:
            claim = await self._store.accept(envelope, body, deadline=_deadline(), owner=epoch, is_in_doubt=True)
        except StoreUnavailable:
            return unconfirmed
        if claim is not None:
            self._courier.adopt(claim, body, delivery)
        return _stored(envelope, "in doubt: the final dot left, no answer yet")


def _reports_success(envelope: Envelope) -> bool:
    """Tell whether a sender wants to hear of the delivery; what tells it starts from the store."""
    return envelope.may_report and any(r.notify is not None and Notify.SUCCESS in r.notify for r in envelope.recipients)


def _stored(envelope: Envelope, detail: str = "") -> Outcome:
    return Outcome(DeliveryStatus.STORED, STORED, _destination(envelope), detail)


def _not_stored(envelope: Envelope, exc: StoreUnavailable, before: Outcome | None = None) -> Outcome:
    status = before.status if before else DeliveryStatus.DEFERRED
    detail = f"{before.detail}; not stored: {exc}" if before else f"not stored: {exc}"
    return Outcome(status, NO_ROOM if exc.is_full else NOT_STORED, _destination(envelope), detail)


def refuse_unhealthy(unhealthy: Unhealthy | None) -> Reply | None:
    """Give the reply for a message that could not be stored now, before it is sent; None where it could."""
    if unhealthy is None:
        return None
    return NO_ROOM if unhealthy.is_full else NOT_STORED


def _destination(envelope: Envelope) -> str:
    return shared_destination(envelope.recipients)


def _deadline() -> float:
    return asyncio.get_running_loop().time() + STORE_S
