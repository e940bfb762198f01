"""What operators ask of the store in PostgreSQL: one entry, a list of them, a change, the figures."""

import asyncio
from collections.abc import Sequence
from typing import Any

from mailflow.store.matching import matches
from mailflow.store.postgres_connection import Connections
from mailflow.store.postgres_rows import ENTRY_COLUMNS, IS_OWNED, read_entry
from mailflow.store.record import is_intact
from mailflow.store.store import Change, Corrupt, Entry, Filter, State, Statistics

PAGE_ENTRIES = 500

_FIND = f"SELECT {ENTRY_COLUMNS} FROM mailflow.entry e WHERE e.id = $1 AND e.state <> 'gone'"
_LIST = f"""
SELECT {ENTRY_COLUMNS} FROM mailflow.entry e WHERE e.id > $1 AND e.state <> 'gone' ORDER BY e.id LIMIT $2
"""
_COUNT = """
SELECT state, count(*) AS entries, coalesce(sum(size), 0)::bigint AS size_bytes,
    extract(epoch FROM clock_timestamp() - min(arrived_at))::float8 AS oldest_s
FROM (
    SELECT size, arrived_at, CASE
        WHEN e.state <> 'queued' THEN e.state
        WHEN w.epoch IS NOT NULL THEN CASE WHEN e.is_in_doubt THEN 'in_doubt' ELSE 'active' END
        WHEN e.lane = 0 AND e.attempts = 0 THEN 'new'
        ELSE 'deferred'
    END AS state
    FROM mailflow.entry e LEFT JOIN mailflow.worker w ON w.epoch = e.owner AND w.expires_at > clock_timestamp()
    WHERE e.state <> 'gone'
) AS stored
GROUP BY state
"""
# Rows are locked in the order of their ids, as two operators may name the same ones.
_WANTED = """
WITH wanted AS (
    SELECT id FROM mailflow.entry WHERE id = ANY ($1::text[]) AND state <> 'gone' ORDER BY id FOR UPDATE
)
"""
_CHANGES = {
    Change.RETRY: f"""{_WANTED}
        UPDATE mailflow.entry e SET next_try = clock_timestamp(), state = 'queued',
            lane = CASE WHEN e.state <> 'set_aside' THEN e.lane WHEN e.attempts > 0 THEN 1 ELSE 0 END,
            crashes = CASE WHEN e.state = 'set_aside' THEN 0 ELSE e.crashes END
        FROM wanted WHERE e.id = wanted.id AND e.state IN ('queued', 'set_aside') AND NOT {IS_OWNED}
        RETURNING e.id""",
    Change.HOLD: f"""{_WANTED}
        UPDATE mailflow.entry e SET next_try = NULL, state = 'held', owner = NULL, is_begun = false,
            is_in_doubt = false, lane = CASE WHEN e.is_begun THEN 1 ELSE e.lane END
        FROM wanted WHERE e.id = wanted.id
        RETURNING e.id""",
    Change.RELEASE: f"""{_WANTED}
        UPDATE mailflow.entry e SET next_try = clock_timestamp(), state = 'queued'
        FROM wanted WHERE e.id = wanted.id AND e.state = 'held'
        RETURNING e.id""",
    Change.REMOVE: f"""{_WANTED},
        removed AS (DELETE FROM mailflow.entry e USING wanted WHERE e.id = wanted.id RETURNING e.id),
        bodies AS (DELETE FROM mailflow.body b USING removed WHERE b.id = removed.id)
        SELECT id FROM removed""",
}  # fmt: skip


async def find_entry(connections: Connections, id: str, *, deadline: float) -> Entry | Corrupt | None:
    """Give one entry."""
    rows = await connections.fetch(_FIND, id, deadline=deadline)
    return read_entry(rows[0]) if rows else None


async def list_entries(
    connections: Connections, wanted: Filter, *, limit: int, after: str, patience_s: float
) -> Sequence[Entry | Corrupt]:
    """Give up to `limit` entries that `wanted` fits, by ascending id from behind `after`; `patience_s` is a page's."""
    loop = asyncio.get_running_loop()
    found: list[Entry | Corrupt] = []
    words = _words(wanted)
    while len(found) < limit:
        size = max(PAGE_ENTRIES, limit) if wanted != Filter() else limit - len(found)
        rows = await connections.fetch(_LIST, after, size, deadline=loop.time() + patience_s)
        found += [entry for row in rows if _may_fit(row, wanted, words) and matches(entry := read_entry(row), wanted)]
        if len(rows) < size:
            break
        after = rows[-1]["id"]
    return found[:limit]


async def change_entries(
    connections: Connections, ids: Sequence[str], change: Change, *, deadline: float
) -> Sequence[str]:
    """Do it to those entries that it can be done to; give their ids in the order asked for."""
    changed = {row["id"] for row in await connections.fetch(_CHANGES[change], ids, deadline=deadline)}
    return [id for id in dict.fromkeys(ids) if id in changed]


async def count_entries(connections: Connections, *, deadline: float) -> Statistics:
    """Count what is stored, in one pass over all entries."""
    async with connections.session(deadline) as session, session.transaction():
        # Here all of it is to be read.
        await session.fetch(
            "SELECT set_config('enable_seqscan', 'on', true), set_config('enable_hashjoin', 'on', true)"
        )
        rows: list[Any] = await session.fetch(_COUNT)
    return Statistics(
        messages=dict.fromkeys(State, 0) | {State(row["state"]): row["entries"] for row in rows},
        size_bytes=sum(row["size_bytes"] for row in rows),
        oldest_s=max((row["oldest_s"] for row in rows), default=0.0),
    )


def _words(wanted: Filter) -> list[bytes]:
    """Give what is in the records of every entry that fits, in lower case: most need no reading then.

    Only what stands there as it is written: a quoted local part and what is not ASCII may stand there otherwise.
    """
    texts = [text for address in (wanted.sender, wanted.recipient) if address for text in address.split("@")]
    words = [text for text in (*texts, wanted.domain or "") if text.isascii() and not set(text) & set('"\\<>')]
    return [word.lower().encode("ascii") for word in words if word]


def _may_fit(row: Any, wanted: Filter, words: Sequence[bytes]) -> bool:
    """Tell whether it is worth reading; what is corrupt always is."""
    if wanted.state in {None, State(row["state"])} and (wanted.error or "").casefold() in row["last_error"].casefold():
        text = (row["envelope"] + row["recipients"]).lower() if words else b""
        if all(word in text for word in words):
            return True
    return not (is_intact(row["envelope"]) and is_intact(row["recipients"]))
