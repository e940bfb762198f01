"""What an operator sees and does of a shard: find, list, change, count."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import apsw

from mailflow.store.matching import matches
from mailflow.store.sqlite_rows import ENTRY_COLUMNS, LANE_DEFERRED, LANE_NEW, read_entry
from mailflow.store.sqlite_statements import remove_entries
from mailflow.store.store import Change, Corrupt, Entry, Filter, State, Statistics

PAGE = 500

_HELD = """
UPDATE entry SET state = 'held', next_try = NULL, owner = 0, is_begun = 0, is_in_doubt = 0 WHERE id = ?1 RETURNING id
"""
_RELEASED = "UPDATE entry SET state = 'queued', next_try = ?2 WHERE id = ?1 AND state = 'held' RETURNING id"
# One that a living worker has is left alone; one that was set aside begins anew.
_RETRIED = f"""
UPDATE entry SET state = 'queued', next_try = ?2, crashes = 0, owner = 0, is_begun = 0, is_in_doubt = 0,
    lane = CASE WHEN lane = {LANE_NEW} THEN {LANE_NEW} ELSE {LANE_DEFERRED} END
WHERE id = ?1 AND state <> 'held' AND (owner = 0 OR owner NOT IN (SELECT value FROM json_each(?3))) RETURNING id
"""
_COUNT = "SELECT lane, count(*), sum(size) FROM entry INDEXED BY entry_due GROUP BY lane"
_COUNT_KEPT = "SELECT state, lane, count(*) FROM entry WHERE state <> 'queued' GROUP BY state, lane"
_COUNT_OWNED = """
SELECT lane, is_in_doubt, count(*) FROM entry
WHERE owner <> 0 AND state = 'queued' AND owner IN (SELECT value FROM json_each(?1)) GROUP BY lane, is_in_doubt
"""


@dataclass(frozen=True, slots=True)
class BodyRow:
    """A body as it lies in the shard; `pieces` None: it is a file."""

    size_bytes: int
    crc: int
    pieces: Sequence[bytes] | None


def read_body_row(reader: apsw.Connection, id: str) -> BodyRow | None:
    """Read a body's row; None where there is no such entry."""
    row = reader.execute(
        "SELECT e.size, e.crc, b.content FROM entry e LEFT JOIN body b ON b.seq = e.seq WHERE e.id = ?", (id,)
    ).get
    if row is None:
        return None
    size_bytes, crc, content = row
    return BodyRow(size_bytes, crc, None if content is None else [content] if content else [])


def find_entry(reader: apsw.Connection, id: str, *, now: float, living: Sequence[int]) -> Entry | Corrupt | None:
    """Give one entry."""
    row = reader.execute(f"SELECT {ENTRY_COLUMNS} FROM entry WHERE id = ?", (id,)).get
    return None if row is None else read_entry(row, now=now, living=living)


def list_entries(
    reader: apsw.Connection, wanted: Filter, *, limit: int, after: str, now: float, living: Sequence[int]
) -> list[Entry | Corrupt]:
    """Give up to `limit` entries that match, by ascending id."""
    found: list[Entry | Corrupt] = []
    condition, arguments = _narrow(wanted, now)
    statement = f"SELECT {ENTRY_COLUMNS} FROM entry WHERE id > ? AND {condition} ORDER BY id LIMIT {PAGE}"
    while len(found) < limit:
        rows: list[Any] = reader.execute(statement, (after, *arguments)).fetchall()
        entries = [read_entry(row, now=now, living=living) for row in rows]
        found += [entry for entry in entries if matches(entry, wanted)]
        if len(rows) < PAGE:
            break
        after = rows[-1][0]
    return found[:limit]


def change_entries(
    connection: apsw.Connection, ids: Sequence[str], change: Change, *, now: float, living: Sequence[int]
) -> list[str]:
    """Do what the operator asks; give the ids that it was done to."""
    statement: str
    arguments: tuple[object, ...] = ()
    match change:
        case Change.REMOVE:
            statement = "SELECT id FROM entry WHERE id = ?1"
        case Change.HOLD:
            statement = _HELD
        case Change.RELEASE:
            statement, arguments = _RELEASED, (now,)
        case Change.RETRY:
            statement, arguments = _RETRIED, (now, json.dumps(list(living)))
        case _:
            assert_never(change)
    changed = [id for id in ids if connection.execute(statement, (id, *arguments)).get is not None]
    if change is Change.REMOVE and changed:
        remove_entries(connection, changed)
    return changed


def count_entries(reader: apsw.Connection, *, now: float, living: Sequence[int]) -> Statistics:
    """Count by state. The index tells most of it, and small ones the rest."""
    with reader:  # one and the same moment
        lanes = {lane: (count, size) for lane, count, size in reader.execute(_COUNT)}
        kept = list(reader.execute(_COUNT_KEPT))
        owned = list(reader.execute(_COUNT_OWNED, (json.dumps(list(living)),)))
        oldest = reader.execute("SELECT arrived_at FROM entry ORDER BY seq LIMIT 1").get
    messages = dict.fromkeys(State, 0)
    for lane, (count, _) in lanes.items():
        messages[State.NEW if lane == LANE_NEW else State.DEFERRED] += count
    for state, lane, count in kept:
        messages[State(state)] += count
        messages[State.NEW if lane == LANE_NEW else State.DEFERRED] -= count
    for lane, is_in_doubt, count in owned:
        messages[State.IN_DOUBT if is_in_doubt else State.ACTIVE] += count
        messages[State.NEW if lane == LANE_NEW else State.DEFERRED] -= count
    return Statistics(messages, sum(size for _, size in lanes.values()), 0.0 if oldest is None else now - oldest)


def _narrow(wanted: Filter, now: float) -> tuple[str, list[object]]:
    """Give a condition that all wanted entries meet, and corrupt ones: SQLite passes over the others faster."""
    conditions, arguments = [], list[object]()
    if wanted.min_age_s is not None:
        conditions.append("arrived_at <= ?")
        arguments.append(now - wanted.min_age_s)
    if wanted.error is not None:
        conditions.append("instr(lower(last_error), lower(?)) > 0")
        arguments.append(wanted.error)
    for text in (wanted.recipient, wanted.domain):
        if text is not None:
            conditions.append("instr(lower(CAST(recipients AS TEXT) || CAST(envelope AS TEXT)), ?) > 0")
            arguments.append(text.rpartition("@")[2].lower())
    if wanted.sender not in (None, "", "<>"):
        conditions.append("instr(lower(CAST(envelope AS TEXT)), ?) > 0")
        arguments.append(str(wanted.sender).rpartition("@")[2].lower())
    condition = " AND ".join(conditions) or "true"
    return f"(({condition}) OR state = 'set_aside')", arguments
