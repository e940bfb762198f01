"""The tables of a shard, and a connection that keeps what it commits.

WAL with synchronous=FULL: a commit is on the disk when it returns (https://sqlite.org/pragma.html#pragma_synchronous).
The schema's version is `user_version`; steps are applied one by one, each in its own transaction.
"""

from pathlib import Path

import apsw

from mailflow.store.store import StoreUnavailable

OLDEST_SQLITE = (3, 51, 3)  # earlier ones can lose commits of a WAL under several connections
PAGE_BYTES = 8192
CHECKPOINT_PAGES = 2000
WAL_LIMIT_BYTES = 64 << 20
CACHE_KIB = 16384
BUSY_MS = 2000  # a shard has one writer: only a stranger can hold it, a backup or a curious operator

# lane: 0 new, 1 deferred, 2 suspect. next_try: Unix seconds of the store's clock, NULL where the operator decides.
STEPS = (
    """
    CREATE TABLE entry (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL DEFAULT 'queued',
        lane INTEGER NOT NULL,
        destination TEXT NOT NULL,
        next_try REAL,
        owner INTEGER NOT NULL DEFAULT 0,
        is_begun INTEGER NOT NULL DEFAULT 0,
        is_in_doubt INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        crashes INTEGER NOT NULL DEFAULT 0,
        arrived_at REAL NOT NULL,
        size INTEGER NOT NULL,
        crc INTEGER NOT NULL,
        is_delay_told INTEGER NOT NULL DEFAULT 0,
        last_error TEXT NOT NULL DEFAULT '',
        envelope BLOB NOT NULL,
        recipients BLOB NOT NULL
    );
    CREATE TABLE body (seq INTEGER PRIMARY KEY, content BLOB NOT NULL);
    CREATE INDEX entry_due ON entry (lane, destination, next_try, size);
    CREATE INDEX entry_owned ON entry (owner) WHERE owner <> 0;
    CREATE INDEX entry_kept ON entry (state) WHERE state <> 'queued';
    CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO counter VALUES ('epoch', 0), ('probe', 0);
    """,
)


def require_library() -> None:
    """Raise StoreUnavailable where the SQLite library is one that may lose mail."""
    version = apsw.sqlite_lib_version()
    if tuple(map(int, version.split("."))) < OLDEST_SQLITE:
        raise StoreUnavailable(f"SQLite {version} can lose commits; {'.'.join(map(str, OLDEST_SQLITE))} is needed")


def connect(path: Path, *, is_writer: bool) -> apsw.Connection:
    """Open a shard, made if it is not there. Raises apsw.Error."""
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE if is_writer else apsw.SQLITE_OPEN_READONLY
    connection = apsw.Connection(str(path), flags=flags, statementcachesize=300)
    connection.set_busy_timeout(BUSY_MS)
    if is_writer:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}; PRAGMA auto_vacuum=INCREMENTAL; PRAGMA journal_mode=WAL")
        connection.execute(
            f"PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES};"
            f" PRAGMA journal_size_limit={WAL_LIMIT_BYTES}"
        )
    connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}; PRAGMA temp_store=MEMORY")
    return connection


def migrate(connection: apsw.Connection) -> None:
    """Bring the schema up to date. Raises StoreUnavailable where a later version of mailflow made it."""
    version = int(connection.pragma("user_version"))
    if version > len(STEPS):
        raise StoreUnavailable(f"the store has schema {version}, of a later mailflow; this one knows {len(STEPS)}")
    for number, step in enumerate(STEPS[version:], start=version + 1):
        with connection:
            connection.execute(step)
            connection.execute(f"PRAGMA user_version={number}")
