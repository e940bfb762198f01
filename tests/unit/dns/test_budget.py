import asyncio

import pytest

from mailflow.dns import Answer, AnswerStatus, BudgetedResolver, DnsFailure, DnsTemporary, RdType, Record, StubResolver
from mailflow.testing import FakeClock, ZoneResolver
from tests.unit.dns.scripted_server import always, serve

ZONE = ZoneResolver({f"n{number}.test": [{"TXT": "x"}] for number in range(10)})


class SlowResolver:
    """Each answer takes `seconds` of a fake clock."""

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds
        self.asked = 0

    async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
        self.asked += 1
        self.clock.advance(self.seconds)
        return Answer(AnswerStatus.NODATA)


class SilentResolver:
    async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
        return await asyncio.get_running_loop().create_future()


class FailingResolver:
    async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
        raise TimeoutError


async def kind_of_failure(resolver: BudgetedResolver, name: str = "n9.test") -> DnsFailure:
    with pytest.raises(DnsTemporary) as caught:
        await resolver.resolve(name, "TXT")
    assert caught.value.name == name
    return caught.value.kind


async def test_after_the_last_query_of_the_budget_nothing_is_asked() -> None:
    zone = ZoneResolver({})
    resolver = BudgetedResolver(zone, max_queries=3)
    for number in range(3):
        await resolver.resolve(f"n{number}.test", "TXT")
    assert await kind_of_failure(resolver) is DnsFailure.BUDGET
    assert len(zone.queries) == 3


async def test_cached_answers_cost_nothing_and_come_even_after_the_budget() -> None:
    async with serve(always("one")) as server:
        stub = StubResolver([server.address])
        resolver = BudgetedResolver(stub, max_queries=1)
        for _ in range(5):
            assert (await resolver.resolve("x.test", "TXT")).records == (b"one",)
        assert await kind_of_failure(resolver, "y.test") is DnsFailure.BUDGET
        assert (await resolver.resolve("x.test", "TXT")).records == (b"one",)


async def test_seconds_spent_on_queries_add_up() -> None:
    clock = FakeClock()
    slow = SlowResolver(clock, 3)
    resolver = BudgetedResolver(slow, max_seconds=6, clock=clock)
    for _ in range(2):
        await resolver.resolve("n1.test", "TXT")
    assert await kind_of_failure(resolver) is DnsFailure.BUDGET
    assert slow.asked == 2


async def test_seconds_between_queries_do_not_count() -> None:
    clock = FakeClock()
    resolver = BudgetedResolver(ZONE, max_seconds=6, clock=clock)
    for number in range(5):
        clock.advance(600)
        assert (await resolver.resolve(f"n{number}.test", "TXT")).status is AnswerStatus.FOUND


async def test_a_query_still_out_when_the_seconds_end_is_given_up() -> None:
    resolver = BudgetedResolver(SilentResolver(), max_seconds=0.02)
    assert await kind_of_failure(resolver) is DnsFailure.BUDGET
    assert await kind_of_failure(resolver) is DnsFailure.BUDGET


async def test_seconds_of_queries_side_by_side_count_once() -> None:
    clock = FakeClock()
    together = asyncio.Barrier(5)
    answered = asyncio.Event()

    class Waiting:
        async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
            if not answered.is_set():
                await together.wait()
            await answered.wait()
            return Answer(AnswerStatus.NODATA)

    resolver = BudgetedResolver(Waiting(), max_seconds=6, clock=clock)
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(resolver.resolve("n1.test", "TXT"))
        await together.wait()
        clock.advance(5)
        answered.set()
    assert (await resolver.resolve("n1.test", "TXT")).status is AnswerStatus.NODATA


async def test_a_timeout_of_the_resolver_itself_is_not_taken_for_the_budget() -> None:
    with pytest.raises(TimeoutError):
        await BudgetedResolver(FailingResolver()).resolve("x.test", "TXT")
