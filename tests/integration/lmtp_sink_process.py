"""The LMTP sink as a child process, and what it has recorded so far.

The records come over a pipe, so a test waits on them as events: `wait_for(2_000)` returns when that many different
(message, recipient) pairs have arrived.
"""

import asyncio
import collections
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

PROGRAM = Path(__file__).with_name("lmtp_sink.py")


class Deliveries:
    """What reached the sink: how often each (token, recipient) was recorded."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.copies: collections.Counter[tuple[str, str]] = collections.Counter()
        self._changed = asyncio.Condition()

    @property
    def doubled(self) -> dict[tuple[str, str], int]:
        """The pairs recorded more than once, with their number of copies."""
        return {pair: copies for pair, copies in self.copies.items() if copies > 1}

    async def wait_for(self, pairs: int) -> None:
        """Return once this many different pairs were recorded."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.copies) >= pairs)

    async def record_all(self, stdout: asyncio.StreamReader) -> None:
        """Take records until the sink ends."""
        async for line in stdout:
            token, recipient = line.decode("ascii").split()
            self.copies[token, recipient] += 1
            async with self._changed:
                self._changed.notify_all()


@contextlib.asynccontextmanager
async def run_lmtp_sink() -> AsyncIterator[Deliveries]:
    """Serve LMTP on a port of 127.0.0.1 until the block ends."""
    process = await asyncio.create_subprocess_exec(sys.executable, str(PROGRAM), stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        deliveries = Deliveries(int((await process.stdout.readline()).split()[1]))
        async with asyncio.TaskGroup() as tasks:
            recording = tasks.create_task(deliveries.record_all(process.stdout))
            yield deliveries
            recording.cancel()
    finally:
        process.kill()
        await process.wait()
