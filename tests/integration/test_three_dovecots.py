"""Three real Dovecots behind one backend, one dead and one silent: mail flows, and the third's users notice nothing."""

import asyncio
import contextlib
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.dovecot_server import MANY, Dovecot, run_dovecot
from tests.integration.mail_client import MailClient
from tests.integration.mailflow_process import MailflowProcess, route

CIRCUIT = "mailflow_backend_circuit_open"
ROUNDS = 5

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def dovecots() -> Iterator[list[Dovecot]]:
    """Each with every user, and with mailboxes of its own."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(run_dovecot()) for _ in range(3)]


async def deliver(client: MailClient, user: str, token: str) -> float:
    """Deliver one message; give the seconds it took."""
    began = time.monotonic()
    reply = await client.deliver(user, token)
    assert reply.startswith("250 2.0.0 "), (user, reply)
    return time.monotonic() - began


async def copies(dovecots: list[Dovecot], user: str) -> list[int]:
    """How many messages of a user lie at each server; a frozen or dead one is not asked."""
    return [len(await asyncio.to_thread(dovecot.mail, user)) for dovecot in dovecots]


async def test_mail_flows_past_a_dead_and_a_silent_server(
    tmp_path: Path, dovecots: list[Dovecot], capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {"handoff_deadline_s": 3.0, "connect_timeout_s": 2.0, "reply_timeout_s": 20.0}
    config = route("example.org", lmtp=[dovecot.server for dovecot in dovecots], **keys)
    async with MailflowProcess(tmp_path, config=config, mx="max_connections_per_client = 1000") as mailflow:
        clients = {user: await MailClient.greeted(mailflow.mx_port) for user in MANY}
        for turn in range(2):
            await asyncio.gather(*(deliver(clients[user], user, f"well-{turn}") for user in MANY))
        homes = {}
        for user in MANY:
            found = await copies(dovecots, user)
            assert sorted(found) == [0, 0, 2], "a user stays on his server"
            homes[user] = found.index(2)
        assert set(homes.values()) == {0, 1, 2}
        third = [user for user in MANY if homes[user] == 2]
        in_peace = [seconds for turn in range(ROUNDS) for user in third for seconds in [await deliver(
            clients[user], user, f"peace-{turn}")]]  # fmt: skip

        await asyncio.to_thread(dovecots[0].kill)
        dovecots[1].freeze()

        async def keep_delivering(user: str) -> list[float]:
            return [await deliver(clients[user], user, f"trouble-{turn}") for turn in range(ROUNDS)]

        took = dict(zip(MANY, await asyncio.gather(*map(keep_delivering, MANY)), strict=True))
        others = [seconds for user in third for seconds in took[user]]
        with capsys.disabled():
            print(
                f"\n  {len(third)} users of the healthy server, worst of {len(others)} messages:"
                f" {max(others) * 1000:.0f} ms (in peace {max(in_peace) * 1000:.0f} ms,"
                f" median {statistics.median(in_peace) * 1000:.1f} ms);"
                f" worst of all others {max(max(t) for t in took.values()):.2f} s"
            )
        assert max(others) < 0.5, "no user of a healthy server waits for another's"
        assert max(max(t) for t in took.values()) < 3.5

        for number, is_open in ((0, 1), (1, 1), (2, 0)):
            assert await mailflow.metric(CIRCUIT, server=dovecots[number].server) == is_open
        assert len(mailflow.named("backend_down")) == 2

        dovecots[1].thaw()
        await asyncio.to_thread(dovecots[0].start)
        for number in (0, 1):
            await mailflow.wait_event("backend_up", server=dovecots[number].server)
        assert await mailflow.metric(CIRCUIT) == 0
        for user in MANY:
            before = (await copies(dovecots, user))[homes[user]]
            await deliver(clients[user], user, "after")
            assert (await copies(dovecots, user))[homes[user]] == before + 1, "the user is back on his server"
