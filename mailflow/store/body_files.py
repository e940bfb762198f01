"""Large bodies as files beside a shard: written, synced, renamed into place, and their folder synced, before the row.

A body is at its place whole or not at all. What has no row, since a crash came between, is swept when the shard opens.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

PIECE_BYTES = 262_144
_TEMPORARY = ".tmp"


class BodyFiles:
    """The folder of a shard's large bodies; blocking, for threads. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, id: str, body: Sequence[bytes]) -> None:
        """Write a body durably; on an error nothing of it is left."""
        temporary = self._folder / f"{id}{_TEMPORARY}"
        make_folder(self._folder)
        try:
            with temporary.open("wb") as file:
                file.writelines(body)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self._path(id))
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(self._folder)

    def read(self, id: str) -> list[bytes]:
        """Read a body in pieces."""
        with self._path(id).open("rb") as file:
            return list(iter(lambda: file.read(PIECE_BYTES), b""))

    def remove(self, *ids: str) -> None:
        """Remove bodies, those that are there."""
        for id in ids:
            self._path(id).unlink(missing_ok=True)

    def sweep(self, is_wanted: Callable[[str], bool]) -> int:
        """Remove what a crash left without a row; give how many files that were."""
        if not self._folder.is_dir():
            return 0
        swept = 0
        for path in list(self._folder.iterdir()):
            if path.suffix == _TEMPORARY or not is_wanted(path.name):
                path.unlink()
                swept += 1
        return swept

    def discard(self) -> None:
        """Remove the empty folder."""
        if self._folder.is_dir():
            self._folder.rmdir()

    def _path(self, id: str) -> Path:
        if "/" in id or id.startswith("."):
            raise ValueError(f"{id!r} is no name of a file")
        return self._folder / id


def make_folder(folder: Path) -> None:
    """Make a folder that is still there after a power loss."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in missing:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
