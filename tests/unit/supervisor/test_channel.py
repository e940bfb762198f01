"""Messages between supervisor and worker arrive whole, in order, however the bytes come."""

import asyncio
import socket

import pytest

from mailflow.supervisor.channel import MAX_MESSAGE_BYTES, Channel, Message


async def test_messages_arrive_in_order_and_the_end_is_told_once() -> None:
    loop = asyncio.get_running_loop()
    heard: list[Message] = []
    lost = asyncio.Event()
    ours, theirs = socket.socketpair()
    one, other = Channel(heard.append, lambda: None), Channel(heard.append, lost.set)
    await loop.create_unix_connection(lambda: one, sock=ours)
    await loop.create_unix_connection(lambda: other, sock=theirs)
    sent: list[Message] = [{"type": "a", "text": "ü" * size} for size in (0, 1, 70_000)]
    for message in sent:
        one.send(message)
    one.close()
    async with asyncio.timeout(5):
        await lost.wait()
    assert heard == sent
    other.send({"type": "to nobody"})


def test_bytes_may_come_one_by_one() -> None:
    heard: list[Message] = []
    channel = Channel(heard.append, lambda: None)
    body = b'{"type":"beat"}'
    for octet in (len(body).to_bytes(4, "big") + body) * 2:
        channel.data_received(bytes([octet]))
    assert heard == [{"type": "beat"}] * 2


def test_a_message_beyond_all_bounds_is_not_waited_for() -> None:
    channel = Channel(lambda message: None, lambda: None)
    with pytest.raises(ValueError, match="bounds"):
        channel.data_received((MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"))
