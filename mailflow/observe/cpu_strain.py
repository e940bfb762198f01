"""How far our CPU is used up, in the kernel's words: periods that were throttled, time that tasks waited (PSI).

cpu.stat counts the periods of a quota and those in which it ran out, in v1 and v2 alike. Every
cgroup from ours upwards is asked and the worst one counts: a Pod's limit may stand above that of
its container, and may change while we run. Throttled *time* is no measure: it is summed over
processors, so nobody can say what share of a second it is. A few file reads each second; whatever
cannot be read is unknown. Never raises.
"""

import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from mailflow.observe.cgroup import find_cpu_cgroups, find_cpu_pressure

READ_EVERY_S = 1.0
WINDOW_READS = 5  # a few throttled periods in one second are normal at a quota; in five seconds most must be
MIN_PERIODS = 5  # fewer say nothing: a cgroup that sleeps has no periods, and its first one back may be throttled
FIND_EVERY_READS = 60  # a process is moved, a limit set, rarely
MAX_FILE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class CpuStrain:
    """Shares from 0 to 1, None where the kernel does not tell."""

    throttled: float | None = None  # of the periods of the last five seconds, in the cgroup that has most
    waiting: float | None = None  # of the last ten seconds, in which a task of ours waited for a CPU (PSI some avg10)


class CpuStrainReader:
    """Reads the strain, once every READ_EVERY_S; `root` is where /proc and /sys are."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._reads = 0
        self._windows: dict[str, _Window] = {}  # by cpu.stat file
        self._pressure_file: str | None = None

    def read(self) -> CpuStrain:
        """Read the counters as they are now; the first read has nothing to compare with."""
        if self._reads % FIND_EVERY_READS == 0:
            self._find_files()
        self._reads += 1
        shares = [window.take(_read_periods(file)) for file, window in self._windows.items()]
        waiting = _read_waiting(self._pressure_file) if self._pressure_file else None
        return CpuStrain(max((share for share in shares if share is not None), default=None), waiting)

    def _find_files(self) -> None:
        files = [str(folder / "cpu.stat") for folder in find_cpu_cgroups(self._root)]
        self._windows = {file: self._windows.get(file) or _Window() for file in files}
        pressure = find_cpu_pressure(self._root)
        self._pressure_file = str(pressure) if pressure else None


class _Window:
    """The counters of one cgroup over the last reads."""

    def __init__(self) -> None:
        self._counts: deque[tuple[int, int]] = deque(maxlen=WINDOW_READS + 1)

    def take(self, counts: tuple[int, int] | None) -> float | None:
        """Take (periods, throttled periods); give the share throttled, None where that cannot be told."""
        if counts is None:
            self._counts.clear()
            return None
        if self._counts and any(now < before for now, before in zip(counts, self._counts[-1], strict=True)):
            self._counts.clear()  # another cgroup of the same name: its past is not ours
        self._counts.append(counts)
        (first_periods, first_throttled), (periods, throttled) = self._counts[0], counts
        if periods - first_periods < MIN_PERIODS:
            return None
        return min(1.0, (throttled - first_throttled) / (periods - first_periods))


def _read_periods(file: str) -> tuple[int, int] | None:
    words = _read_words(file)
    values = dict(zip(words[::2], words[1::2], strict=False))
    try:
        return int(values[b"nr_periods"]), int(values[b"nr_throttled"])
    except (KeyError, ValueError):
        return None  # no quota is kept here: v2 has these lines with the cpu controller only


def _read_waiting(file: str) -> float | None:
    """Read `some avg10=1.23 avg60=… avg300=… total=…`, whose numbers are per cent."""
    for word in _read_words(file):
        name, _, value = word.partition(b"=")
        if name == b"avg10":
            try:
                return min(1.0, max(0.0, float(value) / 100))
            except ValueError:
                return None
    return None


def _read_words(file: str) -> list[bytes]:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return os.read(descriptor, MAX_FILE_BYTES).split()
    except OSError:
        return []
    finally:
        os.close(descriptor)
