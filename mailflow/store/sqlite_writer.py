"""The one writing connection of a shard, in a thread of its own: many callers, one transaction, one fsync.

What waits when a transaction begins goes into it. Requests of one kind are done together in as few statements as can
be: each statement costs a hand-over of the interpreter's lock, which a busy event loop gives back late. Should one
request fail, all are done again one by one, so that it takes no other with it.

A caller whose deadline passes is told that nothing was stored, and that is made true: what had not begun is dropped,
what is being committed is undone before anything else can see it.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any, Protocol

import apsw

from mailflow.store.store import StoreUnavailable

MAX_BATCH = 128
GATHER_S = 0.003  # waited for companions, where there were some the last time: a commit costs the same for many


class Batched(Protocol):
    """What is done for several requests of one kind at once: one result each, in order."""

    def __call__(self, connection: apsw.Connection, requests: Sequence[Any], /) -> Sequence[object]:
        """Do it, within a transaction."""
        ...


class _Stage(Enum):
    WAITING = auto()
    RUNNING = auto()
    COMMITTED = auto()
    DROPPED = auto()  # nobody waits any more


class _Job:
    __slots__ = ("answer", "do", "result", "stage", "subject", "undo")

    def __init__(
        self,
        do: Batched,
        subject: object,
        answer: "asyncio.Future[Any]",
        undo: Callable[[apsw.Connection], None] | None,
    ) -> None:
        self.do = do
        self.subject = subject
        self.answer = answer
        self.undo = undo
        self.stage = _Stage.WAITING
        self.result: object = None


class SqliteWriter:
    """Runs requests on the connection that `connect()` gives, in the thread.

    `on_done(error)` is called in the loop after each transaction, with what it failed of; `rescue()` in the thread
    where the disk is full, and tells whether it made room.
    """

    def __init__(
        self,
        connect: Callable[[], apsw.Connection],
        *,
        on_done: Callable[[Exception | None], None],
        rescue: Callable[[], bool],
    ) -> None:
        self._connect = connect
        self._on_done = on_done
        self._rescue = rescue
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._jobs: deque[_Job] = deque()
        self._lock = threading.Lock()
        self._something = threading.Condition(self._lock)
        self._is_closing = False

    async def open(self) -> None:
        """Start the thread and connect. Raises what `connect` raises."""
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = self._loop.create_future()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, args=(opened,), name="sqlite", daemon=True)
        self._thread.start()
        await asyncio.shield(opened)

    async def close(self) -> None:
        """End the thread once it has done what waits."""
        with self._lock:
            self._is_closing = True
            self._something.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    async def run(
        self,
        do: Batched,
        subject: object,
        *,
        deadline: float,
        undo: Callable[[apsw.Connection], None] | None = None,
    ) -> Any:
        """Do something, in a transaction with what else waits; give its result once that is committed.

        Raises StoreUnavailable at the deadline (the loop's clock): then it was not done; where there is no `undo`, it
        may have been. Raises apsw.Error and OSError of its own.
        """
        assert self._loop is not None
        if self._loop.time() >= deadline:
            raise StoreUnavailable("no time is left")
        job = _Job(do, subject, self._loop.create_future(), undo)
        with self._lock:
            if self._is_closing or self._thread is None:
                raise StoreUnavailable("the store is closed")
            self._jobs.append(job)
            self._something.notify()
        try:
            async with asyncio.timeout_at(deadline):
                return await job.answer
        except TimeoutError:
            with self._lock:
                if job.stage is not _Stage.COMMITTED:
                    job.stage = _Stage.DROPPED
            if job.stage is _Stage.DROPPED:
                late = StoreUnavailable("the disk did not answer in time")
                self._on_done(late)
                raise late from None
            if isinstance(job.result, Exception):  # on its way already
                raise job.result from None
            return job.result

    def _run(self, opened: "asyncio.Future[None]") -> None:
        assert self._loop is not None
        try:
            connection = self._connect()
        except Exception as exc:
            self._loop.call_soon_threadsafe(_set_exception, opened, exc)
            return
        self._loop.call_soon_threadsafe(_set_result, opened, None)
        try:
            last = 0
            while batch := self._take(last):
                self._work(connection, batch)
                last = len(batch)
        finally:
            connection.close()

    def _take(self, last: int) -> list[_Job]:
        """Give what waits; `last` is how many there were the last time."""
        with self._something:
            while not self._jobs and not self._is_closing:
                self._something.wait()
        if last > 1:
            time.sleep(GATHER_S)
        with self._something:
            while True:
                batch: list[_Job] = []
                while self._jobs and len(batch) < MAX_BATCH:
                    job = self._jobs.popleft()
                    if job.stage is _Stage.WAITING:
                        job.stage = _Stage.RUNNING
                        batch.append(job)
                if batch or self._is_closing:
                    return batch
                self._something.wait()

    def _work(self, connection: apsw.Connection, batch: list[_Job]) -> None:
        error = _attempt(connection, batch)
        if error is not None and (len(batch) > 1 or isinstance(error, apsw.FullError)):
            error = None
            for job in batch:
                error = self._retry(connection, job) or error
        self._finish(connection, batch, error)

    def _retry(self, connection: apsw.Connection, job: _Job) -> Exception | None:
        error = _attempt(connection, [job])
        # A new message may wait for room. What the queue is emptied by may not.
        if isinstance(error, apsw.FullError) and job.undo is None and self._rescue():
            error = _attempt(connection, [job])
        return error

    def _finish(self, connection: apsw.Connection, batch: list[_Job], error: Exception | None) -> None:
        undone = []
        with self._lock:
            for job in batch:
                if job.stage is _Stage.DROPPED:
                    undone.append(job)
                else:
                    job.stage = _Stage.COMMITTED
        for job in undone:
            if job.undo is not None and not isinstance(job.result, Exception):
                _undo(connection, job.undo)
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._tell, batch, error)

    def _tell(self, batch: Sequence[_Job], error: Exception | None) -> None:
        self._on_done(error)
        for job in batch:
            if isinstance(job.result, Exception):
                _set_exception(job.answer, job.result)
            else:
                _set_result(job.answer, job.result)


def _attempt(connection: apsw.Connection, batch: Sequence[_Job]) -> Exception | None:
    """Do all in one transaction, requests of one kind together; leave in each job what came of it."""
    kinds: dict[Batched, list[_Job]] = {}
    for job in batch:
        kinds.setdefault(job.do, []).append(job)
    try:
        connection.execute("BEGIN IMMEDIATE")
        for do, jobs in kinds.items():
            for job, result in zip(jobs, do(connection, [job.subject for job in jobs]), strict=True):
                job.result = result
        connection.execute("COMMIT")
    except Exception as exc:
        _roll_back(connection)
        for job in batch:
            job.result = exc
        return exc
    return None


def _undo(connection: apsw.Connection, undo: Callable[[apsw.Connection], None]) -> None:
    try:
        connection.execute("BEGIN IMMEDIATE")
        undo(connection)
        connection.execute("COMMIT")
    except apsw.Error:  # then the message is delivered although its client was told 451: a double, not a loss
        _roll_back(connection)


def _roll_back(connection: apsw.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _set_result(future: "asyncio.Future[Any]", result: object) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: "asyncio.Future[Any]", exc: Exception) -> None:
    if not future.done():
        future.set_exception(exc)
