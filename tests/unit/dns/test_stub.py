"""StubResolver: what it remembers, what it asks once, and what a dead DNS leaves of it."""

import asyncio

import dns.message
import dns.rcode
import pytest

from mailflow.dns import Answer, AnswerStatus, DnsFailure, DnsTemporary, RdType, Record, StubResolver
from mailflow.testing import FakeClock
from tests.unit.dns.scripted_server import Said, Script, ScriptedServer, always, answer, failing, serve, silence

SOA = "test. 900 IN SOA ns.test. hostmaster.test. 1 2 3 4 120"


def make_stub(server: ScriptedServer, clock: FakeClock | None = None, *, stale_wait_s: float = 0.02) -> StubResolver:
    return StubResolver(
        [server.address],
        try_timeout_s=0.1,
        total_timeout_s=0.1,
        max_stale_s=3600,
        stale_wait_s=stale_wait_s,
        clock=clock or FakeClock(),
    )


async def ask(resolver: StubResolver) -> tuple[Record, ...]:
    return (await resolver.resolve("x.test", RdType.TXT)).records


async def failure_of(resolver: StubResolver) -> DnsFailure:
    with pytest.raises(DnsTemporary) as caught:
        await ask(resolver)
    return caught.value.kind


class Gate:
    """A script that holds its replies back until told."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.came = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def __call__(self, query: dns.message.Message) -> Said:
        self.came.set()
        await self.may_answer.wait()
        return await self.script(query)


async def test_an_answer_is_asked_for_again_only_after_its_ttl() -> None:
    clock = FakeClock()
    async with serve(always("one")) as server:
        resolver = make_stub(server, clock)
        await ask(resolver)
        clock.advance(59.9)
        await ask(resolver)
        assert len(server.queries) == 1
        clock.advance(120)
        server.script = always("two")
        assert await ask(resolver) == (b"two",)


async def test_case_and_trailing_dot_share_one_cache_entry() -> None:
    async with serve(always("one")) as server:
        resolver = make_stub(server)
        await resolver.resolve("X.test.", "TXT")
        await resolver.resolve("x.TEST", "TXT")
        assert len(server.queries) == 1


@pytest.mark.parametrize("rcode", [dns.rcode.NOERROR, dns.rcode.NXDOMAIN])
async def test_absence_is_asked_for_again_after_the_soa_minimum(rcode: dns.rcode.Rcode) -> None:
    async def absent(query: dns.message.Message) -> Said:
        reply = answer(query, soa=SOA)
        reply.set_rcode(rcode)
        return [reply]

    clock = FakeClock()
    async with serve(absent) as server:
        resolver = make_stub(server, clock)
        await ask(resolver)
        clock.advance(119)
        await ask(resolver)
        assert len(server.queries) == 1
        clock.advance(1)
        server.script = always("born")
        assert await ask(resolver) == (b"born",)


async def test_an_answer_just_expired_is_used_once_more_while_it_is_asked_for_again() -> None:
    clock = FakeClock()
    async with serve(always("old")) as server:
        resolver = make_stub(server, clock)
        await ask(resolver)
        clock.advance(61)
        server.script = gate = Gate(always("new"))
        assert await ask(resolver) == (b"old",)
        await gate.came.wait()
        assert await ask(resolver) == (b"old",)
        gate.may_answer.set()
        await flights_of(resolver)
        assert await ask(resolver) == (b"new",)
        assert len(server.queries) == 2


async def test_an_older_answer_is_used_only_if_asking_again_fails() -> None:
    clock = FakeClock()
    async with serve(always("old")) as server:
        resolver = make_stub(server, clock, stale_wait_s=5)
        await ask(resolver)
        clock.advance(1800)
        server.script = failing(dns.rcode.SERVFAIL)
        assert await ask(resolver) == (b"old",)
        assert await ask(resolver) == (b"old",)
        assert len(server.queries) == 2  # the failure is remembered too
        clock.advance(1)
        server.script = always("new")
        assert await ask(resolver) == (b"new",)


async def test_an_older_answer_is_used_if_asking_again_takes_too_long() -> None:
    clock = FakeClock()
    async with serve(always("old")) as server:
        resolver = make_stub(server, clock)
        await ask(resolver)
        clock.advance(1800)
        server.script = gate = Gate(always("new"))
        assert await ask(resolver) == (b"old",)
        gate.may_answer.set()
        await flights_of(resolver)
        assert await ask(resolver) == (b"new",)


async def test_after_hours_an_answer_is_gone() -> None:
    clock = FakeClock()
    async with serve(always("old")) as server:
        resolver = make_stub(server, clock)
        await ask(resolver)
        clock.advance(60 + 3600)
        server.script = failing(dns.rcode.SERVFAIL)
        assert await failure_of(resolver) is DnsFailure.SERVFAIL


async def test_absence_does_not_outlive_its_ttl_when_the_dns_fails() -> None:
    async def absent(query: dns.message.Message) -> Said:
        return [answer(query, soa=SOA)]

    clock = FakeClock()
    async with serve(absent) as server:
        resolver = make_stub(server, clock)
        await ask(resolver)
        clock.advance(120)
        server.script = failing(dns.rcode.SERVFAIL)
        assert await failure_of(resolver) is DnsFailure.SERVFAIL


async def test_a_failure_is_remembered_for_a_second_then_two() -> None:
    clock = FakeClock()
    async with serve(failing(dns.rcode.SERVFAIL)) as server:
        resolver = make_stub(server, clock)
        for pause_s, queries in [(0, 1), (0.9, 1), (0.1, 2), (1.9, 2), (0.1, 3)]:
            clock.advance(pause_s)
            assert await failure_of(resolver) is DnsFailure.SERVFAIL
            assert len(server.queries) == queries


async def test_a_timeout_is_remembered_as_a_timeout() -> None:
    async with serve(silence) as server:
        resolver = make_stub(server)
        assert await failure_of(resolver) is DnsFailure.TIMEOUT
        asked = len(server.queries)
        assert await failure_of(resolver) is DnsFailure.TIMEOUT
        assert len(server.queries) == asked


async def test_one_question_asked_by_many_goes_out_once() -> None:
    async with serve(silence) as server:
        server.script = gate = Gate(always("one"))
        resolver = StubResolver([server.address], try_timeout_s=5)
        waiting = [asyncio.create_task(ask(resolver)) for _ in range(50)]
        await gate.came.wait()
        gate.may_answer.set()
        assert await asyncio.gather(*waiting) == [(b"one",)] * 50
        assert len(server.queries) == 1


async def test_a_cancelled_waiter_takes_nothing_from_the_others() -> None:
    async with serve(silence) as server:
        server.script = gate = Gate(always("one"))
        resolver = StubResolver([server.address], try_timeout_s=5)
        first, second = (asyncio.create_task(ask(resolver)) for _ in range(2))
        await gate.came.wait()
        first.cancel()
        await asyncio.wait([first])
        gate.may_answer.set()
        assert await second == (b"one",)
        assert first.cancelled()
        assert len(server.queries) == 1


async def test_each_waiter_gets_a_failure_of_its_own() -> None:
    async with serve(failing(dns.rcode.SERVFAIL)) as server:
        resolver = make_stub(server)
        first, second = await asyncio.gather(*(ask(resolver) for _ in range(2)), return_exceptions=True)
        assert isinstance(first, DnsTemporary)
        assert isinstance(second, DnsTemporary)
        assert first is not second
        assert len(server.queries) == 1


async def test_an_answer_with_ttl_0_serves_only_those_who_waited_for_it() -> None:
    async with serve(always("one", ttl_s=0)) as server:
        resolver = make_stub(server)
        await asyncio.gather(ask(resolver), ask(resolver))
        await ask(resolver)
        assert len(server.queries) == 2


async def test_peek_knows_only_what_is_fresh() -> None:
    clock = FakeClock()
    async with serve(always("one")) as server:
        resolver = make_stub(server, clock)
        assert resolver.peek("x.test", "TXT") is None
        await ask(resolver)
        assert resolver.peek("x.test", "TXT") == Answer(AnswerStatus.FOUND, (b"one",), 60, "x.test")
        clock.advance(60)
        assert resolver.peek("x.test", "TXT") is None
        assert resolver.peek("no..name", "TXT") == Answer(AnswerStatus.NXDOMAIN)
        assert len(server.queries) == 1


async def test_the_cache_stays_within_its_bytes() -> None:
    async with serve(always("x" * 200)) as server:
        resolver = StubResolver([server.address], cache_bytes=20_000)
        for number in range(100):
            await resolver.resolve(f"n{number}.test", "TXT")
        assert 10_000 < resolver.cache_size_bytes <= 20_000


async def test_closing_ends_what_is_in_flight() -> None:
    async with serve(silence) as server:
        server.script = gate = Gate(always("one"))
        resolver = StubResolver([server.address], try_timeout_s=60, total_timeout_s=60)
        waiting = asyncio.create_task(ask(resolver))
        await gate.came.wait()
        await resolver.aclose()
        await asyncio.wait([waiting])
        assert waiting.cancelled()


async def flights_of(resolver: StubResolver) -> None:
    """Wait until nothing is in flight: every flight is a task with this name."""
    flights = [task for task in asyncio.all_tasks() if task.get_name() == "dns x.test TXT"]
    await asyncio.gather(*flights)
