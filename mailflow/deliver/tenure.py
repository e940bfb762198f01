"""A worker's standing in the store: opened, entered, kept alive by a heartbeat, known to be lost.

The store may be down when the service starts: it is opened as soon as it can be, and until then the worker serves on
unready. A final dot may leave only while the lease surely holds: its end is reckoned from the moment before the last
heartbeat was sent, on a clock that nobody sets. What a heartbeat says of the lease, not what this clock says, ends an
epoch: after it everything that was claimed is lost, and another epoch begins.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

import structlog

from mailflow.observe.nursery import Nursery
from mailflow.store import ClaimLost, Epoch, MessageStore, StoreUnavailable, Unhealthy

LONGEST_PERIOD_S = 3.0  # so that a store that is gone is noticed while nobody sends mail
BEATS_PER_LEASE = 6
UNREADY_AFTER_S = 10.0
FIRST_TRY_S = 3.0  # a service starts without its store too

NOT_OPEN = Unhealthy("the store is not open yet")

log = structlog.get_logger()


class Tenure:
    """Keeps the epoch of one worker; `name` is for people. `clock` gives monotonic seconds.

    `on_change` is called when an epoch begins or ends.
    """

    def __init__(
        self,
        store: MessageStore,
        name: str,
        *,
        lease_s: float,
        nursery: Nursery,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.epoch: Epoch | None = None
        self._store = store
        self._name = name
        self._lease_s = lease_s
        self._period_s = min(lease_s / BEATS_PER_LEASE, LONGEST_PERIOD_S)
        self._nursery = nursery
        self._clock = clock
        self._on_change = on_change
        self._is_open = False
        self._holds_until = 0.0
        self._sick_since: float | None = clock()
        self._keeping: asyncio.Task[None] | None = None
        self._has_tried = asyncio.Event()

    async def start(self) -> None:
        """Open and enter, and keep the epoch, in a task of its own; wait a moment for its first try."""
        self._keeping = self._nursery.start(self._keep(), name="store heartbeat")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_TRY_S):
                await self._has_tried.wait()

    async def stop(self) -> None:
        """Leave: what is still claimed is due at once, for anybody."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        epoch, self.epoch = self.epoch, None
        if self._is_open:
            try:
                if epoch is not None:
                    async with asyncio.timeout(self._lease_s / 2):
                        await self._store.leave(epoch)
            except (StoreUnavailable, TimeoutError) as exc:  # the lease ends by itself
                log.warning("store_not_left", reason=str(exc) or "no answer")
            await self._store.close()

    def holds(self, epoch: Epoch) -> bool:
        """Tell whether what was claimed under `epoch` is surely still ours."""
        return epoch is self.epoch and self._clock() < self._holds_until

    def unhealthy_reason(self) -> Unhealthy | None:
        """Tell why the store takes nothing now; cheap."""
        return self._store.unhealthy_reason() if self._is_open else NOT_OPEN

    def unready_reason(self) -> str | None:
        """Tell why no traffic should come: the store has taken nothing for UNREADY_AFTER_S. A blip is no reason."""
        reason = self.unhealthy_reason()
        if reason is None:
            self._sick_since = None
            return None
        if self._sick_since is None:
            self._sick_since = self._clock()
        if not self._is_open or self._clock() - self._sick_since >= UNREADY_AFTER_S:
            return f"store: {reason.reason}"
        return None

    async def _keep(self) -> None:
        while True:
            try:
                await self._beat()
            except Exception:  # a fault of ours costs one heartbeat: without any the mail would go to nobody
                log.exception("store_heartbeat_failed")
            self._has_tried.set()
            await asyncio.sleep(self._period_s)

    async def _beat(self) -> None:
        began, before = self._clock(), self.epoch
        try:
            async with asyncio.timeout(self._lease_s / 2):
                await self._renew()
            self._holds_until = began + self._lease_s - self._period_s
        except ClaimLost:
            log.warning("store_epoch_lost", epoch=self.epoch.number if self.epoch else None)
            self.epoch = None
        except (StoreUnavailable, TimeoutError) as exc:
            log.warning("store_unavailable", reason=str(exc) or "no answer")
        self.unready_reason()  # notes since when
        if self.epoch is not before:
            self._on_change()

    async def _renew(self) -> None:
        if not self._is_open:
            await self._store.open()
            self._is_open = True
        if self.epoch is None:
            self.epoch = await self._store.enter(self._name)
        else:
            await self._store.heartbeat(self.epoch)
