"""Files of addresses that are read again when they change, while mail flows.

Looked at when they are used, at most once a second, in a thread: nobody waits for a file, so the
first question after a change may still be answered by the old one. Files that changed together count
together, as a ConfigMap brings them. A faulty one changes nothing, and the log says so once per
version of it; it is tried again with the next change of any.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from mailflow.mail.address_book import AddressBook
from mailflow.mail.address_map import (
    MAX_FILE_BYTES,
    AddressMap,
    AddressMapFaults,
    parse_aliases,
    parse_user_map,
)
from mailflow.observe.file_stamp import FileStamp, read_bounded, read_stamp
from mailflow.observe.nursery import Nursery

LOOK_S = 1.0
_SHOWN_FAULTS = 10  # in a log line; check-config tells all

log = structlog.get_logger()

Stamps = Mapping[Path, FileStamp | None]


@dataclass(frozen=True, slots=True)
class _Look:
    """What a look at the files found: their stamps, the book they make, what was taken up, why the rest was not."""

    stamps: Stamps
    book: AddressBook
    taken: Sequence[Path] = ()
    faults: Mapping[Path, Sequence[str]] = field(default_factory=dict)


class AddressFiles:
    """The book of addresses as its files are. `book` has the contents that were good last.

    `alias_files` and `user_maps` are read, the latter with the names of `backends` as values. `clock` gives monotonic
    seconds.
    """

    def __init__(
        self,
        book: AddressBook,
        *,
        alias_files: Sequence[Path],
        user_maps: Sequence[Path],
        backends: Sequence[str],
        nursery: Nursery,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.book = book
        self._readers: dict[Path, Callable[[bytes], AddressMap]] = {
            **dict.fromkeys(alias_files, parse_aliases),
            **dict.fromkeys(user_maps, lambda content: parse_user_map(content, backends)),
        }
        self._nursery = nursery
        self._clock = clock
        self._stamps: Stamps = {}
        self._refused: frozenset[Path] = frozenset()
        self._next_look = 0.0
        self._looking: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Begin to look whether a file changed, unless that was done within the last second; returns at once."""
        now = self._clock()
        if self._readers and now >= self._next_look and (self._looking is None or self._looking.done()):
            self._next_look = now + LOOK_S
            self._looking = self._nursery.start(self.refresh(), name="address files")

    async def refresh(self) -> None:
        """Look at every file now, and take up what changed."""
        if not self._readers:
            return
        before = self._stamps
        found = await asyncio.to_thread(self._read_changes, self.book, before, self._refused)
        self._stamps, self.book, self._refused = found.stamps, found.book, frozenset(found.faults)
        for path in found.taken:
            log.info("addresses_reloaded", file=str(path), addresses=len(found.book.maps[path].entries))
        for path, faults in found.faults.items():
            if path not in before or before[path] != found.stamps[path]:
                log.error(
                    "addresses_not_reloaded", file=str(path), count=len(faults), faults=list(faults[:_SHOWN_FAULTS])
                )

    # Below here: in a thread.

    def _read_changes(self, book: AddressBook, before: Stamps, refused: frozenset[Path]) -> _Look:
        stamps: dict[Path, FileStamp | None] = {path: _stamp_or_none(path) for path in self._readers}
        if stamps == before:
            return _Look(stamps, book, faults=dict.fromkeys(refused, ()))
        faults: dict[Path, Sequence[str]] = {}
        fresh: dict[Path, AddressMap] = {}
        for path, stamp in stamps.items():
            if path not in before or before[path] != stamp or path in refused:
                try:
                    fresh[path] = self._readers[path](read_bounded(path, MAX_FILE_BYTES))
                except AddressMapFaults as exc:
                    faults[path] = [str(fault) for fault in exc.faults]
                except OSError as exc:
                    faults[path] = [f"cannot be read: {exc.strerror}"]
                    stamps[path] = None  # that may pass without a change of the file: too many are open, a disk is away
        while fresh:
            candidate = book.with_maps(fresh)
            found = _check(candidate)
            if not found:
                taken = [path for path, entries in fresh.items() if path in refused or book.maps.get(path) != entries]
                return _Look(stamps, candidate, taken, faults)
            # Where only unchanged files show the fault, any of the changed ones may have brought it.
            for path in [path for path in fresh if path in found] or list(fresh):
                del fresh[path]
                faults[path] = found.get(path) or [fault for told in found.values() for fault in told]
        return _Look(stamps, book, faults=faults)


def _check(book: AddressBook) -> dict[Path, list[str]]:
    """Give the faults that the files have in view of each other, by file."""
    found = {}
    for path in book.maps:
        try:
            book.check(path)
        except AddressMapFaults as exc:
            found[path] = [str(fault) for fault in exc.faults]
    return found


def _stamp_or_none(path: Path) -> FileStamp | None:
    try:
        return read_stamp(path)
    except OSError:
        return None
