"""Large mail must not be felt by others: NOOPs of one session while ten messages of 20 MB arrive and are delivered.

One worker, so that all of them share one event loop; the messages go on to an LMTP sink.
"""

import asyncio
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
PERIOD_S = 0.002
MAX_P99_MS = 50


async def run() -> list[Bar]:
    """Measure; give the bars."""
    with run_sink() as sink, TemporaryDirectory() as folder:
        async with MailflowProcess(Path(folder), config=CONFIG.format(port=sink.port)) as mailflow:
            load = ["--messages", str(MESSAGES), "--sessions", str(MESSAGES), "--size-bytes", str(SIZE_BYTES)]
            delays_s, figures = await probe_beside(mailflow.mx_port, load)
            sink.wait_for(MESSAGES)
    show(f"NOOP beside {MESSAGES} messages of 20 MB, one worker", [describe_delays(delays_s, figures["seconds"])])
    return [Bar("NOOP beside ten 20 MB messages, p99", p99_ms(delays_s), MAX_P99_MS, "ms", is_ceiling=True)]


async def probe_beside(
    port: int, load: list[str], *, period_s: float = PERIOD_S
) -> tuple[list[float], dict[str, float]]:
    """Say NOOP so often, or once the last is answered, while the load client runs with these arguments.

    Gives how long each answer took, in seconds, and the client's figures.
    """
    sending = asyncio.create_task(asyncio.to_thread(run_load, port, load))
    delays_s = await asyncio.to_thread(_probe, port, sending, period_s)
    return delays_s, await sending


def describe_delays(delays_s: list[float], seconds: float) -> str:
    """Give the NOOPs of so many seconds as a row of a block of figures."""
    return (
        f"{len(delays_s)} NOOPs in {seconds:.1f} s: median {1000 * statistics.median(delays_s):.1f} ms,"
        f" p99 {p99_ms(delays_s):.1f} ms, worst {1000 * max(delays_s):.1f} ms"
    )


def p99_ms(delays_s: list[float]) -> float:
    """Give what 99 of 100 did not exceed, in milliseconds."""
    return 1000 * statistics.quantiles(delays_s, n=100)[98]


def _probe(port: int, sending: "asyncio.Task[dict[str, float]]", period_s: float) -> list[float]:
    delays_s = []
    with socket.create_connection(("127.0.0.1", port)) as sock, sock.makefile("rb") as replies:
        assert replies.readline().startswith(b"220")
        while not sending.done():
            began = time.monotonic()
            sock.sendall(b"NOOP\r\n")
            assert replies.readline().startswith(b"250")
            delays_s.append(time.monotonic() - began)
            time.sleep(max(0, period_s - delays_s[-1]))
    return delays_s
