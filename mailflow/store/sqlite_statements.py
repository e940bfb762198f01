"""What the writer of a shard does for many callers at once: accept, begin, settle. Within its transaction.

As few statements as can be: see sqlite_writer.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import apsw

from mailflow.store.record import encode_recipients, shared_destination
from mailflow.store.sqlite_rows import LANE_DEFERRED, LANE_NEW, NewMessage, cut_error
from mailflow.store.store import Settlement

_COLUMNS = (
    "seq, id, lane, destination, next_try, owner, is_begun, is_in_doubt, attempts, arrived_at, size, crc, last_error,"
    " envelope, recipients"
)
_OWNED = "SELECT json_group_array(id) FROM entry WHERE owner = ?1 AND id IN (SELECT value FROM json_each(?2))"
_BEGIN = """
UPDATE entry SET attempts = attempts + (is_begun = 0), is_begun = 1 WHERE id IN (SELECT value FROM json_each(?1))
"""
_REMOVE_BODIES = """
DELETE FROM body WHERE seq IN (SELECT seq FROM entry WHERE id IN (SELECT value FROM json_each(?1)))
"""
_REMOVE = "DELETE FROM entry WHERE id IN (SELECT value FROM json_each(?1))"
_DEFER = f"""
UPDATE entry SET recipients = ?2, destination = ?3, next_try = ?4, last_error = ?5,
    is_delay_told = is_delay_told OR ?6, state = CASE WHEN ?7 THEN 'set_aside' ELSE state END,
    lane = {LANE_DEFERRED}, owner = 0, is_begun = 0, is_in_doubt = 0
WHERE id = ?1
"""


@dataclass(frozen=True, slots=True)
class Stamped:
    """A message to be written at a time by the store's clock; whose it is lasts a lease."""

    message: NewMessage
    now: float
    lease_s: float


@dataclass(frozen=True, slots=True)
class Step:
    """One thing done to a claimed entry; `epoch` 0 owns nothing any more."""

    id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Settling:
    """A settlement that leaves an entry behind, or brings reports."""

    step: Step
    settlement: Settlement
    reports: Sequence[NewMessage]
    now: float


class Statements:
    """The batched requests of one shard; numbers its entries."""

    def __init__(self) -> None:
        self._next_seq = 1

    def prepare(self, connection: apsw.Connection) -> None:
        """Go on numbering behind what is there."""
        last = connection.execute("SELECT max(seq) FROM entry").get
        self._next_seq = (last or 0) + 1

    def accept(self, connection: apsw.Connection, requests: Sequence[Stamped]) -> Sequence[float]:
        """Write messages; give when each arrived. One that is there already fails a batch, and alone is as good."""
        if len(requests) == 1 and (arrived := _find_arrival(connection, requests[0].message.id)) is not None:
            return [arrived]
        first = self._next_seq
        rows: list[object] = []
        bodies: list[object] = []
        for seq, request in enumerate(requests, start=first):
            message = request.message
            rows += _row(seq, request)
            if message.content is not None:
                bodies += (seq, message.content)
        connection.execute(_insert("entry", _COLUMNS, len(requests)), rows)
        if bodies:
            connection.execute(_insert("body", "seq, content", len(bodies) // 2), bodies)
        self._next_seq = first + len(requests)
        return [request.now for request in requests]

    def begin(self, connection: apsw.Connection, requests: Sequence[Step]) -> Sequence[bool]:
        """Note that attempts begin; False where the claim is lost."""
        owned = _find_owned(connection, requests)
        if owned:
            connection.execute(_BEGIN, (json.dumps(list(owned)),))
        return [request.id in owned for request in requests]

    def remove(self, connection: apsw.Connection, requests: Sequence[Step]) -> Sequence[bool]:
        """Remove what is delivered; False where the claim is lost."""
        owned = _find_owned(connection, requests)
        if owned:
            remove_entries(connection, list(owned))
        return [request.id in owned for request in requests]

    def settle(self, connection: apsw.Connection, requests: Sequence[Settling]) -> Sequence[bool]:
        """Write what attempts came to, reports with it; False where the claim is lost."""
        return [self._settle(connection, request) for request in requests]

    def _settle(self, connection: apsw.Connection, request: Settling) -> bool:
        id, settlement = request.step.id, request.settlement
        if not _find_owned(connection, [request.step]):
            return False
        for report in request.reports:
            self.accept(connection, [Stamped(report, request.now, 0.0)])
        if not settlement.owed:
            remove_entries(connection, [id])
            return True
        connection.execute(
            _DEFER,
            (
                id,
                encode_recipients(settlement.owed),
                shared_destination(settlement.owed),
                None if settlement.is_set_aside else request.now + settlement.retry_s,
                cut_error(settlement.last_error),
                settlement.is_delay_told,
                settlement.is_set_aside,
            ),
        )
        return True


def undo_accept(request: Stamped, connection: apsw.Connection) -> None:
    """Take a message back, unless it was there before under this id."""
    found = connection.execute(
        "SELECT id FROM entry WHERE id = ? AND arrived_at = ?", (request.message.id, request.now)
    ).get
    if found is not None:
        remove_entries(connection, [found])


def remove_entries(connection: apsw.Connection, ids: Sequence[str]) -> None:
    """Remove entries and the bodies that are rows."""
    text = json.dumps(ids)
    connection.execute(_REMOVE_BODIES, (text,))
    connection.execute(_REMOVE, (text,))


def _find_owned(connection: apsw.Connection, steps: Sequence[Step]) -> set[str]:
    """Give the ids that belong to the epoch that asks."""
    owned: set[str] = set()
    for epoch in {step.epoch for step in steps if step.epoch}:
        ids = json.dumps([step.id for step in steps if step.epoch == epoch])
        owned.update(json.loads(str(connection.execute(_OWNED, (epoch, ids)).get)))
    return owned


def _find_arrival(connection: apsw.Connection, id: str) -> float | None:
    arrived: float | None = connection.execute("SELECT arrived_at FROM entry WHERE id = ?", (id,)).get
    return arrived


def _row(seq: int, request: Stamped) -> tuple[object, ...]:
    message = request.message
    is_owned = message.owner != 0
    was_tried = bool(message.last_error) or is_owned
    return (
        seq,
        message.id,
        LANE_DEFERRED if message.last_error else LANE_NEW,
        message.destination,
        request.now + (request.lease_s if is_owned else message.retry_s),
        message.owner,
        is_owned,
        message.is_in_doubt,
        int(was_tried),
        request.now,
        message.size_bytes,
        message.crc,
        message.last_error,
        message.envelope,
        message.recipients,
    )


@lru_cache(maxsize=512)
def _insert(table: str, columns: str, rows: int) -> str:
    places = f"({', '.join('?' * (columns.count(',') + 1))})"
    return f"INSERT INTO {table} ({columns}) VALUES {', '.join([places] * rows)}"
