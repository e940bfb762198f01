"""Large mail must not be felt by others: NOOPs of one session while ten messages of 20 MB arrive and are delivered.

One worker, so that all of them share one event loop; the messages go on to an LMTP sink.
"""

import asyncio
import json
import socket
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.lmtp_sink import run_sink
from benchmarks.process import run_load
from benchmarks.report import Bar, show
from benchmarks.whole_path import CONFIG
from tests.integration.mailflow_process import MailflowProcess

MESSAGES = 10
SIZE_BYTES = 20 << 20
PAUSE_S = 0.002
MAX_P99_MS = 50


async def run() -> list[Bar]:
    """Measure; give the bars."""
    with run_sink() as sink, TemporaryDirectory() as folder:
        async with MailflowProcess(Path(folder), config=CONFIG.format(port=sink.port)) as mailflow:
            load = ["--messages", str(MESSAGES), "--sessions", str(MESSAGES), "--size-bytes", str(SIZE_BYTES)]
            sending = asyncio.create_task(asyncio.to_thread(run_load, mailflow.mx_port, load))
            delays_s = await asyncio.to_thread(_probe, mailflow.mx_port, sending)
            seconds = json.loads(await sending)["seconds"]
            sink.wait_for(MESSAGES)
    percentiles_ms = [1000 * value for value in statistics.quantiles(delays_s, n=100)]
    p99_ms = percentiles_ms[98]
    show(
        f"NOOP beside {MESSAGES} messages of 20 MB, one worker",
        [
            f"{len(delays_s)} NOOPs in {seconds:.1f} s: median {percentiles_ms[49]:.1f} ms, p99 {p99_ms:.1f} ms,"
            f" worst {1000 * max(delays_s):.1f} ms"
        ],
    )
    return [Bar("NOOP beside ten 20 MB messages, p99", p99_ms, MAX_P99_MS, "ms", is_ceiling=True)]


def _probe(port: int, sending: "asyncio.Task[str]") -> list[float]:
    """Say NOOP again and again until the load has ended; give how long each answer took, in seconds."""
    delays_s = []
    with socket.create_connection(("127.0.0.1", port)) as sock, sock.makefile("rb") as replies:
        assert replies.readline().startswith(b"220")
        while not sending.done():
            began = time.monotonic()
            sock.sendall(b"NOOP\r\n")
            assert replies.readline().startswith(b"250")
            delays_s.append(time.monotonic() - began)
            time.sleep(PAUSE_S)
    return delays_s
