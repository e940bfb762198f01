"""The delivering worker: takes from the store what is due, a bounded number at a time, fairly between destinations.

Each destination has a lane with so much room; what was claimed beyond it waits in the lane, a handful of envelopes, and
a lane in which something waits is left out of the next claim. Bodies are in memory only while their attempt runs, up to
a bound in octets. However long the queue is, no more of it than that is here.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from mailflow.deliver.attempt import Attempts
from mailflow.deliver.tenure import Tenure
from mailflow.mail.handoff import Outcome
from mailflow.observe.nursery import Nursery
from mailflow.store import Claim, ClaimLost, MessageStore, StoreUnavailable
from mailflow.store.record import shared_destination

MAX_CLAIMS = 1000
CLAIM_LIMIT = 32  # at a time: the most that can come to wait in one lane, of what is claimed
MAX_READY = 100  # that wait in one lane with their bodies, just accepted
MAX_BODY_BYTES = 64 << 20  # of all attempts together; a larger message goes alone
POLL_S = 5.0  # the longest pause: a hint that another process stored something may be lost
PAUSE_S = 1.0  # after the store did not answer
GAP_S = 0.02  # between two claims, so that attempts that end together are followed by one claim and not by many

log = structlog.get_logger()


@dataclass(slots=True)
class _Lane:
    """One destination: attempts that run; claims that wait for one to end, with the bodies that are at hand."""

    active: int = 0
    waiting: deque[tuple[Claim, Sequence[bytes] | None]] = field(default_factory=deque)


class DeliveryWorker:
    """Claims and attempts until it is stopped.

    `find_room(destination)` tells how many attempts at once a destination takes.
    """

    def __init__(
        self,
        store: MessageStore,
        tenure: Tenure,
        attempts: Attempts,
        *,
        find_room: Callable[[str], int],
        nursery: Nursery,
    ) -> None:
        self._store = store
        self._tenure = tenure
        self._attempts = attempts
        self._find_room = find_room
        self._nursery = nursery
        self._lanes: dict[str, _Lane] = {}
        # Active and waiting. Not by message: one that was lost may be claimed again while its old attempt still runs.
        self._claims: dict[int, Claim] = {}
        self._body_bytes = 0
        self._has_more = True  # as far as the last claim could see: what ends makes room for it
        self._wake = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to claim."""
        self._store.on_due(self.wake)
        self._running = self._nursery.start(self._run(), name="delivery")

    async def stop(self) -> None:
        """Claim nothing more and start nothing more; attempts that run go on."""
        self._lanes = {name: _Lane(lane.active) for name, lane in self._lanes.items()}
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})
        self._running = None

    def wake(self) -> None:
        """Look again: something may be due, or an epoch began."""
        self._wake.set()

    def expect(self, seconds: float) -> None:
        """Look again then, if that is sooner than it would be looked anyway."""
        if seconds < POLL_S:
            asyncio.get_running_loop().call_later(seconds, self.wake)

    def has_room(self, destination: str, size_bytes: int) -> bool:
        """Tell whether a message that was just accepted is attempted at once, or soon, with its body at hand."""
        lane = self._lanes.get(destination)
        has_place = lane is None or len(lane.waiting) < MAX_READY
        return self._running is not None and has_place and len(self._claims) < MAX_CLAIMS and self._fits(size_bytes)

    def take(self, claim: Claim, body: Sequence[bytes]) -> None:
        """Attempt what was accepted with a claim; its body is at hand."""
        self._claims[id(claim)] = claim
        self._body_bytes += claim.entry.size_bytes
        self._lane(claim).waiting.append((claim, body))
        self._begin_waiting()

    def adopt(self, claim: Claim, body: Sequence[bytes], delivery: "asyncio.Task[list[Outcome]]") -> None:
        """Settle what a hand-off left in doubt once its answers came. It takes no room: nothing is left to be sent."""
        self._nursery.start(self._attempts.follow(claim, body, delivery), name="answers in doubt")

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                pause_s = await self._claim_some()
            except Exception:  # a fault of ours ends one claim, not all delivery
                log.exception("claim_failed")
                pause_s = POLL_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            await asyncio.sleep(GAP_S)

    async def _claim_some(self) -> float:
        """Claim what there is room for; give for how long nothing more can be claimed, unless something happens."""
        epoch, limit = self._tenure.epoch, min(CLAIM_LIMIT, MAX_CLAIMS - len(self._claims))
        if epoch is None or limit <= 0:
            return POLL_S
        full = [name for name, lane in self._lanes.items() if lane.waiting or lane.active >= self._find_room(name)]
        has_suspect = any(claim.entry.crashes for claim in self._claims.values())
        try:
            batch = await self._store.claim(epoch, limit, full=full, takes_suspect=not has_suspect)
        except ClaimLost:
            return PAUSE_S  # the next heartbeat begins another epoch
        except StoreUnavailable as exc:
            log.warning("claim_failed", reason=str(exc))
            return PAUSE_S
        for corrupt in batch.corrupt:
            log.error("message_set_aside", id=corrupt.id, reason=corrupt.reason)
        for claim in batch.claims:
            self._claims[id(claim)] = claim
            self._lane(claim).waiting.append((claim, None))
        self._begin_waiting()
        self._has_more = bool(full) or len(batch.claims) == limit or batch.next_due_s == 0
        if len(batch.claims) == limit:
            return 0.0
        return POLL_S if batch.next_due_s is None else min(POLL_S, max(batch.next_due_s, 0.01))

    def _begin_waiting(self) -> None:
        """Begin what the lanes have room for, a lane at a time; nothing once it is stopped."""
        if self._running is None:
            return
        for name, lane in self._lanes.items():
            room = self._find_room(name)
            while lane.waiting and lane.active < room:
                claim, body = lane.waiting[0]
                if body is None and not self._fits(claim.entry.size_bytes):
                    break
                lane.waiting.popleft()
                self._begin(claim, body)

    def _begin(self, claim: Claim, body: Sequence[bytes] | None) -> None:
        self._lane(claim).active += 1
        if body is None:
            self._body_bytes += claim.entry.size_bytes
        leaves = _Once(partial(self._leave, claim))
        making = self._attempts.make(claim, body, on_delivered=leaves)
        self._nursery.start(making, name="delivery attempt").add_done_callback(partial(self._end, claim, leaves))

    def _leave(self, claim: Claim) -> None:
        """Free a place in a lane: the destination is done with."""
        lane = self._lane(claim)
        lane.active -= 1
        self._begin_waiting()
        if not lane.active and not lane.waiting:
            self._lanes.pop(_destination(claim), None)

    def _end(self, claim: Claim, leaves: "_Once", _attempt: asyncio.Task[None]) -> None:
        """Forget a claim that is settled, or lost."""
        leaves()
        del self._claims[id(claim)]
        self._body_bytes -= claim.entry.size_bytes
        self._begin_waiting()
        if self._has_more:
            self._wake.set()

    def _lane(self, claim: Claim) -> _Lane:
        return self._lanes.setdefault(_destination(claim), _Lane())

    def _fits(self, size_bytes: int) -> bool:
        return not self._body_bytes or self._body_bytes + size_bytes <= MAX_BODY_BYTES


class _Once:
    """Does something the first time it is called."""

    def __init__(self, do: Callable[[], None]) -> None:
        self._do: Callable[[], None] | None = do

    def __call__(self) -> None:
        do, self._do = self._do, None
        if do is not None:
            do()


def _destination(claim: Claim) -> str:
    return shared_destination(claim.entry.envelope.recipients)
