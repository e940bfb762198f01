"""The front end alone, with a handler that takes and forgets, beside stock aiosmtpd on uvloop: same client, in turn.

Server and client have a processor each. The client pipelines where the server offers it, as real
senders do; what it costs without is shown too. Ratios are of messages (or MB) per second, at which
both servers use their processor up.
"""

import asyncio
from functools import partial

from benchmarks.process import Program, run_load, run_program
from benchmarks.report import Bar, show
from benchmarks.rounds import Run, list_rounds, take_rounds

ROUNDS = 3
SESSIONS = 20
MIB = 1 << 20
# name, arguments of the client, messages for mailflow and for aiosmtpd, bar
WORKLOADS: tuple[tuple[str, list[str], int, int, float | None], ...] = (
    ("4 KB, reused connections", ["--pipelining"], 20_000, 5_000, 5.0),
    ("4 KB, reused connections, no pipelining", [], 20_000, 5_000, None),
    ("4 KB, a connection per message", ["--pipelining", "--new-connections"], 6_000, 2_500, 3.0),
    ("1 MB, reused connections", ["--size-bytes", str(MIB)], 600, 80, 8.0),
)


async def run() -> list[Bar]:
    """Measure; give the bars."""
    bars = []
    for name, arguments, ours, theirs, limit in WORKLOADS:
        fitting = [word for word in arguments if word != "--pipelining"]  # aiosmtpd does not offer it
        found = await take_rounds(
            ROUNDS,
            {
                "aiosmtpd": partial(asyncio.to_thread, _measure, "aiosmtpd", fitting, theirs),
                "mailflow": partial(asyncio.to_thread, _measure, "mailflow", arguments, ours),
            },
        )
        ratio = found["mailflow"].rate / found["aiosmtpd"].rate
        show(f"front end, {name}", [*list_rounds(found), f"ratio     {ratio:8.2f}"])
        if limit is not None:
            bars.append(Bar(f"front end, {name}, against aiosmtpd", ratio, limit, "x"))
    return bars


def _measure(server: str, arguments: list[str], messages: int) -> Run:
    with run_program("benchmarks.null_server", server, processor=0) as program:
        _send(program, arguments, messages // 10)  # warm
        return _send(program, arguments, messages)


def _send(program: Program, arguments: list[str], messages: int) -> Run:
    cpu_s = program.cpu_s
    load = ["--sessions", str(SESSIONS), "--messages", str(messages), "--spin", *arguments]
    figures = run_load(int(program.first_line), load, processor=1)
    return Run(
        1000 * (program.cpu_s - cpu_s) / messages,
        messages / figures["seconds"],
        figures["median_ms"],
        figures["p99_ms"],
    )
