"""The delivering worker and its attempts, on a store in memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from mailflow.deliver.attempt import Attempts
from mailflow.deliver.bounce import Judgement
from mailflow.deliver.tenure import Tenure
from mailflow.deliver.worker import MAX_BODY_BYTES, DeliveryWorker
from mailflow.mail.envelope import Envelope
from mailflow.mail.handoff import FinalDot, Outcome
from mailflow.observe.nursery import Nursery
from mailflow.store import Change, Claim, Entry, Settlement, State, StoreUnavailable, Unhealthy
from mailflow.testing import FakeClock, MemoryStore
from tests.unit.deliver.stored_mail import BODY, LATER, Mailboxes, make_envelope

WAIT_S = 5.0
LEASE_S = 60.0


def judge(entry: Entry, body: Sequence[bytes], outcomes: Sequence[Outcome]) -> Judgement:
    owed = [r for r, o in zip(entry.envelope.recipients, outcomes, strict=True) if not o.is_final]
    return Judgement(Settlement(owed, retry_s=300, last_error=outcomes[0].detail))


class NotedStore(MemoryStore):
    """Tells of each settlement; fails those it is told to."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock, lease_s=LEASE_S)
        self.settled: asyncio.Queue[str] = asyncio.Queue()
        self.faults = 0

    async def settle(self, claim: Claim, settlement: Settlement) -> None:
        if self.faults:
            self.faults -= 1
            raise StoreUnavailable("told to")
        await super().settle(claim, settlement)
        self.settled.put_nowait(claim.id)


@dataclass
class Site:
    """A worker with all that is around it."""

    clock: FakeClock
    store: NotedStore
    mailboxes: Mailboxes
    tenure: Tenure
    worker: DeliveryWorker
    nursery: Nursery
    room: dict[str, int] = field(default_factory=dict)

    async def put(self, *ids: str, destination: str = "mailboxes", body: Sequence[bytes] = BODY) -> None:
        for id in ids:
            deadline = asyncio.get_running_loop().time() + 10
            await self.store.accept(make_envelope(id, destination=destination), body, deadline=deadline)

    async def wait_settled(self, count: int) -> list[str]:
        async with asyncio.timeout(WAIT_S):
            return [await self.store.settled.get() for _ in range(count)]

    async def wait_until(self, is_true: Callable[[], bool]) -> None:
        for _ in range(int(WAIT_S / 0.001)):
            if is_true():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("it never came to be")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    clock, nursery, mailboxes = FakeClock(), Nursery(), Mailboxes(deadline_s=5)
    store = NotedStore(clock)
    tenure = Tenure(store, "worker", lease_s=LEASE_S, nursery=nursery, clock=clock)
    attempts = Attempts(store, tenure, find_router=lambda: mailboxes, judge=judge, nursery=nursery)
    room: dict[str, int] = {}
    worker = DeliveryWorker(
        store, tenure, attempts, find_room=lambda destination: room.get(destination, 10), nursery=nursery
    )
    await tenure.start()
    yield Site(clock, store, mailboxes, tenure, worker, nursery, room)
    await worker.stop()
    await nursery.cancel_all()


async def test_what_waits_is_delivered_and_gone(site: Site) -> None:
    await site.put("m1", "m2")
    site.worker.start()
    assert sorted(await site.wait_settled(2)) == ["m1", "m2"]
    assert site.store.entries == {}


async def test_new_mail_is_attempted_as_soon_as_it_is_stored(site: Site) -> None:
    site.worker.start()
    await asyncio.sleep(0.05)
    await site.put("m1")
    assert await site.wait_settled(1) == ["m1"]


async def test_what_cannot_be_delivered_now_waits_for_its_next_try(site: Site) -> None:
    site.mailboxes.answers["alice@example.org"] = LATER
    await site.put("m1")
    site.worker.start()
    await site.wait_settled(1)
    entry = await site.store.find("m1")
    assert isinstance(entry, Entry)
    assert (entry.state, entry.attempts, entry.last_error) == (State.DEFERRED, 1, LATER.detail)
    assert entry.next_try_s == pytest.approx(300)


async def test_a_destination_has_no_more_attempts_at_once_than_it_takes(site: Site) -> None:
    site.room["mailboxes"] = 2
    site.mailboxes.waits_before = True
    await site.put(*(f"m{n}" for n in range(6)))
    site.worker.start()
    await site.wait_until(lambda: site.mailboxes.at_once == 2)
    site.mailboxes.release.set()
    assert len(await site.wait_settled(6)) == 6
    assert site.mailboxes.most_at_once == 2


async def test_a_full_destination_keeps_no_other_waiting(site: Site) -> None:
    site.room["slow"] = 1
    slow = Mailboxes(waits_before=True, deadline_s=30)
    fast = site.mailboxes
    site.worker._attempts._find_router = lambda: Ways({"slow": slow, "fast": fast})
    await site.put(*(f"s{n}" for n in range(50)), destination="slow")
    site.worker.start()
    await site.wait_until(lambda: slow.at_once == 1)
    await site.put("f1", "f2", destination="fast")
    assert sorted(await site.wait_settled(2)) == ["f1", "f2"]
    slow.release.set()


@dataclass
class Ways:
    """Several deliverers by destination."""

    by_destination: dict[str, Mailboxes]

    def refresh(self) -> None:
        """Nothing changes."""

    def handoff_deadline_s(self, envelope: Envelope) -> float:
        return 30.0

    verify_recipient = Mailboxes.verify_recipient

    async def deliver(self, envelope: Envelope, body: Sequence[bytes], dot: FinalDot) -> list[Outcome]:
        return await self.by_destination[envelope.recipients[0].destination].deliver(envelope, body, dot)


async def test_bodies_in_memory_are_bounded(site: Site) -> None:
    site.mailboxes.waits_before = True
    large = [b"x" * (MAX_BODY_BYTES // 2 + 1)]
    await site.put("m1", "m2", body=large)
    site.worker.start()
    await site.wait_until(lambda: site.mailboxes.at_once == 1)
    await asyncio.sleep(0.1)
    assert site.mailboxes.at_once == 1
    site.mailboxes.release.set()
    assert len(await site.wait_settled(2)) == 2


async def test_what_cannot_be_read_is_set_aside_and_the_rest_goes_on(site: Site) -> None:
    await site.put("bad", "good")
    site.store.entries["bad"].body = b"other"
    site.worker.start()
    assert await site.wait_settled(1) == ["good"]
    await site.wait_until(lambda: site.store.entries["bad"].state is State.SET_ASIDE)


async def test_a_final_dot_does_not_leave_once_the_lease_may_be_over(site: Site) -> None:
    site.mailboxes.waits_before = True
    await site.put("m1")
    site.worker.start()
    await site.mailboxes.begun.wait()
    site.clock.advance(LEASE_S)
    site.mailboxes.release.set()
    await site.mailboxes.ended.wait()
    assert site.mailboxes.delivered == []
    assert "m1" in site.store.entries


async def test_a_settlement_that_the_store_does_not_take_is_tried_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailflow.deliver.attempt.SETTLE_PAUSE_S", 0.01)
    site.store.faults = 3
    await site.put("m1")
    site.worker.start()
    await site.wait_settled(1)
    assert site.mailboxes.delivered == ["m1 alice@example.org"]


async def test_a_crash_in_the_delivery_defers_that_message_alone(site: Site) -> None:
    class Broken(Ways):
        async def deliver(self, envelope: Envelope, body: Sequence[bytes], dot: FinalDot) -> list[Outcome]:
            if envelope.id == "bad":
                raise RuntimeError("a fault of ours")
            return await super().deliver(envelope, body, dot)

    site.worker._attempts._find_router = lambda: Broken({"mailboxes": site.mailboxes})
    await site.put("bad", "good")
    site.worker.start()
    await site.wait_settled(2)
    assert list(site.store.entries) == ["bad"]
    assert site.store.entries["bad"].last_error == "a fault of our own"


async def test_a_crash_after_the_delivery_sets_the_message_aside(site: Site) -> None:
    def crash(*_: object) -> Judgement:
        raise RuntimeError("a fault of ours")

    site.worker._attempts._judge = crash
    await site.put("m1")
    site.worker.start()
    await site.wait_settled(1)
    assert site.store.entries["m1"].state is State.SET_ASIDE


async def test_a_late_answer_frees_the_lane_and_is_heard(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailflow.deliver.watch.GRACE_S", 0.0)
    site.room["mailboxes"] = 1
    site.mailboxes.deadline_s = 0.05
    site.mailboxes.waits_behind = True
    await site.put("m1", "m2")
    site.worker.start()
    await site.wait_until(lambda: site.mailboxes.at_once == 2)
    await site.wait_until(lambda: all(stored.is_in_doubt for stored in site.store.entries.values()))
    site.mailboxes.release.set()
    assert sorted(await site.wait_settled(2)) == ["m1", "m2"]
    assert sorted(site.mailboxes.delivered) == ["m1 alice@example.org", "m2 alice@example.org"]


async def test_what_the_operator_takes_away_is_not_settled(site: Site) -> None:
    site.mailboxes.waits_before = True
    await site.put("m1")
    site.worker.start()
    await site.mailboxes.begun.wait()
    await site.store.change(["m1"], Change.HOLD)
    site.mailboxes.release.set()
    await site.mailboxes.ended.wait()
    await asyncio.sleep(0.02)
    assert site.store.entries["m1"].state is State.HELD


async def test_a_store_that_fails_is_claimed_from_again_when_it_works(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailflow.deliver.worker.PAUSE_S", 0.01)
    await site.put("m1")
    site.store.break_down(Unhealthy("gone"))
    site.worker.start()
    await asyncio.sleep(0.05)
    site.store.recover()
    assert await site.wait_settled(1) == ["m1"]


async def test_once_stopped_nothing_more_is_begun(site: Site) -> None:
    site.worker.start()
    await site.worker.stop()
    await site.put("m1")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await site.store.settled.get()
    assert site.mailboxes.delivered == []
    assert not site.worker.has_room("mailboxes", 10)


async def test_what_was_just_accepted_is_delivered_from_memory(site: Site) -> None:
    site.worker.start()
    assert site.worker.has_room("mailboxes", 10)
    assert site.tenure.epoch
    deadline = asyncio.get_running_loop().time() + 10
    claim = await site.store.accept(make_envelope("m1"), BODY, deadline=deadline, owner=site.tenure.epoch)
    assert claim is not None
    site.store.entries["m1"].body = b"damaged on the disk since"
    site.worker.take(replace(claim), BODY)
    assert await site.wait_settled(1) == ["m1"]


async def test_a_message_that_is_claimed_again_while_its_lost_attempt_runs_disturbs_nothing(site: Site) -> None:
    site.mailboxes.waits_before = True
    await site.put("m1")
    site.worker.start()
    await site.wait_until(lambda: site.mailboxes.at_once == 1)
    await site.store.change(["m1"], Change.HOLD)
    await site.store.change(["m1"], Change.RELEASE)
    await site.wait_until(lambda: site.mailboxes.at_once == 2)
    site.mailboxes.release.set()
    await site.wait_settled(1)
    await site.wait_until(lambda: not site.worker._claims)
    assert site.worker._body_bytes == 0


async def test_a_claim_that_could_not_begin_is_handed_back_once_the_store_hears_of_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailflow.deliver.attempt.SETTLE_PAUSE_S", 0.02)
    monkeypatch.setattr("mailflow.deliver.worker.PAUSE_S", 0.02)
    begin = site.store.begin

    async def fail(claim: Claim) -> None:
        site.store.begin = begin  # type: ignore[method-assign]
        site.store.break_down(Unhealthy("gone"))
        raise StoreUnavailable("gone")

    site.store.begin = fail  # type: ignore[method-assign]
    await site.put("m1")
    site.worker.start()
    await asyncio.sleep(0.1)
    site.store.recover()
    assert await site.wait_settled(1) == ["m1"]


async def test_what_comes_after_the_stop_is_left_to_others(site: Site) -> None:
    site.worker.start()
    assert site.tenure.epoch
    deadline = asyncio.get_running_loop().time() + 10
    claim = await site.store.accept(make_envelope("m1"), BODY, deadline=deadline, owner=site.tenure.epoch)
    assert claim is not None
    await site.worker.stop()
    site.worker.take(claim, BODY)
    await asyncio.sleep(0.02)
    assert site.mailboxes.delivered == []
    await site.tenure.stop()
    entry = await site.store.find("m1")
    assert isinstance(entry, Entry)
    assert entry.state is State.DEFERRED
