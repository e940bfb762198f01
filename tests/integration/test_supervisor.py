"""Several worker processes behind one port: what they share, how they are replaced, what a reload changes."""

import asyncio
import json
import os
import shutil
import signal
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import write_pair
from tests.integration.mail_client import MailClient
from tests.integration.mailflow_process import MailflowProcess, route

ALICE = "alice@example.org"
DELIVERED = "250 2.0.0 Ok "
WORKERS = 4
MX = "max_connections_per_client = 40"


def serve(folder: Path, *, config: str = "", workers: int = WORKERS, mx: str = MX) -> MailflowProcess:
    return MailflowProcess(
        folder, config=config + route("example.org", maildir="mail", create=True), mx=mx, workers=workers
    )


def rewrite(mailflow: MailflowProcess, change: Callable[[str], str]) -> None:
    file = mailflow.folder / "mailflow.toml"
    file.write_text(change(file.read_text()))


async def reload(mailflow: MailflowProcess) -> None:
    """SIGHUP, and wait until every worker has taken it up."""
    count = len(mailflow.named("worker_reloaded"))
    mailflow.send_signal(signal.SIGHUP)
    await mailflow.wait_event("worker_reloaded", count + len(mailflow.worker_pids))


async def replaced(mailflow: MailflowProcess, old: list[int]) -> None:
    """Wait until as many workers as before serve again, none of `old` that died among them."""
    async with asyncio.timeout(20):
        while await mailflow.metric("mailflow_workers") < len(old) or set(mailflow.worker_pids) == set(old):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_all_workers_serve_and_count_as_one(tmp_path: Path) -> None:
    async with serve(tmp_path) as mailflow:
        assert mailflow.named("ready")[0]["workers"] == WORKERS == len(mailflow.worker_pids)
        clients = [await MailClient.greeted(mailflow.mx_port) for _ in range(40)]
        for number, client in enumerate(clients):
            assert (await client.deliver(ALICE, f"m{number}")).startswith(DELIVERED)
        assert await mailflow.metric("mailflow_messages_total", action="accept") == 40
        assert await mailflow.metric("mailflow_sessions") == 40
        refused = await MailClient.connect(mailflow.mx_port)
        assert (await refused.reply()).startswith("421 4.7.0"), "a client network is counted over all workers"
        assert await mailflow.metric("mailflow_shed_total", reason="client_connections") == 1

        old = mailflow.worker_pids
        for pid in old[:2]:
            os.kill(pid, signal.SIGKILL)
        await replaced(mailflow, old)
        assert set(old[2:]) < set(mailflow.worker_pids)
        assert await mailflow.metric("mailflow_messages_total", action="accept") <= 40
        left = int(await mailflow.metric("mailflow_sessions"))
        assert left < 40
        clients += [await MailClient.greeted(mailflow.mx_port) for _ in range(40 - left)]  # what the dead held is free
        assert await mailflow.terminate() == 0
    assert mailflow.stderr == ""


async def test_a_frozen_worker_is_replaced_while_the_others_serve(tmp_path: Path) -> None:
    async with serve(tmp_path, workers=2) as mailflow:
        old = mailflow.worker_pids
        os.kill(old[0], signal.SIGSTOP)
        await mailflow.wait_event("worker_silent", pid=old[0])
        assert (await mailflow.get("/livez"))[0] == 200
        await replaced(mailflow, old)
        assert old[1] in mailflow.worker_pids
        for number in range(8):
            client = await MailClient.greeted(mailflow.mx_port)
            assert (await client.deliver(ALICE, f"m{number}")).startswith(DELIVERED)


async def test_who_waits_for_a_worker_that_does_not_come_is_told(tmp_path: Path) -> None:
    """A mailbox folder that is gone lets no worker start again."""
    async with serve(tmp_path, workers=1) as mailflow:
        (old,) = mailflow.worker_pids
        shutil.rmtree(tmp_path / "mail", ignore_errors=True)
        (tmp_path / "mail").write_text("no folder")
        os.kill(old, signal.SIGKILL)
        await mailflow.wait_event("worker_not_started")
        client = await MailClient.connect(mailflow.mx_port)
        assert (await client.reply()).startswith("421 ")
        (tmp_path / "mail").unlink()
        await replaced(mailflow, [old])
        assert (await (await MailClient.greeted(mailflow.mx_port)).deliver(ALICE, "back")).startswith(DELIVERED)


async def test_a_reload_changes_routes_and_certificate_and_drops_no_session(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path / "old")
    tls = f'[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n\n'
    async with serve(tmp_path, config=tls, workers=2) as mailflow:
        clients = [await MailClient.greeted(mailflow.mx_port) for _ in range(8)]
        begun = clients[0]
        assert await begun.begin(ALICE) == ""
        assert (await clients[1].ask("bob@new.example")).startswith("550 5.7.1")

        write_pair(tmp_path / "new")
        rewrite(
            mailflow,
            lambda text: text.replace("/old/", "/new/").replace('["example.org"]', '["example.org", "new.example"]'),
        )
        await reload(mailflow)

        begun.send(b"From: a@client.example\r\nSubject: begun before\r\n\r\nx\r\n.\r\n")
        assert (await begun.reply()).startswith(DELIVERED)
        for client in clients:
            assert (await client.ask("bob@new.example")).startswith("250 ")
        context = ssl.create_default_context(cafile=str(tmp_path / "new/tls.crt"))
        for client in clients:
            assert (await client.command("STARTTLS")).startswith("220 ")
            await client.writer.start_tls(context, server_hostname="mx.example.org")
            assert (await client.command("EHLO client.example")).startswith("250")
        assert await mailflow.terminate() == 0


async def test_a_faulty_configuration_changes_nothing(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path / "old")
    tls = f'[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n\n'
    async with serve(tmp_path, config=tls, workers=2) as mailflow:
        client = await MailClient.greeted(mailflow.mx_port)
        good = (tmp_path / "mailflow.toml").read_text()
        rewrite(mailflow, lambda text: text.replace("[mx]", "[mx]\nmax_errors = 0\nnonsense = 1"))
        mailflow.send_signal(signal.SIGHUP)
        event = await mailflow.wait_event("reload_refused")
        assert any("mx.max_errors" in fault for fault in event["faults"])
        assert any("mx.nonsense" in fault for fault in event["faults"])

        (tmp_path / "mailflow.toml").write_text(good)
        _, other_key = write_pair(tmp_path / "other")
        rewrite(mailflow, lambda text: text.replace(str(key), str(other_key)))
        mailflow.send_signal(signal.SIGHUP)
        event = await mailflow.wait_event("reload_refused", 2)
        assert any("tls.key" in fault for fault in event["faults"])

        (tmp_path / "mailflow.toml").write_text(good)
        rewrite(
            mailflow,
            lambda text: text.replace(f":{mailflow.mx_port}", ":1").replace('["example.org"]', '["new.example"]'),
        )
        mailflow.send_signal(signal.SIGHUP)
        assert (await mailflow.wait_event("reload_refused", 3))["keys"] == ["mx.listen"]
        await mailflow.wait_event("worker_reloaded", 2)
        assert (await client.ask("bob@new.example")).startswith("250 "), "the rest is applied"
        assert (await MailClient.greeted(mailflow.mx_port)) is not None


async def test_mail_and_probes_go_on_while_a_configuration_is_read(tmp_path: Path) -> None:
    async with serve(tmp_path) as mailflow:
        file = tmp_path / "mailflow.toml"
        text = file.read_text()
        file.unlink()
        os.mkfifo(file)
        mailflow.send_signal(signal.SIGHUP)
        with await asyncio.to_thread(file.open, "w") as slow:  # opened once the reader is there
            assert (await mailflow.get("/livez"))[0] == 200
            client = await MailClient.greeted(mailflow.mx_port)
            assert mailflow.named("worker_reloaded") == []
            slow.write(text.replace('["example.org"]', '["new.example"]'))
        await mailflow.wait_event("worker_reloaded")
        assert (await client.ask("bob@new.example")).startswith("250 ")


async def test_workers_end_with_their_supervisor(tmp_path: Path) -> None:
    async with serve(tmp_path, workers=2) as mailflow:
        mailflow.send_signal(signal.SIGKILL)
        assert await mailflow.wait_end() == -signal.SIGKILL, "the log is closed by the last process"
        with pytest.raises(ConnectionRefusedError):
            await MailClient.connect(mailflow.mx_port)
        await mailflow.start()
        assert (await (await MailClient.greeted(mailflow.mx_port)).deliver(ALICE, "again")).startswith(DELIVERED)


async def test_a_drain_serves_on_for_its_delay_and_is_unready_at_once(tmp_path: Path) -> None:
    async with serve(tmp_path, config="[drain]\ndelay_s = 2\ntimeout_s = 5\n\n", workers=2) as mailflow:
        held = await MailClient.greeted(mailflow.mx_port)
        mailflow.send_signal(signal.SIGTERM)
        await mailflow.wait_event("drain_begins")
        status, body = await mailflow.get("/readyz")
        assert (status, json.loads(body)["reason"]) == (503, "draining")
        client = await MailClient.greeted(mailflow.mx_port)
        assert (await client.deliver(ALICE, "during the delay")).startswith(DELIVERED)
        assert (await held.reply()).startswith("421 ")
        assert await mailflow.wait_end() == 0
