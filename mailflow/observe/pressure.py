"""Whether a worker has too much to do, and which new connections it then sheds (DESIGN: CPU).

The harm is measured, not guessed: how late the event loop gets round to a probe, and how many
connections stand in the backlog (uvloop accepts one a turn, so a flood waits there and the loop is
never late). What the kernel tells of the CPU (cpu_strain.py) is no harm by itself, since a worker
that is busy at its quota, or beside a loud neighbour, may serve well; it only halves the levels from
which connections are shed. Pure but for `PressureWatch`, which runs the probes, and the log: time
and randomness are arguments. Without load there is neither lag nor backlog, so shedding ends.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import structlog

from mailflow.observe.cpu_strain import READ_EVERY_S, CpuStrain

PROBE_S = 0.13  # no divisor of the 100 ms of a quota's period: each probe would fall into the same part of it
SMOOTHING_S = 2.0  # time constant of the mean lag: sustained overload shows within two or three seconds
MAX_LAG_S = 2.0  # what is later counts as this late, or the way back would be long
MAX_WEIGHT_S = 1.0  # a probe stands for no more time than this
GRACE_S = 5.0  # from the first probe on: modules are loaded, a backlog has gathered, other workers start as well
STANDING_PROBES = 24  # a backlog that was there in each of so many, about three seconds, is no burst
CALM_S = 5.0  # shedding ends after so long below the level: no log of flapping, no herd let in by one good second

# Evidence that the CPU is lacking: from the first share on, until the share is below the second.
THROTTLED = (0.5, 0.25)
WAITING = (0.5, 0.25)
STRAINED_FACTOR = 0.5

log = structlog.get_logger()


class Cause(Enum):
    """Why connections are shed, as far as can be told: the reason in mailflow_shed_total."""

    LOOP_LAG = "loop_lag"
    BACKLOG = "backlog"
    THROTTLED = "throttled"
    CPU_PRESSURE = "cpu_pressure"


@dataclass(frozen=True, slots=True)
class Ramp:
    """Shedding begins when a measure reaches `begin`; it then takes no connection at `end`, every one from `all` on."""

    begin: float
    end: float
    all: float

    def scaled(self, factor: float) -> "Ramp":
        """Give the ramp with all levels times `factor`."""
        return Ramp(self.begin * factor, self.end * factor, self.all * factor)

    def find_share(self, measure: float) -> float:
        """Give the share of new connections to shed, 0 to 1."""
        return min(1.0, max(0.0, (measure - self.end) / (self.all - self.end)))


@dataclass(frozen=True, slots=True)
class Levels:
    """What a listener bears: lag in seconds, and how full its backlog stands, 0 to 1.

    One whose clients are people (submission) is to bear more than one whose clients try again by themselves.
    """

    lag_s: Ramp
    backlog: Ramp

    def scaled(self, factor: float) -> "Levels":
        """Give all of them times `factor`."""
        return Levels(self.lag_s.scaled(factor), self.backlog.scaled(factor))


# A message takes some 15 turns of the loop. At 0.25 s each that is 4 s, which no sender minds; at 1 s DNS and mailbox
# servers seem to time out, and what is admitted then fails. Of the backlog half is for bursts; where it is full, the
# kernel drops connections without a word.
MX_LEVELS = Levels(lag_s=Ramp(begin=0.25, end=0.1, all=1.0), backlog=Ramp(begin=0.5, end=0.25, all=1.0))


class LoopLag:
    """The smoothed lag: a mean over time of the median of the last three probes.

    One long pause, whatever its length (a stopped process, a slow callback, collecting garbage), is one late probe, and
    the median does not see it. Load makes every probe late.
    """

    def __init__(self) -> None:
        self._latest = deque((0.0, 0.0, 0.0), maxlen=3)
        self.mean_s = 0.0

    def note(self, lag_s: float, elapsed_s: float) -> None:
        """Take the lag of a probe, `elapsed_s` after the one before."""
        self._latest.append(min(MAX_LAG_S, max(0.0, lag_s)))
        median_s = sorted(self._latest)[1]
        # Weighed by time: a late loop has few probes, and each then stands for more of it.
        weight = 1 - math.exp(-min(elapsed_s, MAX_WEIGHT_S) / SMOOTHING_S)
        self.mean_s += weight * (median_s - self.mean_s)


class Pressure:
    """What one worker measures. `read_backlog` tells how full the fullest backlog is, 0 to 1."""

    def __init__(self, *, read_strain: Callable[[], CpuStrain], read_backlog: Callable[[], float]) -> None:
        self.strain = CpuStrain()
        self.counts_from_s = math.inf
        self._read_strain = read_strain
        self._read_backlog = read_backlog
        self._read_at_s = -math.inf
        self._probed_at_s: float | None = None
        self._lag = LoopLag()
        self._backlogs = deque((0.0,) * STANDING_PROBES, maxlen=STANDING_PROBES)
        self._is_throttled = self._is_waiting = False

    @property
    def lag_s(self) -> float:
        """The smoothed lag of the loop."""
        return self._lag.mean_s

    @property
    def standing_backlog(self) -> float:
        """What has been in the backlog all the time: how full it was at least."""
        return min(self._backlogs)

    @property
    def backlog(self) -> float:
        """How full the backlog is now. Refusing is fast: between two probes it would empty all of it."""
        return self._read_backlog()

    @property
    def strain_cause(self) -> Cause | None:
        """What the kernel says is lacking, None where nothing is. Tasks that are throttled wait too."""
        if self._is_throttled:
            return Cause.THROTTLED
        return Cause.CPU_PRESSURE if self._is_waiting else None

    def probe(self, now_s: float) -> None:
        """Note that the loop got round to a probe, due PROBE_S after the one before. The first begins the grace."""
        before_s, self._probed_at_s = self._probed_at_s, now_s
        if before_s is None:
            self.counts_from_s = now_s + GRACE_S
            return
        if now_s < self.counts_from_s:
            return
        elapsed_s = now_s - before_s
        self._lag.note(elapsed_s - PROBE_S, elapsed_s)
        self._backlogs.append(self._read_backlog())
        if now_s - self._read_at_s >= READ_EVERY_S:
            self._read_at_s = now_s
            self.strain = self._read_strain()
            self._is_throttled = _is_over(self.strain.throttled, THROTTLED, was_over=self._is_throttled)
            self._is_waiting = _is_over(self.strain.waiting, WAITING, was_over=self._is_waiting)

    def describe(self) -> str:
        """Give the figures in words."""
        words = [f"the event loop is {self.lag_s:.2f} s late", f"the backlog is {self.backlog:.0%} full"]
        if self.strain.throttled is not None:
            words.append(f"{self.strain.throttled:.0%} of the CPU quota's periods are throttled")
        if self.strain.waiting is not None:
            words.append(f"tasks wait for a CPU {self.strain.waiting:.0%} of the time")
        return ", ".join(words)


class Shedder:
    """Decides for one listener, named `listener` in the log, which new connections are refused.

    A share of them, which grows with the pressure: refusing all at once would send all away together and have them come
    back together. `draw` gives a random number from 0 to below 1.
    """

    def __init__(self, listener: str, pressure: Pressure, levels: Levels, *, draw: Callable[[], float]) -> None:
        self.draw = draw
        self.is_shedding = False
        self._listener = listener
        self._pressure = pressure
        self._levels = levels
        self._began_at_s = self._pressed_at_s = 0.0
        self.refused = 0  # since shedding began; counted by who refuses

    @property
    def share(self) -> float:
        """The share of new connections to refuse now, 0 to 1."""
        return max(self._find_shares()) if self.is_shedding else 0.0

    def find_refusal(self) -> str | None:
        """Give the reason (of mailflow_shed_total) to refuse the connection that comes now, None to take it."""
        if not self.is_shedding:
            return None
        by_lag, by_backlog = self._find_shares()
        if self.draw() >= max(by_lag, by_backlog):
            return None
        return self._find_cause(by_lag, by_backlog).value

    def judge(self, now_s: float) -> None:
        """Begin or end shedding by what the last probe has shown."""
        if self.is_shedding:
            if self.share:
                self._pressed_at_s = now_s
            elif now_s - self._pressed_at_s >= CALM_S:
                self._end(now_s)
            return
        levels, pressure = self._levels_now(), self._pressure
        if pressure.lag_s >= levels.lag_s.begin or pressure.standing_backlog >= levels.backlog.begin:
            self._begin(now_s)

    def _levels_now(self) -> Levels:
        return self._levels.scaled(STRAINED_FACTOR) if self._pressure.strain_cause else self._levels

    def _find_shares(self) -> tuple[float, float]:
        """Give the shares that the lag and the backlog ask for."""
        levels = self._levels_now()
        return levels.lag_s.find_share(self._pressure.lag_s), levels.backlog.find_share(self._pressure.backlog)

    def _find_cause(self, by_lag: float, by_backlog: float) -> Cause:
        return self._pressure.strain_cause or (Cause.LOOP_LAG if by_lag >= by_backlog else Cause.BACKLOG)

    def _begin(self, now_s: float) -> None:
        self.is_shedding = True
        self._began_at_s = self._pressed_at_s = now_s
        self.refused = 0
        pressure = self._pressure
        log.warning(
            "shedding_begins",
            listener=self._listener,
            reason=self._find_cause(*self._find_shares()).value,
            loop_lag_s=round(pressure.lag_s, 3),
            backlog=round(pressure.backlog, 3),
            throttled=_rounded(pressure.strain.throttled),
            waiting=_rounded(pressure.strain.waiting),
        )

    def _end(self, now_s: float) -> None:
        self.is_shedding = False
        after_s = round(now_s - self._began_at_s, 1)
        log.warning("shedding_ends", listener=self._listener, after_s=after_s, refused=self.refused)


class PressureWatch:
    """Runs the probes on the event loop from `start` to `stop`; `on_probe` is called behind each."""

    def __init__(
        self,
        pressure: Pressure,
        shedders: Sequence[Shedder],
        *,
        on_probe: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pressure = pressure
        self._shedders = shedders
        self._on_probe = on_probe
        self._clock = clock  # not the loop's, which stands still within a turn
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Probe now and from now on."""
        self._timer = asyncio.get_running_loop().call_later(PROBE_S, self.start)  # first: no fault below ends the watch
        now_s = self._clock()
        self._pressure.probe(now_s)
        for shedder in self._shedders:
            shedder.judge(now_s)
        self._on_probe()

    def stop(self) -> None:
        """Probe no more."""
        if self._timer is not None:
            self._timer.cancel()


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 3)


def _is_over(share: float | None, levels: tuple[float, float], *, was_over: bool) -> bool:
    begin, end = levels
    return share is not None and share >= (end if was_over else begin)
