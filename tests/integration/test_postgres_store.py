"""The store on a PostgreSQL that dies, stands still, or whose answers get lost; what the contract suite cannot ask."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from mailflow.mail.address import parse_mailbox
from mailflow.mail.envelope import Envelope, Recipient
from mailflow.store import Claim, Epoch, Filter, Settlement, State, StoreUnavailable
from mailflow.store.postgres import PostgresStore
from mailflow.store.record import encode_envelope, encode_recipients
from tests.integration.tcp_proxy import TcpProxy
from tests.postgres_server import PostgresServer

BODY = [b"Subject: x\r\n\r\n", b"y" * 4000]


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    return postgres_server.new_database()


@pytest.fixture
async def store(url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url)
    await store.open()
    yield store
    await store.close()


@contextlib.asynccontextmanager
async def opened(url: str, lease_s: float = 60.0) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url, lease_s=lease_s)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def proxy(postgres_server: PostgresServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(postgres_server.port) as proxy:
        yield proxy


@pytest.fixture
def frozen(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    yield postgres_server
    postgres_server.thaw()


def envelope(id: str, destination: str = "mailbox") -> Envelope:
    address = parse_mailbox("joe@example.org")
    return Envelope(id, parse_mailbox("ann@example.com"), (Recipient(address, address, destination=destination),))


def soon(seconds: float = 10.0) -> float:
    return asyncio.get_running_loop().time() + seconds


def through(proxy: TcpProxy, url: str, server: PostgresServer) -> str:
    return url.replace(f":{server.port}/", f":{proxy.port}/")


async def ids_in(store: PostgresStore) -> list[str]:
    entries = await store.list_entries(Filter(), limit=10_000)
    return [entry.envelope.id for entry in entries if not hasattr(entry, "reason")]


async def accept_all(store: PostgresStore, ids: list[str], owner: Epoch | None = None) -> list[Claim | None]:
    return await asyncio.gather(*(store.accept(envelope(id), BODY, deadline=soon(), owner=owner) for id in ids))


async def test_each_accept_in_the_midst_of_a_kill_is_answered_as_it_is(
    postgres_server: PostgresServer, store: PostgresStore
) -> None:
    outcomes: dict[str, StoreUnavailable | None] = {}
    enough, restarted = asyncio.Event(), asyncio.Event()

    async def accept(session: int) -> None:
        for number in range(100_000):
            if restarted.is_set():
                return
            id = f"{session}-{number}"
            try:
                await store.accept(envelope(id), BODY, deadline=soon(20))
            except StoreUnavailable as exc:
                outcomes[id] = exc
                return
            outcomes[id] = None
            if len(outcomes) > 500:
                enough.set()

    sessions = [asyncio.create_task(accept(session)) for session in range(50)]
    await enough.wait()
    postgres_server.kill()
    postgres_server.start()
    restarted.set()
    await asyncio.gather(*sessions)
    # It was back in time to be asked: nothing is left open, and each is as its sender heard.
    assert {type(outcome) for outcome in outcomes.values()} <= {type(None), StoreUnavailable}
    assert await ids_in(store) == sorted(id for id, outcome in outcomes.items() if outcome is None)
    assert store.unhealthy_reason() is None


async def test_without_an_answer_until_the_deadline_the_outcome_is_unknown(
    postgres_server: PostgresServer, store: PostgresStore
) -> None:
    await store.accept(envelope("first"), BODY, deadline=soon())
    accepting = [store.accept(envelope(f"m{number}"), [b"z" * 1_000_000], deadline=soon(1)) for number in range(8)]
    running = asyncio.gather(*accepting, return_exceptions=True)
    await asyncio.sleep(0.01)
    postgres_server.kill()
    outcomes = await running
    assert store.unhealthy_reason() is not None
    postgres_server.start()
    there = await ids_in(store)
    for number, outcome in enumerate(outcomes):
        assert outcome is not None or f"m{number}" in there
        assert type(outcome) is not StoreUnavailable or f"m{number}" not in there
    assert store.unhealthy_reason() is None


async def test_a_lost_answer_to_a_commit_is_found_out(
    postgres_server: PostgresServer, proxy: TcpProxy, store: PostgresStore, url: str
) -> None:
    async with opened(through(proxy, url, postgres_server)) as far:
        # Nobody is told of a message that has an owner, so the next one goes over the same connection.
        await far.accept(envelope("first"), BODY, deadline=soon(), owner=await far.enter("worker"))
        links = proxy.hold_answers()
        accepting = asyncio.create_task(far.accept(envelope("second"), BODY, deadline=soon()))
        async with asyncio.timeout(5):
            while "second" not in await ids_in(store):
                pass
        assert not accepting.done()
        proxy.cut_clients(links)
        await accepting
    assert await ids_in(store) == ["first", "second"]


async def test_what_never_reached_the_server_is_refused_and_cannot_come_to_be_later(
    postgres_server: PostgresServer, proxy: TcpProxy, store: PostgresStore, url: str
) -> None:
    async with opened(through(proxy, url, postgres_server)) as far:
        # Nobody is told of a message that has an owner, so the next one goes over the same connection.
        await far.accept(envelope("first"), BODY, deadline=soon(), owner=await far.enter("worker"))
        links = proxy.hold_requests()
        accepting = asyncio.create_task(far.accept(envelope("second"), BODY, deadline=soon()))
        await proxy.wait_held(b"second")
        proxy.cut_clients(links)
        with pytest.raises(StoreUnavailable, match="not stored"):
            await accepting
        proxy.let_through(links)  # the server carries out now what it was asked then
        await asyncio.gather(*(far.accept(envelope(f"later-{number}"), BODY, deadline=soon()) for number in range(5)))
        assert await ids_in(store) == ["first", *(f"later-{number}" for number in range(5))]
        assert await store.find("second") is None
        assert await store.open_body("second") is None
        with pytest.raises(StoreUnavailable, match="given up"):
            await far.accept(envelope("second"), BODY, deadline=soon())


async def test_one_dead_connection_does_not_use_up_the_time_of_those_behind(
    postgres_server: PostgresServer, proxy: TcpProxy, store: PostgresStore, url: str
) -> None:
    async with opened(through(proxy, url, postgres_server)) as far:
        await far.accept(envelope("first"), BODY, deadline=soon(), owner=await far.enter("worker"))
        proxy.hold_requests()
        accepting = asyncio.create_task(far.accept(envelope("second"), BODY, deadline=soon(20)))
        await proxy.wait_held(b"second")
        await far.accept(envelope("third"), BODY, deadline=soon(20))  # over another connection
        with pytest.raises(StoreUnavailable, match="not stored"):
            await accepting
        assert await ids_in(store) == ["first", "third"]


async def test_what_a_lost_answer_to_a_claim_gave_away_comes_back_by_the_next_heartbeat(
    postgres_server: PostgresServer, proxy: TcpProxy, store: PostgresStore, url: str
) -> None:
    async with opened(through(proxy, url, postgres_server)) as far:
        epoch = await far.enter("worker")
        for id in ("a", "b", "c"):
            await store.accept(envelope(id), BODY, deadline=soon())
        [kept] = (await far.claim(epoch, 1)).claims
        links = proxy.hold_answers()
        claiming = asyncio.create_task(far.claim(epoch, 10))
        async with asyncio.timeout(5):
            while (await store.count()).messages[State.ACTIVE] < 3:
                pass
        proxy.cut_clients(links)
        with pytest.raises(StoreUnavailable):
            await claiming
        await far.heartbeat(epoch)
        claims = (await far.claim(epoch, 10)).claims
        assert sorted(claim.id for claim in [kept, *claims]) == ["a", "b", "c"]
        await far.settle(kept, Settlement())


async def test_a_lost_answer_to_a_settlement_is_asked_for_again(
    postgres_server: PostgresServer, proxy: TcpProxy, store: PostgresStore, url: str
) -> None:
    async with opened(through(proxy, url, postgres_server)) as far:
        epoch = await far.enter("worker")
        claims = [await far.accept(envelope(id), BODY, deadline=soon(), owner=epoch) for id in ("a", "b")]
        assert claims[0]
        assert claims[1]
        await far.settle(claims[0], Settlement())
        links = proxy.hold_answers()
        settling = asyncio.create_task(far.settle(claims[1], Settlement()))
        async with asyncio.timeout(5):
            while await ids_in(store):
                pass
        proxy.cut_clients(links)
        await settling


async def test_a_server_that_stands_still_holds_nobody_beyond_the_deadline(
    frozen: PostgresServer, store: PostgresStore
) -> None:
    await store.accept(envelope("first"), BODY, deadline=soon())
    frozen.freeze()
    begun = time.monotonic()
    outcomes = await asyncio.gather(
        *(store.accept(envelope(f"s{number}"), BODY, deadline=soon(1.0)) for number in range(20)),
        return_exceptions=True,
    )
    assert time.monotonic() - begun < 1.5
    assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)
    assert store.unhealthy_reason() is not None
    frozen.thaw()
    await store.accept(envelope("last"), BODY, deadline=soon())
    assert store.unhealthy_reason() is None


async def test_one_bad_row_fails_alone(store: PostgresStore) -> None:
    ids = [f"good-{number}" for number in range(20)]
    outcomes = await asyncio.gather(
        *(store.accept(envelope(id), BODY, deadline=soon()) for id in [*ids[:10], "bad\0id", *ids[10:]]),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes if outcome is not None] != []
    assert isinstance(outcomes[10], StoreUnavailable)
    assert [outcome for outcome in outcomes if outcome is not outcomes[10]] == [None] * 20
    assert await ids_in(store) == sorted(ids)
    assert store.unhealthy_reason() is None


async def test_a_large_message_does_not_hold_up_small_ones(store: PostgresStore) -> None:
    large = asyncio.create_task(store.accept(envelope("large"), [b"z" * 40_000_000], deadline=soon(30)))
    await asyncio.sleep(0)
    await store.accept(envelope("small"), BODY, deadline=soon())
    assert not large.done()
    await large
    body = await store.open_body("large")
    assert isinstance(body, list)
    assert max(map(len, body)) <= 262_144
    assert sum(map(len, body)) == 40_000_000


async def test_a_server_without_fsync_is_refused() -> None:
    with PostgresServer(fsync=False) as careless:
        store = PostgresStore(careless.new_database())
        with pytest.raises(StoreUnavailable, match="fsync=off"):
            await store.open()


async def test_a_hot_standby_is_refused() -> None:
    with PostgresServer() as server:
        url = server.new_database()
        server.stop()
        server.start_as_standby()
        with pytest.raises(StoreUnavailable, match="hot standby"):
            await PostgresStore(url).open()


async def test_a_store_without_traffic_finds_out_that_the_server_is_back(
    postgres_server: PostgresServer, store: PostgresStore
) -> None:
    postgres_server.stop()
    with pytest.raises(StoreUnavailable):
        await store.find("m")
    assert store.unhealthy_reason() is not None
    failed_at = store.last_success
    postgres_server.start()
    async with asyncio.timeout(10):
        while store.unhealthy_reason():  # noqa: ASYNC110 (as a probe asks)
            await asyncio.sleep(0.05)
    assert failed_at is not None
    assert store.last_success is not None
    assert store.last_success > failed_at


async def test_a_store_that_could_not_be_opened_is_opened_later(postgres_server: PostgresServer, url: str) -> None:
    postgres_server.stop()
    store = PostgresStore(url)
    with pytest.raises(StoreUnavailable):
        await store.open()
    assert store.unhealthy_reason() is not None
    postgres_server.start()
    await store.open()
    assert store.unhealthy_reason() is None
    await store.close()


async def test_three_open_an_empty_database_at_once(url: str, postgres_server: PostgresServer) -> None:
    stores = [PostgresStore(url) for _ in range(3)]
    await asyncio.gather(*(store.open() for store in stores))
    await asyncio.gather(*(store.accept(envelope(f"m{id(store)}"), BODY, deadline=soon()) for store in stores))
    assert len(await ids_in(stores[0])) == 3
    for store in stores:
        await store.close()


async def test_a_later_schema_is_used_where_it_allows_that(
    url: str, postgres_server: PostgresServer, store: PostgresStore
) -> None:
    database = url.rpartition("/")[2]
    postgres_server.execute("INSERT INTO mailflow.migration (number, oldest) VALUES (98, 1)", database=database)
    async with opened(url):
        pass
    postgres_server.execute("INSERT INTO mailflow.migration (number, oldest) VALUES (99, 99)", database=database)
    with pytest.raises(StoreUnavailable, match="version 99"):
        await PostgresStore(url).open()


async def test_a_message_accepted_elsewhere_wakes_this_store(url: str, store: PostgresStore) -> None:
    woken = asyncio.Event()
    sleeper = PostgresStore(url)
    sleeper.on_due(woken.set)
    await sleeper.open()
    await asyncio.wait_for(woken.wait(), 5)  # it listens: this call is for what it may have missed
    woken.clear()
    await store.accept(envelope("m"), BODY, deadline=soon())
    await asyncio.wait_for(woken.wait(), 2)
    await sleeper.close()


async def test_statements_are_shared_by_concurrent_callers(store: PostgresStore) -> None:
    count, sessions = 500, 50
    numbers = iter(range(count))

    async def accept() -> None:
        for number in numbers:
            await store.accept(envelope(f"m{number:04}"), BODY, deadline=soon())

    await accept_all(store, ["warm"])
    before = store.statements
    await asyncio.gather(*(accept() for _ in range(sessions)))
    assert store.statements - before <= count * 0.2

    async def deliver(claim: Claim) -> None:
        await store.begin(claim)
        assert await store.open_body(claim.id) is not None
        await store.settle(claim, Settlement())

    epoch = await store.enter("worker")
    before = store.statements
    while (batch := await store.claim(epoch, sessions)).claims:
        await asyncio.gather(*(deliver(claim) for claim in batch.claims))
    assert store.statements - before <= count * 1.5
    assert await ids_in(store) == []


async def test_a_claim_reads_some_entries_of_a_long_queue_and_not_all(
    postgres_server: PostgresServer, store: PostgresStore, url: str
) -> None:
    message = envelope("m")
    postgres_server.execute(
        f"""INSERT INTO mailflow.entry SELECT 'm' || i, 'queued', i % 2, 'mailbox', clock_timestamp(), NULL, false,
        false, i % 2, 0, clock_timestamp(), 1, 0, '', false, '\\x{encode_envelope(message).hex()}',
        '\\x{encode_recipients(message.recipients).hex()}' FROM generate_series(1, 300000) i;
        ANALYZE mailflow.entry""",  # noqa: S608
        database=url.rpartition("/")[2],
    )
    epoch = await store.enter("worker")
    await store.accept(envelope("other", destination="other"), BODY, deadline=soon())
    took: list[float] = []
    for _ in range(5):
        begun = time.monotonic()
        claims = (await store.claim(epoch, 50)).claims
        took.append(time.monotonic() - begun)
        assert len(claims) == 50
        assert "other" in {claim.id for claim in claims} or len(took) > 1
    assert min(took) < 0.05  # 300,000 entries take ten times that


async def test_stores_that_claim_at_once_never_get_the_same_entry(url: str, store: PostgresStore) -> None:
    async with opened(url) as second, opened(url) as third:
        await accept_all(store, [f"m{number:03}" for number in range(300)])
        claimed: list[str] = []

        async def take(pod: PostgresStore) -> None:
            epoch = await pod.enter("worker")
            while (batch := await pod.claim(epoch, 10)).claims or batch.next_due_s == 0.0:
                claimed.extend(claim.id for claim in batch.claims)

        await asyncio.gather(*(take(pod) for pod in (store, second, third)))
    assert sorted(claimed) == [f"m{number:03}" for number in range(300)]


async def test_mail_of_a_dead_pod_comes_due_within_the_lease(url: str) -> None:
    async with opened(url, lease_s=1.0) as dead, opened(url, lease_s=30.0) as living:
        owner, survivor = await dead.enter("dead"), await living.enter("living")
        await accept_all(dead, ["a", "b"])
        await dead.accept(envelope("c"), BODY, deadline=soon(), owner=owner)
        assert len((await dead.claim(owner, 10)).claims) == 2
        found: list[Claim] = []
        for _ in range(60):
            batch = await living.claim(survivor, 10, takes_suspect=True)
            found += batch.claims
            if len(found) == 3:
                break
            await asyncio.sleep(0.05)
    assert sorted((claim.id, claim.entry.crashes) for claim in found) == [("a", 0), ("b", 0), ("c", 1)]


async def test_a_frozen_server_at_open_is_given_up(frozen: PostgresServer, url: str) -> None:
    frozen.freeze()
    timer = threading.Timer(20, frozen.thaw)
    timer.start()
    with pytest.raises(StoreUnavailable):
        await PostgresStore(url).open()
    assert timer.is_alive()
    timer.cancel()
