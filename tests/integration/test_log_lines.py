"""Four workers, hundreds of thousands of log lines through one pipe: each arrives whole.

Every refused command logs a decision. MAILFLOW_LOG_LINES=1000000 makes it a million.
"""

import asyncio
import collections
import os
from pathlib import Path

import pytest

from tests.integration.mailflow_process import MailflowProcess, route

LINES = int(os.environ.get("MAILFLOW_LOG_LINES", "200000"))
WORKERS = 4
CLIENTS = 8
GROUP = 50
BUFFER_BYTES = 1 << 29  # nothing may be lost here, so that all can be counted


@pytest.mark.slow
@pytest.mark.timeout(60 + LINES / 2000)
async def test_every_line_of_four_workers_parses(tmp_path: Path) -> None:
    config = route("example.org", maildir="mail", create=True) + f"[log]\nbuffer_bytes = {BUFFER_BYTES}\n"
    async with MailflowProcess(tmp_path, config=config, workers=WORKERS) as mailflow:
        refused = await asyncio.gather(*(refuse_many(mailflow.mx_port, number) for number in range(CLIENTS)))
        # Reading each line as JSON is MailflowProcess's own work, and its end would be the test's.
        assert await mailflow.terminate() == 0
    logged = collections.Counter(event["rcpt_to"] for event in mailflow.named("command"))
    assert sum(refused) >= LINES
    assert logged == {f"user{number}@example.org": count for number, count in enumerate(refused)}


async def refuse_many(port: int, number: int) -> int:
    """Name a second recipient again and again, LINES / CLIENTS times; give how often."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    rcpt = f"RCPT TO:<user{number}@example.org>\r\n".encode("ascii")
    writer.write(b"HELO client.test\r\nMAIL FROM:<bob@client.test>\r\n" + rcpt)
    for code in (b"220", b"250", b"250", b"250"):
        assert (await reader.readline()).startswith(code)
    said = 0
    while said < LINES / CLIENTS:
        writer.write(rcpt * GROUP)
        said += GROUP
        for _ in range(GROUP):
            assert (await reader.readline()).startswith(b"452 4.5.3")
    writer.close()
    return said
