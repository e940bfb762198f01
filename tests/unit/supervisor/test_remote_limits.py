"""What a worker asks the supervisor, and what becomes of a question that nobody waits for any more."""

import asyncio

import pytest

from mailflow.supervisor.channel import Message
from mailflow.supervisor.remote_limits import RemoteLimits


async def asked(limits: RemoteLimits) -> "asyncio.Task[str | None]":
    task = asyncio.create_task(limits.enter("192.0.2"))
    await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("reason", [None, "client_rate"])
async def test_the_answer_reaches_who_asked(reason: str | None) -> None:
    sent: list[Message] = []
    limits = RemoteLimits(sent.append)
    task = await asked(limits)
    assert sent == [{"type": "enter", "number": 1, "network": "192.0.2"}]
    limits.take_answer({"number": 1, "reason": reason})
    assert await task == reason


async def test_a_session_cut_before_its_answer_is_counted_out_once_it_was_counted_in() -> None:
    sent: list[Message] = []
    limits = RemoteLimits(sent.append)
    for _ in range(2):
        task = await asked(limits)
        task.cancel()
        await asyncio.wait([task])
    assert [message["type"] for message in sent] == ["enter", "enter"]
    limits.take_answer({"number": 1, "reason": "client_connections"})
    limits.take_answer({"number": 2, "reason": None})
    assert sent[2:] == [{"type": "leave", "network": "192.0.2"}]
