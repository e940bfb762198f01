"""File stamps: has the file behind this name changed since it was read?

Kubernetes swaps a mounted ConfigMap or Secret by turning a symbolic link, so what is compared is the
resolved file. Take the stamp before reading: a change in between is then seen next time. The time of
change (ctime) counts too: nobody can set it back, and other rights make another stamp.
"""

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Which file a name led to, and its state: equal stamps, equal contents."""

    path: str
    inode: int
    mtime_ns: int
    ctime_ns: int
    size_bytes: int


def read_stamp(file: Path) -> FileStamp:
    """Give the stamp of the file that the name leads to now. Raises OSError."""
    path = os.path.realpath(file)
    found = os.stat(path)
    return FileStamp(path, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)


def read_bounded(file: Path, max_bytes: int) -> bytes:
    """Read a file, of one that is larger than `max_bytes` no more than shows it. Raises OSError, also for a pipe or a
    device, which may keep its reader for ever.
    """
    with open(file, "rb", opener=_open_at_once) as opened:
        if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return opened.read(max_bytes + 1)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # opening a pipe would wait for a writer
