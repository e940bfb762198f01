"""Waiting on a connection, with a deadline: one timer for many waits.

A timer made and cancelled for each wait would cost more than most commands do. Here one alarm is set,
and when it rings early, as it mostly does, it is set anew. One task waits at a time; wakes are lost on
nobody, as who waits looks for what it wants before each wait.
"""

import asyncio

ALARM_S = 60.0  # how far ahead the alarm is set: below the usual deadlines, so that none of them sets it anew


class Waiter:
    """The waits of one connection. Deadlines are in loop time, seconds."""

    __slots__ = ("_alarm", "_deadline", "_loop", "_rings_at", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: asyncio.Future[bool] | None = None
        self._deadline = 0.0
        self._alarm: asyncio.Handle | None = None
        self._rings_at = 0.0  # the alarm, which does not always know: uvloop makes no timer of what is due at once

    async def wait(self, deadline: float) -> bool:
        """Wait for a wake until `deadline`; tells whether one came."""
        self._waiting = self._loop.create_future()
        self._deadline = deadline
        if self._alarm is None or self._rings_at > deadline:
            self._set_alarm()
        try:
            return await self._waiting
        finally:
            self._waiting = None

    def wake(self) -> None:
        """Let whoever waits look again."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(True)

    def close(self) -> None:
        """Take the alarm back: nobody will wait any more."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._rings_at = min(self._deadline, self._loop.time() + ALARM_S)
        self._alarm = self._loop.call_at(self._rings_at, self._ring)

    def _ring(self) -> None:
        """End the wait if its deadline has passed; look again later if it has not."""
        self._alarm = None
        if self._waiting is None or self._waiting.done():
            return
        if self._loop.time() >= self._deadline:
            self._waiting.set_result(False)
        else:
            self._set_alarm()
