"""The store of a running service: what is deferred, in doubt, shared; the queue command; a database that goes away."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.integration.mail_client import SENDER, MailClient, content
from tests.integration.mailflow_process import ROOT, MailflowProcess
from tests.lmtp_server import LmtpTestServer, late, once, say
from tests.postgres_server import PostgresServer

LEASE_S = 5
CONFIG = """\
[store]
url = "{url}"
first_retry_s = 1
lease_s = 5

[[backend]]
name = "mailbox"
lmtp = ["{server}"]
handoff_deadline_s = 1

[[route]]
domains = ["one.example"]
backend = "mailbox"
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/queue.db"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.new_database()


async def send(client: MailClient, token: str, recipients: Sequence[str]) -> str:
    """Send a message to several recipients; give the reply to its final dot."""
    assert (await client.command(f"MAIL FROM:<{SENDER}>")).startswith("250 ")
    for recipient in recipients:
        assert (await client.command(f"RCPT TO:<{recipient}>")).startswith("250 ")
    assert (await client.command("DATA")).startswith("354 ")
    client.send(content(token) + b".\r\n")
    return await client.reply()


class Restart:
    """Starts a server that a test killed, once, at the latest where the test ends."""

    def __init__(self, server: PostgresServer) -> None:
        self._server: PostgresServer | None = server

    def close(self) -> None:
        """Start it."""
        server, self._server = self._server, None
        if server is not None:
            server.start()


async def becomes(mailflow: MailflowProcess, status: int) -> None:
    """Wait until /readyz says so. Nobody tells: a kubelet asks again and again too."""
    for _ in range(60):
        if (await mailflow.get("/readyz"))[0] == status:
            return
        await asyncio.sleep(0.5)
    raise AssertionError(f"/readyz never became {status}")


async def queue(folder: Path, *arguments: str) -> tuple[int, Any]:
    """Run `mailflow queue … --json`; give its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mailflow", "queue", *arguments, "--json", "-c", str(folder / "mailflow.toml")),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAILFLOW_")},
    )  # fmt: skip
    out, _ = await process.communicate()
    return process.returncode or 0, json.loads(out) if out else None


async def test_what_a_mailbox_defers_is_stored_and_delivered_later(tmp_path: Path, url: str) -> None:
    async with LmtpTestServer() as server:
        server.at["DOT"] = once(say("451 4.3.0 not now"))
        async with MailflowProcess(tmp_path, config=CONFIG.format(url=url, server=server)) as mailflow:
            client = await MailClient.greeted(mailflow.mx_port)
            assert (await client.deliver("alice@one.example", "m1")).startswith("250 ")
            await mailflow.wait_event("delivery", outcome="delivered")
            assert [message.recipients for message in server.messages] == [("alice@one.example",)] * 2
            await mailflow.wait_event("message", action="accept", outcome="stored")
            assert mailflow.stderr == ""


async def test_a_dead_mailbox_server_costs_no_mail_across_a_kill(tmp_path: Path, url: str) -> None:
    async with LmtpTestServer() as server:
        server.at["RCPT"] = say("451 4.3.0 not now")
        taken = 'handoff_deadline_s = 1\nwhen_unverifiable = "accept"\n'
        config = CONFIG.format(url=url, server=server).replace("handoff_deadline_s = 1\n", taken)
        async with MailflowProcess(tmp_path, config=config) as mailflow:
            client = await MailClient.greeted(mailflow.mx_port)
            for number in range(5):
                assert (await client.deliver(f"u{number}@one.example", f"m{number}")).startswith("250 ")
            await mailflow.kill()
            del server.at["RCPT"]
            await mailflow.start()
            await mailflow.wait_event("delivery", count=5, outcome="delivered")
            assert sorted(r for m in server.messages for r in m.recipients) == [f"u{n}@one.example" for n in range(5)]


async def test_several_recipients_each_have_their_own_outcome(tmp_path: Path, url: str) -> None:
    async with LmtpTestServer() as server:
        server.at["DOT", "slow@one.example"] = once(say("451 4.3.0 not now"))
        server.at["DOT", "gone@one.example"] = say("550 5.1.1 gone meanwhile")
        async with MailflowProcess(tmp_path, config=CONFIG.format(url=url, server=server)) as mailflow:
            client = await MailClient.greeted(mailflow.mx_port)
            recipients = [f"{name}@one.example" for name in ("good", "slow", "gone")]
            assert (await send(client, "m1", recipients)).startswith("250 ")
            await mailflow.wait_event("delivery", outcome="delivered", rcpt_to="slow@one.example")
            assert mailflow.named("delivery", outcome="delivered", rcpt_to="good@one.example")
            assert mailflow.named("not_reported", rcpt_to="gone@one.example")  # nothing stands for the sender
            assert [m.recipients for m in server.messages][1:] == [("slow@one.example",)]


async def test_an_answer_that_comes_late_makes_no_double(tmp_path: Path, url: str) -> None:
    async with LmtpTestServer() as server:
        server.at["DOT"] = late()
        async with MailflowProcess(tmp_path, config=CONFIG.format(url=url, server=server)) as mailflow:
            client = await MailClient.greeted(mailflow.mx_port)
            reply = await client.deliver("alice@one.example", "m1")
            assert reply.startswith("250 ")
            code, entries = await queue(tmp_path, "ls")
            assert (code, [entry["state"] for entry in entries]) == (0, ["in_doubt"])
            await asyncio.sleep(LEASE_S + 2)  # its lease is kept as long as it is waited for
            server.release.set()
            await mailflow.wait_event("delivery", outcome="delivered")
            assert len(server.messages) == 1
            assert (await queue(tmp_path, "ls"))[1] == []


async def test_the_mail_of_a_killed_service_is_delivered_by_others_within_the_lease(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    url = postgres_server.new_database()
    async with LmtpTestServer() as server, contextlib.AsyncExitStack() as stack:
        services = []
        for name in "abc":
            (tmp_path / name).mkdir()
            process = MailflowProcess(tmp_path / name, config=CONFIG.format(url=url, server=server))
            services.append(await stack.enter_async_context(process))
        server.at["DOT"] = late()
        client = await MailClient.greeted(services[0].mx_port)
        assert (await send(client, "m1", ["a@one.example", "b@one.example"])).startswith("250 ")
        await server.reached("DOT")
        await services[0].kill()
        del server.at["DOT"]
        server.release.set()
        async with asyncio.timeout(2 * LEASE_S + 5):
            while len(server.messages) < 2:
                await server.reached("DOT", server.count("DOT") + 1)
        assert server.messages[1].recipients == ("a@one.example", "b@one.example")


async def test_a_database_that_is_gone_is_451_and_unready_until_it_is_back(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    url = postgres_server.new_database()
    async with LmtpTestServer() as server:
        config = CONFIG.format(url=url, server=server)
        async with MailflowProcess(tmp_path, config=config) as mailflow:
            assert (await mailflow.get("/readyz"))[0] == 200
            postgres_server.kill()
            try:
                await becomes(mailflow, 503)
                client = await MailClient.greeted(mailflow.mx_port)
                assert (await client.command(f"MAIL FROM:<{SENDER}>")).startswith("250 ")
                assert (await client.command("RCPT TO:<alice@one.example>")).startswith("250 ")
                assert (await client.command("DATA")).startswith("451 4.3.0 ")
                assert server.messages == []
            finally:
                postgres_server.start()
            await becomes(mailflow, 200)
            client = await MailClient.greeted(mailflow.mx_port)
            assert (await send(client, "m2", ["a@one.example", "b@one.example"])).startswith("250 ")
            await mailflow.wait_event("delivery", count=2, outcome="delivered")


async def test_the_service_starts_and_waits_for_a_database_that_is_down(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    url = postgres_server.new_database()
    postgres_server.kill()
    async with contextlib.AsyncExitStack() as stack:
        restart = stack.enter_context(contextlib.closing(Restart(postgres_server)))
        server = await stack.enter_async_context(LmtpTestServer())
        config = CONFIG.format(url=url, server=server)
        mailflow = await stack.enter_async_context(MailflowProcess(tmp_path, config=config))
        status, body = await mailflow.get("/readyz")
        assert (status, b"store" in body) == (503, True)
        restart.close()
        await becomes(mailflow, 200)


async def test_the_queue_command_asks_the_running_service_and_the_stopped_one(tmp_path: Path, url: str) -> None:
    async with LmtpTestServer() as server:
        server.at["DOT"] = say("451 4.3.0 not now")
        config = CONFIG.format(url=url, server=server).replace("first_retry_s = 1\n", "first_retry_s = 300\n")
        async with MailflowProcess(tmp_path, config=config, workers=2) as mailflow:
            client = await MailClient.greeted(mailflow.mx_port)
            for number in range(4):
                assert (await client.deliver(f"u{number}@one.example", f"m{number}")).startswith("250 ")
            client.close()
            _, entries = await queue(tmp_path, "ls")
            assert {"id", "sender", "recipients", "state", "next_try", "last_error"} <= set(entries[0])
            assert [entry["recipients"] for entry in entries] == [[f"u{n}@one.example"] for n in range(4)]
            ids = [entry["id"] for entry in entries]
            assert await queue(tmp_path, "hold", ids[0]) == (0, {"changed": [ids[0]]})
            assert await queue(tmp_path, "rm", "--recipient", "u1@one.example") == (0, {"changed": [ids[1]]})
            assert (await queue(tmp_path, "show", ids[2]))[1]["content"].endswith("\r\n")
            assert (await queue(tmp_path, "show", "nobody"))[0] == 1
            del server.at["DOT"]
            assert (await queue(tmp_path, "retry", ids[2]))[0] == 0
            await mailflow.wait_event("delivery", outcome="delivered", rcpt_to="u2@one.example")
            assert await mailflow.terminate() == 0
            code, found = await queue(tmp_path, "stats")
            assert (code, found["messages"]["held"], found["messages"]["deferred"]) == (0, 1, 1)
            assert (await queue(tmp_path, "release", "--all"))[0] == 0
            await mailflow.start()
            await mailflow.wait_event("delivery", outcome="delivered", rcpt_to="u0@one.example")
