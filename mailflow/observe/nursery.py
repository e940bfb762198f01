"""A nursery: tasks that live and fail by themselves, and are not lost.

asyncio keeps only weak references to tasks and tells of a failure when it collects the garbage, if
ever. Here each is held until it ends, and its failure is logged with its traceback and counted while
its siblings live on (a TaskGroup would cancel them: one session's crash is no reason to cut the
others). No other place of the project creates a task that nobody awaits.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

log = structlog.get_logger()
T = TypeVar("T")


class Nursery:
    """Holds running tasks; `on_failure()` is called once per task that ended by an exception."""

    def __init__(self, *, on_failure: Callable[[], object] = lambda: None) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._on_failure = on_failure
        self._emptied = asyncio.Event()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, coro: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Run a coroutine as a task; `name` says in the log what failed. Needs a running loop.

        The task may be awaited too: its exception then reaches the awaiter as well as the log.
        """
        task = asyncio.create_task(coro, name=name)
        self._tasks.add(task)
        self._emptied.clear()
        task.add_done_callback(self._end)
        return task

    async def wait_empty(self, timeout_s: float | None) -> bool:
        """Wait until no task is left, those started meanwhile included; False after `timeout_s` (None: no limit)."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._tasks:
                    await self._emptied.wait()
        except TimeoutError:
            return not self._tasks
        return True

    async def cancel_all(self) -> None:
        """Cancel every task, once, and wait until all have ended; a task among them that calls this is spared.

        A task that takes long over its cancellation is waited for: whoever has a deadline puts it around this.
        """
        cancelled: set[asyncio.Task[Any]] = {task for task in (asyncio.current_task(),) if task}
        while fresh := self._tasks - cancelled:
            for task in fresh:
                task.cancel()
            cancelled |= fresh
            await asyncio.wait(fresh)

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._emptied.set()
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._on_failure()
            log.error("task_failed", task=task.get_name(), exc_info=exc)
