"""A session whose client pipelines and does not read: it waits, and then answers what came meanwhile."""

import asyncio
import socket

from mailflow.observe.nursery import Nursery
from mailflow.smtp.budget import ByteBudget
from mailflow.smtp.connection import SmtpService
from mailflow.smtp.server import SmtpSession
from mailflow.smtp.transaction import SmtpOptions


async def test_command_that_came_while_replies_could_not_leave_is_answered() -> None:
    options = SmtpOptions(hostname="mx.example.org", command_timeout_s=5)
    nursery = Nursery()
    service = SmtpService(object(), options, ByteBudget(1_000_000), nursery)
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    transport, session = await asyncio.get_running_loop().create_connection(lambda: SmtpSession(service), sock=ours)
    transport.set_write_buffer_limits(high=2000)
    reader, writer = await asyncio.open_connection(sock=theirs)
    client = reader._transport  # type: ignore[attr-defined]
    client.pause_reading()
    commands = 0
    while not session.stream.is_write_paused:  # one at a time, so that the session has no other line when it must wait
        writer.write(b"HELP\r\n")
        commands += 1
        await asyncio.sleep(0)
    writer.write(b"NOOP\r\n")
    while not session.stream.has_input:  # noqa: ASYNC110  # turns of the loop, not a time
        await asyncio.sleep(0)
    client.resume_reading()
    replies = [await asyncio.wait_for(reader.readline(), 2) for _ in range(1 + commands + 1)]
    assert replies[-1] == b"250 2.0.0 Ok\r\n"
    writer.close()
    assert await nursery.wait_empty(5)
