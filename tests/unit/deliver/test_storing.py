import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from mailflow.deliver.storing import StoringHandoff
from mailflow.deliver.tenure import Tenure
from mailflow.mail.envelope import Envelope
from mailflow.mail.handoff import DeliveryStatus, Outcome
from mailflow.observe.nursery import Nursery
from mailflow.store import Claim, Entry, State, Unhealthy
from mailflow.testing import FakeClock, MemoryStore
from tests.unit.deliver.stored_mail import BODY, DOUBT, LATER, NEVER, Mailboxes, make_envelope

FIRST_RETRY_S = 300.0


@dataclass
class Courier:
    """Keeps what it is given."""

    has_time: bool = True
    expected_s: float = 0.0
    taken: list[str] = field(default_factory=list)
    adopted: list[tuple[Claim, "asyncio.Task[list[Outcome]]"]] = field(default_factory=list)

    def has_room(self, destination: str, size_bytes: int) -> bool:
        return self.has_time

    def take(self, claim: Claim, body: Sequence[bytes]) -> None:
        self.taken.append(claim.id)

    def expect(self, seconds: float) -> None:
        self.expected_s = seconds

    def adopt(self, claim: Claim, body: Sequence[bytes], delivery: "asyncio.Task[list[Outcome]]") -> None:
        self.adopted.append((claim, delivery))


@dataclass
class Site:
    """A hand-off with all that is around it."""

    store: MemoryStore
    mailboxes: Mailboxes
    courier: Courier
    handoff: StoringHandoff

    async def deliver(self, envelope: Envelope) -> Outcome:
        outcomes = await self.handoff.deliver(envelope, BODY)
        assert len(outcomes) == len(envelope.recipients)
        return outcomes[0]

    async def entry(self, id: str) -> Entry:
        found = await self.store.find(id)
        assert isinstance(found, Entry)
        return found


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    clock = FakeClock()
    nursery = Nursery()
    store, mailboxes, courier = MemoryStore(clock=clock, lease_s=60), Mailboxes(), Courier()
    tenure = Tenure(store, "worker", lease_s=60, nursery=nursery, clock=clock)
    await tenure.start()
    handoff = StoringHandoff(
        mailboxes,
        store,
        tenure,
        courier,
        max_recipients=100,
        find_first_retry_s=lambda: FIRST_RETRY_S,
        nursery=nursery,
    )
    yield Site(store, mailboxes, courier, handoff)
    await nursery.cancel_all()


async def test_what_the_mailbox_confirms_is_never_stored(site: Site) -> None:
    assert (await site.deliver(make_envelope("m1"))).status is DeliveryStatus.DELIVERED
    assert await site.store.find("m1") is None


async def test_a_refusal_of_the_mailbox_is_the_clients_to_hear(site: Site) -> None:
    site.mailboxes.answers["alice@example.org"] = NEVER
    assert await site.deliver(make_envelope("m1")) == NEVER
    assert await site.store.find("m1") is None


@pytest.mark.parametrize("outcome", [LATER, DOUBT])
async def test_what_does_not_work_now_is_stored_and_tried_again_later(site: Site, outcome: Outcome) -> None:
    site.mailboxes.answers["alice@example.org"] = outcome
    assert (await site.deliver(make_envelope("m1"))).status is DeliveryStatus.STORED
    entry = await site.entry("m1")
    assert entry.state is State.DEFERRED
    assert entry.next_try_s == pytest.approx(FIRST_RETRY_S, abs=1)
    assert entry.last_error == outcome.detail
    assert site.courier.expected_s == FIRST_RETRY_S
    body = await site.store.open_body("m1")
    assert isinstance(body, list)
    assert b"".join(body) == b"".join(BODY)


async def test_several_recipients_are_committed_before_anything_is_delivered(site: Site) -> None:
    outcome = await site.deliver(make_envelope("m1", "alice@example.org", "bob@example.org"))
    assert outcome.status is DeliveryStatus.STORED
    assert site.mailboxes.delivered == []
    assert site.courier.taken == ["m1"]
    assert (await site.entry("m1")).state is State.ACTIVE


async def test_without_room_to_begin_the_message_waits_in_the_store(site: Site) -> None:
    site.courier.has_time = False
    await site.deliver(make_envelope("m1", "alice@example.org", "bob@example.org"))
    assert site.courier.taken == []
    assert (await site.entry("m1")).state is State.NEW


async def test_a_backend_that_does_not_get_to_its_dot_in_time_is_given_up(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailflow.deliver.watch.GRACE_S", 0.0)
    site.mailboxes.waits_before = True
    assert (await site.deliver(make_envelope("m1"))).status is DeliveryStatus.STORED
    site.mailboxes.release.set()
    assert site.mailboxes.delivered == []
    assert (await site.entry("m1")).state is State.DEFERRED


async def test_a_late_answer_finds_the_message_stored_in_doubt_and_ours(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailflow.deliver.watch.GRACE_S", 0.0)
    site.mailboxes.waits_behind = True
    assert (await site.deliver(make_envelope("m1"))).status is DeliveryStatus.STORED
    assert (await site.entry("m1")).state is State.IN_DOUBT
    [(claim, delivery)] = site.courier.adopted
    assert claim.id == "m1"
    site.mailboxes.release.set()
    [outcome] = await delivery
    assert outcome.status is DeliveryStatus.DELIVERED


@pytest.mark.parametrize(("is_full", "reply"), [(True, "452 4.3.1"), (False, "451 4.3.0")])
async def test_what_cannot_be_stored_stays_with_the_client(site: Site, is_full: bool, reply: str) -> None:
    site.store.break_down(Unhealthy("gone", is_full=is_full))
    outcome = await site.deliver(make_envelope("m1", "alice@example.org", "bob@example.org"))
    assert outcome.status is DeliveryStatus.DEFERRED
    assert str(outcome.reply).startswith(reply)
    site.store.recover()
    assert await site.store.find("m1") is None


async def test_a_client_that_goes_does_not_cut_the_handoff_in_two(site: Site) -> None:
    site.mailboxes.waits_before = True
    site.mailboxes.deadline_s = 5
    session = asyncio.create_task(site.deliver(make_envelope("m1")))
    await site.mailboxes.begun.wait()
    session.cancel()
    await asyncio.wait({session})
    site.mailboxes.release.set()
    async with asyncio.timeout(1):
        await site.mailboxes.ended.wait()
    assert site.mailboxes.delivered == ["m1 alice@example.org"]
