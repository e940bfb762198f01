"""A log collector that hangs must not be felt: the same load with and without a reader of stdout, in turn.

Whole path to an LMTP sink, two workers. Every message logs one decision; within seconds the buffer
is full, and from then on lines are dropped and counted. Beside the load one session says NOOP.
"""

import asyncio
import statistics
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.lmtp_sink import run_sink
from benchmarks.noop_latency import probe_beside
from benchmarks.process import read_rss_bytes, read_tree_cpu, run_load
from benchmarks.report import Bar, show
from benchmarks.whole_path import CONFIG
from tests.integration.mailflow_process import MailflowProcess

PAIRS = 5
WORKERS = 2
SECONDS = 12
SESSIONS = 10
BUFFER_BYTES = 2 << 20
MAX_RATIO = 1.1
MAX_STALL_MS = 100
MAX_GROWTH_MB = 2 * BUFFER_BYTES / (1 << 20)


@dataclass(frozen=True, slots=True)
class Run:
    """One run: CPU milliseconds per message, the slowest NOOP, how much a worker grew, lines lost by class."""

    cost_ms: float
    messages: int
    worst_noop_ms: float
    growth_mb: float
    dropped: dict[str, int]


async def run() -> list[Bar]:
    """Measure; give the bars."""
    runs: dict[bool, list[Run]] = {True: [], False: []}
    for _ in range(PAIRS):
        for reads_log in (True, False):
            runs[reads_log].append(await _measure(reads_log=reads_log))
    read, stalled = runs[True], runs[False]
    ratios = [b.cost_ms / a.cost_ms for a, b in zip(read, stalled, strict=True)]
    ratio = statistics.median(ratios)
    worst_ms = max(run.worst_noop_ms for run in stalled)
    growth_mb = max(run.growth_mb for run in stalled)
    dropped = stalled[-1].dropped
    show(
        f"stalled log collector, {PAIRS} pairs of {SECONDS} s, buffer of {BUFFER_BYTES >> 20} MB a process",
        [
            f"read     {statistics.median(run.cost_ms for run in read):7.3f} ms CPU a message,"
            f" worst NOOP {max(run.worst_noop_ms for run in read):.0f} ms",
            f"stalled  {statistics.median(run.cost_ms for run in stalled):7.3f} ms CPU a message,"
            f" worst NOOP {worst_ms:.0f} ms, workers grew by at most {growth_mb:.1f} MB",
            f"ratios   {', '.join(f'{ratio:.3f}' for ratio in ratios)}",
            f"the last stalled run: {stalled[-1].messages} messages, lines dropped by class: {dropped}",
        ],
    )
    return [
        Bar("stalled collector, CPU per message against a reading one", ratio, MAX_RATIO, "x", is_ceiling=True),
        Bar("stalled collector, worst wait of a session", worst_ms, MAX_STALL_MS, "ms", is_ceiling=True),
        Bar("stalled collector, growth of a worker", growth_mb, MAX_GROWTH_MB, "MB", is_ceiling=True),
    ]


async def _measure(*, reads_log: bool) -> Run:
    with run_sink() as sink, TemporaryDirectory() as folder:
        config = CONFIG.format(port=sink.port) + f"[log]\nbuffer_bytes = {BUFFER_BYTES}\n"
        async with MailflowProcess(Path(folder), config=config, workers=WORKERS, reads_log=reads_log) as mailflow:
            load = ["--sessions", str(SESSIONS), "--pipelining"]
            await asyncio.to_thread(run_load, mailflow.mx_port, [*load, "--messages", "500"])  # warm
            memory = {pid: read_rss_bytes(pid) for pid in mailflow.worker_pids}
            cpu_s = read_tree_cpu(mailflow.pid)
            delays_s, figures = await probe_beside(mailflow.mx_port, [*load, "--seconds", str(SECONDS)])
            messages = int(figures["messages"])
            cost_ms = 1000 * (read_tree_cpu(mailflow.pid) - cpu_s) / messages
            growth_bytes = max(read_rss_bytes(pid) - before for pid, before in memory.items())
            dropped = (await mailflow.metrics())["mailflow_log_dropped_total"]
            return Run(
                cost_ms,
                messages,
                1000 * max(delays_s),
                growth_bytes / (1 << 20),
                {dict(labels)["class"]: int(count) for labels, count in dropped.items()},
            )
