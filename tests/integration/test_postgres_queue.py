"""What a queue in PostgreSQL owes to its workers and operators: turns, shares, crashes, fences, corruption."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from mailflow.mail.address import parse_mailbox
from mailflow.mail.envelope import Envelope, Recipient
from mailflow.store import (
    MAX_CRASHES,
    Change,
    Claim,
    ClaimLost,
    Corrupt,
    Entry,
    Epoch,
    Filter,
    Report,
    Settlement,
    State,
)
from mailflow.store.postgres import PostgresStore
from tests.postgres_server import PostgresServer


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    return postgres_server.new_database()


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url)
    await store.open()
    yield store
    await store.close()


def envelope(id: str, destination: str = "a") -> Envelope:
    address = parse_mailbox("joe@example.org")
    return Envelope(id, parse_mailbox("ann@example.com"), (Recipient(address, address, destination=destination),))


async def put(
    store: PostgresStore, *ids: str, destination: str = "a", owner: Epoch | None = None
) -> list[Claim | None]:
    deadline = asyncio.get_running_loop().time() + 10
    return [await store.accept(envelope(id, destination), [b"body"], deadline=deadline, owner=owner) for id in ids]


async def found(store: PostgresStore, id: str) -> Entry:
    entry = await store.find(id)
    assert isinstance(entry, Entry)
    return entry


def expire(server: PostgresServer, url: str, epoch: Epoch) -> None:
    """Let the lease of an epoch run out, and with it that of its claims."""
    server.execute(
        f"UPDATE mailflow.worker SET expires_at = now() - interval '1s' WHERE epoch = {epoch.number};"  # noqa: S608
        f"UPDATE mailflow.entry SET next_try = now() - interval '1s' WHERE owner = {epoch.number}",
        database=url.rpartition("/")[2],
    )


async def test_each_destination_gets_its_turn_and_full_ones_are_left_out(store: PostgresStore) -> None:
    epoch = await store.enter("worker")
    await put(store, *(f"a{number}" for number in range(9)))
    await put(store, "b0", destination="b")
    await put(store, "c0", "c1", destination="c")
    first = await store.claim(epoch, 4)
    assert sorted(claim.id for claim in first.claims) == ["a0", "a1", "b0", "c0"]
    assert first.next_due_s == 0.0
    second = await store.claim(epoch, 10, full=["a"])
    assert [claim.id for claim in second.claims] == ["c1"]
    assert second.next_due_s is None
    assert len((await store.claim(epoch, 10)).claims) == 7


async def test_claims_of_one_go_round_the_destinations(store: PostgresStore) -> None:
    epoch = await store.enter("worker")
    for destination in ("a", "b", "c"):
        await put(store, *(f"{destination}{number}" for number in range(2)), destination=destination)
    order = [(await store.claim(epoch, 1)).claims[0].id[0] for _ in range(6)]
    assert order == ["a", "b", "c", "a", "b", "c"]


async def test_more_destinations_than_one_look_takes_in_all_get_their_turn(store: PostgresStore) -> None:
    epoch = await store.enter("worker")
    await asyncio.gather(*(put(store, f"m{number:03}", destination=f"d{number:03}") for number in range(450)))
    claimed: list[str] = []
    while (batch := await store.claim(epoch, 50)).claims or batch.next_due_s is not None:
        claimed += [claim.id for claim in batch.claims]
    assert sorted(claimed) == [f"m{number:03}" for number in range(450)]


async def test_new_mail_comes_first_and_deferred_mail_has_a_share(store: PostgresStore) -> None:
    epoch = await store.enter("worker")
    await put(store, "old0", "old1", "old2")
    for claim in (await store.claim(epoch, 10)).claims:
        await store.settle(claim, Settlement(owed=claim.entry.envelope.recipients, last_error="busy\0"))
    await put(store, *(f"new{number:02}" for number in range(20)))
    claims = [[claim.id[:3] for claim in (await store.claim(epoch, 8)).claims] for _ in range(2)]
    assert claims == [["new"] * 7 + ["old"]] * 2
    assert (await found(store, "old2")).last_error == "busy\N{REPLACEMENT CHARACTER}"


async def test_a_report_is_stored_with_the_settlement_it_is_of(store: PostgresStore) -> None:
    epoch = await store.enter("worker")
    await put(store, "m")
    [claim] = (await store.claim(epoch, 1)).claims
    await store.settle(claim, Settlement(reports=[Report(envelope("dsn"), [b"re", b"port"])]))
    assert await store.find("m") is None
    assert await store.open_body("m") is None
    assert await store.open_body("dsn") == [b"report"]
    with pytest.raises(ClaimLost):
        await store.settle(claim, Settlement(reports=[Report(envelope("second"), [b"x"])]))
    assert await store.find("second") is None


async def test_attempts_that_end_with_their_worker_set_a_message_aside(
    postgres_server: PostgresServer, store: PostgresStore, url: str
) -> None:
    await put(store, "m")
    for crashes in range(MAX_CRASHES):
        epoch = await store.enter("worker")
        if crashes:
            assert (await store.claim(epoch, 5)).claims == []
        [claim] = (await store.claim(epoch, 5, takes_suspect=True)).claims
        assert (claim.entry.attempts, claim.entry.crashes) == (crashes, crashes)
        await store.begin(claim)
        expire(postgres_server, url, epoch)
    last = await store.enter("worker")
    assert (await store.claim(last, 5, takes_suspect=True)).claims == []
    assert (await found(store, "m")).state is State.SET_ASIDE
    assert await store.change(["m", "none"], Change.RETRY) == ["m"]
    [claim] = (await store.claim(last, 5)).claims
    assert claim.entry.crashes == 0


async def test_one_suspect_at_a_time(postgres_server: PostgresServer, store: PostgresStore, url: str) -> None:
    dead, living = await store.enter("dead"), await store.enter("living")
    await put(store, "s0", "s1", "s2", owner=dead)
    expire(postgres_server, url, dead)
    await put(store, "m")
    sizes = [len((await store.claim(living, 10, takes_suspect=True)).claims) for _ in range(5)]
    assert sum(sizes) == 4
    assert max(sizes) <= 2
    assert (await found(store, "s2")).crashes == 1


async def test_an_epoch_that_is_over_may_do_nothing(
    postgres_server: PostgresServer, store: PostgresStore, url: str
) -> None:
    epoch = await store.enter("worker")
    await put(store, "m", "n")
    claim, other = (await store.claim(epoch, 2)).claims
    await store.begin(claim)
    expire(postgres_server, url, epoch)
    for act in (
        store.heartbeat(epoch), store.claim(epoch, 1), store.begin(other), store.mark_in_doubt(claim),
        store.settle(claim, Settlement()),
    ):  # fmt: skip
        with pytest.raises(ClaimLost):
            await act
    await store.hand_back(claim)
    assert (await store.count()).messages[State.NEW] == 1


async def test_who_leaves_gives_back_what_is_his_and_no_crash(store: PostgresStore) -> None:
    epoch, next_one = await store.enter("worker"), await store.enter("next")
    await put(store, "m", "n")
    claims = (await store.claim(epoch, 2)).claims
    await store.begin(claims[0])
    await store.leave(epoch)
    again = (await store.claim(next_one, 5)).claims
    assert sorted((claim.id, claim.entry.crashes) for claim in again) == [("m", 0), ("n", 0)]


async def test_an_operator_holds_releases_and_removes(store: PostgresStore) -> None:
    epoch = await store.enter("worker")
    await put(store, "m")
    [claim] = (await store.claim(epoch, 1)).claims
    await store.mark_in_doubt(claim)
    assert (await found(store, "m")).state is State.IN_DOUBT
    assert await store.change(["m"], Change.RETRY) == []
    assert await store.change(["m"], Change.RELEASE) == []
    assert await store.change(["m"], Change.HOLD) == ["m"]
    held = await found(store, "m")
    assert (held.state, held.next_try_s) == (State.HELD, None)
    with pytest.raises(ClaimLost):
        await store.settle(claim, Settlement())
    assert (await store.claim(epoch, 1)).claims == []
    assert await store.change(["m"], Change.RELEASE) == ["m"]
    assert len((await store.claim(epoch, 1)).claims) == 1
    assert await store.change(["m"], Change.REMOVE) == ["m"]
    assert await store.find("m") is None


async def test_what_cannot_be_read_is_set_aside_and_listed(
    postgres_server: PostgresServer, store: PostgresStore, url: str
) -> None:
    epoch = await store.enter("worker")
    await put(store, "m", "n", "o")
    postgres_server.execute(
        "UPDATE mailflow.entry SET envelope = overlay(envelope placing 'X' from 20) WHERE id = 'm';"
        "UPDATE mailflow.body SET data = 'bodx' WHERE id = 'n'",
        database=url.rpartition("/")[2],
    )
    assert isinstance(await store.find("m"), Corrupt)
    listed = await store.list_entries(Filter(sender="nobody@example.com"), limit=10)
    assert [type(entry) for entry in listed] == [Corrupt]
    assert len(await store.list_entries(Filter(state=State.NEW, sender="ANN@example.com"), limit=10)) == 2
    batch = await store.claim(epoch, 10)
    assert [corrupt.id for corrupt in batch.corrupt] == ["m"]
    assert [claim.id for claim in batch.claims] == ["n", "o"]
    assert isinstance(await store.open_body("n"), Corrupt)
    assert await store.open_body("o") == [b"body"]
    assert (await store.count()).messages[State.SET_ASIDE] == 2
    with pytest.raises(ClaimLost):
        await store.begin(batch.claims[0])
