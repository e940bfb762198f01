"""The whole path, no authentication yet: SMTP in, recipient verified, LMTP out; beside Postfix doing the same.

Both take 4 KB messages over 20 sessions, reused or one for each message, and deliver to the same kind of
sink, which counts them; neither filters. The figure is CPU per message of the whole process tree, log
writing included.
"""

import asyncio
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.lmtp_sink import LmtpSink, run_sink
from benchmarks.process import read_tree_cpu, run_load
from benchmarks.report import Bar, show
from tests.integration.mailflow_process import MailflowProcess
from tests.integration.postfix_server import run_postfix

ROUNDS = 3
WORKERS = 2
MAILFLOW_MESSAGES = 10_000
POSTFIX_MESSAGES = 3_000
# name, arguments of the client, bar
WORKLOADS: tuple[tuple[str, list[str], float | None], ...] = (
    ("reused connections", [], 1 / 5),
    ("a connection per message", ["--new-connections"], None),
)
CONFIG = """\
[[backend]]
name = "sink"
lmtp = ["127.0.0.1:{port}"]

[[route]]
domains = ["rcpt.example"]
backend = "sink"
"""
POSTFIX_RELAY = """\
virtual_mailbox_domains = rcpt.example
virtual_transport = lmtp:inet:127.0.0.1:{relay_port}
smtpd_client_connection_count_limit = 0
"""


async def run() -> list[Bar]:
    """Measure; give the bars."""
    return [bar for workload in WORKLOADS for bar in await _compare(*workload)]


async def _compare(workload: str, arguments: list[str], max_ratio: float | None) -> list[Bar]:
    costs: dict[str, list[float]] = {"Postfix": [], "mailflow": []}
    rates: dict[str, list[float]] = {"Postfix": [], "mailflow": []}
    for _ in range(ROUNDS):
        for name, measure in (("Postfix", _measure_postfix), ("mailflow", _measure_mailflow)):
            cost_ms, rate = await measure(arguments)
            costs[name].append(cost_ms)
            rates[name].append(rate)
    cost_of = {name: statistics.median(found) for name, found in costs.items()}
    ratio = cost_of["mailflow"] / cost_of["Postfix"]
    show(
        f"whole path without authentication, 4 KB, {workload}, to an LMTP sink",
        [
            f"{name:9s} {cost_of[name]:7.3f} ms CPU a message, {statistics.median(rates[name]):6.0f} messages/s"
            for name in costs
        ]
        + [f"ratio     {ratio:7.3f}"],
    )
    if max_ratio is None:
        return []
    return [Bar("whole path, CPU per message against Postfix's bare relay", ratio, max_ratio, "x", is_ceiling=True)]


async def _measure_mailflow(arguments: list[str]) -> tuple[float, float]:
    with run_sink() as sink, TemporaryDirectory() as folder:
        config = CONFIG.format(port=sink.port)
        async with MailflowProcess(Path(folder), config=config, workers=WORKERS) as mailflow:
            port = mailflow.mx_port
            await asyncio.to_thread(_send, port, 200, arguments)  # connected, verified, warm
            return await asyncio.to_thread(_measure, sink, mailflow.pid, port, MAILFLOW_MESSAGES, arguments)


async def _measure_postfix(arguments: list[str]) -> tuple[float, float]:
    with run_sink() as sink, run_postfix(relay_port=sink.port, settings=POSTFIX_RELAY) as postfix:
        await asyncio.to_thread(_send, postfix.port, 200, arguments)
        sink.wait_for(200)
        return await asyncio.to_thread(_measure, sink, postfix.pid, postfix.port, POSTFIX_MESSAGES, arguments)


def _measure(sink: LmtpSink, pid: int, port: int, messages: int, arguments: list[str]) -> tuple[float, float]:
    """Give CPU milliseconds per message of the process tree of `pid`, and messages per second to the last one's end."""
    arrived, cpu_s, began = sink.messages, read_tree_cpu(pid), time.monotonic()
    _send(port, messages, arguments)
    sink.wait_for(arrived + messages)
    seconds = time.monotonic() - began
    return 1000 * (read_tree_cpu(pid) - cpu_s) / messages, messages / seconds


def _send(port: int, messages: int, arguments: list[str]) -> None:
    run_load(port, ["--messages", str(messages), "--pipelining", *arguments])
