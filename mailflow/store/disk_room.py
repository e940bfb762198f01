"""Room on the disk: when to take no more mail, and a reserve so that the queue can be emptied on a disk that is full.

Removing a message writes too. When even that finds no room, a file made for the purpose is given up.
"""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from mailflow.store.store import Unhealthy

RESERVE_BYTES = 4 << 20
LOOK_PERIOD_S = 0.5


class DiskRoom:
    """The file system that `path` is on; mail needs `min_free_bytes` of it. `reserve` is the file that is given up."""

    def __init__(
        self, path: Path, reserve: Path, *, min_free_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._reserve = reserve
        self._min_free_bytes = min_free_bytes
        self._clock = clock
        self._looked_at = float("-inf")
        self._free_bytes = 0

    def find_shortage(self) -> Unhealthy | None:
        """Tell that there is too little room for mail. Looks twice a second at most."""
        now = self._clock()
        if now - self._looked_at >= LOOK_PERIOD_S:
            self._looked_at = now
            self._free_bytes = self._look()
        if self._free_bytes >= self._min_free_bytes:
            return None
        return Unhealthy(
            f"the disk has {self._free_bytes} bytes free, min_free_bytes is {self._min_free_bytes}", is_full=True
        )

    def use_reserve(self) -> bool:
        """Give up the reserve; False where it is gone already."""
        try:
            self._reserve.unlink()
        except OSError:
            return False
        return True

    def keep_reserve(self) -> None:
        """Make the reserve where it is missing and there is room to spare."""
        if self._reserve.exists() or self._look() < self._min_free_bytes + 2 * RESERVE_BYTES:
            return
        with contextlib.suppress(OSError):
            descriptor = os.open(self._reserve, os.O_CREAT | os.O_WRONLY, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            finally:
                os.close(descriptor)

    def _look(self) -> int:
        try:
            found = os.statvfs(self._path)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize
