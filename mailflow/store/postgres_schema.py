"""The tables in PostgreSQL, and how they come to be: numbered migrations, applied once, whoever opens first.

All is in the schema `mailflow`, named in full everywhere: nothing hangs on search_path. A migration only adds, so that
Pods of the earlier version go on working while a new one rolls out. It says for which version the result is still good;
a version that finds a schema beyond that refuses to open.

`entry` is narrow and rewritten by each attempt, `body` is written once. Of the columns that an attempt rewrites only
`next_try`, `lane` and `destination` are indexed: to begin, or to mark as in doubt, is a HOT update. `next_try` is NULL
for what is not tried by itself. A `worker` row is an epoch; what an epoch without a row owns is anybody's.
"""

from dataclasses import dataclass

from mailflow.store.postgres_connection import Connections, Session
from mailflow.store.store import StoreUnavailable

_LOCK = 0x6D61696C666C6F77  # "mailflow": the advisory lock that openers take turns by


@dataclass(frozen=True, slots=True)
class Migration:
    """One step. `oldest`: software that knows this number of migrations, or more, still works with the result."""

    statements: tuple[str, ...]
    oldest: int


MIGRATIONS = (
    Migration(
        oldest=1,
        statements=(
            """
            CREATE TABLE mailflow.worker (
                epoch bigserial PRIMARY KEY,
                name text NOT NULL,
                expires_at timestamptz NOT NULL
            ) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0)
            """,
            """
            CREATE TABLE mailflow.entry (
                id text COLLATE "C" PRIMARY KEY,
                state text NOT NULL,                    -- queued, held, set_aside; gone: must never come to be
                lane smallint NOT NULL,                 -- 0 new, 1 deferred, 2 suspect: its attempt ended in a crash
                destination text COLLATE "C" NOT NULL,
                next_try timestamptz,
                owner bigint,
                is_begun boolean NOT NULL,
                is_in_doubt boolean NOT NULL,
                attempts integer NOT NULL,
                crashes integer NOT NULL,
                arrived_at timestamptz NOT NULL,
                size bigint NOT NULL,
                crc bigint NOT NULL,                    -- CRC-32 of the body
                last_error text NOT NULL,
                is_delay_told boolean NOT NULL,
                envelope bytea NOT NULL,
                recipients bytea NOT NULL
            ) WITH (
                fillfactor = 80,
                autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.02,
                autovacuum_vacuum_insert_scale_factor = 0.2, autovacuum_analyze_scale_factor = 0.05,
                autovacuum_vacuum_cost_delay = 1
            )
            """,
            # Its turn among the destinations; that a million entries wait for one of them costs the others nothing.
            """
            CREATE INDEX entry_turn ON mailflow.entry (lane, destination, next_try) WHERE next_try IS NOT NULL
            """,
            "CREATE INDEX entry_next ON mailflow.entry (next_try) WHERE next_try IS NOT NULL",
            "CREATE INDEX entry_gone ON mailflow.entry (arrived_at) WHERE state = 'gone'",
            """
            CREATE TABLE mailflow.body (
                id text COLLATE "C",
                part integer,
                data bytea NOT NULL,
                PRIMARY KEY (id, part)
            ) WITH (
                toast_tuple_target = 8160,              -- an ordinary message lies in the row itself
                autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.05,
                toast.autovacuum_vacuum_threshold = 1000, toast.autovacuum_vacuum_scale_factor = 0.05,
                autovacuum_vacuum_cost_delay = 1
            )
            """,
            "ALTER TABLE mailflow.body ALTER COLUMN data SET STORAGE EXTERNAL",  # never compressed: mail hardly gains
        ),
    ),
)


async def migrate(connections: Connections, *, deadline: float) -> None:
    """Bring the schema to what this version knows. Raises StoreUnavailable, also where it is of a later version."""
    async with connections.session(deadline) as session:
        if await _read_version(session) == len(MIGRATIONS):
            return  # without a lock, which every Pod of a restart would wait for
        async with session.transaction():
            await session.fetch("SELECT pg_advisory_xact_lock($1)", _LOCK)
            await session.fetch("CREATE SCHEMA IF NOT EXISTS mailflow")
            await session.fetch(
                "CREATE TABLE IF NOT EXISTS mailflow.migration (number integer PRIMARY KEY, oldest integer NOT NULL,"
                " applied_at timestamptz NOT NULL DEFAULT clock_timestamp())"
            )
            version = await _read_version(session)
            for number, migration in enumerate(MIGRATIONS[version:], start=version + 1):
                for statement in migration.statements:
                    await session.fetch(statement)
                await session.fetch(
                    "INSERT INTO mailflow.migration (number, oldest) VALUES ($1, $2)", number, migration.oldest
                )


async def _read_version(session: Session) -> int:
    """Give the number of migrations applied, at most as many as are known here."""
    [row] = await session.fetch("SELECT to_regclass('mailflow.migration') IS NOT NULL AS is_there")
    if not row["is_there"]:
        return 0
    [row] = await session.fetch(
        "SELECT coalesce(max(number), 0) AS number, coalesce(max(oldest), 0) AS oldest FROM mailflow.migration"
    )
    if row["oldest"] > len(MIGRATIONS):
        raise StoreUnavailable(
            f"the schema of this database is version {row['number']}, for software that knows version {row['oldest']}"
            f" or later; this one knows {len(MIGRATIONS)}"
        )
    return min(int(row["number"]), len(MIGRATIONS))
