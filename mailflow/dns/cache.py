"""What was answered, for how long it counts, and what is thrown out first. (RFC 2308, 8767, 9520)

Pure: time is an argument. Bounded in bytes as Python counts them, least recently used goes first. Four ages of an
answer: fresh; due (just expired: used once more while somebody asks again); stale (used only where asking again fails
or takes too long); gone. Only FOUND answers become due or stale: a stale "no such name" would turn an outage of the DNS
into a permanent refusal. Failures are kept for 1 s, doubling to 30 s, and never hide a stale answer.
"""

import sys
from collections import OrderedDict
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, TypeAlias

from mailflow.dns.resolver import Answer, AnswerStatus, DnsFailure, MxRecord, RdType, Record, TlsaRecord

Key: TypeAlias = tuple[str, RdType]

MAX_DUE_S: Final = 30.0
FIRST_FAILURE_S: Final = 1.0
MAX_FAILURE_S: Final = 30.0
# The key tuple, the entry with its floats, the Answer, the link and slot of the OrderedDict; a test weighs them.
_ENTRY_BYTES: Final = 480


class Age(Enum):
    """What an entry is worth now."""

    FRESH = "fresh"
    DUE = "due"
    STALE = "stale"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one question; times are on the caller's monotonic clock, in seconds."""

    answer: Answer[Record] | None
    expires_at: float
    failure: DnsFailure | None
    failed_until: float
    failure_s: float
    size_bytes: int

    def is_failing(self, now: float) -> bool:
        """True while the last attempt's failure stands and nobody is to ask again (RFC 9520 s3.2)."""
        return self.failure is not None and now < self.failed_until


class AnswerCache:
    """A mapping from questions to answers and failures, bounded in bytes.

    `max_stale_s` is how long after its TTL an answer may still stand in for a failing DNS; 0 is never.
    """

    def __init__(self, *, max_bytes: int, max_stale_s: float) -> None:
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._max_bytes = max_bytes
        self._max_stale_s = max_stale_s
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: Key) -> Entry | None:
        """The entry for a question, which becomes the most recently used."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def find_fresh(self, key: Key, now: float) -> Answer[Record] | None:
        """The answer to a question if it is fresh; the entry becomes the most recently used either way."""
        entry = self.find(key)
        return entry.answer if entry is not None and now < entry.expires_at else None

    def age(self, entry: Entry, now: float) -> Age:
        """What the entry's answer is worth at `now`."""
        if entry.answer is None:
            return Age.GONE
        late_s = now - entry.expires_at
        if late_s < 0:
            return Age.FRESH
        if entry.answer.status is not AnswerStatus.FOUND or late_s >= self._max_stale_s:
            return Age.GONE
        # No longer due than it was fresh: a TTL of 5 s says that 10 s old is too old.
        return Age.DUE if late_s < min(MAX_DUE_S, entry.answer.ttl_s) else Age.STALE

    def store(self, key: Key, answer: Answer[Record], now: float) -> None:
        """Keep an answer for its TTL; one with TTL 0 only ends what was kept before it."""
        self._drop(key)
        if answer.ttl_s > 0:
            self._put(key, Entry(answer, now + answer.ttl_s, None, 0.0, 0.0, _size_bytes(key, answer)))

    def store_failure(self, key: Key, failure: DnsFailure, now: float) -> None:
        """Keep a failure for 1 s, twice as long each time it repeats, at most 30 s (RFC 9520 s3.2).

        A failure that comes long after the last one (twice 30 s) counts as the first. What is left of an older answer
        stays beside it.
        """
        old = self._entries.get(key)
        if old is None:
            entry = Entry(None, 0.0, failure, now + FIRST_FAILURE_S, FIRST_FAILURE_S, _size_bytes(key, None))
        else:
            is_repeated = old.failure is not None and now - old.failed_until < 2 * MAX_FAILURE_S
            failure_s = min(MAX_FAILURE_S, 2 * old.failure_s) if is_repeated else FIRST_FAILURE_S
            entry = replace(old, failure=failure, failed_until=now + failure_s, failure_s=failure_s)
        self._drop(key)
        self._put(key, entry)

    def _put(self, key: Key, entry: Entry) -> None:
        self._entries[key] = entry
        self.size_bytes += entry.size_bytes
        while self.size_bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.size_bytes -= oldest.size_bytes

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size_bytes -= entry.size_bytes


def _size_bytes(key: Key, answer: Answer[Record] | None) -> int:
    size = _ENTRY_BYTES + sys.getsizeof(key[0])
    if answer is None:
        return size
    if answer.canonical_name is not key[0]:
        size += sys.getsizeof(answer.canonical_name)
    return size + sys.getsizeof(answer.records) + sum(_record_bytes(record) for record in answer.records)


def _record_bytes(record: Record) -> int:
    size = sys.getsizeof(record)
    match record:
        case MxRecord(_, exchange):
            size += sys.getsizeof(exchange)
        case TlsaRecord(data=data):
            size += sys.getsizeof(data)
        case str() | bytes():
            pass
        case _:
            size += sys.getsizeof(int(record))
    return size
