"""The front end alone, with a handler that takes and forgets, beside stock aiosmtpd on uvloop: same client, in turn.

Server and client have a processor each. The client pipelines where the server offers it, as real
senders do; what it costs without is shown too. Ratios are of messages (or MB) per second, at which
both servers use their processor up.
"""

import json
import statistics

from benchmarks.process import Program, run_load, run_program
from benchmarks.report import Bar, show

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


def run() -> list[Bar]:
    """Measure; give the bars."""
    bars = []
    for name, arguments, ours, theirs, limit in WORKLOADS:
        rates: dict[str, list[float]] = {"mailflow": [], "aiosmtpd": []}
        costs: dict[str, list[float]] = {"mailflow": [], "aiosmtpd": []}
        for _ in range(ROUNDS):
            for server, messages in (("aiosmtpd", theirs), ("mailflow", ours)):
                pipelines = server == "mailflow"  # aiosmtpd does not offer it
                fitting = [word for word in arguments if pipelines or word != "--pipelining"]
                with run_program("benchmarks.null_server", server, processor=0) as program:
                    measure(program, fitting, messages // 10)  # warm
                    rate, cost_ms = measure(program, fitting, messages)
                rates[server].append(rate)
                costs[server].append(cost_ms)
        rate_of = {server: statistics.median(found) for server, found in rates.items()}
        ratio = rate_of["mailflow"] / rate_of["aiosmtpd"]
        show(
            f"front end, {name}",
            [
                f"{server:9s} {rate_of[server]:8.0f} messages/s, {statistics.median(costs[server]):7.3f} ms CPU each"
                for server in rates
            ]
            + [f"ratio     {ratio:8.2f}"],
        )
        if limit is not None:
            bars.append(Bar(f"front end, {name}, against aiosmtpd", ratio, limit, "x"))
    return bars


def measure(program: Program, arguments: list[str], messages: int) -> tuple[float, float]:
    """Send messages to the server; give messages per second and CPU milliseconds per message."""
    before = program.cpu_s
    load = ["--sessions", str(SESSIONS), "--messages", str(messages), "--spin", *arguments]
    figures = json.loads(run_load(int(program.first_line), load, processor=1))
    return messages / figures["seconds"], 1000 * (program.cpu_s - before) / messages
