"""Which store a configuration asks for. Each is imported where it is asked for: a command starts sooner so."""

from functools import partial
from pathlib import Path

from mailflow.config.value import PostgresServer, SqliteFile
from mailflow.store.store import MessageStore


def make_store(
    url: SqliteFile | PostgresServer, *, lease_s: float, min_free_bytes: int, slot: int, slots: int
) -> MessageStore:
    """Make the store as worker `slot` of `slots` has it."""
    if isinstance(url, PostgresServer):
        return _make_postgres(url, lease_s)
    from mailflow.store.sqlite_shards import shards_of_slot

    return _make_shards(shards_of_slot(url.path, slot=slot, slots=slots), lease_s, min_free_bytes)


def make_whole_store(url: SqliteFile | PostgresServer) -> MessageStore:
    """Make the store as an operator sees it: all shards of a service that does not run."""
    if isinstance(url, PostgresServer):
        return _make_postgres(url, 60.0)
    from mailflow.store.sqlite_shards import find_shards, shard_path

    return _make_shards([shard_path(url.path, n) for n in sorted({0, *find_shards(url.path)})], 60.0, 0)


def _make_postgres(url: PostgresServer, lease_s: float) -> MessageStore:
    from mailflow.store.postgres import PostgresStore

    return PostgresStore(url.url, lease_s=lease_s)


def _make_shards(paths: list[Path], lease_s: float, min_free_bytes: int) -> MessageStore:
    from mailflow.store.sqlite import SqliteStore
    from mailflow.store.sqlite_shards import SqliteShards

    return SqliteShards(paths, partial(SqliteStore, lease_s=lease_s, min_free_bytes=min_free_bytes))
