"""The operator's questions about the queue, carried to the workers that have it.

A shard of an SQLite store is one worker's: all are asked, and their answers merged. A store that all share is asked
through one of them. Who does not answer in time is named in the answer.
"""

import asyncio
import itertools
from collections.abc import Sequence

from mailflow.store.desk import Json, merge_answers
from mailflow.supervisor.channel import Message
from mailflow.supervisor.slot import WorkerSlot

ANSWER_S = 30.0


class QueueDesk:
    """Asks the workers of `slots`; one of them where the store is shared."""

    def __init__(self, slots: Sequence[WorkerSlot], *, is_shared: bool) -> None:
        self._slots = slots
        self._is_shared = is_shared
        self._numbers = itertools.count(1)
        self._waiting: dict[int, dict[WorkerSlot, asyncio.Future[Json]]] = {}

    async def ask(self, question: Json) -> Json:
        """Give the answer; an `error` in it says what is missing."""
        serving = [slot for slot in self._slots if slot.is_serving]
        asked = serving[:1] if self._is_shared else serving
        if not asked:
            return {"error": "no worker serves"}
        number, loop = next(self._numbers), asyncio.get_running_loop()
        answers = self._waiting[number] = {slot: loop.create_future() for slot in asked}
        for slot in asked:
            slot.send({"type": "queue", "number": number, "question": question})
        await asyncio.wait(answers.values(), timeout=ANSWER_S)
        del self._waiting[number]
        found = [answer.result() for answer in answers.values() if answer.done()]
        found += [{"error": f"worker {slot.number} does not answer"} for slot, a in answers.items() if not a.done()]
        if not self._is_shared:
            found += [{"error": f"worker {slot.number} does not serve"} for slot in self._slots if slot not in serving]
        return merge_answers(question, found)

    def take(self, slot: WorkerSlot, message: Message) -> None:
        """Take a worker's answer."""
        waiting = self._waiting.get(message["number"], {}).get(slot)
        if waiting is not None and not waiting.done():
            waiting.set_result(message["answer"])
