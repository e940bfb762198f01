"""The durable store through SMTP: how fast mail is committed, and what its way by the store costs beside cut-through.

Accepting: the mailbox server is down, so every message of 4 KB is committed before its 250; 50 reused sessions, two
workers, the real disk. Delivering: messages with two recipients, which go by the store, beside the same with one, which
is cut through. CPU is that of supervisor and workers; PostgreSQL's own processes are not in it.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from benchmarks.lmtp_sink import LmtpSink, run_sink
from benchmarks.process import ROOT, read_tree_cpu, run_load
from benchmarks.report import Bar, show
from benchmarks.rounds import Rounds, Run, list_rounds, take_rounds
from benchmarks.whole_path import measure_relay
from tests.integration.mailflow_process import MailflowProcess
from tests.postgres_server import PostgresServer

ROUNDS = 3
WORKERS = 2
SESSIONS = 50
MESSAGES = 10_000
MIN_ACCEPTED_PER_S = 4_000
MAX_DEARER_MS = 0.5
CONFIG = """\
[store]
url = "{url}"

[[backend]]
name = "sink"
lmtp = ["127.0.0.1:{port}"]
connections = 40
when_unverifiable = "accept"

[[route]]
domains = ["rcpt.example"]
backend = "sink"
"""
LOAD = ["--pipelining", "--sessions", str(SESSIONS), "--messages", str(MESSAGES)]
TWO = ["--recipient", "user@rcpt.example", "--recipient", "other@rcpt.example"]


async def run() -> list[Bar]:
    """Measure; give the bars."""
    with PostgresServer() as postgres:
        accepted = await take_rounds(
            ROUNDS, {"SQLite": partial(_accept, None), "PostgreSQL": partial(_accept, postgres)}
        )
        delivered = await take_rounds(
            ROUNDS,
            {
                "cut through": partial(_deliver, None, []),
                "SQLite": partial(_deliver, None, TWO),
                "PostgreSQL": partial(_deliver, postgres, TWO),
            },
        )
    show(
        f"durable accept, 4 KB, {SESSIONS} reused sessions, {WORKERS} workers, the mailbox server down", _rows(accepted)
    )
    show("to an LMTP sink, 4 KB: cut through, and by the store", _rows(delivered))
    dearer_ms = delivered["SQLite"].cost_ms - delivered["cut through"].cost_ms
    return [
        Bar("SQLite, durable accept", accepted["SQLite"].rate, MIN_ACCEPTED_PER_S, "messages/s", is_ceiling=False),
        Bar(
            "SQLite, store and deliver beside cut-through, CPU per message",
            dearer_ms,
            MAX_DEARER_MS,
            "ms",
            is_ceiling=True,
        ),
    ]


def _rows(found: dict[str, Rounds]) -> list[str]:
    return [*list_rounds(found), *(f"{name}: {rounds.latency}" for name, rounds in found.items())]


@contextlib.asynccontextmanager
async def _serve(postgres: PostgresServer | None, port: int) -> AsyncIterator[MailflowProcess]:
    # Not in memory, as /tmp may be.
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".bench-") as folder:
        url = postgres.new_database() if postgres else f"sqlite://{folder}/queue.db"
        config = CONFIG.format(url=url, port=port)
        async with MailflowProcess(Path(folder), config=config, workers=WORKERS) as mailflow:
            yield mailflow


async def _accept(postgres: PostgresServer | None) -> Run:
    """Send to a service whose mailbox server refuses connections."""
    async with _serve(postgres, port=1) as mailflow:
        return await asyncio.to_thread(_measure_accept, mailflow)


def _measure_accept(mailflow: MailflowProcess) -> Run:
    run_load(mailflow.mx_port, ["--pipelining", "--sessions", str(SESSIONS), "--messages", "500"])
    cpu_s = read_tree_cpu(mailflow.pid)
    figures = run_load(mailflow.mx_port, LOAD)
    cost_ms = 1000 * (read_tree_cpu(mailflow.pid) - cpu_s) / figures["messages"]
    return Run(cost_ms, figures["messages"] / figures["seconds"], figures["median_ms"], figures["p99_ms"])


async def _deliver(postgres: PostgresServer | None, recipients: list[str]) -> Run:
    with run_sink() as sink:
        async with _serve(postgres, sink.port) as mailflow:
            return await asyncio.to_thread(_measure_delivery, sink, mailflow, [*LOAD, *recipients])


def _measure_delivery(sink: LmtpSink, mailflow: MailflowProcess, load: list[str]) -> Run:
    run_load(mailflow.mx_port, ["--pipelining", "--messages", "200"])
    sink.wait_for(200)
    return measure_relay(sink, mailflow.pid, mailflow.mx_port, load)
