"""What a worker asks the supervisor, and what becomes of a question that nobody waits for any more."""

import asyncio

import pytest

from mailflow.supervisor.channel import Message
from mailflow.supervisor.remote_limits import KEEP_S, MAX_KEPT, RemoteLimits


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
    limits.take_answer({"number": 1, "reason": reason, "is_roomy": False})
    assert await task == reason


async def test_a_session_cut_before_its_answer_is_counted_out_once_it_was_counted_in() -> None:
    sent: list[Message] = []
    limits = RemoteLimits(sent.append)
    for _ in range(2):
        task = await asked(limits)
        task.cancel()
        await asyncio.wait([task])
    assert [message["type"] for message in sent] == ["enter", "enter"]
    limits.take_answer({"number": 1, "reason": "client_connections", "is_roomy": False})
    limits.take_answer({"number": 2, "reason": None, "is_roomy": False})
    assert sent[2:] == [{"type": "leave", "network": "192.0.2"}]


async def admitted(limits: RemoteLimits, number: int, *, is_roomy: bool) -> None:
    task = await asked(limits)
    limits.take_answer({"number": number, "reason": None, "is_roomy": is_roomy})
    assert await task is None


async def test_the_place_of_a_session_that_ended_is_taken_up_without_a_question() -> None:
    sent: list[Message] = []
    limits = RemoteLimits(sent.append)
    await admitted(limits, 1, is_roomy=True)
    limits.leave("192.0.2")
    assert await limits.enter("192.0.2") is None
    assert [message["type"] for message in sent] == ["enter"]
    await admitted(limits, 2, is_roomy=True)  # there was one place


async def test_near_the_limit_no_place_is_kept() -> None:
    sent: list[Message] = []
    limits = RemoteLimits(sent.append)
    await admitted(limits, 1, is_roomy=True)
    await admitted(limits, 2, is_roomy=False)
    limits.leave("192.0.2")
    assert sent[-1] == {"type": "leave", "network": "192.0.2"}


async def test_places_are_kept_for_their_own_network_only_and_not_many() -> None:
    sent: list[Message] = []
    limits = RemoteLimits(sent.append)
    for number in range(1, MAX_KEPT + 2):
        await admitted(limits, number, is_roomy=True)
    for _ in range(MAX_KEPT + 1):
        limits.leave("192.0.2")
    limits.leave("198.51.100")
    assert [message["network"] for message in sent if message["type"] == "leave"] == ["192.0.2", "198.51.100"]


async def test_places_that_nobody_took_up_are_given_back() -> None:
    sent: list[Message] = []
    left = asyncio.Event()

    def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == "leave":
            left.set()

    limits = RemoteLimits(send)
    await admitted(limits, 1, is_roomy=True)
    limits.leave("192.0.2")
    await asyncio.wait_for(left.wait(), 10 * KEEP_S)
    assert sent[1:] == [{"type": "leave", "network": "192.0.2"}]
    task = await asked(limits)
    assert sent[-1]["type"] == "enter"
    task.cancel()
