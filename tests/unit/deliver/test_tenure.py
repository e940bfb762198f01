import asyncio
from collections.abc import AsyncIterator

import pytest

from mailflow.deliver.tenure import Tenure
from mailflow.observe.nursery import Nursery
from mailflow.store import Unhealthy
from mailflow.testing import FakeClock, MemoryStore

LEASE_S = 60.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    return MemoryStore(clock=clock, lease_s=LEASE_S)


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    nursery = Nursery()
    yield nursery
    await nursery.cancel_all()


def make_tenure(store: MemoryStore, clock: FakeClock, nursery: Nursery) -> Tenure:
    return Tenure(store, "worker 0", lease_s=LEASE_S, nursery=nursery, clock=clock)


async def test_an_epoch_is_held_until_its_lease_could_be_over(
    store: MemoryStore, clock: FakeClock, nursery: Nursery
) -> None:
    tenure = make_tenure(store, clock, nursery)
    await tenure.start()
    assert tenure.epoch is not None
    epoch = tenure.epoch
    assert tenure.holds(epoch)
    clock.advance(LEASE_S)
    assert not tenure.holds(epoch)


async def test_another_epoch_is_not_held(store: MemoryStore, clock: FakeClock, nursery: Nursery) -> None:
    tenure = make_tenure(store, clock, nursery)
    await store.open()
    stranger = await store.enter("another")
    await tenure.start()
    assert not tenure.holds(stranger)


async def test_a_store_that_is_down_at_the_start_leaves_the_worker_unready(
    store: MemoryStore, clock: FakeClock, nursery: Nursery
) -> None:
    store.break_down(Unhealthy("no connection"))
    tenure = make_tenure(store, clock, nursery)
    await tenure.start()
    assert tenure.epoch is None
    assert tenure.unhealthy_reason() is not None
    assert "store" in (tenure.unready_reason() or "")


async def test_a_blip_is_no_reason_to_be_unready(store: MemoryStore, clock: FakeClock, nursery: Nursery) -> None:
    tenure = make_tenure(store, clock, nursery)
    await tenure.start()
    store.break_down(Unhealthy("no answer"))
    assert tenure.unhealthy_reason() == Unhealthy("no answer")
    assert tenure.unready_reason() is None
    clock.advance(10)
    assert tenure.unready_reason() == "store: no answer"
    store.recover()
    assert tenure.unready_reason() is None


async def test_leaving_makes_what_is_claimed_due_at_once(
    store: MemoryStore, clock: FakeClock, nursery: Nursery
) -> None:
    tenure = make_tenure(store, clock, nursery)
    await tenure.start()
    await tenure.stop()
    assert tenure.epoch is None
    await asyncio.wait_for(nursery.wait_empty(None), 1)
