"""Runs benchmarks and prints their figures and bars: `python -m benchmarks [NAME...]`.

Exit 1 where a bar is missed, or a part failed; what needs a server that is not installed is left out.
"""

import argparse
import asyncio
import inspect
import os
import platform
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest

from benchmarks import (
    authenticated,
    front_end,
    idle_memory,
    lmtp_hop,
    long_queue,
    noop_latency,
    stalled_log,
    stored,
    whole_path,
)
from benchmarks.report import Bar

PARTS: dict[str, Callable[[], list[Bar] | Awaitable[list[Bar]]]] = {
    "front-end": front_end.run,
    "lmtp-hop": lmtp_hop.run,
    "whole-path": whole_path.run,
    "authenticated": authenticated.run,
    "stored": stored.run,
    "long-queue": long_queue.run,
    "noop-latency": noop_latency.run,
    "idle-memory": idle_memory.run,
    "stalled-log": stalled_log.run,
}


async def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", nargs="*", choices=[[], *PARTS], help="all of them by default")
    names = parser.parse_args().part or PARTS
    print(f"{platform.machine()}, {len(os.sched_getaffinity(0))} processors, Python {platform.python_version()}")
    bars: list[Bar] = []
    has_failed = False
    for name in names:
        try:
            found = PARTS[name]()
            bars += await found if inspect.isawaitable(found) else found
        except pytest.skip.Exception as exc:  # a server is missing
            print(f"\n{name} was left out: {exc}")
        except (AssertionError, subprocess.CalledProcessError, pytest.fail.Exception) as exc:
            print(f"\n{name} failed: {exc}")
            has_failed = True
    print("\nBars\n" + "\n".join(map(str, bars)))
    return 0 if all(bar.is_met for bar in bars) and not has_failed else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
