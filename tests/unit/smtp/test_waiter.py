"""The waits of a connection: each ends at its own deadline, whenever the alarm of those before it was to ring."""

import asyncio
from collections.abc import Callable

import pytest
import uvloop

from mailflow.smtp.waiter import ALARM_S, Waiter

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy.")

FAR_S = 5.0


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    policy: Callable[[], asyncio.AbstractEventLoopPolicy] = request.param
    return policy()


async def wait(waiter: Waiter, seconds: float, *, wake_after_s: float | None = None) -> tuple[bool, float]:
    """Wait for so long, or until woken; tells whether a wake came, and how long it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    waiting = asyncio.create_task(waiter.wait(began + seconds))
    await asyncio.sleep(0)
    if wake_after_s is not None:
        loop.call_later(wake_after_s, waiter.wake)
    return await asyncio.wait_for(waiting, FAR_S), loop.time() - began


async def test_wait_ends_at_a_deadline_nearer_than_the_alarm_of_the_wait_before() -> None:
    waiter = Waiter(asyncio.get_running_loop())
    assert (await wait(waiter, 10 * ALARM_S, wake_after_s=0.0))[0]
    is_woken, took_s = await wait(waiter, 0.03)
    assert not is_woken
    assert 0.03 <= took_s + 0.002 < 1


async def test_alarm_of_an_earlier_wait_ends_no_later_one_before_its_deadline() -> None:
    waiter = Waiter(asyncio.get_running_loop())
    assert (await wait(waiter, 0.02, wake_after_s=0.0))[0]
    is_woken, took_s = await wait(waiter, 0.06)
    assert not is_woken
    assert 0.06 <= took_s + 0.002 < 1


async def test_wake_behind_the_alarm_of_an_earlier_wait_is_heard() -> None:
    waiter = Waiter(asyncio.get_running_loop())
    assert (await wait(waiter, 0.02, wake_after_s=0.0))[0]
    assert (await wait(waiter, FAR_S, wake_after_s=0.05))[0]


async def test_wait_whose_deadline_has_passed_ends_at_once_and_the_next_has_its_own() -> None:
    waiter = Waiter(asyncio.get_running_loop())
    assert not (await wait(waiter, -1))[0]
    assert (await wait(waiter, FAR_S, wake_after_s=0.01))[0]


async def test_cancelled_wait_leaves_nothing_that_ends_the_next() -> None:
    waiter = Waiter(asyncio.get_running_loop())
    waiting = asyncio.create_task(waiter.wait(asyncio.get_running_loop().time() + 0.02))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    waiter.wake()  # nobody's
    is_woken, took_s = await wait(waiter, 0.06)
    assert not is_woken
    assert 0.06 <= took_s + 0.002 < 1
