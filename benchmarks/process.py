"""Processes under measurement: start one, pin it to a processor, read the CPU time of all that belongs to it.

CPU time is counted for whole process trees, ended children included (their parent has waited for
them), as a server is what all its processes are.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Program:
    """A running `python -m MODULE ARGUMENT...`; `first_line` is what it said first, its port as a rule."""

    def __init__(self, process: subprocess.Popen[str], first_line: str) -> None:
        self.pid = process.pid
        self.first_line = first_line

    @property
    def cpu_s(self) -> float:
        """CPU seconds used so far."""
        return read_tree_cpu(self.pid)


@contextlib.contextmanager
def run_program(module: str, *arguments: str, processor: int | None = None) -> Iterator[Program]:
    """Run it until the block ends, on one processor if that is named and the machine has more than one."""
    process = _start([sys.executable, "-m", module, *arguments])
    try:
        if processor is not None:
            pin(process.pid, processor)
        assert process.stdout is not None
        yield Program(process, process.stdout.readline().strip())
    finally:
        process.kill()
        process.wait()


def pin(pid: int, processor: int) -> None:
    """Keep a process on the `processor`th of the processors that we may use, if there are as many."""
    allowed = sorted(os.sched_getaffinity(0))
    if processor < len(allowed):
        os.sched_setaffinity(pid, {allowed[processor]})


def read_tree_cpu(pid: int) -> float:
    """Give user and system seconds of a process and all below it, those it waited for included."""
    return sum(_own_cpu(member) for member in list_tree(pid))


def list_tree(pid: int) -> list[int]:
    """Give the process and all below it that live now."""
    tree = [pid]
    for parent in tree:  # grows meanwhile
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                tree += map(int, children.read_text(encoding="ascii").split())
    return tree


def read_rss_bytes(pid: int) -> int:
    """Give the resident memory of one process."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run_load(port: int, arguments: Sequence[str], *, processor: int | None = None) -> dict[str, float]:
    """Run `benchmarks.smtp_load` to its end; give its figures by their names. Raises CalledProcessError."""
    command = [sys.executable, "-m", "benchmarks.smtp_load", "--port", str(port), *arguments]
    process = _start(command)
    if processor is not None:
        pin(process.pid, processor)
    printed, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    figures: dict[str, float] = json.loads(printed)
    return figures


def _start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


def _own_cpu(pid: int) -> float:
    """proc(5): fields 14 to 17 are user, system, and those of children waited for; counted from behind the name."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS_PER_S
