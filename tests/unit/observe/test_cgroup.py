"""The CPU quota: the minimum over our cgroup and all above it, version 1 and 2, as containers show them."""

import os
from pathlib import Path

import pytest

from mailflow.observe.cgroup import count_workers, find_cpu_pressure, read_cpu_quota

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw"
V1_MOUNT = "31 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"


def tree(root: Path, *, cgroup: str, mounts: str, **files: str) -> Path:
    """A file tree; `files` are keyed by path with __ for / below sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    (root / "proc/self/mountinfo").write_text(mounts)
    (root / "sys/fs/cgroup/cpu,cpuacct").mkdir(parents=True)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("CPU", "cpu,cpuacct").replace("-dot-", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_v2_limit_of_the_own_cgroup(tmp_path: Path) -> None:
    root = tree(tmp_path, cgroup="0::/pod/app\n", mounts=V2_MOUNT, **{"pod__app__cpu-dot-max": "250000 100000\n"})
    assert read_cpu_quota(root) == 2.5


def test_an_ancestor_may_be_tighter(tmp_path: Path) -> None:
    files = {"pod__app__cpu-dot-max": "max 100000\n", "pod__cpu-dot-max": "50000 100000\n"}
    root = tree(tmp_path, cgroup="0::/pod/app\n", mounts=V2_MOUNT, **files)
    assert read_cpu_quota(root) == 0.5
    assert count_workers(root) == 1


def test_no_limit_is_none_and_gives_every_processor(tmp_path: Path) -> None:
    root = tree(tmp_path, cgroup="0::/pod\n", mounts=V2_MOUNT, **{"pod__cpu-dot-max": "max 100000\n"})
    assert read_cpu_quota(root) is None
    assert count_workers(root) == len(os.sched_getaffinity(0))


def test_v1_limit(tmp_path: Path) -> None:
    files = {"CPU__pod__cpu-dot-cfs_quota_us": "150000\n", "CPU__pod__cpu-dot-cfs_period_us": "100000\n"}
    root = tree(tmp_path, cgroup="4:cpu,cpuacct:/pod\n", mounts=V1_MOUNT, **files)
    assert read_cpu_quota(root) == 1.5


def test_v1_without_limit_is_minus_one(tmp_path: Path) -> None:
    files = {"CPU__pod__cpu-dot-cfs_quota_us": "-1\n", "CPU__pod__cpu-dot-cfs_period_us": "100000\n"}
    root = tree(tmp_path, cgroup="4:cpu,cpuacct:/pod\n", mounts=V1_MOUNT, **files)
    assert read_cpu_quota(root) is None


def test_hybrid_reads_both(tmp_path: Path) -> None:
    files = {
        "CPU__pod__cpu-dot-cfs_quota_us": "300000\n",
        "CPU__pod__cpu-dot-cfs_period_us": "100000\n",
        "x__cpu-dot-max": "100000 100000\n",
    }
    root = tree(tmp_path, cgroup="4:cpu,cpuacct:/pod\n0::/x\n", mounts=f"{V1_MOUNT}\n{V2_MOUNT}\n", **files)
    assert read_cpu_quota(root) == 1.0


def test_a_path_outside_the_container_is_the_mounts_root(tmp_path: Path) -> None:
    files = {"CPU__cpu-dot-cfs_quota_us": "200000\n", "CPU__cpu-dot-cfs_period_us": "100000\n"}
    root = tree(tmp_path, cgroup="4:cpu,cpuacct:/kubepods/pod1/app\n", mounts=V1_MOUNT, **files)
    assert read_cpu_quota(root) == 2.0


def test_a_bind_mount_begins_below_the_hierarchys_root(tmp_path: Path) -> None:
    mount = V1_MOUNT.replace(" / /sys", " /kubepods/pod1 /sys")
    files = {"CPU__app__cpu-dot-cfs_quota_us": "100000\n", "CPU__app__cpu-dot-cfs_period_us": "100000\n"}
    root = tree(tmp_path, cgroup="4:cpu,cpuacct:/kubepods/pod1/app\n", mounts=mount, **files)
    assert read_cpu_quota(root) == 1.0


@pytest.mark.parametrize("text", ["", "max\n", "x 100000\n", "100000 0\n", "\x00"])
def test_what_cannot_be_read_is_no_limit(tmp_path: Path, text: str) -> None:
    root = tree(tmp_path, cgroup="0::/\n", mounts=V2_MOUNT, **{"cpu-dot-max": text})
    assert read_cpu_quota(root) is None


def test_a_path_that_cannot_be_looked_at_is_the_mounts_root(tmp_path: Path) -> None:
    too_long = "x" * 300  # for the file system; it stands for whatever the kernel refuses
    root = tree(tmp_path, cgroup=f"0::/{too_long}\n", mounts=V2_MOUNT, **{"cpu-dot-max": "150000 100000\n"})
    assert read_cpu_quota(root) == 1.5
    assert find_cpu_pressure(root) is None


def test_a_machine_without_cgroups_has_no_limit(tmp_path: Path) -> None:
    assert read_cpu_quota(tmp_path) is None


def test_this_machine_has_an_answer() -> None:
    assert count_workers() >= 1
