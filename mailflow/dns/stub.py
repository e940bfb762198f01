"""The real resolver: cache, one query in flight per question, and recursive servers behind it. (RFC 1034 s5.3.1, 8767)

One per worker. A question many sessions ask at once goes out once; the query is a task of its own, so a session that is
cancelled takes nothing from the others, and its answer still lands in the cache. An answer whose TTL just ran out is
used once more while it is asked for again; an older one (hours, not days) is used only when the servers fail, or when
they have not answered within 1.8 s (RFC 8767 s5).
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Final, TypeAlias

from mailflow.dns.cache import Age, AnswerCache, Key
from mailflow.dns.names import canonical_name
from mailflow.dns.resolver import Answer, AnswerStatus, Clock, DnsFailure, DnsTemporary, RdType, Record
from mailflow.dns.upstream import Upstreams, parse_nameserver, system_nameservers

NO_SUCH_NAME: Final[Answer[Record]] = Answer(AnswerStatus.NXDOMAIN)
_Outcome: TypeAlias = Answer[Record] | DnsFailure


class StubResolver:
    """A Resolver that asks recursive servers and remembers what they said.

    `nameservers` are "HOST:PORT" with addresses for hosts, tried in order; empty: those of /etc/resolv.conf, read once.
    Times are in seconds; `max_stale_s` = 0 never serves stale answers. `clock` is monotonic and decides what has
    expired; the time limits of queries run on the event loop's own clock. Close it with `aclose()`.
    """

    def __init__(
        self,
        nameservers: Sequence[str] = (),
        *,
        try_timeout_s: float = 2.0,
        total_timeout_s: float = 5.0,
        cache_bytes: int = 32 * 1024 * 1024,
        max_stale_s: float = 3 * 3600.0,
        stale_wait_s: float = 1.8,
        clock: Clock = time.monotonic,
    ) -> None:
        servers = [parse_nameserver(text) for text in nameservers] or system_nameservers()
        self._upstreams = Upstreams(servers, try_timeout_s=try_timeout_s, total_timeout_s=total_timeout_s, clock=clock)
        self._cache = AnswerCache(max_bytes=cache_bytes, max_stale_s=max_stale_s)
        self._stale_wait_s = stale_wait_s
        self._clock = clock
        self._flights: dict[Key, asyncio.Task[_Outcome]] = {}

    @property
    def cache_size_bytes(self) -> int:
        """What the cache takes, as Python counts it."""
        return self._cache.size_bytes

    async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
        """Answer from the cache or the servers; see Resolver.resolve."""
        canonical = canonical_name(name)
        key = (canonical or name, RdType(rdtype))
        if canonical is None:
            return NO_SUCH_NAME
        now = self._clock()
        entry = self._cache.find(key)
        if entry is None:
            return self._answer_or_raise(key, await self._fly(key))
        match self._cache.age(entry, now):
            case Age.FRESH:
                usable = entry.answer
            case Age.DUE:
                usable = entry.answer
                if not entry.is_failing(now):
                    self._start(key)
            case Age.STALE if entry.answer is not None:
                usable = entry.answer if entry.is_failing(now) else await self._refresh(key, entry.answer)
            case _:
                usable = None
        if usable is not None:
            return usable
        if entry.failure is not None and entry.is_failing(now):
            return self._answer_or_raise(key, entry.failure)
        return self._answer_or_raise(key, await self._fly(key))

    def peek(self, name: str, rdtype: RdType | str) -> Answer[Record] | None:
        """The answer `resolve` would give without a query or a wait, None where it would need one."""
        canonical = canonical_name(name)
        if not isinstance(rdtype, RdType):
            rdtype = RdType(rdtype)
        if canonical is None:
            return NO_SUCH_NAME
        return self._cache.find_fresh((canonical, rdtype), self._clock())

    async def aclose(self) -> None:
        """Cancel what is in flight; those who wait for it see CancelledError."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    async def _refresh(self, key: Key, stale: Answer[Record]) -> Answer[Record]:
        try:
            async with asyncio.timeout(self._stale_wait_s):
                outcome = await self._fly(key)
        except TimeoutError:
            return stale
        return stale if isinstance(outcome, DnsFailure) else outcome

    async def _fly(self, key: Key) -> _Outcome:
        return await asyncio.shield(self._start(key))

    def _start(self, key: Key) -> asyncio.Task[_Outcome]:
        flight = self._flights.get(key)
        if flight is None:
            # Not in a TaskGroup: it outlives whoever asked first. `aclose` ends it, its time limit at the latest; a
            # fault of ours in it reaches every waiter.
            flight = self._flights[key] = asyncio.create_task(self._ask(key), name=f"dns {key[0]} {key[1]}")
            flight.add_done_callback(lambda _: self._flights.pop(key, None))
        return flight

    async def _ask(self, key: Key) -> _Outcome:
        try:
            answer = await self._upstreams.ask(*key)
        except DnsTemporary as exc:
            self._cache.store_failure(key, exc.kind, self._clock())
            return exc.kind
        self._cache.store(key, answer, self._clock())
        return answer

    @staticmethod
    def _answer_or_raise(key: Key, outcome: _Outcome) -> Answer[Record]:
        if isinstance(outcome, DnsFailure):
            raise DnsTemporary(outcome, *key)  # a new one for each waiter: tracebacks grow on shared exceptions
        return outcome
