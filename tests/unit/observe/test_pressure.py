"""When connections are shed: sustained lag or a standing backlog; never for one pause, at the start, or for ever."""

import asyncio
import math

import pytest
from structlog.testing import capture_logs

from mailflow.observe.cpu_strain import CpuStrain
from mailflow.observe.pressure import (
    CALM_S,
    GRACE_S,
    MX_LEVELS,
    PROBE_S,
    Levels,
    Pressure,
    PressureWatch,
    Ramp,
    Shedder,
)
from mailflow.testing import FakeClock

ON_TIME_S = 0.0


class Worker:
    """A worker's loop on a clock of the test's: turns that take as long as they are told to."""

    def __init__(self, *, levels: Levels = MX_LEVELS, is_past_grace: bool = True) -> None:
        self.now_s = 1000.0
        self.strain = CpuStrain()
        self.backlog = 0.0
        self.drawn = 0.0
        self.strain_reads = 0
        self.pressure = Pressure(read_strain=self._read_strain, read_backlog=lambda: self.backlog)
        self.shedder = Shedder("mx", self.pressure, levels, draw=lambda: self.drawn)
        self.began_at_s = self.now_s
        self._probe()
        if is_past_grace:
            self.run(GRACE_S)
            self.began_at_s = self.now_s

    def _read_strain(self) -> CpuStrain:
        self.strain_reads += 1
        return self.strain

    def _probe(self) -> None:
        self.pressure.probe(self.now_s)
        self.shedder.judge(self.now_s)

    def turn(self, lag_s: float = ON_TIME_S) -> None:
        """One probe that is so late."""
        self.now_s += PROBE_S + lag_s
        self._probe()

    def run(self, seconds: float, lag_s: float = ON_TIME_S) -> None:
        """Probes that are all so late, for so long."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.turn(lag_s)

    def time_until(self, is_shedding: bool, lag_s: float = ON_TIME_S) -> float:
        """Run until shedding begins, or has ended; give the seconds that took."""
        began_at_s = self.now_s
        while self.shedder.is_shedding is not is_shedding:
            self.turn(lag_s)
            assert self.now_s - began_at_s < 60
        return self.now_s - began_at_s


# Lag.


@pytest.mark.parametrize(("lag_s", "at_most_s"), [(0.3, 5.0), (0.5, 3.0), (1.0, 3.0), (2.0, 6.5)])
def test_sustained_lag_sheds_within_seconds(lag_s: float, at_most_s: float) -> None:
    worker = Worker()
    assert worker.time_until(True, lag_s) <= at_most_s
    assert worker.shedder.find_refusal() == "loop_lag"


@pytest.mark.parametrize("lag_s", [0.0, 0.05, 0.2, 0.24])
def test_a_lag_below_the_level_sheds_nobody(lag_s: float) -> None:
    worker = Worker()
    worker.run(120, lag_s)
    assert not worker.shedder.is_shedding
    assert worker.shedder.find_refusal() is None
    assert worker.pressure.lag_s == pytest.approx(lag_s)


@pytest.mark.parametrize("pause_s", [0.5, 3.0, 3600.0])
def test_one_pause_sheds_nobody_however_long(pause_s: float) -> None:
    worker = Worker()
    worker.turn(pause_s)
    for _ in range(100):
        worker.turn()
        assert worker.shedder.find_refusal() is None
    assert worker.pressure.lag_s < 1e-9


def test_pauses_with_time_between_them_shed_nobody() -> None:
    worker = Worker()
    for _ in range(60):
        worker.turn(1.0)
        worker.run(0.5)
        assert not worker.shedder.is_shedding


def test_a_process_stopped_twice_on_end_is_well_again_within_seconds() -> None:
    worker = Worker()
    worker.turn(600)
    worker.turn(600)
    began_at_s = worker.now_s
    while worker.now_s - began_at_s < 5:
        worker.turn()
    assert worker.shedder.find_refusal() is None


def test_the_share_grows_with_the_lag() -> None:
    shares = []
    for lag_s in (0.3, 0.5, 0.8, 1.5):
        worker = Worker()
        worker.run(30, lag_s)
        shares.append(worker.shedder.share)
    assert shares == pytest.approx([2 / 9, 4 / 9, 7 / 9, 1.0], abs=0.001)


def test_the_draw_decides_who_is_shed() -> None:
    worker = Worker()
    worker.run(30, 0.55)
    assert worker.shedder.share == pytest.approx(0.5, abs=0.001)
    worker.drawn = 0.49
    assert worker.shedder.find_refusal() == "loop_lag"
    worker.drawn = 0.51
    assert worker.shedder.find_refusal() is None


def test_shedding_stops_below_a_lower_level_than_it_begins_at() -> None:
    worker = Worker()
    worker.run(10, 0.4)
    worker.run(60, 0.15)
    assert worker.shedder.is_shedding
    assert 0 < worker.shedder.share < 0.1
    worker.run(30, 0.05)
    assert not worker.shedder.is_shedding


def test_without_load_it_recovers_by_itself() -> None:
    worker = Worker()
    worker.run(60, 3.0)
    assert worker.shedder.share == 1
    until_none_s = 0.0
    while worker.shedder.share:
        worker.turn()
        until_none_s += PROBE_S
    assert until_none_s < 7
    assert worker.time_until(False) == pytest.approx(CALM_S, abs=2 * PROBE_S)


def test_lag_around_the_level_does_not_flap() -> None:
    with capture_logs() as lines:
        worker = Worker()
        for _ in range(60):
            worker.run(3, 0.6)
            worker.run(3)
    assert [line["event"] for line in lines] == ["shedding_begins"]


# The backlog.


def test_a_standing_backlog_sheds_and_a_burst_does_not() -> None:
    worker = Worker()
    worker.backlog = 1.0
    worker.run(2.5)
    worker.backlog = 0.0
    worker.turn()
    worker.backlog = 0.7
    worker.run(2.5)
    assert not worker.shedder.is_shedding
    worker.run(1.0)
    assert worker.shedder.find_refusal() == "backlog"
    assert worker.shedder.share == pytest.approx(0.6)


def test_a_backlog_that_is_gone_sheds_nobody_any_more() -> None:
    worker = Worker()
    worker.backlog = 1.0
    worker.run(10)
    assert worker.shedder.share == 1
    worker.backlog = 0.5
    assert worker.shedder.share == pytest.approx(1 / 3), "the backlog counts as it is, not as it was at the last probe"
    worker.backlog = 0.2
    assert worker.shedder.find_refusal() is None
    worker.run(CALM_S + 1)
    assert not worker.shedder.is_shedding


# What the kernel says.


@pytest.mark.parametrize(
    ("strain", "reason"),
    [
        (CpuStrain(throttled=0.9), "throttled"),
        (CpuStrain(waiting=0.9), "cpu_pressure"),
        (CpuStrain(throttled=0.9, waiting=0.9), "throttled"),
    ],
)
def test_where_the_cpu_is_lacking_less_lag_and_backlog_is_borne(strain: CpuStrain, reason: str) -> None:
    for lag_s, backlog in ((0.15, 0.0), (ON_TIME_S, 0.3)):
        worker = Worker()
        worker.backlog = backlog
        worker.run(10, lag_s)
        assert not worker.shedder.is_shedding
        worker.strain = strain
        worker.run(10, lag_s)
        assert worker.shedder.find_refusal() == reason


@pytest.mark.parametrize("strain", [CpuStrain(throttled=1.0), CpuStrain(waiting=1.0), CpuStrain(1.0, 1.0)])
def test_a_busy_quota_or_a_loud_neighbour_sheds_nobody_where_no_harm_is(strain: CpuStrain) -> None:
    worker = Worker()
    worker.strain = strain
    worker.run(120, 0.1)
    assert not worker.shedder.is_shedding


def test_one_pause_sheds_nobody_where_the_cpu_is_lacking_either() -> None:
    worker = Worker()
    worker.strain = CpuStrain(throttled=1.0)
    worker.run(5)
    worker.turn(30)
    worker.run(10)
    assert not worker.shedder.is_shedding
    assert worker.pressure.lag_s < 1e-9


def test_the_kernels_word_has_a_lower_level_to_end_too() -> None:
    worker = Worker()
    shares = [0.45, 0.55, 0.3, 0.2, 0.45]
    causes = []
    for share in shares:
        worker.strain = CpuStrain(throttled=share)
        worker.run(3)
        causes.append(worker.pressure.strain_cause is not None)
    assert causes == [False, True, True, False, False]


def test_counters_are_read_once_a_second() -> None:
    worker = Worker()
    before = worker.strain_reads
    worker.run(10)
    assert 9 <= worker.strain_reads - before <= 10


# The start.


def test_the_start_sheds_nobody() -> None:
    worker = Worker(is_past_grace=False)
    worker.strain, worker.backlog = CpuStrain(throttled=1.0), 1.0
    while worker.now_s - worker.began_at_s < GRACE_S:
        assert not worker.shedder.is_shedding
        worker.turn(1.0)
    worker.strain, worker.backlog = CpuStrain(), 0.0
    worker.run(30)
    assert not worker.shedder.is_shedding
    assert worker.pressure.lag_s < 1e-9


def test_overload_that_lasts_past_the_start_sheds() -> None:
    worker = Worker(is_past_grace=False)
    assert worker.time_until(True, 0.5) < GRACE_S + 4


# Listeners that bear more.


def test_a_listener_may_bear_more_than_another() -> None:
    worker = Worker()
    patient = Shedder("users", worker.pressure, MX_LEVELS.scaled(2), draw=lambda: 0.0)
    worker.run(30, 0.4)
    patient.judge(worker.now_s)
    assert (worker.shedder.is_shedding, patient.is_shedding) == (True, False)
    worker.run(30, 0.6)
    patient.judge(worker.now_s)
    assert worker.shedder.share > patient.share > 0


@pytest.mark.parametrize(("measure", "share"), [(0, 0), (1, 0), (1.5, 0.25), (2, 0.5), (3, 1), (9, 1)])
def test_a_ramp_is_straight_between_its_end_and_all(measure: float, share: float) -> None:
    assert Ramp(begin=2, end=1, all=3).find_share(measure) == share


# The log and the words.


def test_one_line_when_it_begins_and_one_when_it_ends() -> None:
    with capture_logs() as lines:
        worker = Worker()
        worker.strain = CpuStrain(throttled=2 / 3)
        worker.run(20, 0.6)
        worker.shedder.refused += 1000
        worker.run(30)
    begin, end = lines
    assert begin["event"] == "shedding_begins"
    assert begin["listener"] == "mx"
    assert (begin["reason"], begin["throttled"], begin["waiting"]) == ("throttled", 0.667, None)
    assert begin["loop_lag_s"] >= 0.125
    assert (end["event"], end["refused"]) == ("shedding_ends", 1000)
    assert 20 < end["after_s"] < 40


def test_figures_in_words() -> None:
    worker = Worker()
    worker.strain = CpuStrain(throttled=0.93, waiting=0.5)
    worker.run(30, 0.4)
    assert worker.pressure.describe() == (
        "the event loop is 0.40 s late, the backlog is 0% full, 93% of the CPU quota's periods are throttled, "
        "tasks wait for a CPU 50% of the time"
    )


# The watch.


async def test_the_watch_goes_on_after_a_fault_and_ends_when_stopped() -> None:
    clock, probed, faults = FakeClock(), asyncio.Event(), []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context["exception"]))
    probes = 0

    def fail_once() -> None:
        nonlocal probes
        probes += 1
        if probes == 2:
            raise RuntimeError("a fault of ours")
        if probes == 3:
            probed.set()

    pressure = Pressure(read_strain=CpuStrain, read_backlog=lambda: 0.0)
    watch = PressureWatch(pressure, [], on_probe=fail_once, clock=clock)
    watch.start()
    assert pressure.counts_from_s == clock() + GRACE_S
    async with asyncio.timeout(5):
        await probed.wait()
    assert len(faults) == 1
    watch.stop()
    timers = asyncio.get_running_loop()
    ended = timers.create_future()
    timers.call_later(2 * PROBE_S, ended.set_result, None)
    await ended
    assert probes == 3


def test_before_the_first_probe_nothing_counts() -> None:
    assert Pressure(read_strain=CpuStrain, read_backlog=lambda: 0.0).counts_from_s == math.inf
