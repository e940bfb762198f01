"""The embedded store: one shard of SQLite, for one worker (MessageStore).

    sqlite_schema       tables, connections that keep what they commit
    sqlite_writer       the one writing connection, in a thread: one commit for many callers
    sqlite_statements   accepting, beginning, settling
    sqlite_claims       who is next
    sqlite_operator     find, list, change, count
    sqlite_rows         messages as rows and back
    body_files          large bodies, as files
    disk_room           when there is too little room

A shard belongs to one process at a time, by a lock on a file beside it; so epochs live in memory, by a clock that
nobody sets, and what an earlier process had claimed is free when the shard opens. The store's own time goes on evenly
from what the wall's was then: a clock that jumps neither makes mail wait nor loses a claim.
"""

import asyncio
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import apsw

from mailflow.mail.envelope import Envelope
from mailflow.store.body_files import BodyFiles, make_folder
from mailflow.store.disk_room import DiskRoom
from mailflow.store.record import CorruptRecord
from mailflow.store.sqlite_claims import SET_ASIDE, Claimant, Claimed, ClaimRequest
from mailflow.store.sqlite_operator import change_entries, count_entries, find_entry, list_entries, read_body_row
from mailflow.store.sqlite_rows import MAX_INLINE_BYTES, NewMessage, check_body, new_message
from mailflow.store.sqlite_schema import connect, migrate, require_library
from mailflow.store.sqlite_statements import Settling, Stamped, Statements, Step, undo_accept
from mailflow.store.sqlite_writer import SqliteWriter
from mailflow.store.store import (
    MAX_CRASHES,
    Batch,
    Change,
    Claim,
    ClaimLost,
    Corrupt,
    Entry,
    Epoch,
    Filter,
    Settlement,
    State,
    Statistics,
    StoreUnavailable,
    Unhealthy,
)

ANSWER_S = 30.0  # for what names no deadline of its own
VACUUM_PAGES = 500
LONGEST_WAIT_S = 7 * 86400  # a next try further away than this was written under another clock

# What the process before had claimed; ?1 the time.
_FREE_ALL = f"""
UPDATE entry SET
    state = CASE WHEN crashes + is_begun >= {MAX_CRASHES} THEN 'set_aside' ELSE state END,
    next_try = CASE WHEN crashes + is_begun >= {MAX_CRASHES} THEN NULL ELSE ?1 END,
    lane = CASE WHEN is_begun THEN 2 ELSE lane END,
    crashes = crashes + is_begun, owner = 0, is_begun = 0, is_in_doubt = 0
WHERE owner <> 0
"""
_LEAVE = """
UPDATE entry SET next_try = ?2, lane = CASE WHEN is_begun AND lane = 0 THEN 1 ELSE lane END, owner = 0, is_begun = 0,
    is_in_doubt = 0
WHERE owner = ?1
"""
_BACK = _LEAVE + " AND id = ?3"
_DOUBT = "UPDATE entry SET is_in_doubt = 1 WHERE owner = ?1 AND id = ?2 RETURNING id"

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_WORDS = {
    "Full": "the disk is full",
    "ReadOnly": "the disk or the file is read-only",
    "IO": "the disk fails",
    "Corrupt": "the database file is damaged",
    "NotADB": "the file is no database",
    "CantOpen": "the file cannot be opened",
    "Busy": "another process holds the database",
}

T = TypeVar("T")


def read_boot_clock() -> float:
    """Give seconds since the machine started, suspended ones among them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class SqliteStore:
    """MessageStore in the file `path`. Mail needs `min_free_bytes` of the disk; an epoch lives `lease_s` seconds.

    `clock` gives seconds that nobody sets, `wall` Unix time. A failed `open` may be tried again; one that finds the
    shard in use raises StoreUnavailable.
    """

    def __init__(
        self,
        path: Path,
        *,
        lease_s: float = 60.0,
        min_free_bytes: int = 0,
        clock: Callable[[], float] = read_boot_clock,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self._lease_s = lease_s
        self._clock = clock
        self._wall = wall
        self._offset = 0.0
        self._beats: dict[int, float] = {}
        self._statements = Statements()
        self._claimant = Claimant()
        self._files = BodyFiles(_beside(path, ".bodies"))
        self._room = DiskRoom(path.parent, _beside(path, ".reserve"), min_free_bytes=min_free_bytes)
        self._writer = SqliteWriter(self._open_writer, on_done=self._note, rescue=self._room.use_reserve)
        self._readers: dict[str, apsw.Connection] = {}
        self._reading = {name: threading.Lock() for name in ("bodies", "operator")}
        self._lock_file: int | None = None
        self._fault: Unhealthy | None = None
        self._callbacks: list[Callable[[], None]] = []

    async def open(self) -> None:
        """MessageStore.open."""
        require_library()
        try:
            await asyncio.to_thread(self._take_lock)
            await self._writer.open()
        except (OSError, apsw.Error) as exc:
            self._release_lock()
            raise StoreUnavailable(f"{self.path}: {_explain(exc)}") from exc
        except StoreUnavailable:
            self._release_lock()
            raise

    async def close(self) -> None:
        """MessageStore.close."""
        await self._writer.close()
        await asyncio.to_thread(self._close_readers)
        self._release_lock()

    async def accept(
        self,
        envelope: Envelope,
        body: Sequence[bytes],
        *,
        deadline: float,
        owner: Epoch | None = None,
        is_in_doubt: bool = False,
        retry_s: float = 0.0,
        last_error: str = "",
    ) -> Claim | None:
        """MessageStore.accept."""
        if shortage := self._room.find_shortage():
            raise StoreUnavailable(shortage.reason, is_full=True)
        message = new_message(
            envelope,
            body,
            owner=owner.number if owner else 0,
            is_in_doubt=is_in_doubt,
            retry_s=retry_s,
            last_error=last_error,
        )
        await self._write_body(message, body, deadline=deadline)
        stamped = Stamped(message, self._now(), self._lease_s)
        try:
            arrived_at: float = await self._write(
                self._statements.accept, stamped, deadline=deadline, undo=partial(undo_accept, stamped)
            )
        except StoreUnavailable:
            await self._remove_bodies([message])
            raise
        if owner is None:
            if not retry_s:
                self._tell()
            return None
        state = State.IN_DOUBT if is_in_doubt else State.ACTIVE
        return Claim(Entry(envelope, message.size_bytes, arrived_at, 0.0, state, None, attempts=1), owner)

    async def enter(self, name: str) -> Epoch:
        """MessageStore.enter."""
        number: int = await self._write_one(
            lambda connection: (
                connection.execute("UPDATE counter SET value = value + 1 WHERE name = 'epoch' RETURNING value").get
            )
        )
        self._beats[number] = self._clock()
        return Epoch(number, name)

    def join(self, epoch: Epoch) -> None:
        """Let an epoch of another shard of the same process claim here too."""
        self._beats[epoch.number] = self._clock()

    async def heartbeat(self, epoch: Epoch) -> None:
        """MessageStore.heartbeat. Asks a disk that failed whether it works again."""
        self._room.keep_reserve()
        await self._write_one(_tidy if self._fault is None else _probe)
        if not self._is_alive(epoch.number):
            self._beats.pop(epoch.number, None)
            raise ClaimLost(f"epoch {epoch.number} is over")
        self._beats[epoch.number] = self._clock()

    async def leave(self, epoch: Epoch) -> None:
        """MessageStore.leave."""
        await self._write_one(lambda connection: connection.execute(_LEAVE, (epoch.number, self._now())).get)
        self._beats.pop(epoch.number, None)
        self._tell()

    async def claim(
        self, epoch: Epoch, limit: int, *, full: Collection[str] = (), takes_suspect: bool = False
    ) -> Batch:
        """MessageStore.claim."""
        if not self._is_alive(epoch.number):
            raise ClaimLost(f"epoch {epoch.number} is over")
        request = ClaimRequest(
            epoch.number, self._living(), self._now(), self._lease_s, limit, frozenset(full), takes_suspect
        )
        claimed: Claimed = await self._write_one(lambda connection: self._claimant.claim(connection, request))
        return Batch([Claim(entry, epoch) for entry in claimed.entries], claimed.corrupt, claimed.next_due_s)

    async def begin(self, claim: Claim) -> None:
        """MessageStore.begin."""
        if not await self._write(self._statements.begin, self._step(claim)):
            raise _lost(claim)

    async def settle(self, claim: Claim, settlement: Settlement) -> None:
        """MessageStore.settle."""
        if not settlement.owed and not settlement.reports:
            is_ours = await self._write(self._statements.remove, self._step(claim))
        else:
            is_ours = await self._settle(claim, settlement)
        if not is_ours:
            raise _lost(claim)
        if not settlement.owed and claim.entry.size_bytes > MAX_INLINE_BYTES:
            await asyncio.to_thread(self._files.remove, claim.id)
        if settlement.reports:
            self._tell()

    async def hand_back(self, claim: Claim) -> None:
        """MessageStore.hand_back."""
        arguments = (claim.epoch.number, self._now(), claim.id)
        await self._write_one(lambda connection: connection.execute(_BACK, arguments).get)
        self._tell()

    async def mark_in_doubt(self, claim: Claim) -> None:
        """MessageStore.mark_in_doubt."""
        arguments = (self._step(claim).epoch, claim.id)
        if not await self._write_one(lambda connection: connection.execute(_DOUBT, arguments).get):
            raise _lost(claim)

    async def open_body(self, id: str) -> Sequence[bytes] | Corrupt | None:
        """MessageStore.open_body."""
        try:
            return await self._read("bodies", lambda reader: self._read_body(reader, id))
        except CorruptRecord as exc:
            corrupt = Corrupt(id, str(exc))
            await self._set_aside(corrupt)
            return corrupt

    async def find(self, id: str) -> Entry | Corrupt | None:
        """MessageStore.find."""
        return await self._read(
            "operator", lambda reader: find_entry(reader, id, now=self._now(), living=self._living())
        )

    async def list_entries(self, wanted: Filter, *, limit: int, after: str = "") -> Sequence[Entry | Corrupt]:
        """MessageStore.list_entries."""
        return await self._read(
            "operator",
            lambda reader: list_entries(
                reader, wanted, limit=limit, after=after, now=self._now(), living=self._living()
            ),
        )

    async def change(self, ids: Sequence[str], change: Change) -> Sequence[str]:
        """MessageStore.change."""
        now, living = self._now(), self._living()
        changed: Sequence[str] = await self._write_one(
            lambda connection: change_entries(connection, ids, change, now=now, living=living)
        )
        if change is Change.REMOVE:
            await asyncio.to_thread(self._files.remove, *changed)
        elif changed:
            self._tell()
        return changed

    async def count(self) -> Statistics:
        """MessageStore.count."""
        return await self._read(
            "operator", lambda reader: count_entries(reader, now=self._now(), living=self._living())
        )

    def unhealthy_reason(self) -> Unhealthy | None:
        """MessageStore.unhealthy_reason: how the last transaction went, and whether there is room."""
        return self._fault or self._room.find_shortage()

    def on_due(self, callback: Callable[[], None]) -> None:
        """MessageStore.on_due."""
        self._callbacks.append(callback)

    def discard(self) -> None:
        """Remove a closed shard that is empty."""
        self._files.discard()
        for suffix in ("", "-wal", "-shm", ".reserve", ".lock"):
            _beside(self.path, suffix).unlink(missing_ok=True)

    async def _settle(self, claim: Claim, settlement: Settlement) -> bool:
        """Settle with what is left, and what is reported of it."""
        reports = [new_message(report.envelope, report.body) for report in settlement.reports]
        for message, report in zip(reports, settlement.reports, strict=True):
            await self._write_body(message, report.body, deadline=_in(ANSWER_S))
        settling = Settling(self._step(claim), settlement, reports, self._now())
        is_ours = False
        try:
            is_ours = bool(await self._write(self._statements.settle, settling))
        finally:
            if not is_ours:
                await self._remove_bodies(reports)
        return is_ours

    async def _write_body(self, message: NewMessage, body: Sequence[bytes], *, deadline: float) -> None:
        """Write a large body to its file, durably."""
        if message.content is not None:
            return
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.to_thread(self._files.write, message.id, body)
        except TimeoutError as exc:
            raise StoreUnavailable("the disk did not answer in time") from exc
        except OSError as exc:
            self._note(exc)
            raise _unavailable(exc) from exc

    async def _remove_bodies(self, messages: Sequence[NewMessage]) -> None:
        for message in messages:
            if message.content is None:
                await asyncio.to_thread(self._files.remove, message.id)

    async def _write(
        self,
        do: Callable[[apsw.Connection, Sequence[Any]], Sequence[object]],
        subject: object,
        *,
        deadline: float | None = None,
        undo: Callable[[apsw.Connection], None] | None = None,
    ) -> Any:
        """Have the writer do something. Raises StoreUnavailable."""
        try:
            return await self._writer.run(
                do, subject, deadline=_in(ANSWER_S) if deadline is None else deadline, undo=undo
            )
        except (OSError, apsw.Error) as exc:
            raise _unavailable(exc) from exc

    async def _write_one(self, do: Callable[[apsw.Connection], Any]) -> Any:
        return await self._write(_each, do)

    async def _read(self, name: str, do: Callable[[apsw.Connection], T]) -> T:
        """Do something on a reading connection, in a thread. Raises StoreUnavailable."""

        def work() -> T:
            # In the thread: a caller that is cancelled leaves the connection in use.
            with self._reading[name]:
                if name not in self._readers:
                    self._readers[name] = connect(self.path, is_writer=False)
                return do(self._readers[name])

        try:
            return await asyncio.to_thread(work)
        except (OSError, apsw.Error) as exc:
            raise _unavailable(exc) from exc

    def _close_readers(self) -> None:
        for name, lock in self._reading.items():
            with lock:
                if reader := self._readers.pop(name, None):
                    reader.close()

    async def _set_aside(self, corrupt: Corrupt) -> None:
        arguments = (corrupt.id, corrupt.reason)
        await self._write_one(lambda connection: connection.execute(SET_ASIDE, arguments).get)

    def _read_body(self, reader: apsw.Connection, id: str) -> Sequence[bytes] | None:
        row = read_body_row(reader, id)
        if row is None:
            return None
        try:
            pieces = row.pieces if row.pieces is not None else self._files.read(id)
        except FileNotFoundError as exc:
            raise CorruptRecord("body: its file is missing") from exc
        check_body(pieces, size_bytes=row.size_bytes, crc=row.crc)
        return pieces

    def _open_writer(self) -> apsw.Connection:
        """Connect, migrate, clear away what an earlier process left. In the writer's thread."""
        connection = connect(self.path, is_writer=True)
        try:
            migrate(connection)
            self._offset = self._wall() - self._clock()
            now = self._now()
            with connection:
                connection.execute(_FREE_ALL, (now,))
                connection.execute("UPDATE entry SET next_try = ?1 WHERE next_try > ?2", (now, now + LONGEST_WAIT_S))
            self._statements.prepare(connection)
            self._files.sweep(lambda id: connection.execute("SELECT 1 FROM entry WHERE id = ?", (id,)).get is not None)
        except BaseException:
            connection.close()
            raise
        self._room.keep_reserve()
        return connection

    def _take_lock(self) -> None:
        make_folder(self.path.parent)
        descriptor = os.open(_beside(self.path, ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(descriptor)
            if isinstance(exc, BlockingIOError):
                raise StoreUnavailable(f"{self.path} is in use by another process") from exc
            raise
        self._lock_file = descriptor

    def _release_lock(self) -> None:
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def _note(self, error: Exception | None) -> None:
        """Remember how the disk is: a fault until something is written again."""
        if error is None:
            self._fault = None
        elif isinstance(error, StoreUnavailable):
            self._fault = Unhealthy(str(error))
        elif isinstance(error, (OSError, apsw.Error)) and not isinstance(error, apsw.ConstraintError):
            self._fault = Unhealthy(_explain(error), is_full=_is_full(error))

    def _now(self) -> float:
        return self._clock() + self._offset

    def _is_alive(self, number: int) -> bool:
        beat = self._beats.get(number)
        return beat is not None and self._clock() - beat < self._lease_s

    def _living(self) -> list[int]:
        return [number for number in self._beats if self._is_alive(number)]

    def _step(self, claim: Claim) -> Step:
        return Step(claim.id, claim.epoch.number if self._is_alive(claim.epoch.number) else 0)

    def _tell(self) -> None:
        for callback in self._callbacks:
            callback()


def _each(connection: apsw.Connection, requests: Sequence[Callable[[apsw.Connection], object]]) -> Sequence[object]:
    return [request(connection) for request in requests]


def _probe(connection: apsw.Connection) -> None:
    connection.execute("UPDATE counter SET value = value + 1 WHERE name = 'probe'")


def _tidy(connection: apsw.Connection) -> None:
    """Give pages of removed mail back to the disk, some at a time."""
    if int(connection.pragma("freelist_count")) > VACUUM_PAGES:
        connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _lost(claim: Claim) -> ClaimLost:
    return ClaimLost(f"epoch {claim.epoch.number} has lost {claim.id}")


def _unavailable(exc: OSError | apsw.Error) -> StoreUnavailable:
    return StoreUnavailable(_explain(exc), is_full=_is_full(exc))


def _is_full(exc: Exception) -> bool:
    return isinstance(exc, apsw.FullError) or (isinstance(exc, OSError) and exc.errno in _NO_ROOM)


def _explain(exc: Exception) -> str:
    """Say what is wrong in an operator's words."""
    if isinstance(exc, OSError):
        return exc.strerror or str(exc)
    name = type(exc).__name__.removesuffix("Error")
    return f"{_WORDS.get(name, name)}: {exc}"


def _in(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds
