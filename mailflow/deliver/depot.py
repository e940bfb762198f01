"""All that a worker has around its store: its tenure, its delivering, what it hands to the receiving side.

Outlives every configuration but the store's own; what a configuration decides is looked up when it is needed.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from mailflow.deliver.attempt import Attempts
from mailflow.deliver.bounce import Judgement
from mailflow.deliver.storing import Deliverer, StoringHandoff, refuse_unhealthy
from mailflow.deliver.tenure import Tenure
from mailflow.deliver.worker import DeliveryWorker
from mailflow.mail.handoff import Outcome
from mailflow.mail.reply import Reply
from mailflow.observe.nursery import Nursery
from mailflow.store import Entry, MessageStore, Statistics, StoreUnavailable
from mailflow.store.desk import answer

COUNT_PERIOD_S = 10.0

log = structlog.get_logger()


class Depot:
    """The store of one worker and who works on it.

    `find_router()` and `find_room(destination)` go by the configuration that holds now. `on_count` hears what is
    stored, now and then; None where another worker counts the same store. `nursery` has the deliveries, which a drain
    waits for, `background` what it does not wait for.
    """

    def __init__(
        self,
        store: MessageStore,
        name: str,
        *,
        lease_s: float,
        find_router: Callable[[], Deliverer],
        find_room: Callable[[str], int],
        find_first_retry_s: Callable[[], float],
        judge: Callable[[Entry, Sequence[bytes], Sequence[Outcome]], Judgement],
        on_report: Callable[[str], object],
        delivers: bool,
        nursery: Nursery,
        background: Nursery,
        on_count: Callable[[Statistics], None] | None = None,
    ) -> None:
        self._store = store
        self._find_first_retry_s = find_first_retry_s
        self._delivers = delivers
        self._nursery = nursery
        self._background = background
        self._on_count = on_count
        self.tenure = Tenure(store, name, lease_s=lease_s, nursery=background, on_change=self._wake)
        attempts = Attempts(
            store, self.tenure, find_router=find_router, judge=judge, on_report=on_report, nursery=nursery
        )
        self._worker = DeliveryWorker(store, self.tenure, attempts, find_room=find_room, nursery=nursery)

    async def start(self) -> None:
        """Open the store, or go on trying; begin to deliver from it."""
        await self.tenure.start()
        if self._delivers:
            self._worker.start()
        if self._on_count is not None:
            self._background.start(self._count_on(self._on_count), name="store count")

    async def stop_claiming(self) -> None:
        """Begin nothing more; attempts under way go on, in the nursery of deliveries."""
        await self._worker.stop()

    async def stop(self) -> None:
        """Leave the store: what is claimed still is due at once, for anybody."""
        await self.tenure.stop()

    def find_refusal(self) -> Reply | None:
        """Give the reply for a message that nobody could keep now; None where it is welcome."""
        return refuse_unhealthy(self.tenure.unhealthy_reason())

    def make_handoff(self, router: Deliverer, *, max_recipients: int) -> StoringHandoff:
        """Give the hand-off of a configuration to the receiving side."""
        return StoringHandoff(
            router,
            self._store,
            self.tenure,
            self._worker,
            max_recipients=max_recipients,
            find_first_retry_s=self._find_first_retry_s,
            nursery=self._nursery,
        )

    async def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Answer an operator's question (store.desk)."""
        return await answer(self._store, question)

    def _wake(self) -> None:
        self._worker.wake()

    async def _count_on(self, tell: Callable[[Statistics], None]) -> None:
        while True:
            try:
                tell(await self._store.count())
            except StoreUnavailable as exc:
                log.debug("store_not_counted", reason=str(exc))
            await asyncio.sleep(COUNT_PERIOD_S)
