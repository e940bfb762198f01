"""An ended session and what it was sent are freed at once: the garbage collector of a worker comes too seldom."""

import asyncio
import gc
import socket
import weakref

import pytest
import uvloop

from mailflow.mail.reply import ProtocolError, Reply
from mailflow.observe.nursery import Nursery
from mailflow.smtp.budget import ByteBudget
from mailflow.smtp.connection import SmtpService
from mailflow.smtp.server import SmtpSession
from mailflow.smtp.transaction import SmtpOptions, Transaction

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy.")

ENVELOPE = b"EHLO client.example\r\nMAIL FROM:<>\r\nRCPT TO:<alice@example.org>\r\n"
TEXT = b"x" * 70 + b"\r\n"
ENDS = {
    "delivered": b"DATA\r\n" + TEXT + b".\r\nQUIT\r\n",
    "refused by the handler": b"DATA\r\nrefused\r\n.\r\nQUIT\r\n",
    "bare LF in DATA": b"DATA\r\n" + TEXT + b"\n.\r\n",
    "bare LF in BDAT": b"BDAT 73 LAST\r\n" + TEXT + b"\n",
    "line too long": b"DATA\r\n" + TEXT * 40 + b"x" * 3000 + b"\r\n.\r\nQUIT\r\n",
    "gone within DATA": b"DATA\r\n" + TEXT,
    "gone within BDAT": b"BDAT 1000\r\n" + TEXT,
    "too slow": b"DATA\r\n" + TEXT,
}


@pytest.fixture
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    return uvloop.EventLoopPolicy()


class Handler:
    async def handle_DATA(self, server: SmtpSession, session: object, envelope: Transaction) -> None:
        if envelope.original_content == b"refused\r\n":
            raise ProtocolError(Reply(554, "5.6.0", "No"))


@pytest.mark.parametrize("end", ENDS)
async def test_session_is_freed_when_it_ends_without_the_garbage_collector(end: str) -> None:
    nursery = Nursery()
    service = SmtpService(
        Handler(), SmtpOptions(hostname="mx.example.org", data_timeout_s=0.1), ByteBudget(1_000_000), nursery
    )
    ours, theirs = socket.socketpair()
    gc.collect()
    gc.disable()
    try:
        is_kept = weakref.ref(
            (await asyncio.get_running_loop().create_connection(lambda: SmtpSession(service), sock=ours))[1]
        )
        reader, writer = await asyncio.open_connection(sock=theirs)
        writer.write(ENVELOPE + ENDS[end])
        if end.startswith("gone"):
            writer.write_eof()
        await asyncio.wait_for(reader.read(), 5)
        writer.close()
        assert await nursery.wait_empty(5)
        while ours.fileno() >= 0:  # noqa: ASYNC110  # turns of the loop, not a time
            await asyncio.sleep(0)
        assert is_kept() is None
    finally:
        gc.enable()
