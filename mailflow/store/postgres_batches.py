"""Requests gather while a batch is running: many callers, one statement, one commit, and each hears its own answer.

Nobody waits for a batch to fill: the first request goes at once, what comes meanwhile goes with the next. A statement
that is refused is tried again request by request, so that one bad row takes no other with it.
"""

import asyncio
import copy
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from mailflow.observe.nursery import Nursery
from mailflow.store.postgres_connection import OutcomeUnknown, Refused
from mailflow.store.store import StoreUnavailable


class Request(Protocol):
    """What can be gathered: `key` is at most once in a batch, `weight_bytes` what it adds to the statement."""

    @property
    def key(self) -> Hashable:
        """What it is about."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Octets it adds to the statement."""
        ...


R = TypeVar("R", bound=Request)
A = TypeVar("A")


@dataclass(eq=False, slots=True)
class _Waiting(Generic[R, A]):
    request: R
    deadline: float
    answer: asyncio.Future[A | StoreUnavailable]
    is_sent: bool = False


class Batches(Generic[R, A]):
    """Gathers requests for `run(requests, deadline)`, which gives one answer each, in order; one batch at a time.

    A batch ends by `max_items` and `max_bytes`; a request larger than that goes alone.
    """

    def __init__(
        self,
        run: Callable[[Sequence[R], float], Awaitable[Sequence[A]]],
        *,
        nursery: Nursery,
        name: str,
        max_items: int = 256,
        max_bytes: int = 4_194_304,
    ) -> None:
        self._run = run
        self._nursery = nursery
        self._name = name
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._waiting: deque[_Waiting[R, A]] = deque()
        self._is_running = False

    async def ask(self, request: R, *, deadline: float) -> A:
        """Give the answer to one request. Raises StoreUnavailable; OutcomeUnknown once it was under way."""
        loop = asyncio.get_running_loop()
        waiting: _Waiting[R, A] = _Waiting(request, deadline, loop.create_future())
        self._waiting.append(waiting)
        if not self._is_running:
            self._is_running = True
            self._nursery.start(self._run_all(), name=self._name)
        try:
            async with asyncio.timeout_at(deadline):
                answer = await waiting.answer
        except TimeoutError as exc:
            if waiting.is_sent:
                raise OutcomeUnknown("no answer in time") from exc
            raise StoreUnavailable("no answer to those before it in time") from exc
        finally:
            if not waiting.is_sent:
                self._waiting.remove(waiting)
        if isinstance(answer, StoreUnavailable):
            raise copy.copy(answer) from answer
        return answer

    async def _run_all(self) -> None:
        batch: list[_Waiting[R, A]] = []
        try:
            while batch := self._take():
                await self._run_batch(batch)
        finally:
            self._is_running = False
            for waiting in (*batch, *self._waiting):  # none is left, save where this was cancelled or has failed
                _answer(waiting, OutcomeUnknown("the store was closed meanwhile"))

    async def _run_batch(self, batch: Sequence[_Waiting[R, A]]) -> None:
        try:
            answers = await self._run(
                [waiting.request for waiting in batch], max(waiting.deadline for waiting in batch)
            )
        except Refused as exc:
            if len(batch) == 1:
                _answer(batch[0], exc)
                return
            for waiting in batch:
                await self._run_batch([waiting])
        except StoreUnavailable as exc:
            for waiting in batch:
                _answer(waiting, exc)
        else:
            for waiting, answer in zip(batch, answers, strict=True):
                _answer(waiting, answer)

    def _take(self) -> list[_Waiting[R, A]]:
        batch: list[_Waiting[R, A]] = []
        keys: set[Hashable] = set()
        weight = 0
        while self._waiting and len(batch) < self._max_items:
            request = self._waiting[0].request
            weight += request.weight_bytes
            if batch and (weight > self._max_bytes or request.key in keys):
                break
            keys.add(request.key)
            waiting = self._waiting.popleft()
            waiting.is_sent = True
            batch.append(waiting)
        return batch


def _answer(waiting: _Waiting[R, A], answer: A | StoreUnavailable) -> None:
    if not waiting.answer.done():  # else its caller has gone, or has heard it
        waiting.answer.set_result(answer)
