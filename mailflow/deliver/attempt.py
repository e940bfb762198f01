"""One attempt for one claimed message: begin, deliver, settle. What came of each recipient is told in the log.

The store knows that the attempt began before anything is dialed, and a final dot leaves only while the claim is surely
held. A settle that the store does not take is tried until it is taken or the claim is lost: what was delivered must not
be delivered again for a database that was away for a moment.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from mailflow.deliver.answers import NOT_ANSWERING, OWN_FAULT
from mailflow.deliver.bounce import Judgement
from mailflow.deliver.storing import Deliverer
from mailflow.deliver.tenure import Tenure
from mailflow.deliver.watch import wait_delivery
from mailflow.mail.handoff import DeliveryStatus, FinalDot, Outcome
from mailflow.observe.log import log_decision
from mailflow.observe.nursery import Nursery
from mailflow.store import Claim, ClaimLost, Corrupt, Entry, MessageStore, Settlement, StoreUnavailable

SETTLE_PAUSE_S = 1.0

log = structlog.get_logger()


class Attempts:
    """Makes attempts. `find_router()` gives the router of the configuration that holds; `judge(entry, body, outcomes)`
    makes a settlement of what an attempt gave; `on_report(result)` hears of each notification stored, or withheld.
    """

    def __init__(
        self,
        store: MessageStore,
        tenure: Tenure,
        *,
        find_router: Callable[[], Deliverer],
        judge: Callable[[Entry, Sequence[bytes], Sequence[Outcome]], Judgement],
        on_report: Callable[[str], object] = lambda result: None,
        nursery: Nursery,
    ) -> None:
        self._store = store
        self._tenure = tenure
        self._find_router = find_router
        self._judge = judge
        self._nursery = nursery
        self._on_report = on_report

    async def make(self, claim: Claim, body: Sequence[bytes] | None, *, on_delivered: Callable[[], None]) -> None:
        """Attempt what was claimed, and settle it. A body None is read from the store, and the attempt noted first.

        `on_delivered` is called once the destination is done with, before the store is.
        """
        try:
            if body is None:
                await self._store.begin(claim)
                entry = replace(claim.entry, attempts=claim.entry.attempts + 1)
                claim, body = replace(claim, entry=entry), await self._read_body(claim)
            if body is not None:
                await self._deliver(claim, body, on_delivered)
        except ClaimLost:
            log.warning("claim_lost", id=claim.id)
        except StoreUnavailable as exc:  # nothing was dialed
            log.warning("attempt_not_begun", id=claim.id, reason=str(exc))
            await self._hand_back(claim)

    async def _hand_back(self, claim: Claim) -> None:
        """Give a claim up, however long the store takes to hear of it: our epoch lives on, and would keep it."""
        while True:
            await asyncio.sleep(SETTLE_PAUSE_S)
            try:
                return await self._store.hand_back(claim)
            except StoreUnavailable as exc:
                log.warning("claim_not_handed_back", id=claim.id, reason=str(exc))

    async def follow(self, claim: Claim, body: Sequence[bytes], delivery: "asyncio.Task[list[Outcome]]") -> None:
        """Wait for the answers of a delivery in doubt, and settle by them."""
        try:
            await self._settle(claim, body, await self._outcomes_of(claim, delivery))
        except ClaimLost:
            log.warning("claim_lost", id=claim.id)

    async def _read_body(self, claim: Claim) -> Sequence[bytes] | None:
        body = await self._store.open_body(claim.id)
        if isinstance(body, Corrupt):
            log.error("message_set_aside", id=claim.id, reason=body.reason)
            return None
        return body

    async def _deliver(self, claim: Claim, body: Sequence[bytes], on_delivered: Callable[[], None]) -> None:
        """Deliver and settle. What waits for the answer to our final dot is left in doubt: others have its place."""
        envelope, router = claim.entry.envelope, self._find_router()
        dot = FinalDot(lambda: self._tenure.holds(claim.epoch))
        delivery = self._nursery.start(router.deliver(envelope, body, dot), name="delivery")
        is_over = await wait_delivery(delivery, dot, patience_s=router.handoff_deadline_s(envelope))
        on_delivered()
        if is_over:
            await self._settle(claim, body, await self._outcomes_of(claim, delivery))
            return
        with contextlib.suppress(StoreUnavailable):  # it is shown, no more
            await self._store.mark_in_doubt(claim)
        self._nursery.start(self.follow(claim, body, delivery), name="answers in doubt")

    async def _outcomes_of(self, claim: Claim, delivery: "asyncio.Task[list[Outcome]]") -> Sequence[Outcome]:
        """Give the outcomes, those of a delivery that gave up or crashed as well."""
        await asyncio.wait({delivery})
        if delivery.cancelled():
            outcome = Outcome(DeliveryStatus.DEFERRED, NOT_ANSWERING, "", "gave up in time")
        elif delivery.exception() is not None:  # the nursery has logged it with its traceback
            outcome = Outcome(DeliveryStatus.DEFERRED, OWN_FAULT, "", "a fault of our own")
        else:
            return delivery.result()
        return [outcome] * len(claim.entry.envelope.recipients)

    async def _settle(self, claim: Claim, body: Sequence[bytes], outcomes: Sequence[Outcome]) -> None:
        try:
            judgement = self._judge(claim.entry, body, outcomes)
        except Exception:  # a fault of ours, after the delivery: trying again and again would deliver again and again
            log.exception("judgement_failed", id=claim.id)
            owed = claim.entry.envelope.recipients
            judgement = Judgement(Settlement(owed, last_error="internal error after an attempt", is_set_aside=True))
        while True:
            try:
                await self._store.settle(claim, judgement.settlement)
                break
            except StoreUnavailable as exc:
                log.warning("settle_failed", id=claim.id, reason=str(exc))
            await asyncio.sleep(SETTLE_PAUSE_S)
        self._tell(claim.entry, outcomes, judgement)

    def _tell(self, entry: Entry, outcomes: Sequence[Outcome], judgement: Judgement) -> None:
        """Log what came of each recipient, and what is told of it."""
        owed = {recipient.address for recipient in judgement.settlement.owed}
        for recipient, outcome in zip(entry.envelope.recipients, outcomes, strict=True):
            log_decision(
                "delivery",
                id=entry.id,
                rcpt_to=str(recipient.address),
                outcome=outcome.status.value,
                reply=str(outcome.reply),
                backend=outcome.backend,
                detail=outcome.detail,
                attempt=entry.attempts,
                age_s=round(entry.age_s, 1),
                next_try_s=round(judgement.settlement.retry_s, 1) if recipient.address in owed else None,
            )
        for action in judgement.told:
            self._on_report(action.value)
        for untold in judgement.untold:
            self._on_report("withheld")
            log_decision("not_reported", id=entry.id, rcpt_to=str(untold.recipient), reason=untold.reason)
