"""The whole path, no authentication yet: SMTP in, recipient verified, LMTP out; beside Postfix doing the same.

Both take 4 KB messages over 20 sessions, reused or one for each message, and deliver to the same kind of
sink, which counts them; neither filters. The figure is CPU per message of the whole process tree, log
writing included.
"""

import asyncio
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.lmtp_sink import LmtpSink, run_sink
from benchmarks.process import read_tree_cpu, run_load
from benchmarks.report import Bar, show
from benchmarks.rounds import Run, list_rounds, take_rounds
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
    found = await take_rounds(
        ROUNDS,
        {
            "Postfix": partial(measure_postfix, arguments, POSTFIX_MESSAGES),
            "mailflow": partial(_measure_mailflow, arguments),
        },
    )
    ratio = found["mailflow"].cost_ms / found["Postfix"].cost_ms
    show(
        f"whole path without authentication, 4 KB, {workload}, to an LMTP sink",
        [*list_rounds(found), f"ratio     {ratio:7.3f}"],
    )
    if max_ratio is None:
        return []
    return [Bar("whole path, CPU per message against Postfix's bare relay", ratio, max_ratio, "x", is_ceiling=True)]


async def _measure_mailflow(arguments: list[str]) -> Run:
    with run_sink() as sink, TemporaryDirectory() as folder:
        config = CONFIG.format(port=sink.port)
        async with MailflowProcess(Path(folder), config=config, workers=WORKERS) as mailflow:
            return await asyncio.to_thread(_measure, sink, mailflow.pid, mailflow.mx_port, MAILFLOW_MESSAGES, arguments)


async def measure_postfix(arguments: list[str], messages: int) -> Run:
    """Send messages of 4 KB through Postfix, which checks nothing, to a sink; `arguments` are the client's."""
    with run_sink() as sink, run_postfix(relay_port=sink.port, settings=POSTFIX_RELAY) as postfix:
        return await asyncio.to_thread(_measure, sink, postfix.pid, postfix.port, messages, arguments)


def _measure(sink: LmtpSink, pid: int, port: int, messages: int, arguments: list[str]) -> Run:
    load = ["--pipelining", *arguments]
    run_load(port, [*load, "--messages", "200"])  # connected, verified, warm
    sink.wait_for(200)
    return measure_relay(sink, pid, port, [*load, "--messages", str(messages)])


def measure_relay(sink: LmtpSink, pid: int, port: int, load: list[str]) -> Run:
    """Run the load client with these arguments; give the CPU of the process tree of `pid`, and the rate to the end.

    The end is when the last message has reached the sink, to which all had gone that were sent before.
    """
    arrived, cpu_s, began = sink.messages, read_tree_cpu(pid), time.monotonic()
    figures = run_load(port, load)
    messages = int(figures["messages"])
    sink.wait_for(arrived + messages)
    seconds = time.monotonic() - began
    return Run(
        1000 * (read_tree_cpu(pid) - cpu_s) / messages, messages / seconds, figures["median_ms"], figures["p99_ms"]
    )
