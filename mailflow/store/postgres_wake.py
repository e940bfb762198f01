"""Hints between the Pods that mail came due: NOTIFY to tell them, a connection of its own to LISTEN.

A hint may be lost and nothing is: every POLL_S the callbacks are called without one. A hint is not part of the commit
that it is about. Transactions with NOTIFY in them commit one after the other, fsync included, over the whole database:
the Pods would wait for each other at every message. One by itself writes nothing, and one per HINT_S says it all.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from mailflow.observe.nursery import Nursery
from mailflow.store.postgres_connection import Connections, Session
from mailflow.store.postgres_statements import CHANNEL, NOTIFY
from mailflow.store.store import StoreUnavailable

POLL_S = 10.0
HINT_S = 0.1
ANSWER_S = 5.0
MAX_BACKOFF_S = 5.0


class Wake:
    """Tells others, and calls `callbacks` when told."""

    def __init__(self, connections: Connections, nursery: Nursery) -> None:
        self._connections = connections
        self._nursery = nursery
        self._is_telling = False
        self._has_more = False
        self.callbacks: list[Callable[[], None]] = []

    def tell(self) -> None:
        """Note that something came due: here at once, elsewhere by a hint."""
        self._call()
        if self._is_telling:
            self._has_more = True
            return
        self._is_telling = True
        self._nursery.start(self._tell_others(), name="notify")

    async def _tell_others(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._has_more = True
            while self._has_more:
                self._has_more = False
                await self._connections.fetch(NOTIFY, deadline=loop.time() + ANSWER_S)
                await asyncio.sleep(HINT_S)
        except StoreUnavailable:
            pass  # they will look by themselves
        finally:
            self._is_telling = False

    async def listen(self) -> None:
        """Call the callbacks for hints and every POLL_S, until cancelled; connects again as often as it must."""
        loop = asyncio.get_running_loop()
        backoff_s = 0.1
        while True:
            try:
                connection = await self._connections.connect(loop.time() + ANSWER_S)
                try:
                    await Session(self._connections, connection, loop.time() + ANSWER_S).listen(CHANNEL, self._hear)
                    backoff_s = 0.1
                    await self._poll(connection)
                finally:
                    connection.terminate()
            except StoreUnavailable:
                self._call()
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, MAX_BACKOFF_S)

    async def _poll(self, connection: Any) -> None:
        """Wake everybody now and every POLL_S; raises StoreUnavailable when the connection is dead."""
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        loop = asyncio.get_running_loop()
        while not lost.is_set():
            self._call()
            try:
                async with asyncio.timeout(POLL_S):
                    await lost.wait()
            except TimeoutError:
                await Session(self._connections, connection, loop.time() + ANSWER_S).fetch("SELECT 1")

    def _hear(self, *_: object) -> None:
        self._call()

    def _call(self) -> None:
        for callback in self.callbacks:
            callback()
