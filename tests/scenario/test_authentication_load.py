"""What a stranger writes holds nobody up: the longest turn of the loop beside hostile messages."""

import asyncio
import contextlib
import gc
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenario.service import serve

HEADER_OCTETS = 250_000
MEGABYTE = 1_000_000
MAX_TURN_S = 0.2  # of CPU; on an idle machine a quarter of it. Most of these took more, some of them seconds.
FROM = b"From: a@sender.example\r\n"
HOSTILE = {
    "at signs in comments": b"From: " + (b"(@)" * 500 + b"\r\n ") * 5 + b"<\r\n",
    "at signs in comments of a name": b'From: "' + (b"(@)" * 500 + b"\r\n ") * 5 + b'" <a@sender.example>\r\n',
    "a header that breaks off": FROM + b"no field\r\n" + b"x\r\n" * (4 * MEGABYTE),
    "one field as large as the message": FROM + b"X:" + b"\r\n " * (6 * MEGABYTE) + b"\r\n",
    "results with comments": FROM
    + b"Authentication-Results:"
    + (b"()" * 900 + b"\r\n ") * (HEADER_OCTETS // 1803)
    + b"a;\r\n",
    "results with ids of other scripts": FROM
    + b"".join(f"Authentication-Results:\xe4{number}.example;\r\n".encode() for number in range(6500)),
    "signatures": FROM + b"DKIM-Signature:\r\n" * (HEADER_OCTETS // 17),
    "seals": FROM + b"ARC-Seal: i=1; cv=none\r\n" * (HEADER_OCTETS // 24),
}


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Keep the garbage collector still: what all other tests have left behind is no part of a turn."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("header", HOSTILE.values(), ids=HOSTILE.keys())
async def test_hostile_message_leaves_other_sessions_their_turn(tmp_path: Path, header: bytes) -> None:
    async with serve(tmp_path, config='[mailauth]\ndmarc = "enforce"\n') as service:
        client = await service.greeted()
        for command in ("MAIL FROM:<a@sender.example>", "RCPT TO:<alice@example.org>", "DATA"):
            assert (await client.command(command))[0] in "23"
        await client.send_all(header + b"\r\nhello\r\n")
        reply = asyncio.create_task(client.command("."))
        with without_collector():
            longest, begin = 0.0, time.process_time()
            while not reply.done():
                await asyncio.sleep(0)
                begin, last = time.process_time(), begin
                longest = max(longest, begin - last)
        assert (await reply)[0] in "25"
        assert longest < MAX_TURN_S
