"""Runs benchmarks and prints their figures and bars: `python -m benchmarks [NAME...]`; exit 1 where a bar is missed."""

import argparse
import asyncio
import inspect
import os
import platform
import sys
from collections.abc import Awaitable, Callable

import pytest

from benchmarks import front_end, idle_memory, lmtp_hop, noop_latency, stalled_log, whole_path
from benchmarks.report import Bar

PARTS: dict[str, Callable[[], list[Bar] | Awaitable[list[Bar]]]] = {
    "front-end": front_end.run,
    "lmtp-hop": lmtp_hop.run,
    "whole-path": whole_path.run,
    "noop-latency": noop_latency.run,
    "idle-memory": idle_memory.run,
    "stalled-log": stalled_log.run,
}


async def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="*", choices=[[], *PARTS], help="all of them by default")
    names = parser.parse_args().part or PARTS
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} processors, Python {platform.python_version()}")
    bars: list[Bar] = []
    for name in names:
        try:
            found = PARTS[name]()
            bars += await found if inspect.isawaitable(found) else found
        except (pytest.skip.Exception, pytest.fail.Exception) as exc:  # a server is missing, or did not start
            print(f"\n{name} was left out: {exc}")
    print("\nBars\n" + "\n".join(map(str, bars)))
    return 0 if all(bar.is_met for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
