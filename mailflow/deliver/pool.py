"""A bounded pool of connections to one LMTP server.

A connection comes back only when it is between transactions and in step; any other is aborted.
The one used last is used next, so that the rest grow idle and close. An idle connection may die
unseen until it is used: the first exchange on it is then done once more on a fresh one, which is
safe as long as the server has answered nothing in it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mailflow.smtp.lmtp import LmtpConnection
from mailflow.smtp.lmtp_errors import LmtpClosing, LmtpConnectionLost, LmtpTimeout

IDLE_S = 60.0

T = TypeVar("T")
Dial = Callable[[float], Awaitable[LmtpConnection]]


class LmtpPool:
    """At most `connections` at once. `dial(deadline)` connects; deadlines are in loop time, seconds."""

    def __init__(self, dial: Dial, *, connections: int, idle_s: float = IDLE_S) -> None:
        self._dial = dial
        self._slots = asyncio.Semaphore(connections)
        self._idle_s = idle_s
        self._idle: list[tuple[float, LmtpConnection]] = []  # oldest first
        self._sweep: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def lease(self, deadline: float, *, slot_deadline: float | None = None) -> "Lease":
        """Wait for a free slot (until `slot_deadline` if given), then give an idle connection or a fresh one.

        Raises LmtpError: LmtpTimeout for want of a slot, LmtpUnreachable where the server gives no session.
        """
        await self._take_slot(deadline if slot_deadline is None else slot_deadline)
        try:
            connection = self._take_idle()
            if connection is not None:
                return Lease(self, connection, is_reused=True)
            return Lease(self, await self._dial(deadline), is_reused=False)
        except BaseException:
            self._slots.release()
            raise

    async def dial(self, deadline: float) -> LmtpConnection:
        """Connect, within the slot of a lease."""
        return await self._dial(deadline)

    def give_back(self, connection: LmtpConnection) -> None:
        """Keep the connection for the next lease if it can be trusted, else drop it; the slot is free."""
        if not connection.is_reusable:
            connection.abort()
        elif self._is_closed:
            connection.quit()
        else:
            self._idle.append((asyncio.get_running_loop().time(), connection))
            self._schedule_sweep()
        self._slots.release()

    def close(self) -> None:
        """Close idle connections now, leased ones when they come back."""
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for _, connection in self._idle:
            connection.quit()
        self._idle.clear()

    async def _take_slot(self, deadline: float) -> None:
        if not self._slots.locked():
            await self._slots.acquire()  # at once
            return
        try:
            async with asyncio.timeout_at(deadline):
                await self._slots.acquire()
        except TimeoutError as exc:
            raise LmtpTimeout("waited too long for a free connection") from exc

    def _take_idle(self) -> LmtpConnection | None:
        while self._idle:
            _, connection = self._idle.pop()
            if connection.is_reusable:
                return connection
            connection.abort()
        return None

    def _schedule_sweep(self) -> None:
        if self._sweep is None and self._idle:
            self._sweep = asyncio.get_running_loop().call_at(self._idle[0][0] + self._idle_s, self._close_stale)

    def _close_stale(self) -> None:
        self._sweep = None
        oldest_allowed = asyncio.get_running_loop().time() - self._idle_s
        while self._idle and self._idle[0][0] <= oldest_allowed:
            self._idle.pop(0)[1].quit()
        self._schedule_sweep()


class Lease:
    """One slot of a pool and the connection in it, until `release`."""

    def __init__(self, pool: LmtpPool, connection: LmtpConnection, *, is_reused: bool) -> None:
        self._pool = pool
        self._is_reused = is_reused
        self._is_released = False
        self.connection = connection

    async def run(self, exchange: Callable[[LmtpConnection], Awaitable[T]], deadline: float) -> T:
        """Run the first exchange; again on a fresh connection where the idle one turns out dead. Raises LmtpError."""
        try:
            return await exchange(self.connection)
        except (LmtpConnectionLost, LmtpClosing):
            if not self._is_reused or self.connection.has_answered:
                raise
        self._is_reused = False
        self.connection.abort()
        self.connection = await self._pool.dial(deadline)
        return await exchange(self.connection)

    def release(self) -> None:
        """Give the connection back; again is nothing."""
        if not self._is_released:
            self._is_released = True
            self._pool.give_back(self.connection)
