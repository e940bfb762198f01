"""One suite for every MessageStore."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from mailflow.mail.address import parse_mailbox
from mailflow.mail.envelope import Envelope, Notify, Recipient
from mailflow.store import (
    MAX_CRASHES,
    Change,
    Claim,
    ClaimLost,
    Corrupt,
    Entry,
    Epoch,
    Filter,
    MessageStore,
    Report,
    Settlement,
    State,
    StoreUnavailable,
)
from tests.contract.store_kinds import LEASE_S, MemoryKind, PostgresKind, SqliteKind, StoreKind

BODY = (b"Received: by us\r\n", b"Subject: \xff\r\n\r\n\0 body\r\n")
DONE = Settlement()


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def kind(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StoreKind]:
    kind: StoreKind
    match request.param:
        case "memory":
            kind = MemoryKind()
        case "sqlite":
            kind = SqliteKind(tmp_path)
        case _:
            kind = PostgresKind(request.getfixturevalue("postgres_server"))
    await kind.store.open()
    yield kind
    await kind.close()


@pytest.fixture
def store(kind: StoreKind) -> MessageStore:
    return kind.store


def soon(seconds: float = 10.0) -> float:
    return asyncio.get_running_loop().time() + seconds


def make(id: str, *recipients: str, destination: str = "mailboxes", sender: str | None = "a@x.example") -> Envelope:
    addresses = [parse_mailbox(recipient) for recipient in recipients or ("alice@example.org",)]
    owed = tuple(Recipient(address, address, destination=destination) for address in addresses)
    return Envelope(id, parse_mailbox(sender) if sender else None, owed)


async def put(store: MessageStore, *ids: str, destination: str = "mailboxes") -> None:
    for id in ids:
        await store.accept(make(id, destination=destination), BODY, deadline=soon())


async def find(store: MessageStore, id: str) -> Entry:
    entry = await store.find(id)
    assert isinstance(entry, Entry)
    return entry


async def claim(store: MessageStore, epoch: Epoch, limit: int = 10, *, takes_suspect: bool = False) -> list[Claim]:
    return list((await store.claim(epoch, limit, takes_suspect=takes_suspect)).claims)


async def claim_one(store: MessageStore, epoch: Epoch, *, takes_suspect: bool = False) -> Claim:
    [claimed] = await claim(store, epoch, takes_suspect=takes_suspect)
    return claimed


def ids(claims: list[Claim]) -> list[str]:
    return [claimed.id for claimed in claims]


async def test_what_was_accepted_is_found_whole(store: MessageStore) -> None:
    envelope = Envelope(
        id="m1",
        reverse_path=parse_mailbox('"a b"@x.example'),
        recipients=(
            Recipient(parse_mailbox("jörg@bücher.example"), parse_mailbox("joerg@example.org"), is_relayed=True),
            Recipient(
                parse_mailbox("b@example.org"),
                parse_mailbox("b@example.org"),
                destination="mailboxes",
                notify=Notify.SUCCESS | Notify.DELAY,
                original_recipient="rfc822;B@example.org",
            ),
        ),
        is_smtputf8=True,
        is_8bit=True,
        is_quarantined=True,
        may_report=True,
        envelope_id="e\u00e9 id",
        returns_full=False,
    )
    await store.accept(envelope, BODY, deadline=soon())
    entry = await find(store, "m1")
    assert entry.envelope == envelope
    assert [r.notify for r in entry.envelope.recipients] == [None, Notify.SUCCESS | Notify.DELAY]
    assert entry.state is State.NEW
    assert entry.size_bytes == sum(map(len, BODY))
    assert entry.attempts == 0
    pieces = await store.open_body("m1")
    assert isinstance(pieces, list | tuple)
    assert b"".join(pieces) == b"".join(BODY)


async def test_the_null_sender_stays_the_null_sender(store: MessageStore) -> None:
    await store.accept(make("m1", sender=None), BODY, deadline=soon())
    assert (await find(store, "m1")).envelope.reverse_path is None


@pytest.mark.parametrize("size_bytes", [0, 1, 65_535, 65_536, 65_537, 1 << 20])
async def test_a_body_of_any_size_comes_back_in_pieces(store: MessageStore, size_bytes: int) -> None:
    body = [b"x" * (size_bytes // 2), b"", b"y" * (size_bytes - size_bytes // 2)]
    await store.accept(make("m1"), body, deadline=soon())
    pieces = await store.open_body("m1")
    assert isinstance(pieces, list | tuple)
    assert all(len(piece) <= 262_144 for piece in pieces)
    assert b"".join(pieces) == b"".join(body)


async def test_an_id_that_is_there_already_is_as_good(store: MessageStore) -> None:
    await put(store, "m1")
    await put(store, "m1")
    assert len(await store.list_entries(Filter(), limit=10)) == 1


async def test_many_at_once_with_one_that_is_there_already_are_all_accepted(store: MessageStore) -> None:
    await put(store, "m3")
    await asyncio.gather(*(store.accept(make(f"m{n}"), BODY, deadline=soon()) for n in range(8)))
    assert len(await store.list_entries(Filter(), limit=10)) == 8


async def test_past_its_deadline_nothing_is_stored(store: MessageStore) -> None:
    with pytest.raises(StoreUnavailable):
        await store.accept(make("m1"), BODY, deadline=soon(-1))
    assert await store.find("m1") is None


async def test_what_was_tried_before_waits_for_its_next_try(kind: StoreKind) -> None:
    await kind.store.accept(make("m1"), BODY, deadline=soon(), retry_s=300, last_error="refused")
    entry = await find(kind.store, "m1")
    assert (entry.state, entry.attempts, entry.last_error) == (State.DEFERRED, 1, "refused")
    assert entry.next_try_s == pytest.approx(300, abs=2)
    assert await claim(kind.store, await kind.store.enter("w")) == []
    await kind.wait(300)
    assert ids(await claim(kind.store, await kind.store.enter("w"))) == ["m1"]


async def test_accepted_with_an_owner_is_a_claim_that_has_begun(kind: StoreKind) -> None:
    epoch, other = await kind.store.enter("w"), await kind.store.enter("other")
    owned = await kind.store.accept(make("m1"), BODY, deadline=soon(), owner=epoch)
    assert owned is not None
    assert (await find(kind.store, "m1")).state is State.ACTIVE
    assert await claim(kind.store, other) == []
    await kind.store.settle(owned, DONE)
    assert await kind.store.find("m1") is None
    assert await kind.store.open_body("m1") is None


async def test_in_doubt_is_a_state_while_its_worker_lives(kind: StoreKind) -> None:
    epoch = await kind.store.enter("w")
    await kind.store.accept(make("m1"), BODY, deadline=soon(), owner=epoch, is_in_doubt=True)
    assert (await find(kind.store, "m1")).state is State.IN_DOUBT
    await kind.store.leave(epoch)
    assert (await find(kind.store, "m1")).state is State.DEFERRED


async def test_mark_in_doubt_shows_it(store: MessageStore) -> None:
    epoch = await store.enter("w")
    await put(store, "m1")
    claimed = await claim_one(store, epoch)
    await store.begin(claimed)
    await store.mark_in_doubt(claimed)
    assert (await find(store, "m1")).state is State.IN_DOUBT
    await store.settle(claimed, DONE)


async def test_no_entry_is_claimed_twice(store: MessageStore) -> None:
    await asyncio.gather(*(store.accept(make(f"m{n:03}"), BODY, deadline=soon()) for n in range(100)))
    epochs = [await store.enter(f"w{n}") for n in range(5)]

    async def claim_all(epoch: Epoch) -> list[str]:
        found: list[str] = []
        while more := ids(await claim(store, epoch, 7)):
            found += more
        return found

    found = [id for part in await asyncio.gather(*map(claim_all, epochs)) for id in part]
    while more := ids(await claim(store, epochs[0], 50)):  # what one passed over while another had it locked
        found += more
    assert sorted(found) == [f"m{n:03}" for n in range(100)]


async def test_a_claim_keeps_to_its_limit(store: MessageStore) -> None:
    await put(store, *(f"m{n}" for n in range(5)))
    epoch = await store.enter("w")
    assert len(await claim(store, epoch, 3)) == 3
    assert len(await claim(store, epoch, 3)) == 2


async def test_new_mail_goes_before_deferred_mail(kind: StoreKind) -> None:
    epoch = await kind.store.enter("w")
    for n in range(5):
        await kind.store.accept(make(f"a{n}"), BODY, deadline=soon(), retry_s=1, last_error="x")
    await kind.wait(2)
    await put(kind.store, *(f"b{n}" for n in range(4)))
    claimed = ids(await claim(kind.store, epoch, 4))
    assert sum(id.startswith("b") for id in claimed) >= 3


async def test_deferred_mail_has_its_share_beside_ever_more_new_mail(kind: StoreKind) -> None:
    epoch = await kind.store.enter("w")
    await kind.store.accept(make("old"), BODY, deadline=soon(), retry_s=1, last_error="x")
    await kind.wait(2)
    await put(kind.store, *(f"new{n:02}" for n in range(40)))
    claimed: list[str] = []
    for _ in range(10):
        claimed += ids(await claim(kind.store, epoch, 2))
    assert "old" in claimed


async def test_every_destination_has_its_turn(store: MessageStore) -> None:
    await asyncio.gather(*(store.accept(make(f"a{n:03}", destination="a"), BODY, deadline=soon()) for n in range(60)))
    await put(store, "z1", "z2", destination="z")
    epoch = await store.enter("w")
    assert {"z1", "z2"} <= set(ids(await claim(store, epoch, 10)))


async def test_turns_go_on_from_claim_to_claim(store: MessageStore) -> None:
    for destination in "abcd":
        await put(store, *(f"{destination}{n}" for n in range(3)), destination=destination)
    epoch = await store.enter("w")
    first = [id for _ in range(4) for id in ids(await claim(store, epoch, 1))]
    assert {id[0] for id in first} == set("abcd")


async def test_full_destinations_are_left_out(store: MessageStore) -> None:
    await put(store, "a1", destination="a")
    await put(store, "b1", destination="b")
    epoch = await store.enter("w")
    batch = await store.claim(epoch, 10, full=["a"])
    assert ids(list(batch.claims)) == ["b1"]


async def test_a_claim_tells_when_the_next_comes_due(kind: StoreKind) -> None:
    epoch = await kind.store.enter("w")
    assert (await kind.store.claim(epoch, 1)).next_due_s is None
    await kind.store.accept(make("m1"), BODY, deadline=soon(), retry_s=40, last_error="x")
    assert (await kind.store.claim(epoch, 1)).next_due_s == pytest.approx(40, abs=2)


async def test_an_expired_lease_lets_another_have_it(kind: StoreKind) -> None:
    store = kind.store
    await put(store, "m1")
    dead = await store.enter("dead")
    lost = await claim_one(store, dead)
    await kind.wait(LEASE_S + 1)
    other = await store.enter("other")
    taken = await claim_one(store, other)
    assert taken.entry.crashes == 0  # it had not begun
    for late in (store.begin(lost), store.settle(lost, DONE), store.mark_in_doubt(lost)):
        with pytest.raises(ClaimLost):
            await late
    assert (await find(store, "m1")).state is State.ACTIVE
    with pytest.raises(ClaimLost):
        await store.heartbeat(dead)
    with pytest.raises(ClaimLost):
        await store.claim(dead, 1)
    await store.settle(taken, DONE)


async def test_a_heartbeat_keeps_a_claim(kind: StoreKind) -> None:
    store = kind.store
    await put(store, "m1")
    epoch = await store.enter("w")
    claimed = await claim_one(store, epoch)
    other = await store.enter("other")
    for _ in range(4):
        await kind.wait(LEASE_S / 2)
        await store.heartbeat(epoch)
        await store.heartbeat(other)
    assert await claim(store, other) == []
    await store.settle(claimed, DONE)


async def test_a_settle_after_the_loss_stores_no_report(kind: StoreKind) -> None:
    store = kind.store
    await put(store, "m1")
    lost = await claim_one(store, await store.enter("dead"))
    await kind.wait(LEASE_S + 1)
    await claim(store, await store.enter("other"))
    with pytest.raises(ClaimLost):
        await store.settle(lost, Settlement(reports=[Report(make("dsn"), BODY)]))
    assert await store.find("dsn") is None


async def test_reports_come_with_the_settlement(store: MessageStore) -> None:
    await put(store, "m1")
    epoch = await store.enter("w")
    claimed = await claim_one(store, epoch)
    large = [b"x" * 70_000]
    await store.settle(claimed, Settlement(reports=[Report(make("dsn1"), BODY), Report(make("dsn2"), large)]))
    assert await store.find("m1") is None
    assert sorted(ids(await claim(store, epoch))) == ["dsn1", "dsn2"]
    pieces = await store.open_body("dsn2")
    assert isinstance(pieces, list | tuple)
    assert b"".join(pieces) == large[0]


async def test_handed_back_it_is_due_at_once_and_nothing_is_counted(store: MessageStore) -> None:
    await put(store, "m1")
    epoch = await store.enter("w")
    await store.hand_back(await claim_one(store, epoch))
    again = await claim_one(store, epoch)
    assert (again.entry.attempts, again.entry.crashes) == (0, 0)


async def test_leaving_hands_everything_back(store: MessageStore) -> None:
    await put(store, "m1", "m2")
    epoch = await store.enter("w")
    claimed = await claim(store, epoch)
    await store.begin(claimed[0])
    await store.leave(epoch)
    again = await claim(store, await store.enter("other"))
    assert sorted(ids(again)) == ["m1", "m2"]
    assert {claim.entry.crashes for claim in again} == {0}


async def crash(kind: StoreKind, *, begins: str) -> list[str]:
    """Let a worker claim all it can, begin one, and die; give what it had."""
    epoch = await kind.store.enter("dying")
    claimed: list[Claim] = []
    while more := await claim(kind.store, epoch, takes_suspect=True):
        claimed += more
    for one in claimed:
        if one.id == begins:
            await kind.store.begin(one)
    await kind.wait(LEASE_S + 1)
    return ids(claimed)


async def test_a_suspect_is_claimed_only_where_it_is_wanted_and_one_at_a_time(kind: StoreKind) -> None:
    store = kind.store
    await put(store, "m1", "m2", "ok")
    epoch = await store.enter("dying")
    for one in await claim(store, epoch):
        if one.id != "ok":
            await store.begin(one)
    await kind.wait(LEASE_S + 1)
    other = await store.enter("other")
    assert ids(await claim(store, other)) == ["ok"]
    first = await claim_one(store, other, takes_suspect=True)
    assert first.entry.crashes == 1
    second = await claim_one(store, other, takes_suspect=True)
    assert {first.id, second.id} == {"m1", "m2"}


async def test_a_poison_message_is_set_aside_and_its_neighbours_are_not(kind: StoreKind) -> None:
    store = kind.store
    await put(store, "poison", "neighbour")
    for _ in range(MAX_CRASHES):
        assert "poison" in await crash(kind, begins="poison")
    epoch = await store.enter("w")
    [neighbour] = await claim(store, epoch, takes_suspect=True)
    assert (neighbour.id, neighbour.entry.crashes) == ("neighbour", 0)
    entry = await find(store, "poison")
    assert (entry.state, entry.crashes, entry.next_try_s) == (State.SET_ASIDE, MAX_CRASHES, None)
    assert list(await store.change(["poison"], Change.RETRY)) == ["poison"]
    freed = await claim_one(store, epoch)
    assert (freed.id, freed.entry.crashes) == ("poison", 0)


async def test_an_attempt_that_ended_is_no_crash(kind: StoreKind) -> None:
    store = kind.store
    await put(store, "m1")
    epoch = await store.enter("w")
    for _ in range(MAX_CRASHES + 1):
        claimed = await claim_one(store, epoch)
        await store.begin(claimed)
        await store.settle(claimed, Settlement(owed=claimed.entry.envelope.recipients, retry_s=1))
        await kind.wait(2)
        await store.heartbeat(epoch)
    entry = await find(store, "m1")
    assert (entry.attempts, entry.crashes, entry.state) == (MAX_CRASHES + 1, 0, State.DEFERRED)


async def test_a_settlement_keeps_who_is_still_owed(kind: StoreKind) -> None:
    store = kind.store
    a, b = parse_mailbox("a@example.org"), parse_mailbox("b@example.org")
    both = (Recipient(a, a, destination="one"), Recipient(b, b, destination="two"))
    await store.accept(replace(make("m1"), recipients=both), BODY, deadline=soon())
    epoch = await store.enter("w")
    claimed = await claim_one(store, epoch)
    await store.begin(claimed)
    await store.settle(claimed, Settlement(owed=both[1:], retry_s=60, last_error="b: later", is_delay_told=True))
    entry = await find(store, "m1")
    assert entry.envelope.recipients == both[1:]
    assert entry.next_try_s == pytest.approx(60, abs=2)
    assert (entry.state, entry.last_error, entry.is_delay_told) == (State.DEFERRED, "b: later", True)
    await kind.wait(61)
    other = await store.enter("other")
    assert list((await store.claim(other, 10, full=["two"])).claims) == []
    assert ids(await claim(store, other)) == ["m1"]


async def test_told_delay_stays_told(kind: StoreKind) -> None:
    store = kind.store
    await put(store, "m1")
    epoch = await store.enter("w")
    for is_told in (True, False):
        claimed = await claim_one(store, epoch)
        owed = claimed.entry.envelope.recipients
        await store.settle(claimed, Settlement(owed=owed, is_delay_told=is_told))
    assert (await find(store, "m1")).is_delay_told


async def test_a_settlement_can_set_aside(store: MessageStore) -> None:
    await put(store, "m1")
    epoch = await store.enter("w")
    claimed = await claim_one(store, epoch)
    owed = claimed.entry.envelope.recipients
    await store.settle(claimed, Settlement(owed=owed, last_error="odd", is_set_aside=True))
    entry = await find(store, "m1")
    assert (entry.state, entry.last_error) == (State.SET_ASIDE, "odd")
    assert await claim(store, epoch) == []


@pytest.mark.parametrize("what", ["envelope", "recipients"])
async def test_a_corrupt_record_is_set_aside_and_the_others_go_on(kind: StoreKind, what: str) -> None:
    store = kind.store
    await put(store, "bad", "good")
    await kind.damage("bad", what)
    epoch = await store.enter("w")
    batch = await store.claim(epoch, 10)
    assert ids(list(batch.claims)) == ["good"]
    assert [corrupt.id for corrupt in batch.corrupt] == ["bad"]
    assert (await store.claim(epoch, 10)).corrupt == []
    assert isinstance(await store.find("bad"), Corrupt)
    listed = await store.list_entries(Filter(), limit=10)
    assert [entry.id for entry in listed if isinstance(entry, Corrupt)] == ["bad"]
    assert (await store.count()).messages[State.SET_ASIDE] == 1
    await store.change(["bad"], Change.RETRY)
    assert [corrupt.id for corrupt in (await store.claim(epoch, 10)).corrupt] == ["bad"]
    assert (await store.claim(epoch, 10)).corrupt == []
    assert list(await store.change(["bad"], Change.REMOVE)) == ["bad"]
    assert await store.find("bad") is None


async def test_a_corrupt_body_is_set_aside(kind: StoreKind) -> None:
    store = kind.store
    await put(store, "bad")
    await kind.damage("bad", "body")
    epoch = await store.enter("w")
    claimed = await claim_one(store, epoch)
    await store.begin(claimed)
    found = await store.open_body("bad")
    assert isinstance(found, Corrupt)
    assert (await find(store, "bad")).state is State.SET_ASIDE
    with pytest.raises(ClaimLost):
        await store.settle(claimed, DONE)


async def test_what_is_held_waits_for_its_release(store: MessageStore) -> None:
    await put(store, "m1")
    epoch = await store.enter("w")
    assert list(await store.change(["m1", "nobody"], Change.HOLD)) == ["m1"]
    assert (await find(store, "m1")).state is State.HELD
    assert await claim(store, epoch) == []
    assert list(await store.change(["m1"], Change.RETRY)) == []
    assert list(await store.change(["m1"], Change.RELEASE)) == ["m1"]
    assert list(await store.change(["m1"], Change.RELEASE)) == []
    assert ids(await claim(store, epoch)) == ["m1"]


@pytest.mark.parametrize("change", [Change.HOLD, Change.REMOVE])
async def test_the_operator_takes_a_claim_away(store: MessageStore, change: Change) -> None:
    await put(store, "m1")
    epoch = await store.enter("w")
    claimed = await claim_one(store, epoch)
    await store.begin(claimed)
    assert list(await store.change(["m1"], change)) == ["m1"]
    with pytest.raises(ClaimLost):
        await store.settle(claimed, DONE)


async def test_retry_makes_it_due_and_leaves_a_living_claim_alone(store: MessageStore) -> None:
    epoch = await store.enter("w")
    await store.accept(make("m1"), BODY, deadline=soon(), retry_s=300, last_error="x")
    assert list(await store.change(["m1"], Change.RETRY)) == ["m1"]
    claimed = await claim_one(store, epoch)
    assert list(await store.change(["m1"], Change.RETRY)) == []
    await store.settle(claimed, DONE)


async def test_lists_by_id_in_pages(store: MessageStore) -> None:
    await put(store, "m3", "m1", "m2")
    first = await store.list_entries(Filter(), limit=2)
    assert [entry.envelope.id for entry in first if isinstance(entry, Entry)] == ["m1", "m2"]
    rest = await store.list_entries(Filter(), limit=2, after="m2")
    assert [entry.envelope.id for entry in rest if isinstance(entry, Entry)] == ["m3"]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Filter(sender="A@x.Example"), ["m1", "m2"]),
        (Filter(sender="<>"), ["m3"]),
        (Filter(recipient="bob@Example.org"), ["m2"]),
        (Filter(domain="OTHER.example"), ["m3"]),
        (Filter(domain="x.example"), ["m1", "m2"]),
        (Filter(error="REFUSED"), ["m2"]),
        (Filter(state=State.HELD), ["m3"]),
        (Filter(state=State.NEW), ["m1"]),
        (Filter(min_age_s=50), ["m1"]),
        (Filter(sender="a@x.example", error="refused"), ["m2"]),
        (Filter(recipient="nobody@example.org"), []),
    ],
)
async def test_filters(kind: StoreKind, wanted: Filter, expected: list[str]) -> None:
    store = kind.store
    await store.accept(make("m1"), BODY, deadline=soon())
    await kind.wait(60)
    await store.accept(
        make("m2", "bob@example.org", "carol@example.org"), BODY, deadline=soon(), retry_s=9, last_error="was refused"
    )
    await store.accept(make("m3", "x@other.example", sender=None), BODY, deadline=soon())
    await store.change(["m3"], Change.HOLD)
    found = await store.list_entries(wanted, limit=10)
    assert [entry.envelope.id for entry in found if isinstance(entry, Entry)] == expected


async def test_counts_by_state(kind: StoreKind) -> None:
    store = kind.store
    epoch = await store.enter("w")
    assert (await store.count()).messages == dict.fromkeys(State, 0)
    assert (await store.count()).oldest_s == 0
    await put(store, "new")
    await kind.wait(3)
    await store.heartbeat(epoch)
    await store.accept(make("deferred"), BODY, deadline=soon(), retry_s=99, last_error="x")
    await store.accept(make("active"), BODY, deadline=soon(), owner=epoch)
    await store.accept(make("doubt"), BODY, deadline=soon(), owner=epoch, is_in_doubt=True)
    await put(store, "held1", "held2")
    await store.change(["held1", "held2"], Change.HOLD)
    found = await store.count()
    assert found.messages == {
        State.NEW: 1,
        State.DEFERRED: 1,
        State.ACTIVE: 1,
        State.IN_DOUBT: 1,
        State.HELD: 2,
        State.SET_ASIDE: 0,
    }
    assert found.size_bytes == 6 * sum(map(len, BODY))
    assert found.oldest_s == pytest.approx(3, abs=1)


async def test_says_when_something_came_due(kind: StoreKind) -> None:
    store = kind.store
    told = asyncio.Event()
    store.on_due(told.set)

    async def is_told() -> None:
        async with asyncio.timeout(5):
            await told.wait()
        told.clear()

    await put(store, "m1")
    await is_told()
    epoch = await store.enter("w")
    await store.hand_back(await claim_one(store, epoch))
    await is_told()
    await store.change(["m1"], Change.HOLD)
    told.clear()
    await store.change(["m1"], Change.RELEASE)
    await is_told()
    await claim(store, epoch)
    await store.leave(epoch)
    await is_told()


@pytest.mark.parametrize("seconds", [3600, -3600])
async def test_a_clock_that_jumps_neither_loses_a_claim_nor_makes_mail_wait(kind: StoreKind, seconds: float) -> None:
    store = kind.store
    await put(store, "m1")
    await store.accept(make("m2"), BODY, deadline=soon(), retry_s=30, last_error="x")
    epoch, other = await store.enter("w"), await store.enter("other")
    claimed = await claim_one(store, epoch)
    kind.jump(seconds)
    assert await claim(store, other) == []
    await store.settle(claimed, DONE)
    for _ in range(8):
        await kind.wait(LEASE_S - 1)
        await store.heartbeat(other)
    assert ids(await claim(store, other)) == ["m2"]


async def test_a_store_that_fails_says_so_and_takes_mail_again_when_it_works(kind: StoreKind) -> None:
    store = kind.store
    epoch = await store.enter("w")
    assert store.unhealthy_reason() is None
    await kind.break_down()
    with pytest.raises(StoreUnavailable):
        await store.accept(make("m1"), BODY, deadline=soon(3))
    assert store.unhealthy_reason() is not None
    await kind.recover()
    try:
        await store.heartbeat(epoch)
    except ClaimLost:
        epoch = await store.enter("again")
    await put(store, "m2")
    assert store.unhealthy_reason() is None
    assert ids(await claim(store, epoch)) == ["m2"]
