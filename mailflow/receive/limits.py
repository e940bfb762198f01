"""How many connections a worker holds, and what one client network may do with the whole installation.

A client is its network, /24 or /64: who has one address there has them all. Refusing costs a sender
a retry (421). What one network does is counted for all workers together, in `LimitCounters`, which
live in the supervisor; a worker asks it through `SharedLimits`. shared_counters.py counts for all Pods.
"""

from collections import Counter
from collections.abc import Callable, Set
from ipaddress import IPv6Address
from typing import Protocol

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from mailflow.mail.reply import Reply

TOO_MANY = Reply(421, "4.3.2", "Too many connections, try again later")
TOO_MANY_FROM_CLIENT = Reply(421, "4.7.0", "Too many connections from your network, try again later")


MIN_ROOMY_SESSIONS = 20  # a limit below is exact at every moment


class SharedLimits(Protocol):
    """The counters of all workers, as one worker sees them."""

    async def enter(self, network: str) -> str | None:
        """Count a session of `network` in, or give the reason (of mailflow_shed_total) why it may not."""
        ...

    def leave(self, network: str) -> None:
        """Count an admitted session out."""
        ...


class LimitCounters:
    """Sessions and new connections by network; `holder` is the worker that has a session.

    `per_minute` is over a moving window, 0: no limit.
    """

    def __init__(self, *, max_sessions: int, per_minute: int) -> None:
        self._sessions: Counter[str] = Counter()
        self._held: dict[str, Counter[str]] = {}
        self._windows: MovingWindowRateLimiter | None = None  # its storage has a thread: only where it is asked for
        self.configure(max_sessions=max_sessions, per_minute=per_minute)

    def configure(self, *, max_sessions: int, per_minute: int) -> None:
        """Take up other limits; what was counted stays."""
        self.max_sessions = max_sessions
        self.per_minute = per_minute
        self._rate = RateLimitItemPerMinute(per_minute) if per_minute else None
        if self._rate is not None and self._windows is None:
            self._windows = MovingWindowRateLimiter(MemoryStorage())

    def enter(self, network: str, *, holder: str = "") -> str | None:
        """Count a session in, or give the reason why it may not."""
        if self._sessions[network] >= self.max_sessions:
            return "client_connections"
        if self._rate is not None and self._windows is not None and not self._windows.hit(self._rate, network):
            return "client_rate"
        self._count_in(network, holder)
        return None

    def find_refusal(self, network: str) -> str | None:
        """Give the reason why another session may not enter, and count nothing."""
        if self._sessions[network] >= self.max_sessions:
            return "client_connections"
        if self._rate is not None and self._windows is not None and not self._windows.test(self._rate, network):
            return "client_rate"
        return None

    def count_in(self, network: str, *, holder: str) -> None:
        """Count a session in whatever the limits say: others have let it in."""
        if self._rate is not None and self._windows is not None:
            self._windows.hit(self._rate, network)
        self._count_in(network, holder)

    def count(self, network: str) -> int:
        """Tell how many sessions a network has."""
        return self._sessions[network]

    def is_roomy(self, network: str) -> bool:
        """Tell whether a network is so far from its limit that a few sessions too many in the count refuse nobody.

        Never where new ones are counted by the minute.
        """
        has_room = 2 * self._sessions[network] <= self.max_sessions
        return has_room and self.max_sessions >= MIN_ROOMY_SESSIONS and self._rate is None

    @property
    def networks(self) -> Set[str]:
        """The networks that have sessions."""
        return self._sessions.keys()

    def leave(self, network: str, *, holder: str = "") -> None:
        """Count a session out; one that was never counted in is nothing."""
        held = self._held.get(holder)
        if held is not None and held[network] > 0:
            _take(held, network, 1)
            _take(self._sessions, network, 1)

    def release_holder(self, holder: str) -> Set[str]:
        """Count out every session of a worker that has ended; give the networks they were of."""
        held = self._held.pop(holder, Counter())
        for network, count in held.items():
            _take(self._sessions, network, count)
        return held.keys()

    def _count_in(self, network: str, holder: str) -> None:
        self._sessions[network] += 1
        self._held.setdefault(holder, Counter())[network] += 1


class OwnLimits:
    """SharedLimits of a process that shares with nobody."""

    def __init__(self, counters: LimitCounters) -> None:
        self._counters = counters

    async def enter(self, network: str) -> str | None:
        """Count a session in, or give the reason why it may not."""
        return self._counters.enter(network)

    def leave(self, network: str) -> None:
        """Count a session out."""
        self._counters.leave(network)


class ConnectionLimits:
    """Admits the connections of one worker; `on_shed` hears the reason of each refusal."""

    def __init__(self, *, max_connections: int, shared: SharedLimits, on_shed: Callable[[str], None]) -> None:
        self.max_connections = max_connections
        self._shared = shared
        self._on_shed = on_shed
        self._open = 0

    async def admit(self, ip: str) -> Reply | None:
        """Count a connection from `ip` in, or give the reply that refuses it."""
        if self._open >= self.max_connections:
            self._on_shed("connections")
            return TOO_MANY
        self._open += 1
        try:
            reason = await self._shared.enter(client_network(ip))
        except BaseException:
            self._open -= 1
            raise
        if reason is None:
            return None
        self._open -= 1
        self._on_shed(reason)
        return TOO_MANY_FROM_CLIENT

    def leave(self, ip: str) -> None:
        """Count an admitted connection out."""
        self._open -= 1
        self._shared.leave(client_network(ip))


def client_network(ip: str) -> str:
    """Give the network a client is counted by: /24 of IPv4, /64 of IPv6."""
    if ":" in ip:
        address = IPv6Address(ip.partition("%")[0])
        if address.ipv4_mapped is None:
            return address.packed[:8].hex()
        ip = str(address.ipv4_mapped)  # else all of IPv4 would be one network
    return ip.rpartition(".")[0]


def _take(counter: Counter[str], key: str, count: int) -> None:
    counter[key] -= count
    if counter[key] <= 0:
        del counter[key]
