"""The kinds of store that the contract suite runs on, and what it does to them that no caller can.

A kind opens handles on one store, ages it, damages it, breaks it. `jump` moves the wall's clock of the caller; `wait`
lets the store's own time pass.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import apsw

from mailflow.store import MessageStore, Unhealthy
from mailflow.store.postgres import PostgresStore
from mailflow.store.sqlite import SqliteStore
from mailflow.testing import FakeClock, MemoryStore
from tests.postgres_server import PostgresServer

LEASE_S = 5.0


class StoreKind(Protocol):
    """One store under test."""

    store: MessageStore

    async def wait(self, seconds: float) -> None:
        """Let time pass for the store."""
        ...

    def jump(self, seconds: float) -> None:
        """Set the caller's clock, forward or back."""
        ...

    async def damage(self, id: str, what: str) -> None:
        """Change a bit of an entry's `envelope`, `recipients` or `body`."""
        ...

    async def break_down(self) -> None:
        """Make it fail."""
        ...

    async def recover(self) -> None:
        """Make it work again."""
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...


class MemoryKind:
    """In memory, by a clock of its own."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.memory = MemoryStore(clock=self.clock, lease_s=LEASE_S)
        self.store: MessageStore = self.memory

    async def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def jump(self, seconds: float) -> None:
        """It has no clock that can be set."""

    async def damage(self, id: str, what: str) -> None:
        stored = self.memory.entries[id]
        setattr(stored, what, _flip(getattr(stored, what)))

    async def break_down(self) -> None:
        self.memory.break_down(Unhealthy("told to"))

    async def recover(self) -> None:
        self.memory.recover()

    async def close(self) -> None:
        await self.store.close()


class SqliteKind:
    """A shard on the disk, by clocks that the test moves."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "queue.db"
        self.clock = FakeClock()
        self.wall_s = 1_800_000_000.0
        self.store: MessageStore = self.make()

    def make(self) -> SqliteStore:
        return SqliteStore(self.path, lease_s=LEASE_S, clock=self.clock, wall=lambda: self.wall_s)

    async def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def jump(self, seconds: float) -> None:
        self.wall_s += seconds

    async def damage(self, id: str, what: str) -> None:
        connection = apsw.Connection(str(self.path))
        connection.set_busy_timeout(5000)
        if what == "body":
            seq, content = connection.execute(
                "SELECT seq, content FROM body JOIN entry USING (seq) WHERE id = ?", (id,)
            ).get
            connection.execute("UPDATE body SET content = ? WHERE seq = ?", (_flip(content), seq))
        else:
            value = connection.execute(f"SELECT {what} FROM entry WHERE id = ?", (id,)).get
            connection.execute(f"UPDATE entry SET {what} = ? WHERE id = ?", (_flip(value), id))
        connection.close()

    async def break_down(self) -> None:
        self._blocker = apsw.Connection(str(self.path))
        self._blocker.execute("BEGIN IMMEDIATE")  # a stranger who does not let go

    async def recover(self) -> None:
        self._blocker.execute("ROLLBACK")
        self._blocker.close()

    async def close(self) -> None:
        await self.store.close()


class PostgresKind:
    """A database of a real server, whose clock nobody here can set."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.url = server.new_database()
        self.store: MessageStore = PostgresStore(self.url, lease_s=LEASE_S)

    async def wait(self, seconds: float) -> None:
        """Put back all that the database knows of time by as much."""
        self._execute(
            f"UPDATE mailflow.entry SET next_try = next_try - interval '{seconds} s',"
            f" arrived_at = arrived_at - interval '{seconds} s';"
            f" UPDATE mailflow.worker SET expires_at = expires_at - interval '{seconds} s'"
        )

    def jump(self, seconds: float) -> None:
        """The caller's clock is not asked."""

    async def damage(self, id: str, what: str) -> None:
        column, table = ("data", "body") if what == "body" else (what, "entry")
        self._execute(
            f"UPDATE mailflow.{table} SET {column} = set_byte({column}, 0, get_byte({column}, 0) # 1) WHERE id = '{id}'"
        )

    async def break_down(self) -> None:
        self.server.stop()

    async def recover(self) -> None:
        self.server.start()  # here: it ends with the thread that starts it
        await _until(lambda: self.store.unhealthy_reason() is None)

    async def close(self) -> None:
        await self.store.close()

    def _execute(self, statement: str) -> None:
        self.server.execute(statement, database=self.url.rpartition("/")[2])


async def _until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not is_true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


def _flip(value: bytes | str) -> bytes:
    data = bytes(value.encode() if isinstance(value, str) else value)
    return bytes([data[0] ^ 1]) + data[1:]
