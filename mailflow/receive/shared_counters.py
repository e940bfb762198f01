"""Limits per client network over all Pods: each counts its own, and a Redis says what the others hold.

Every session is counted in this process too, so a Redis that is down, frozen or in error costs the
limits of the installation and nothing else: from then on this Pod's own numbers decide, at once, and
mail is never refused or held up for it. Meanwhile the server is looked for with growing pauses; back
there, all that lives here is registered before its word counts again.

What is to be asked or told gathers while one exchange is under way and goes with the next, by network:
a flood from one network is one question. What is told is how much we hold now, renewed in time for the lease.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import structlog

from mailflow.config import RedisServer
from mailflow.observe.nursery import Nursery
from mailflow.receive.limits import LimitCounters
from mailflow.receive.redis_counts import Answer, CountsUnavailable, RedisCounts, Request

LEASE_S = 60.0
RENEWALS_PER_LEASE = 3
IDLE_S = 1.0  # a server that nobody needs is asked this often whether it is there
NETWORKS_PER_EXCHANGE = 200
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 5.0  # also how long a server must be well to be looked for soon again

Reply = Callable[[str | None], None]

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class _Question:
    holder: str
    reply: Reply
    is_dropped: bool = False


class SharedCounters:
    """Counts in `server`, with `counters` as what this Pod itself holds.

    `on_change(is_shared)` hears whether the server's word counts. `start` first, `stop` last.
    """

    def __init__(
        self,
        counters: LimitCounters,
        server: RedisServer,
        *,
        nursery: Nursery,
        on_change: Callable[[bool], object],
        on_internal_error: Callable[[], object] = lambda: None,
        lease_s: float = LEASE_S,
    ) -> None:
        self.server = server
        self.is_shared = False
        self._counters = counters
        self._nursery = nursery
        self._on_change = on_change
        self._on_internal_error = on_internal_error
        self._lease_s = lease_s
        self._pod = secrets.token_hex(8)
        self._questions: dict[str, list[_Question]] = {}
        self._asked: dict[str, list[_Question]] = {}  # those of the exchange under way
        self._changed: set[str] = set()  # networks of which the server is to be told
        self._told: set[str] = set()  # networks of which it has, or may have, a number of ours
        self._work = asyncio.Event()
        self._stopping = asyncio.Event()
        self._is_down = False  # and that was logged
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look for the server, and from then on count there while it is well."""
        self._running = self._nursery.start(self._run(), name="shared limits")

    def enter(self, network: str, *, holder: str, reply: Reply) -> None:
        """Count a session in, or give `reply` the reason why it may not; at once, or when the server has answered."""
        if not self.is_shared:
            reply(self._counters.enter(network, holder=holder))
            return
        reason = self._counters.find_refusal(network)
        if reason is not None:  # what is too much here is too much everywhere
            reply(reason)
            return
        self._questions.setdefault(network, []).append(_Question(holder, reply))
        self._work.set()

    def leave(self, network: str, *, holder: str) -> None:
        """Count a session out."""
        self._counters.leave(network, holder=holder)
        self._note_change(network)

    def release_holder(self, holder: str) -> None:
        """Count out every session of a worker that has ended; what it asked needs no answer any more."""
        for network in self._counters.release_holder(holder):
            self._note_change(network)
        for questions in (*self._questions.values(), *self._asked.values()):
            for question in questions:
                question.is_dropped |= question.holder == holder

    def describe(self) -> list[str]:
        """Give what an operator should know, for /readyz."""
        return [] if self.is_shared else [f"limits per client network hold for this Pod alone: {self.server} is down"]

    def stop(self) -> None:
        """Ask the server no more; who waits for it is answered now."""
        if not self.is_shared and self._running is not None:
            self._running.cancel()
        self.is_shared = False
        self._answer_alone()
        self._stopping.set()
        self._work.set()

    async def wait_stopped(self) -> None:
        """Wait until what we told the server is taken back, if it is well; that takes no longer than it may."""
        if self._running is not None:
            await asyncio.wait([self._running])

    def _note_change(self, network: str) -> None:
        if self.is_shared:
            self._changed.add(network)
            self._work.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            began = loop.time()
            counts = RedisCounts(self.server, pod=self._pod, lease_s=self._lease_s)
            try:
                await counts.connect()
                await self._register(counts)
                self._share()
                await self._exchange_until_closing(counts)
                await self._withdraw(counts)
                return
            except CountsUnavailable as exc:
                reason = str(exc)
            except Exception:  # the boundary of this room: a fault of ours must not hold connections up either
                log.exception("internal_error", where="shared limits")
                self._on_internal_error()
                reason = "an error of our own"
            finally:
                await counts.close()
            if loop.time() - began > LONGEST_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            if self._stopping.is_set():
                return
            self._fall_back(reason)
            await asyncio.sleep(pause_s)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)

    async def _register(self, counts: RedisCounts) -> None:
        """Tell the server what lives here; first try whether it takes anything, also where nothing does."""
        probe = f"probe {self._pod}"
        await self._tell(counts, [Request(probe, 1, 0), Request(probe, 0, 0)])
        self._told |= self._counters.networks
        registered: dict[str, int] = {}
        for chunk in _chunks(self._told):
            counted = {network: self._counters.count(network) for network in chunk}
            await self._tell(counts, [Request(network, count, 0) for network, count in counted.items()])
            registered |= counted
        # What came and went while that was under way goes with the first exchange.
        self._told |= self._counters.networks
        self._changed = {n for n in self._told if self._counters.count(n) != registered.get(n, 0)}
        self._told = {n for n in self._told if n in self._changed or registered[n]}

    async def _exchange_until_closing(self, counts: RedisCounts) -> None:
        loop = asyncio.get_running_loop()
        renewal_s = self._lease_s / RENEWALS_PER_LEASE
        renews_at = loop.time() + renewal_s
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(IDLE_S, renewal_s)):
                    await self._work.wait()
            self._work.clear()
            if loop.time() >= renews_at:
                self._changed |= self._told
                renews_at = loop.time() + renewal_s
            await self._exchange(counts)
            if self._questions or self._changed:
                self._work.set()

    async def _exchange(self, counts: RedisCounts) -> None:
        """Ask and tell what has gathered, a bounded part of it; questions go first."""
        asked = self._asked = dict(islice(self._questions.items(), NETWORKS_PER_EXCHANGE))
        for network in asked:
            del self._questions[network]
        self._changed -= asked.keys()
        told = tuple(islice(self._changed, NETWORKS_PER_EXCHANGE - len(asked)))
        self._changed.difference_update(told)
        self._told.update(asked, told)
        requests = [
            Request(network, self._counters.count(network), len(asked.get(network, ()))) for network in (*asked, *told)
        ]
        answers = await self._tell(counts, requests)
        self._asked = {}
        for request, (granted, is_rate) in zip(requests, answers, strict=True):
            for question in asked.get(request.network, ()):
                if question.is_dropped:
                    self._changed.add(request.network)  # what was granted to nobody is given back
                elif granted:
                    granted -= 1
                    self._counters.count_in(request.network, holder=question.holder)
                    question.reply(None)
                else:
                    question.reply("client_rate" if is_rate else "client_connections")
            if not self._counters.count(request.network) and request.network not in self._changed:
                self._told.discard(request.network)

    async def _tell(self, counts: RedisCounts, requests: Sequence[Request]) -> list[Answer]:
        return await counts.exchange(
            requests, max_sessions=self._counters.max_sessions, per_minute=self._counters.per_minute
        )

    async def _withdraw(self, counts: RedisCounts) -> None:
        """Leave nothing of ours behind."""
        for chunk in _chunks(self._told):
            await self._tell(counts, [Request(network, 0, 0) for network in chunk])

    def _share(self) -> None:
        log.info("limits_shared", server=str(self.server))
        self.is_shared, self._is_down = True, False
        self._work.set()
        self._on_change(True)

    def _fall_back(self, reason: str) -> None:
        if not self._is_down:
            log.warning("limits_not_shared", server=str(self.server), reason=reason)
            self._on_change(False)
        self.is_shared, self._is_down = False, True
        self._changed.clear()
        self._answer_alone()

    def _answer_alone(self) -> None:
        """Answer by this Pod's own numbers who waits for the server's."""
        for waiting in (self._asked, self._questions):
            for network, questions in waiting.items():
                for question in questions:
                    if not question.is_dropped:
                        question.is_dropped = True
                        question.reply(self._counters.enter(network, holder=question.holder))
            waiting.clear()


def _chunks(networks: set[str]) -> Iterator[tuple[str, ...]]:
    """Give all of `networks` in parts, each small enough for an exchange; the set may change meanwhile."""
    left = iter(tuple(networks))
    while chunk := tuple(islice(left, NETWORKS_PER_EXCHANGE)):
        yield chunk
