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


class LmtpSinkProcess:
    """A serving sink: its port of 127.0.0.1, and how often each (token, recipient) was recorded."""

    def __init__(self, process: asyncio.subprocess.Process, stdout: asyncio.StreamReader, port: int) -> None:
        self.port = port
        self.copies: collections.Counter[tuple[str, str]] = collections.Counter()
        self._changed = asyncio.Condition()
        self._process = process
        self._recording = asyncio.create_task(self._record_all(stdout))

    @property
    def doubled(self) -> dict[tuple[str, str], int]:
        """The pairs recorded more than once, with their number of copies."""
        return {pair: copies for pair, copies in self.copies.items() if copies > 1}

    async def wait_for(self, pairs: int) -> None:
        """Return once this many different pairs were recorded."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.copies) >= pairs)

    async def end(self) -> None:
        """Stop serving; afterwards the record is complete."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._recording

    async def _record_all(self, stdout: asyncio.StreamReader) -> None:
        async for line in stdout:
            token, recipient = line.decode("ascii").split()
            self.copies[token, recipient] += 1
            async with self._changed:
                self._changed.notify_all()


@contextlib.asynccontextmanager
async def run_lmtp_sink() -> AsyncIterator[LmtpSinkProcess]:
    """Serve LMTP on a port of 127.0.0.1 until the block ends."""
    process = await asyncio.create_subprocess_exec(sys.executable, str(PROGRAM), stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    port = int((await process.stdout.readline()).split()[1])
    sink = LmtpSinkProcess(process, process.stdout, port)
    try:
        yield sink
    finally:
        await sink.end()
