"""One attempt for one claimed message: begin, deliver, settle. What came of each recipient is told in the log.

The store knows that the attempt began before anything is dialed, and a final dot leaves only while the claim is surely
held. A settle that the store does not take is tried until it is taken or the claim is lost: what was delivered must not
be delivered again for a database that was away for a moment.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import structlog

from mailflow.deliver.answers import NOT_ANSWERING, OWN_FAULT
from mailflow.deliver.storing import Deliverer
from mailflow.deliver.tenure import Tenure
from mailflow.deliver.watch import wait_delivery
from mailflow.mail.handoff import DeliveryStatus, DotWithheld, FinalDot, Outcome
from mailflow.observe.nursery import Nursery
from mailflow.store import Claim, ClaimLost, Corrupt, Entry, MessageStore, Settlement, StoreUnavailable

SETTLE_PAUSE_S = 1.0

log = structlog.get_logger()


class Attempts:
    """Makes attempts. `find_router()` gives the router of the configuration that holds; `judge(entry, body, outcomes)`
    makes a settlement of what an attempt gave.
    """

    def __init__(
        self,
        store: MessageStore,
        tenure: Tenure,
        *,
        find_router: Callable[[], Deliverer],
        judge: Callable[[Entry, Sequence[bytes], Sequence[Outcome]], Settlement],
        nursery: Nursery,
    ) -> None:
        self._store = store
        self._tenure = tenure
        self._find_router = find_router
        self._judge = judge
        self._nursery = nursery

    async def make(self, claim: Claim, body: Sequence[bytes] | None) -> None:
        """Attempt what was claimed, and settle it. A body None is read from the store, and the attempt noted first."""
        try:
            if body is None:
                body = await self._begin(claim)
            if body is not None:
                await self._settle(claim, body, await self._deliver(claim, body))
        except (ClaimLost, DotWithheld):
            log.warning("claim_lost", id=claim.id)
        except StoreUnavailable as exc:  # nothing was dialed
            log.warning("attempt_not_begun", id=claim.id, reason=str(exc))
            with contextlib.suppress(StoreUnavailable):  # then the lease ends by itself
                await self._store.hand_back(claim)

    async def follow(self, claim: Claim, body: Sequence[bytes], delivery: "asyncio.Task[list[Outcome]]") -> None:
        """Wait for the answers of a delivery in doubt, and settle by them."""
        try:
            await self._settle(claim, body, await self._outcomes_of(claim, delivery))
        except ClaimLost:
            log.warning("claim_lost", id=claim.id)

    async def _begin(self, claim: Claim) -> Sequence[bytes] | None:
        await self._store.begin(claim)
        body = await self._store.open_body(claim.id)
        if isinstance(body, Corrupt):
            log.error("message_set_aside", id=claim.id, reason=body.reason)
            return None
        return body

    async def _deliver(self, claim: Claim, body: Sequence[bytes]) -> Sequence[Outcome]:
        """Deliver; while the answer to our final dot is waited for, the store shows the message as in doubt."""
        envelope, router = claim.entry.envelope, self._find_router()
        dot = FinalDot(lambda: self._tenure.holds(claim.epoch))
        delivery = self._nursery.start(router.deliver(envelope, body, dot), name="delivery")
        if not await wait_delivery(delivery, dot, patience_s=router.handoff_deadline_s(envelope)):
            with contextlib.suppress(StoreUnavailable):  # it is shown, no more
                await self._store.mark_in_doubt(claim)
        return await self._outcomes_of(claim, delivery)

    async def _outcomes_of(self, claim: Claim, delivery: "asyncio.Task[list[Outcome]]") -> Sequence[Outcome]:
        """Give the outcomes, those of a delivery that gave up or crashed as well. Raises DotWithheld."""
        await asyncio.wait({delivery})
        if delivery.cancelled():
            outcome = Outcome(DeliveryStatus.DEFERRED, NOT_ANSWERING, "", "gave up in time")
        elif isinstance(delivery.exception(), DotWithheld):
            raise DotWithheld
        elif delivery.exception() is not None:  # the nursery has logged it with its traceback
            outcome = Outcome(DeliveryStatus.DEFERRED, OWN_FAULT, "", "a fault of our own")
        else:
            return delivery.result()
        return [outcome] * len(claim.entry.envelope.recipients)

    async def _settle(self, claim: Claim, body: Sequence[bytes], outcomes: Sequence[Outcome]) -> None:
        settlement = self._judge(claim.entry, body, outcomes)
        while True:
            try:
                return await self._store.settle(claim, settlement)
            except StoreUnavailable as exc:
                log.warning("settle_failed", id=claim.id, reason=str(exc))
            await asyncio.sleep(SETTLE_PAUSE_S)
