"""File stamps: has the file behind this name changed since it was read?

Kubernetes swaps a mounted ConfigMap or Secret by turning a symbolic link, so what is compared is the
resolved file. Take the stamp before reading: a change in between is then seen next time.
"""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FileStamp:
    """Which file a name led to, and its state: equal stamps, equal contents."""

    path: str
    inode: int
    mtime_ns: int
    size_bytes: int


def read_stamp(file: Path) -> FileStamp:
    """Give the stamp of the file that the name leads to now. Raises OSError."""
    path = os.path.realpath(file)
    stat = os.stat(path)
    return FileStamp(path, stat.st_ino, stat.st_mtime_ns, stat.st_size)


def read_bounded(file: Path, max_bytes: int) -> bytes:
    """Read a file, of one that is larger than `max_bytes` no more than shows it. Raises OSError."""
    with file.open("rb") as opened:
        return opened.read(max_bytes + 1)
