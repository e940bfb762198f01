"""How much CPU this process may use: the quota of its cgroup and of every cgroup above it, v1 and v2.

A Pod's limit is a quota of its cgroup; the processors of the machine say nothing about it. Both
versions are read, also side by side (hybrid). Inside a container the path that /proc/self/cgroup
tells may not exist under the mount: the mount's root then is the container's own cgroup. Whatever
cannot be read counts as no limit. Never raises. How far the CPU is used up: cpu_strain.py.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def count_workers(root: Path = Path("/")) -> int:
    """Give how many workers fit: the whole CPUs of the quota, at least one; without a quota those we may run on."""
    quota = read_cpu_quota(root)
    processors = len(os.sched_getaffinity(0))
    return processors if quota is None else max(1, min(math.floor(quota), processors))


def read_cpu_quota(root: Path = Path("/")) -> float | None:
    """Give the CPUs that the tightest cgroup grants, None without a limit; `root` is where /proc and /sys are."""
    quotas = [quota for folder in find_cpu_cgroups(root) if (quota := _read_quota(folder)) is not None]
    return min(quotas, default=None)


def find_cpu_cgroups(root: Path = Path("/")) -> list[Path]:
    """Give the folders of our cgroup and of all above it, in each hierarchy that may limit the CPU."""
    folders: list[Path] = []
    for _, mount, own in _own_cgroups(root):
        folders += [own, *(parent for parent in own.parents if parent == mount or mount in parent.parents)]
    return folders


def find_cpu_pressure(root: Path = Path("/")) -> Path | None:
    """Give the file that tells how long tasks of our own cgroup wait for a CPU (PSI, v2), None without one.

    Only a cgroup that lists this process is our own, and the uppermost one is nobody's: its file, like
    /proc/pressure/cpu, speaks of the whole machine. A cgroup namespace calls ours "/" too, so names do not tell;
    that the uppermost cgroup has no cgroup.events does.
    """
    for hierarchy, _, own in _own_cgroups(root):
        if hierarchy == "v2" and _exists(own / "cgroup.events") and _exists(own / "cpu.pressure"):
            return own / "cpu.pressure" if str(os.getpid()) in _read_lines(own / "cgroup.procs") else None
    return None


def _read_quota(folder: Path) -> float | None:
    try:
        if _exists(folder / "cpu.max"):
            limit, period = (folder / "cpu.max").read_text().split()
            return None if limit == "max" else int(limit) / int(period)
        limit, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(limit) / int(period) if int(limit) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _own_cgroups(root: Path) -> Iterator[tuple[str, Path, Path]]:
    """Give (hierarchy, its mount, the folder of our cgroup) of each hierarchy that may limit the CPU."""
    paths = dict(_own_paths(root))
    for hierarchy, mount, mounted_root in _mounts(root):
        path = paths.get(hierarchy)
        if path is None:
            continue
        below = os.path.relpath(path, mounted_root)  # a bind mount shows the hierarchy from somewhere below its root
        own = mount if below.startswith("..") else mount / below
        while not _exists(own) and own != mount:
            own = own.parent
        yield hierarchy, mount, own


def _own_paths(root: Path) -> Iterator[tuple[str, str]]:
    """Give (hierarchy, path) of /proc/self/cgroup for what may limit the CPU: "v2" or "cpu"."""
    for line in _read_lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield "v2", path
        elif "cpu" in controllers.split(","):
            yield "cpu", path


def _mounts(root: Path) -> Iterator[tuple[str, Path, str]]:
    """Give (hierarchy, where it is mounted, which of its folders is mounted there)."""
    for line in _read_lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        mount = root / fields[4].lstrip("/")
        if kind[0] == "cgroup2":
            yield "v2", mount, fields[3]
        elif kind[0] == "cgroup" and "cpu" in kind[2].split(","):
            yield "cpu", mount, fields[3]


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # Path.exists() raises where it is not allowed to look


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
