"""An SMTP server that takes every message and keeps none: `python -m benchmarks.null_server mailflow|aiosmtpd`.

What is measured is the front end alone. Stock aiosmtpd runs on uvloop too, as mailflow does. Prints
its port.
"""

import asyncio
import sys
from collections.abc import Callable

import uvloop
from aiosmtpd.smtp import SMTP

from mailflow.observe.nursery import Nursery
from mailflow.smtp.budget import ByteBudget
from mailflow.smtp.connection import SmtpService
from mailflow.smtp.server import SmtpSession
from mailflow.smtp.transaction import SmtpOptions

MAX_MESSAGE_BYTES = 33554432


class TakeAll:
    """A handler for either server."""

    async def handle_DATA(self, server: object, session: object, envelope: object) -> str:
        """Take it."""
        return "250 2.0.0 Ok"


def make_mailflow() -> Callable[[], asyncio.BaseProtocol]:
    """mailflow's session, with the default options."""
    options = SmtpOptions("mx.rcpt.example", max_message_bytes=MAX_MESSAGE_BYTES)
    service = SmtpService(handler=TakeAll(), options=options, budget=ByteBudget(1 << 30), nursery=Nursery())
    return lambda: SmtpSession(service)


def make_aiosmtpd() -> Callable[[], asyncio.BaseProtocol]:
    """aiosmtpd's, as its documentation has it."""
    return lambda: SMTP(TakeAll(), hostname="mx.rcpt.example", data_size_limit=MAX_MESSAGE_BYTES)


async def serve(make_protocol: Callable[[], asyncio.BaseProtocol]) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(make_protocol, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve({"mailflow": make_mailflow, "aiosmtpd": make_aiosmtpd}[sys.argv[1]]()))
