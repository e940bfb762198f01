"""Claiming from a shard: who is next, and what the death of a worker says of what it had.

Looks from one destination to the next by the index entry_due, so that a claim costs the same however much waits for one
of them. Runs in the writer's thread, within its transaction.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import apsw

from mailflow.store.sqlite_rows import ENTRY_COLUMNS, LANE_DEFERRED, LANE_NEW, LANE_SUSPECT, read_entry
from mailflow.store.store import MAX_CRASHES, Corrupt, Entry

MAX_WAYS = 1000  # destinations looked at in one lane by one claim; the next goes on behind them
DEFERRED_SHARE = 8  # one in so many is deferred mail, whatever new mail there is

_WAYS = f"""
WITH RECURSIVE way (destination) AS (
    SELECT min(destination) FROM entry WHERE lane = ?1 AND destination >= ?2
    UNION ALL
    SELECT (SELECT min(destination) FROM entry WHERE lane = ?1 AND destination > way.destination)
    FROM way WHERE way.destination IS NOT NULL LIMIT {MAX_WAYS}
)
SELECT json_group_array(json_array(destination, first)) FROM (
    SELECT destination, (
        SELECT min(next_try) FROM entry e WHERE e.lane = ?1 AND e.destination = way.destination AND next_try IS NOT NULL
    ) AS first
    FROM way WHERE destination IS NOT NULL
) WHERE first IS NOT NULL
"""
_DUE = """
SELECT json_group_array(seq) FROM (
    SELECT seq FROM entry
    WHERE lane = ?1 AND destination = ?2 AND next_try <= ?3 AND next_try IS NOT NULL
        AND (owner = 0 OR owner NOT IN (SELECT value FROM json_each(?4)))
    ORDER BY next_try LIMIT ?5
)
"""
# What ended with its worker, ?1 the living epochs, ?2 the time: a suspect, and no more at MAX_CRASHES.
_CRASHED = f"""
UPDATE entry SET
    state = CASE WHEN crashes + 1 >= {MAX_CRASHES} THEN 'set_aside' ELSE state END,
    next_try = CASE WHEN crashes + 1 >= {MAX_CRASHES} THEN NULL ELSE ?2 END,
    lane = {LANE_SUSPECT}, crashes = crashes + 1, owner = 0, is_begun = 0, is_in_doubt = 0
WHERE owner <> 0 AND owner NOT IN (SELECT value FROM json_each(?1)) AND is_begun AND next_try <= ?2
"""
_TAKE = """
UPDATE entry SET owner = ?2, next_try = ?3, is_begun = 0, is_in_doubt = 0
WHERE seq IN (SELECT value FROM json_each(?1))
"""
_READ = f"SELECT seq, {ENTRY_COLUMNS} FROM entry WHERE seq IN (SELECT value FROM json_each(?1)) ORDER BY seq"
SET_ASIDE = """
UPDATE entry SET state = 'set_aside', next_try = NULL, owner = 0, is_begun = 0, is_in_doubt = 0, last_error = ?2
WHERE id = ?1
"""


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """What a claim asks for. `now` is the store's clock, `living` the epochs that own what they claimed."""

    epoch: int
    living: Sequence[int]
    now: float
    lease_s: float
    limit: int
    full: Collection[str]
    takes_suspect: bool


@dataclass(frozen=True, slots=True)
class Claimed:
    """What it gets."""

    entries: Sequence[Entry]
    corrupt: Sequence[Corrupt]
    next_due_s: float | None


@dataclass(slots=True)
class _Way:
    destination: str
    first: float  # when the next there comes due; it may be claimed already
    is_left: bool = False  # more is due there than was taken


@dataclass(slots=True)
class Claimant:
    """Remembers whose turn was last."""

    _last: dict[int, str] = field(default_factory=dict)
    _deferred_credit: int = 0

    def claim(self, connection: apsw.Connection, request: ClaimRequest) -> Claimed:
        """Claim what is due."""
        share, self._deferred_credit = divmod(self._deferred_credit + request.limit, DEFERRED_SHARE)
        connection.execute(_CRASHED, (json.dumps(list(request.living)), request.now))
        ways = {lane: self._find_ways(connection, request, lane) for lane in (LANE_NEW, LANE_DEFERRED, LANE_SUSPECT)}
        taken = self._take(connection, request, LANE_SUSPECT, ways, 1 if request.takes_suspect else 0)
        deferred = self._take(connection, request, LANE_DEFERRED, ways, min(share, request.limit - len(taken)))
        taken += deferred
        taken += self._take(connection, request, LANE_NEW, ways, request.limit - len(taken))
        if len(taken) < request.limit:
            rest = request.limit - len(taken) + len(deferred)
            more = self._take(connection, request, LANE_DEFERRED, ways, rest)
            taken += [seq for seq in more if seq not in deferred]
        entries, corrupt = _mark(connection, request, taken)
        return Claimed(entries, corrupt, _find_next_due(request, ways))

    def _find_ways(self, connection: apsw.Connection, request: ClaimRequest, lane: int) -> list[_Way]:
        """Give the destinations of a lane, those behind the one that had the last turn first."""
        last = self._last.get(lane, "")
        found = _ways_from(connection, lane, "")
        if len(found) == MAX_WAYS:  # more than one claim looks at: go on where the last one ended
            found = _ways_from(connection, lane, last) or found
        ways = [_Way(destination, first) for destination, first in found if destination not in request.full]
        return sorted(ways, key=lambda way: (way.destination <= last, way.destination))

    def _take(
        self, connection: apsw.Connection, request: ClaimRequest, lane: int, ways: dict[int, list[_Way]], limit: int
    ) -> list[int]:
        """Choose up to `limit` of a lane, in turns."""
        due = [way for way in ways[lane] if way.first <= request.now]
        taken: list[int] = []
        share = -(-limit // len(due)) if due else 0
        for turn in range(2):
            for way in due:
                left = limit - len(taken)
                if left <= 0:
                    way.is_left |= turn == 0
                elif turn == 0 or way.is_left:
                    self._take_from(connection, request, lane, way, taken, share if turn == 0 else share + left, limit)
        return taken

    def _take_from(
        self,
        connection: apsw.Connection,
        request: ClaimRequest,
        lane: int,
        way: _Way,
        taken: list[int],
        share: int,
        limit: int,
    ) -> None:
        arguments = (lane, way.destination, request.now, json.dumps(list(request.living)), share + 1)
        found = [seq for seq in json.loads(_value(connection, _DUE, arguments)) if seq not in taken]
        chosen = found[: min(share, limit - len(taken))]
        way.is_left = len(found) > len(chosen)
        if chosen:
            taken += chosen
            self._last[lane] = way.destination


def _mark(
    connection: apsw.Connection, request: ClaimRequest, taken: Sequence[int]
) -> tuple[list[Entry], list[Corrupt]]:
    """Make the chosen ones the epoch's; set aside what cannot be read."""
    if not taken:
        return [], []
    numbers = json.dumps(taken)
    connection.execute(_TAKE, (numbers, request.epoch, request.now + request.lease_s))
    rows = {row[0]: row[1:] for row in connection.execute(_READ, (numbers,))}
    found = [read_entry(rows[seq], now=request.now, living=[request.epoch]) for seq in taken]
    corrupt = [entry for entry in found if isinstance(entry, Corrupt)]
    for entry in corrupt:
        connection.execute(SET_ASIDE, (entry.id, entry.reason))
    return [entry for entry in found if isinstance(entry, Entry)], corrupt


def _find_next_due(request: ClaimRequest, ways: dict[int, list[_Way]]) -> float | None:
    open_ways = [way for lane, found in ways.items() if lane != LANE_SUSPECT or request.takes_suspect for way in found]
    if any(way.is_left for way in open_ways):
        return 0.0
    return min((way.first - request.now for way in open_ways if way.first > request.now), default=None)


def _ways_from(connection: apsw.Connection, lane: int, start: str) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = json.loads(_value(connection, _WAYS, (lane, start)))
    return found


def _value(connection: apsw.Connection, statement: str, arguments: tuple[object, ...]) -> str:
    value = connection.execute(statement, arguments).get
    assert isinstance(value, str)
    return value
