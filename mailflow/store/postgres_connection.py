"""Connections to PostgreSQL, each wait on them bounded: what went wrong is said as one of three things.

StoreUnavailable: surely not done. OutcomeUnknown: the statement left and no answer came, so it was carried out or not,
or will be yet. Refused: the server gave the statement back for what is in it. A connection that ran into a deadline is
thrown away and never asked to cancel: a server that answers nothing would not answer that either.

Nothing here outlives a session, so PgBouncer may stand between in session mode (not in transaction mode: prepared
statements, settings and LISTEN belong to a session). Settings are made by a statement, as PgBouncer takes none at the
start. PostgreSQL 14 or later, for client_connection_check_interval.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import asyncpg  # type: ignore[import-untyped]

from mailflow.store.store import StoreUnavailable, Unhealthy

T = TypeVar("T")

CONNECT_S = 5.0
SETTINGS = {
    "synchronous_commit": "on",  # a role or database may have it off
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "10s",
    # A Pod that vanished must not keep its locks: the server looks for it while a statement runs, and gives it up.
    "client_connection_check_interval": "1s",
    "tcp_user_timeout": "10s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    # A plan made while the queue was empty is kept when it has a million entries: only indexes may be in it.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
_MAKE_SETTINGS = (
    "SELECT "
    + ", ".join(f"set_config('{name}', '{value}', false)" for name, value in SETTINGS.items())
    + ", pg_is_in_recovery() AS is_standby, current_setting('fsync') AS fsync,"
    " current_setting('server_version_num')::int AS version"
)


class OutcomeUnknown(StoreUnavailable):
    """Sent, and no answer came: carried out or not, or to be carried out yet."""


class Refused(StoreUnavailable):
    """The server carried nothing out for what is in the statement; other rows in another statement may pass."""


class Session:
    """One connection while it is borrowed; every statement on it ends at the `deadline` of the loan."""

    def __init__(self, connections: "Connections", connection: Any, deadline: float) -> None:
        self._connections = connections
        self._connection = connection
        self._deadline = deadline

    async def fetch(self, statement: str, *arguments: object) -> list[Any]:
        """Run one statement, committed by itself outside of a transaction. Raises one of the three."""
        self._connections.statements += 1
        return await self._bounded(self._connection.fetch(statement, *arguments))

    async def listen(self, channel: str, callback: Callable[..., None]) -> None:
        """Have `callback` called for each NOTIFY on `channel`."""
        await self._bounded(self._connection.add_listener(channel, callback))

    async def _bounded(self, exchange: Awaitable[T]) -> T:
        loop = asyncio.get_running_loop()
        connections = self._connections
        # Ends the wait below at once, whatever the server does or does not.
        timer = loop.call_at(self._deadline, self._connection.terminate)
        try:
            answer = await exchange
        except asyncio.CancelledError:
            self._connection.terminate()
            raise
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as exc:
            fault = _translate(exc) if loop.time() < self._deadline else OutcomeUnknown("no answer in time")
            connections.note_failure(fault)
            raise fault from exc
        except (UnicodeError, ValueError, TypeError, OverflowError) as exc:  # an argument that has no encoding
            raise Refused(f"cannot be sent: {exc}") from exc
        finally:
            timer.cancel()
        connections.note_success()
        return answer

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Commit what is run inside together; an exception rolls it back."""
        await self.fetch("BEGIN")
        try:
            yield
        except BaseException:
            if not self._connection.is_closed():
                await self.fetch("ROLLBACK")
            raise
        await self.fetch("COMMIT")


class Connections:
    """Up to `limit` connections to `url`, made when they are needed and kept. Remembers how the last statement went.

    `statements` counts those sent; `last_success` is the loop's time of the last that was answered, None before.
    """

    def __init__(self, url: str, *, limit: int) -> None:
        self._url = url
        self._free = asyncio.Semaphore(limit)
        self._idle: list[Any] = []
        self._is_closed = True
        self.statements = 0
        self.last_success: float | None = None
        self.unhealthy: Unhealthy | None = Unhealthy("not opened yet")

    @property
    def is_closed(self) -> bool:
        """Whether no connection may be made: not opened yet, or closed."""
        return self._is_closed

    def open(self) -> None:
        """Allow connections."""
        self._is_closed = False

    def close(self) -> None:
        """Drop what is idle; what is borrowed goes when it comes back."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().terminate()

    async def fetch(self, statement: str, *arguments: object, deadline: float) -> list[Any]:
        """Run one statement on a connection of the pool. Raises StoreUnavailable, OutcomeUnknown or Refused."""
        async with self.session(deadline) as session:
            return await session.fetch(statement, *arguments)

    @contextlib.asynccontextmanager
    async def session(self, deadline: float) -> AsyncIterator[Session]:
        """Lend a connection until the block ends. Raises StoreUnavailable where there is none in time."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._free.acquire()
        except TimeoutError as exc:
            raise StoreUnavailable("no connection became free in time") from exc
        connection = None
        try:
            connection = self._take_idle() or await self.connect(deadline)
            yield Session(self, connection, deadline)
        finally:
            self._free.release()
            if connection is not None and not connection.is_closed():
                if self._is_closed or connection.is_in_transaction():
                    connection.terminate()
                else:
                    self._idle.append(connection)  # the last one back is the next one out: those beyond need stay idle

    async def connect(self, deadline: float) -> Any:
        """Make a connection that is fit for a store. Raises StoreUnavailable, saying what is wrong with the server."""
        if self._is_closed:
            raise StoreUnavailable("the store is not open")
        try:
            async with asyncio.timeout_at(min(deadline, asyncio.get_running_loop().time() + CONNECT_S)):
                connection = await asyncpg.connect(
                    self._url,
                    server_settings={"application_name": "mailflow"},
                    max_cached_statement_lifetime=0,
                )
                try:
                    [row] = await connection.fetch(_MAKE_SETTINGS)
                    _check_server(row)
                except BaseException:
                    connection.terminate()
                    raise
        except StoreUnavailable as exc:
            self.note_failure(exc)
            raise
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as exc:
            # TimeoutError is an OSError. What the server says here names a user or database, never a password.
            fault = StoreUnavailable(f"no connection to PostgreSQL: {str(exc) or type(exc).__name__}")
            self.note_failure(fault)
            raise fault from exc
        return connection

    def note_failure(self, fault: StoreUnavailable) -> None:
        """Remember that the store failed; what one message was refused for says nothing about the store."""
        if not isinstance(fault, Refused):
            self.unhealthy = Unhealthy(str(fault), is_full=fault.is_full)

    def note_success(self) -> None:
        """Remember that the server did what it was asked. A disk that is full still reads: see note_room."""
        self.last_success = asyncio.get_running_loop().time()
        if self.unhealthy and not self.unhealthy.is_full:
            self.unhealthy = None

    def note_room(self) -> None:
        """Remember that the server took something."""
        self.unhealthy = None

    def _take_idle(self) -> Any:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return None


def _check_server(row: Any) -> None:
    if row["is_standby"]:
        raise StoreUnavailable(
            "this PostgreSQL is a hot standby, which takes no mail: the url must lead to the primary"
        )
    if row["fsync"] != "on":
        raise StoreUnavailable("this PostgreSQL runs with fsync=off: a power loss would lose mail answered 250")
    if row["version"] < 140000:
        raise StoreUnavailable("PostgreSQL 14 or later is needed")


def _translate(exc: Exception) -> StoreUnavailable:
    if not isinstance(exc, asyncpg.PostgresError):
        return OutcomeUnknown(f"connection lost: {str(exc) or type(exc).__name__}")
    code = exc.sqlstate or ""
    match code[:2]:
        case "57" if code == "57014":  # statement_timeout, or an administrator's pg_cancel_backend: rolled back
            return StoreUnavailable(f"PostgreSQL: {exc}")
        case "08" | "57" | "":  # a shutdown can hit a commit that is done and waits for a standby
            return OutcomeUnknown(f"PostgreSQL: {exc}")
        case "22" | "23" | "40" | "54":  # data, constraints, a deadlock, limits: it lies in which rows came together
            return Refused(f"PostgreSQL: {exc}")
        case _:  # no resources, an I/O error, read-only since a failover, a lock not had in time, no right to the table
            return StoreUnavailable(f"PostgreSQL: {exc}", is_full=code == "53100")
