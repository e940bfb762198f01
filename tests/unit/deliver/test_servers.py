"""Several servers of one backend: whose user is whose, who steps in, and when a server is taken for down."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

from mailflow.deliver.mailbox import LmtpBackend
from mailflow.mail.address import parse_mailbox
from mailflow.mail.envelope import Envelope, Recipient
from mailflow.mail.handoff import DeliveryStatus, FinalDot, Outcome, RecipientStatus
from mailflow.mail.subaddress import split_detail
from mailflow.observe.nursery import Nursery
from mailflow.smtp.lmtp_connect import parse_server
from tests.lmtp_server import LmtpTestServer, close, late, say, silent

USERS = [f"user{number}@example.org" for number in range(30)]
BODY = [b"Message-ID: m\r\n\r\nx\r\n"]
DELIVERED = DeliveryStatus.DELIVERED

Make = Callable[..., LmtpBackend]


@pytest.fixture
def make(nursery: Nursery) -> Make:
    """Make a backend of several servers."""

    def make(*servers: object, **options: object) -> LmtpBackend:
        addresses = [parse_server(str(server)) for server in servers]
        return LmtpBackend("m", addresses, hostname="mx.example.org", nursery=nursery, **options)  # type: ignore[arg-type]

    return make


@contextlib.asynccontextmanager
async def three() -> AsyncIterator[list[LmtpTestServer]]:
    """Three servers that know everybody."""
    async with LmtpTestServer() as one, LmtpTestServer() as two, LmtpTestServer() as three:
        yield [one, two, three]


async def deliver(backend: LmtpBackend, user: str) -> Outcome:
    address = parse_mailbox(user)
    (outcome,) = await backend.deliver(
        Envelope("m", None, (Recipient(address, address),), is_smtputf8=False), BODY, FinalDot()
    )
    return outcome


async def deliver_to_all(backend: LmtpBackend, users: list[str], dot: FinalDot | None = None) -> list[Outcome]:
    addresses = map(parse_mailbox, users)
    envelope = Envelope("m", None, tuple(Recipient(address, address) for address in addresses))
    return await backend.deliver(envelope, BODY, dot or FinalDot())


def owners(servers: list[LmtpTestServer]) -> dict[str, int]:
    """Which server has each recipient's mail; fails where two have."""
    found: dict[str, int] = {}
    for number, server in enumerate(servers):
        for message in server.messages:
            for recipient in message.recipients:
                assert found.setdefault(recipient, number) == number
    return found


def first_user_of(servers: list[LmtpTestServer], number: int) -> str:
    return next(user for user, owner in owners(servers).items() if owner == number)


async def test_a_user_stays_on_his_server_and_all_servers_have_users(make: Make) -> None:
    async with three() as servers:
        backend = make(*servers)
        for user in [*USERS, *USERS]:
            assert (await deliver(backend, user)).status is DELIVERED
        assert min(Counter(owners(servers).values()).values()) >= 3
        before = owners(servers)
        other = make(*reversed(servers))  # another worker, another order in its file
        for user in USERS:
            assert (await deliver(other, user)).status is DELIVERED
        assert owners(servers) == before


async def test_a_detail_and_upper_case_change_no_server(make: Make) -> None:
    async with three() as servers:
        backend = make(*servers, user_of=lambda address: split_detail(address, "+")[0])
        for user in USERS[:10]:
            for form in (user, user.upper().replace("EXAMPLE.ORG", "example.org"), user.replace("@", "+list@")):
                assert (await deliver(backend, form)).status is DELIVERED
        by_user = {recipient.lower().replace("+list", ""): number for recipient, number in owners(servers).items()}
        assert all(by_user[r.lower().replace("+list", "")] == n for r, n in owners(servers).items())


async def test_the_next_server_steps_in_and_the_circuit_opens_and_closes(make: Make, nursery: Nursery) -> None:
    changes: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()
    failures: list[str] = []
    async with three() as servers:
        backend = make(
            *servers,
            on_circuit=lambda name, server, is_open: changes.put_nowait((server, is_open)),
            on_failure=lambda name, server: failures.append(server),
        )
        assert [changes.get_nowait()[1] for _ in servers] == [False] * 3
        for user in USERS:
            await deliver(backend, user)
        victim = servers[0]
        user = first_user_of(servers, 0)
        victim.at["CONNECT"] = close()
        victim.at["MAIL"] = close()
        for _ in range(5):
            assert (await deliver(backend, user)).status is DELIVERED
        assert changes.get_nowait() == (str(victim), True)
        assert failures == [str(victim)] * 3, "an open circuit is not tried again"
        victim.at.clear()
        async with asyncio.timeout(10):
            assert await changes.get() == (str(victim), False)
        count = len(victim.messages)
        assert (await deliver(backend, user)).status is DELIVERED
        assert len(victim.messages) == count + 1, "the user is back on his server"
        await backend.close()


async def test_a_silent_server_takes_its_share_of_the_deadline_only(make: Make) -> None:
    async with three() as servers:
        backend = make(*servers, handoff_deadline_s=1.5)
        for user in USERS:
            await deliver(backend, user)
        servers[1].at["MAIL"] = silent()
        user = first_user_of(servers, 1)
        began = asyncio.get_running_loop().time()
        assert (await deliver(backend, user)).status is DELIVERED
        assert 0.4 < asyncio.get_running_loop().time() - began < 1.4


async def test_no_other_server_is_asked_after_the_final_dot(make: Make) -> None:
    async with three() as servers:
        backend = make(*servers)
        for user in USERS:
            await deliver(backend, user)
        user = first_user_of(servers, 2)
        count = [len(server.messages) for server in servers]
        servers[2].at["DOT"] = close()
        assert (await deliver(backend, user)).status is DeliveryStatus.IN_DOUBT
        assert [len(s.messages) for s in servers[:2]] == count[:2]


async def test_a_refusal_is_an_answer_and_opens_no_circuit(make: Make) -> None:
    failures: list[str] = []
    async with three() as servers:
        backend = make(*servers, on_failure=lambda name, server: failures.append(server))
        for server in servers:
            server.at["RCPT"] = say("550 5.1.1 unknown")
        for user in USERS:
            assert (await deliver(backend, user)).reply.code == 550
        for server in servers:
            server.at["RCPT"] = say("450 4.2.0 later")
        for user in USERS:
            assert (await deliver(backend, user)).reply.code == 450
        assert failures == []


async def test_with_every_server_down_the_answer_is_immediate(make: Make) -> None:
    async with three() as servers:
        backend = make(*servers, handoff_deadline_s=3)
        for server in servers:
            server.at["CONNECT"] = close()
        for user in USERS[:6]:
            assert (await deliver(backend, user)).status is DeliveryStatus.DEFERRED
        began = asyncio.get_running_loop().time()
        outcome = await deliver(backend, USERS[0])
        assert (outcome.status, outcome.detail) == (DeliveryStatus.DEFERRED, "every server is down")
        assert asyncio.get_running_loop().time() - began < 0.2
        await backend.close()


async def test_verification_fails_over_too(make: Make) -> None:
    async with three() as servers:
        backend = make(*servers)
        servers[0].at["CONNECT"] = close()
        for user in USERS:
            assert (await backend.verify(parse_mailbox(user), is_smtputf8=False)).status is RecipientStatus.GOOD
        await backend.close()


# Several recipients of one message.


def names_in(outcomes: list[Outcome]) -> list[str]:
    """Whom the server named in each answer: the test server's says who has the message."""
    return [outcome.detail.partition("<")[2].partition(">")[0] for outcome in outcomes]


async def test_each_server_gets_one_transaction_with_its_own_users(make: Make) -> None:
    async with three() as servers:
        backend = make(*servers)
        for user in USERS:
            await deliver(backend, user)
        before = owners(servers)
        for server in servers:
            server.messages.clear()
        outcomes = await deliver_to_all(backend, USERS)
        assert names_in(outcomes) == USERS, "one outcome each, in the envelope's order"
        assert {(o.status, o.server) for o in outcomes} == {(DELIVERED, str(server)) for server in servers}
        assert owners(servers) == before
        assert [len(server.messages) for server in servers] == [1, 1, 1]


async def test_the_transactions_of_several_servers_run_side_by_side(make: Make) -> None:
    async with three() as servers:
        backend = make(*servers)
        for server in servers:
            server.at["MAIL"] = late()
        delivery = asyncio.create_task(deliver_to_all(backend, USERS))
        for server in servers:
            await server.reached("MAIL")
        for server in servers:
            server.release.set()
        assert {outcome.status for outcome in await delivery} == {DELIVERED}


async def test_users_of_a_server_that_fails_go_each_to_their_own_next_one(make: Make) -> None:
    async with three() as servers:
        backend = make(*servers)
        for user in USERS:
            await deliver(backend, user)
        before = owners(servers)
        servers[0].at["MAIL"] = close()
        for server in servers:
            server.messages.clear()
        outcomes = await deliver_to_all(backend, USERS)
        assert names_in(outcomes) == USERS
        after = owners(servers)
        assert {user: after[user] for user in USERS if before[user]} == {u: n for u, n in before.items() if n}
        assert {after[user] for user in USERS if not before[user]} == {1, 2}


async def test_one_servers_fault_is_nothing_to_the_users_of_the_others(make: Make) -> None:
    async with three() as servers:
        backend = make(*servers, reply_timeout_s=0.3)
        for user in USERS:
            await deliver(backend, user)
        before = owners(servers)
        servers[0].at["DOT"] = close()
        servers[1].at["DOT"] = silent()
        outcomes = dict(zip(USERS, await deliver_to_all(backend, USERS), strict=True))
        for user, outcome in outcomes.items():
            assert outcome.status is (DELIVERED if before[user] == 2 else DeliveryStatus.IN_DOUBT)
            assert outcome.server == str(servers[before[user]])


async def test_with_every_server_down_every_recipient_is_deferred(make: Make) -> None:
    async with three() as servers:
        backend = make(*servers, handoff_deadline_s=3)
        for server in servers:
            server.at["CONNECT"] = close()
        dot = FinalDot()
        outcomes = await deliver_to_all(backend, USERS, dot)
        assert [outcome.status for outcome in outcomes] == [DeliveryStatus.DEFERRED] * len(USERS)
        assert not dot.has_left
        await backend.close()


async def test_a_final_dot_that_may_not_leave_leaves_at_no_server(make: Make) -> None:
    async with three() as servers:
        outcomes = await deliver_to_all(make(*servers), USERS, FinalDot(lambda: False))
        assert {(o.status, o.detail) for o in outcomes} == {(DeliveryStatus.DEFERRED, "the final dot was withheld")}
        for server in servers:
            await server.reached("CLOSED")
            assert server.messages == []


async def test_cancelled_each_server_is_left_or_heard_as_far_as_it_has_come(make: Make, nursery: Nursery) -> None:
    heard: list[str] = []
    async with three() as servers:
        backend = make(*servers, on_handoff=lambda backend, outcome, seconds: heard.append(outcome))
        servers[0].at["DATA"] = late()
        servers[1].at["DOT"] = servers[2].at["DOT"] = late()
        delivery = asyncio.create_task(deliver_to_all(backend, USERS))
        for server, stage in zip(servers, ("DATA", "DOT", "DOT"), strict=True):
            await server.reached(stage)
        delivery.cancel()
        await asyncio.wait([delivery])
        assert delivery.cancelled()
        for server in servers:
            server.release.set()
        assert await nursery.wait_empty(5)
        await servers[0].reached("CLOSED")
        assert servers[0].messages == []
        assert heard == ["delivered"] * len(owners(servers))


async def test_a_hundred_recipients_are_the_most_of_one_transaction(make: Make) -> None:
    users = [f"user{number}@example.org" for number in range(250)]
    async with LmtpTestServer() as server:
        assert names_in(await deliver_to_all(make(server), users)) == users
        assert sorted(len(message.recipients) for message in server.messages) == [50, 100, 100]


async def test_a_recipient_that_needs_smtputf8_costs_the_others_nothing(make: Make) -> None:
    async with LmtpTestServer(capabilities=["PIPELINING"]) as server:
        outcomes = await deliver_to_all(make(server), ["a@x.org", "jörg@x.org", "b@x.org"])
        assert [(o.reply.code, o.reply.enhanced) for o in outcomes] == [
            (250, "2.0.0"),
            (550, "5.6.7"),
            (250, "2.0.0"),
        ]
        assert outcomes[1].remote_reply is None, "the server was not asked"
