"""The nursery: a failure is logged and counted, siblings live, nothing is lost."""

import asyncio
import gc

import pytest
import structlog
from structlog.testing import capture_logs

from mailflow.observe.nursery import Nursery


async def fail() -> None:
    raise ValueError("broken")


@pytest.fixture(autouse=True)
def _plain_structlog() -> None:
    structlog.reset_defaults()


async def test_a_failure_is_logged_and_counted_while_siblings_live() -> None:
    failures: list[str] = []
    nursery = Nursery(on_failure=lambda: failures.append("one"))
    release = asyncio.Event()
    with capture_logs() as logs:
        sibling = nursery.start(release.wait(), name="sibling")
        failed = nursery.start(fail(), name="session 7")
        await asyncio.wait([failed])
    (entry,) = logs
    assert (entry["event"], entry["task"], entry["log_level"]) == ("task_failed", "session 7", "error")
    assert str(entry["exc_info"]) == "broken"
    assert failures == ["one"]
    assert len(nursery) == 1
    release.set()
    assert await sibling is True
    assert await nursery.wait_empty(1)


async def test_a_task_nobody_else_holds_is_not_collected() -> None:
    nursery = Nursery()
    release: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    async def work() -> None:
        await release
        done.set()

    nursery.start(work(), name="work")
    await asyncio.sleep(0)
    gc.collect()
    assert len(nursery) == 1
    release.set_result(None)
    await asyncio.wait_for(done.wait(), 1)


async def test_an_awaited_task_gives_its_result() -> None:
    async def answer() -> int:
        return 42

    assert await Nursery().start(answer(), name="answer") == 42


async def test_wait_empty_is_false_when_its_time_is_over() -> None:
    nursery = Nursery()
    nursery.start(asyncio.Event().wait(), name="never")
    assert await nursery.wait_empty(0.01) is False
    await nursery.cancel_all()


async def test_wait_empty_waits_for_tasks_started_meanwhile() -> None:
    nursery = Nursery()
    ended: list[str] = []

    async def second() -> None:
        await asyncio.sleep(0)
        ended.append("second")

    async def first() -> None:
        nursery.start(second(), name="second")

    nursery.start(first(), name="first")
    assert await nursery.wait_empty(1)
    assert ended == ["second"]


async def test_an_empty_nursery_is_empty_at_once() -> None:
    assert await Nursery().wait_empty(0)
    assert await Nursery().wait_empty(None)


async def test_cancel_all_waits_for_the_end_and_is_no_failure() -> None:
    failures: list[str] = []
    nursery = Nursery(on_failure=lambda: failures.append("one"))
    steps: list[str] = []

    async def tidy() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            steps.append("tidied")

    for number in range(3):
        nursery.start(tidy(), name=f"tidy {number}")
    await asyncio.sleep(0)
    await nursery.cancel_all()
    assert steps == ["tidied"] * 3
    assert len(nursery) == 0
    assert failures == []


async def test_cancel_all_cancels_what_is_started_while_it_waits() -> None:
    nursery = Nursery()

    async def respawn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            nursery.start(asyncio.Event().wait(), name="late")

    nursery.start(respawn(), name="respawn")
    await asyncio.sleep(0)
    await asyncio.wait_for(nursery.cancel_all(), 1)
    assert len(nursery) == 0


async def test_a_task_may_cancel_its_siblings() -> None:
    nursery = Nursery()
    sibling = nursery.start(asyncio.Event().wait(), name="sibling")
    await nursery.start(nursery.cancel_all(), name="last")
    assert sibling.cancelled()
