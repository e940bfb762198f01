"""What the contract suite cannot know of the store in SQLite."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from mailflow.mail.address import parse_mailbox
from mailflow.mail.envelope import Envelope, Recipient
from mailflow.store import Entry, Settlement, StoreUnavailable
from mailflow.store.sqlite import SqliteStore
from mailflow.store.sqlite_rows import new_message
from mailflow.store.sqlite_shards import SqliteShards, shards_of_slot
from mailflow.store.sqlite_statements import Stamped, undo_accept

TO = parse_mailbox("alice@example.org")
LARGE = [b"x" * 100_000]


def make(id: str) -> Envelope:
    return Envelope(id, parse_mailbox("a@x.example"), (Recipient(TO, TO, destination="mailbox"),))


async def put(store: SqliteStore | SqliteShards, *ids: str, body: list[bytes] | None = None) -> None:
    deadline = asyncio.get_running_loop().time() + 10
    await asyncio.gather(*(store.accept(make(id), body or [b"body\r\n"], deadline=deadline) for id in ids))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "queue.db")
    await store.open()
    yield store
    await store.close()


async def test_what_was_accepted_is_there_after_closing(tmp_path: Path, store: SqliteStore) -> None:
    await put(store, "m1", "m2")
    await put(store, "m3", body=LARGE)
    await store.close()
    await store.open()
    assert (await store.open_body("m3")) == LARGE
    assert isinstance(await store.find("m1"), Entry)


async def test_a_shard_in_use_is_refused(tmp_path: Path, store: SqliteStore) -> None:
    with pytest.raises(StoreUnavailable, match="in use by another process"):
        await SqliteStore(tmp_path / "queue.db").open()


async def test_a_later_schema_is_refused_and_left_alone(tmp_path: Path, store: SqliteStore) -> None:
    await store.close()
    connection = apsw.Connection(str(tmp_path / "queue.db"))
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StoreUnavailable, match="later mailflow"):
        await SqliteStore(tmp_path / "queue.db").open()


async def test_a_file_that_is_no_database_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "queue.db").write_bytes(b"no database at all, but long enough to be looked at" * 20)
    with pytest.raises(StoreUnavailable, match="no database"):
        await SqliteStore(tmp_path / "queue.db").open()


async def test_orphaned_bodies_are_swept_and_wanted_ones_stay(tmp_path: Path, store: SqliteStore) -> None:
    await put(store, "m1", body=LARGE)
    await store.close()
    bodies = tmp_path / "queue.db.bodies"
    (bodies / "orphan").write_bytes(b"x")
    (bodies / "m2.tmp").write_bytes(b"x")
    await store.open()
    assert [path.name for path in bodies.iterdir()] == ["m1"]


async def test_a_body_goes_with_its_message(tmp_path: Path, store: SqliteStore) -> None:
    await put(store, "m1", body=LARGE)
    epoch = await store.enter("w")
    [claim] = (await store.claim(epoch, 1)).claims
    await store.settle(claim, Settlement())
    assert list((tmp_path / "queue.db.bodies").iterdir()) == []


async def test_many_at_once_share_a_commit(tmp_path: Path, store: SqliteStore) -> None:
    connection = apsw.Connection(str(tmp_path / "queue.db"))

    def count_changes() -> int:
        return int(connection.pragma("data_version"))

    await put(store, "first")
    before = count_changes()
    await put(store, *(f"m{n}" for n in range(64)))
    assert count_changes() - before <= 3
    connection.close()


async def test_undoing_an_accept_spares_what_was_there_before(tmp_path: Path, store: SqliteStore) -> None:
    await put(store, "m1")
    await store.close()
    connection = apsw.Connection(str(tmp_path / "queue.db"))
    undo_accept(Stamped(new_message(make("m1"), []), 1.0, 60.0), connection)
    assert connection.execute("SELECT count(*) FROM entry").get == 1
    connection.close()
    await store.open()


def test_each_existing_shard_of_a_missing_slot_is_some_living_ones(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    for name in ("queue.db", "queue.db.1", "queue.db.3", "queue.db.12", "queue.db.lock", "queue.db.1.lock"):
        (tmp_path / name).touch()
    names = [[shard.name for shard in shards_of_slot(path, slot=slot, slots=2)] for slot in range(2)]
    assert names == [["queue.db", "queue.db.3"], ["queue.db.1", "queue.db.12"]]


async def test_an_adopted_shard_is_emptied_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    old = SqliteStore(tmp_path / "queue.db.1")
    await old.open()
    await put(old, "m1")
    await old.close()
    shards = SqliteShards(shards_of_slot(path, slot=0, slots=1), SqliteStore)
    await shards.open()
    await put(shards, "m2")
    epoch = await shards.enter("w")
    claims = [*(await shards.claim(epoch, 10)).claims, *(await shards.claim(epoch, 10)).claims]
    assert sorted(claim.id for claim in claims) == ["m1", "m2"]
    for claim in claims:
        await shards.begin(claim)
        await shards.settle(claim, Settlement())
    await shards.close()
    assert await asyncio.to_thread(lambda: list(tmp_path.glob("queue.db.1*"))) == []
