"""What the kernel says of our CPU: periods throttled, in v1 and v2, in the worst cgroup; PSI of our own cgroup only."""

import os
import shutil
from pathlib import Path

import pytest

from mailflow.observe.cpu_strain import FIND_EVERY_READS, MIN_PERIODS, WINDOW_READS, CpuStrain, CpuStrainReader
from tests.unit.observe.test_cgroup import V1_MOUNT, V2_MOUNT, tree

OURS = f"1\n{os.getpid()}\n"
PRESSURE = "some avg10=37.50 avg60=4.00 avg300=1.00 total=123\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=0\n"


def v2_stat(periods: int, throttled: int) -> str:
    return f"usage_usec 1\nuser_usec 1\nnr_periods {periods}\nnr_throttled {throttled}\nthrottled_usec 7\nnr_bursts 0\n"


def v1_stat(periods: int, throttled: int) -> str:
    return f"nr_periods {periods}\nnr_throttled {throttled}\nthrottled_time 900000000\n"


def v2_tree(root: Path, **files: str) -> Path:
    return tree(root, cgroup="0::/pod/app\n", mounts=V2_MOUNT, **{"pod__app__cgroup-dot-events": "", **files})


def own(root: Path, name: str) -> Path:
    return root / "sys/fs/cgroup/pod/app" / name


def test_share_of_throttled_periods_in_v2(tmp_path: Path) -> None:
    root = v2_tree(tmp_path, **{"pod__app__cpu-dot-stat": v2_stat(1000, 900)})
    reader = CpuStrainReader(root)
    assert reader.read().throttled is None, "what was before we looked says nothing"
    own(root, "cpu.stat").write_text(v2_stat(1010, 904))
    assert reader.read().throttled == 0.4


def test_share_of_throttled_periods_in_v1(tmp_path: Path) -> None:
    root = tree(tmp_path, cgroup="4:cpu,cpuacct:/pod\n", mounts=V1_MOUNT, **{"CPU__pod__cpu-dot-stat": v1_stat(5, 5)})
    reader = CpuStrainReader(root)
    reader.read()
    (root / "sys/fs/cgroup/cpu,cpuacct/pod/cpu.stat").write_text(v1_stat(15, 8))
    assert reader.read().throttled == 0.3


def test_hybrid_and_ancestors_the_worst_cgroup_counts(tmp_path: Path) -> None:
    files = {
        "CPU__pod__app__cpu-dot-stat": v1_stat(0, 0),
        "CPU__pod__cpu-dot-stat": v1_stat(0, 0),
        "x__cpu-dot-stat": "usage_usec 1\n",  # v2 without the cpu controller
    }
    root = tree(tmp_path, cgroup="4:cpu,cpuacct:/pod/app\n0::/x\n", mounts=f"{V1_MOUNT}\n{V2_MOUNT}\n", **files)
    reader = CpuStrainReader(root)
    reader.read()
    cpu = root / "sys/fs/cgroup/cpu,cpuacct/pod"
    (cpu / "app/cpu.stat").write_text(v1_stat(10, 1))
    (cpu / "cpu.stat").write_text(v1_stat(10, 8))
    assert reader.read().throttled == 0.8


def test_window_is_of_the_last_reads(tmp_path: Path) -> None:
    root = v2_tree(tmp_path, **{"pod__app__cpu-dot-stat": v2_stat(0, 0)})
    reader = CpuStrainReader(root)
    shares = []
    for second in range(1, 2 * WINDOW_READS + 2):
        shares.append(reader.read().throttled)
        throttled = 10 * min(second, WINDOW_READS)  # all of the first five seconds, none after
        own(root, "cpu.stat").write_text(v2_stat(10 * second, throttled))
    assert shares[WINDOW_READS] == 1.0
    assert shares[WINDOW_READS + 1] == 0.8
    assert shares[2 * WINDOW_READS] == 0.0


def test_few_periods_say_nothing(tmp_path: Path) -> None:
    root = v2_tree(tmp_path, **{"pod__app__cpu-dot-stat": v2_stat(0, 0)})
    reader = CpuStrainReader(root)
    reader.read()
    own(root, "cpu.stat").write_text(v2_stat(MIN_PERIODS - 1, MIN_PERIODS - 1))
    assert reader.read().throttled is None
    own(root, "cpu.stat").write_text(v2_stat(MIN_PERIODS, MIN_PERIODS))
    assert reader.read().throttled == 1.0


@pytest.mark.parametrize("restarted", [v2_stat(3, 0), v2_stat(300, 0), v2_stat(0, 100)])
def test_counters_that_go_back_begin_anew(tmp_path: Path, restarted: str) -> None:
    root = v2_tree(tmp_path, **{"pod__app__cpu-dot-stat": v2_stat(200, 100)})
    reader = CpuStrainReader(root)
    reader.read()
    own(root, "cpu.stat").write_text(restarted)
    assert reader.read().throttled is None


def test_a_cgroup_that_is_gone_is_unknown_and_found_again(tmp_path: Path) -> None:
    root = v2_tree(tmp_path, **{"pod__app__cpu-dot-stat": v2_stat(200, 100)})
    reader = CpuStrainReader(root)
    reader.read()
    shutil.rmtree(own(root, ""))
    assert reader.read() == CpuStrain()
    (root / "proc/self/cgroup").write_text("0::/other\n")
    other = root / "sys/fs/cgroup/other"
    other.mkdir()
    shares = []
    for second in range(FIND_EVERY_READS):
        (other / "cpu.stat").write_text(v2_stat(10 * second, 5 * second))
        shares.append(reader.read().throttled)
    assert shares[-1] == 0.5
    assert shares[0] is None


@pytest.mark.parametrize("text", ["", "nr_periods\n", "nr_periods x\nnr_throttled 1\n", "nr_throttled 3\n", "\0"])
def test_what_cannot_be_read_is_unknown(tmp_path: Path, text: str) -> None:
    files = {"pod__app__cpu-dot-stat": text, "pod__app__cpu-dot-pressure": text, "pod__app__cgroup-dot-procs": OURS}
    reader = CpuStrainReader(v2_tree(tmp_path, **files))
    assert [reader.read(), reader.read()] == [CpuStrain(), CpuStrain()]


def test_a_machine_without_cgroups_is_unknown(tmp_path: Path) -> None:
    assert CpuStrainReader(tmp_path).read() == CpuStrain()


def test_waiting_is_the_own_cgroups_pressure(tmp_path: Path) -> None:
    files = {"pod__app__cpu-dot-pressure": PRESSURE, "pod__app__cgroup-dot-procs": OURS}
    assert CpuStrainReader(v2_tree(tmp_path, **files)).read().waiting == 0.375


@pytest.mark.parametrize("value", ["some avg10=x avg60=0.00\n", "some\n", "full avg10\n"])
def test_pressure_in_other_words_is_unknown(tmp_path: Path, value: str) -> None:
    files = {"pod__app__cpu-dot-pressure": value, "pod__app__cgroup-dot-procs": OURS}
    assert CpuStrainReader(v2_tree(tmp_path, **files)).read().waiting is None


def test_pressure_of_a_cgroup_that_does_not_list_us_is_not_read(tmp_path: Path) -> None:
    """The path of /proc/self/cgroup does not exist here, and the folder above it is of all Pods."""
    files = {"pod__cpu-dot-pressure": PRESSURE, "pod__cgroup-dot-procs": "1\n", "pod__cgroup-dot-events": ""}
    root = tree(tmp_path, cgroup="0::/pod/gone\n", mounts=V2_MOUNT, **files)
    assert CpuStrainReader(root).read().waiting is None


def test_pressure_of_the_machine_is_not_read(tmp_path: Path) -> None:
    """The uppermost cgroup speaks of all neighbours; so does /proc/pressure/cpu."""
    files = {"cpu-dot-pressure": PRESSURE, "cgroup-dot-procs": OURS}
    root = tree(tmp_path, cgroup="0::/\n", mounts=V2_MOUNT, **files)
    (root / "proc/pressure").mkdir()
    (root / "proc/pressure/cpu").write_text(PRESSURE)
    assert CpuStrainReader(root).read().waiting is None


def test_pressure_of_a_container_whose_cgroup_is_the_mount_is_read(tmp_path: Path) -> None:
    files = {"cpu-dot-pressure": PRESSURE, "cgroup-dot-procs": OURS, "cgroup-dot-events": "populated 1\n"}
    root = tree(tmp_path, cgroup="0::/\n", mounts=V2_MOUNT, **files)
    assert CpuStrainReader(root).read().waiting == 0.375


def test_this_machine_can_be_read() -> None:
    strain = CpuStrainReader().read()
    assert strain.throttled is None
    assert strain.waiting is None or 0 <= strain.waiting <= 1
