"""A real Dovecot that is stopped, frozen or killed: the mail waits at its sender, and no one else notices.

A recipient that was good before is accepted at RCPT from memory; the message itself is 451 until Dovecot is back.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.dovecot_server import Dovecot, run_dovecot
from tests.integration.mail_client import MailClient, content
from tests.integration.mailflow_process import MailflowProcess, route

ALICE, BOB = "alice@example.org", "bob@example.org"
NEIGHBOUR = "somebody@elsewhere.example"
DELIVERED = "250 2.0.0 Ok "
KILLS = 5


@pytest.fixture
def dovecot() -> Iterator[Dovecot]:
    """One that the test may harm."""
    with run_dovecot() as server:
        yield server


@contextlib.asynccontextmanager
async def run_mailflow(folder: Path, dovecot: Dovecot, **keys: object) -> AsyncIterator[MailflowProcess]:
    """Serve example.org by Dovecot, with deadlines of about a second, and elsewhere.example by a Maildir."""
    keys = {"connect_timeout_s": 0.5, "handoff_deadline_s": 1.0, "reply_timeout_s": 2.0, "connections": 3} | keys
    config = route("example.org", lmtp=[dovecot.server], **keys)
    config += route("elsewhere.example", maildir="mail", create=True)
    async with MailflowProcess(folder, config=config) as mailflow:
        yield mailflow


async def until(ask: Callable[[], Awaitable[str]], expected: str) -> None:
    """Ask again and again until the reply begins as expected: when the far end is back is nobody's event."""
    async with asyncio.timeout(20):
        while not (await ask()).startswith(expected):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_stopped_dovecot_defers_and_known_recipients_are_accepted_from_memory(
    tmp_path: Path, dovecot: Dovecot
) -> None:
    async with run_mailflow(tmp_path, dovecot) as mailflow:
        client = await MailClient.greeted(mailflow.mx_port)
        assert (await client.deliver(ALICE, "before")).startswith(DELIVERED)
        await asyncio.to_thread(dovecot.stop)

        assert await client.begin(ALICE) == ""
        client.send(content("refused") + b".\r\n")
        assert (await client.reply()).startswith("451 4.4.1 ")
        assert (await client.ask(BOB)).startswith("451 4.4.1 ")
        assert (await client.deliver(NEIGHBOUR, "neighbour")).startswith(DELIVERED)

        await asyncio.to_thread(dovecot.start)
        assert (await client.deliver(ALICE, "refused")).startswith(DELIVERED)
        await until(lambda: client.ask(BOB), "250 ")
        mail = await asyncio.to_thread(dovecot.mail)
        assert [mail.count(b"Message-ID: <refused@") for mail in mail] == [0, 1]
        assert mailflow.named("message", action="defer", outcome="deferred") != []


async def test_frozen_dovecot_defers_within_the_deadline_while_other_sessions_go_on(
    tmp_path: Path, dovecot: Dovecot
) -> None:
    async with run_mailflow(tmp_path, dovecot) as mailflow:
        clients = [await MailClient.greeted(mailflow.mx_port) for _ in range(6)]
        other = await MailClient.greeted(mailflow.mx_port)
        assert (await clients[0].deliver(ALICE, "before")).startswith(DELIVERED)
        dovecot.freeze()
        loop = asyncio.get_running_loop()
        started = loop.time()
        # More than there are connections: some of these only wait for one.
        waiting = [asyncio.create_task(client.deliver(ALICE, f"frozen{n}")) for n, client in enumerate(clients)]
        assert (await other.deliver(NEIGHBOUR, "neighbour")).startswith(DELIVERED)
        assert (await other.command("NOOP")).startswith("250 ")
        assert not any(task.done() for task in waiting)
        assert {reply[:9] for reply in await asyncio.gather(*waiting)} == {"451 4.4.1"}
        assert loop.time() - started < 3.0
        assert (await other.ask(BOB)).startswith("451 4.4.1 ")

        dovecot.thaw()
        await mailflow.wait_event("backend_up")  # three failures in a row had opened its circuit
        replies = await asyncio.gather(*(c.deliver(ALICE, f"frozen{n}") for n, c in enumerate(clients)))
        assert [reply for reply in replies if not reply.startswith(DELIVERED)] == []
        await until(lambda: other.ask(BOB), "250 ")
        # None of the attempts that were told 451 had sent its final dot, so there is one copy of each.
        mail = b"".join(await asyncio.to_thread(dovecot.mail))
        assert [mail.count(b"Message-ID: <frozen%d@" % n) for n in range(6)] == [1] * 6


async def test_nothing_confirmed_is_lost_when_dovecot_is_killed_again_and_again(
    tmp_path: Path, dovecot: Dovecot
) -> None:
    async with run_mailflow(tmp_path, dovecot) as mailflow:
        await (await MailClient.greeted(mailflow.mx_port)).deliver(ALICE, "first")
        replies: dict[str, list[str]] = {}
        is_over = asyncio.Event()

        async def send_on(number: int) -> None:
            client = await MailClient.greeted(mailflow.mx_port)
            count = 0
            while not is_over.is_set():
                token, count = f"kill-{number}-{count}.", count + 1
                heard = replies[token] = [await client.deliver(ALICE, token, b"line\r\n" * 10_000)]
                while not heard[-1].startswith(DELIVERED):
                    await asyncio.sleep(0.02)
                    heard.append(await client.deliver(ALICE, token, b"line\r\n" * 10_000))

        async with asyncio.TaskGroup() as senders:
            for number in range(5):
                senders.create_task(send_on(number))
            for _ in range(KILLS):
                await mailflow.wait_event("message", count=len(mailflow.named("message")) + 25)
                await asyncio.to_thread(dovecot.kill)
                await mailflow.wait_event("message", count=len(mailflow.named("message", action="defer")) + 1)
                await asyncio.to_thread(dovecot.start)
            is_over.set()

        mail = b"".join(await asyncio.to_thread(dovecot.mail))
    copies = {token: mail.count(f"Message-ID: <{token}@".encode()) for token in replies}
    assert [token for token in replies if copies[token] == 0] == []
    # A copy too many is Dovecot's: it saved the message and died without a word, or with "421 Shutting down".
    unconfirmed = {
        token: sum(reply.startswith(("451 4.4.2 ", "451 4.4.0 ")) for reply in heard)
        for token, heard in replies.items()
    }
    assert {token: (n, replies[token]) for token, n in copies.items() if n > 1 + unconfirmed[token]} == {}
    heard = {reply[:9] for replies_to_one in replies.values() for reply in replies_to_one}
    assert heard <= {"250 2.0.0", "451 4.4.0", "451 4.4.1", "451 4.4.2"}
    assert "451 4.4.1" in heard


async def test_dovecot_killed_inside_a_message_defers_it_and_takes_it_once_it_is_back(
    tmp_path: Path, dovecot: Dovecot
) -> None:
    async with run_mailflow(tmp_path, dovecot) as mailflow:
        client = await MailClient.greeted(mailflow.mx_port)
        assert (await client.deliver(ALICE, "before")).startswith(DELIVERED)
        assert await client.begin(ALICE) == ""
        message = content("inside", b"line\r\n" * 50_000)
        client.send(message[:100_000])
        await asyncio.to_thread(dovecot.kill)
        client.send(message[100_000:] + b".\r\n")
        assert (await client.reply()).startswith("451 4.4.1 ")
        await asyncio.to_thread(dovecot.start)
        assert (await client.deliver(ALICE, "inside", b"line\r\n" * 50_000)).startswith(DELIVERED)
        [delivered] = await asyncio.to_thread(dovecot.mail_with, b"<inside@")
    assert delivered.endswith(message)
