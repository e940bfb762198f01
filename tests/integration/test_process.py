"""The process as Kubernetes sees it: the ready event, probes, metrics, and the drain that SIGTERM begins."""

import asyncio
import json
import signal
from pathlib import Path

import pytest

from tests.integration.mail_client import MailClient, content
from tests.integration.mailflow_process import MailflowProcess, route
from tests.lmtp_server import LmtpTestServer, late

ALICE = "alice@example.org"
MAILDIR = route("example.org", maildir="mail", create=True)
FIXED_METRICS = {
    "mailflow_messages_total": {"listener", "action"},
    "mailflow_rcpt_total": {"result"},
    "mailflow_handoff_seconds_count": {"backend", "outcome"},
    "mailflow_handoff_seconds_sum": {"backend", "outcome"},
    "mailflow_handoff_seconds_bucket": {"backend", "outcome", "le"},
    "mailflow_shed_total": {"reason"},
    "mailflow_log_dropped_total": {"class"},
}


def drain(*, delay_s: float = 0, timeout_s: float = 10) -> str:
    return f"[drain]\ndelay_s = {delay_s}\ntimeout_s = {timeout_s}\n\n"


def delivered(folder: Path) -> bytes:
    """All mail of alice."""
    return b"".join(file.read_bytes() for file in (folder / "mail/example.org/alice/new").glob("*"))


async def test_ready_event_names_every_listener_and_nothing_else(tmp_path: Path) -> None:
    async with MailflowProcess(tmp_path, config=MAILDIR) as mailflow:
        assert mailflow.events == [
            {
                "event": "ready",
                "listeners": {
                    "mx": [f"127.0.0.1:{mailflow.mx_port}"],
                    "submission": [],
                    "submission_tls": [],
                    "admin": [f"127.0.0.1:{mailflow.admin_port}"],
                },
                "workers": 1,
            }
        ]


async def test_probes_answer_200_while_serving_and_unknown_paths_404(tmp_path: Path) -> None:
    async with MailflowProcess(tmp_path, config=MAILDIR) as mailflow:
        for probe in ("/startupz", "/readyz", "/livez"):
            status, body = await mailflow.get(probe)
            assert (status, json.loads(body)) == (200, {"status": "ok"})
        assert (await mailflow.get("/"))[0] == 404
        assert (await mailflow.get("/api/other"))[0] == 404
        assert len(mailflow.events) == 1  # probe traffic is not logged


async def test_metrics_have_the_fixed_names_and_labels_and_count_what_happened(tmp_path: Path) -> None:
    async with MailflowProcess(tmp_path, config=MAILDIR, mx="max_connections_per_client = 1\n") as mailflow:
        client = await MailClient.greeted(mailflow.mx_port)
        assert (await client.deliver(ALICE, "counted")).startswith("250 ")
        assert (await client.ask("a@elsewhere.example")).startswith("550 ")
        refused = await MailClient.connect(mailflow.mx_port)
        assert (await refused.reply()).startswith("421 4.7.0 ")
        samples = await mailflow.metrics()
        labels = {name: {label for label, _ in next(iter(samples[name]))} for name in FIXED_METRICS}
        counts = {
            "accepted": await mailflow.metric("mailflow_messages_total", listener="mx", action="accept"),
            "good": await mailflow.metric("mailflow_rcpt_total", result="good"),
            "not ours": await mailflow.metric("mailflow_rcpt_total", result="not_ours"),
            "delivered": await mailflow.metric("mailflow_handoff_seconds_count", outcome="delivered"),
            "shed": await mailflow.metric("mailflow_shed_total"),
            "log lines lost": await mailflow.metric("mailflow_log_dropped_total"),
        }
    assert labels == FIXED_METRICS
    assert counts == {
        "accepted": 1, "good": 1, "not ours": 1, "delivered": 1, "shed": 1, "log lines lost": 0,
    }  # fmt: skip


async def test_one_log_line_tells_each_decision(tmp_path: Path) -> None:
    async with MailflowProcess(tmp_path, config=MAILDIR) as mailflow:
        client = await MailClient.greeted(mailflow.mx_port)
        reply = await client.deliver(ALICE, "told")
        await client.ask("a@elsewhere.example")
        accepted = await mailflow.wait_event("message")
        refused = await mailflow.wait_event("command", command="RCPT")
        assert await mailflow.terminate() == 0
    told = {"client_ip": "127.0.0.1", "helo": "client.example", "mail_from": "a@sender.example"}
    assert accepted.items() >= (told | {"action": "accept", "reply": reply, "rcpt_to": ALICE}).items()
    assert refused.items() >= (told | {"action": "reject", "rcpt_to": "a@elsewhere.example"}).items()
    assert refused["reply"].startswith("550 5.7.1 ")
    assert len(mailflow.named("message")) == len(mailflow.named("command")) == 1


async def test_sigterm_serves_on_during_the_delay_with_readyz_503(tmp_path: Path) -> None:
    async with MailflowProcess(tmp_path, config=drain(delay_s=1.5) + MAILDIR) as mailflow:
        old = await MailClient.greeted(mailflow.mx_port)
        mailflow.send_signal(signal.SIGTERM)
        await mailflow.wait_event("drain_begins")
        status, body = await mailflow.get("/readyz")
        assert (status, json.loads(body)["reason"]) == (503, "draining")
        assert [(await mailflow.get(probe))[0] for probe in ("/livez", "/startupz", "/metrics")] == [200, 200, 200]
        # Nobody tells a process that its endpoint was withdrawn: until the delay is over mail still comes.
        new = await MailClient.greeted(mailflow.mx_port)
        assert (await new.deliver(ALICE, "during-delay")).startswith("250 ")
        assert (await old.deliver(ALICE, "during-delay-too")).startswith("250 ")
        assert mailflow.named("drain_ends") == []
        assert await mailflow.wait_end() == 0
        assert [await old.rest(), await new.rest()] == [b"421 4.3.2 Service shutting down, try again later\r\n"] * 2
    assert delivered(tmp_path).count(b"Message-ID: <during-delay") == 2


async def test_sigterm_ends_idle_sessions_and_lets_transactions_finish(tmp_path: Path) -> None:
    async with MailflowProcess(tmp_path, config=drain() + MAILDIR) as mailflow:
        idle = await MailClient.greeted(mailflow.mx_port)
        after_mail = await MailClient.greeted(mailflow.mx_port)
        inside_data = await MailClient.greeted(mailflow.mx_port)
        assert (await after_mail.command("MAIL FROM:<a@sender.example>")).startswith("250 ")
        assert await inside_data.begin(ALICE) == ""
        inside_data.send(content("inside", b"half of it\r\n"))
        mailflow.send_signal(signal.SIGTERM)
        assert await idle.rest() == b"421 4.3.2 Service shutting down, try again later\r\n"
        with pytest.raises(ConnectionError):
            await MailClient.connect(mailflow.mx_port)
        assert (await mailflow.get("/readyz"))[0] == 503  # the admin listener closes last

        inside_data.send(b"the other half\r\n.\r\n")
        assert (await inside_data.reply()).startswith("250 2.0.0 ")
        assert (await inside_data.rest()).startswith(b"421 4.3.2 ")
        assert not mailflow.has_ended
        assert (await after_mail.command(f"RCPT TO:<{ALICE}>")).startswith("250 ")
        assert (await after_mail.command("DATA")).startswith("354 ")
        after_mail.send(content("after-mail") + b".\r\n")
        assert (await after_mail.reply()).startswith("250 2.0.0 ")
        assert await mailflow.wait_end() == 0
    mail = delivered(tmp_path)
    assert b"half of it\r\nthe other half\r\n" in mail
    assert b"Message-ID: <after-mail@" in mail
    assert mailflow.named("drain_ends", is_clean=True) != []
    assert mailflow.stderr == ""


async def test_sigterm_waits_for_a_hand_off_whose_backend_is_slow(tmp_path: Path) -> None:
    async with LmtpTestServer() as server:
        config = drain() + route("example.org", lmtp=[str(server)])
        async with MailflowProcess(tmp_path, config=config) as mailflow:
            server.at["DOT"] = late()
            waiting = await MailClient.greeted(mailflow.mx_port)
            gone = await MailClient.greeted(mailflow.mx_port)
            for client, token in ((waiting, "waiting"), (gone, "gone")):
                assert await client.begin(ALICE) == ""
                client.send(content(token) + b".\r\n")
            await server.reached("DOT", 2)
            gone.reset()
            mailflow.send_signal(signal.SIGTERM)
            await mailflow.wait_event("drain_begins")
            assert (await mailflow.get("/readyz"))[0] == 503
            server.release.set()
            assert (await waiting.reply()).startswith("250 2.0.0 ")
            assert await mailflow.wait_end() == 0
    assert len(mailflow.named("message", action="accept")) == 2


@pytest.mark.parametrize("is_at_backend", [False, True], ids=["inside-data", "at-the-backend"])
async def test_drain_timeout_cuts_what_does_not_end_and_exits_1(tmp_path: Path, is_at_backend: bool) -> None:
    async with LmtpTestServer() as server:
        config = drain(timeout_s=0.5) + route("example.org", lmtp=[str(server)])
        async with MailflowProcess(tmp_path, config=config) as mailflow:
            server.at["DOT"] = late()
            client = await MailClient.greeted(mailflow.mx_port)
            assert await client.begin(ALICE) == ""
            client.send(content("never-ends") + (b".\r\n" if is_at_backend else b""))
            if is_at_backend:
                await server.reached("DOT")
            loop = asyncio.get_running_loop()
            started = loop.time()
            assert await mailflow.terminate() == 1
            assert loop.time() - started < 4.0
            # Whatever it hears, it is no confirmation: the message is still the client's.
            assert not (await client.rest()).startswith(b"250")
    assert mailflow.named("drain_ends", is_clean=False) != []


async def test_it_serves_again_on_the_same_ports_after_sigterm_and_after_sigkill(tmp_path: Path) -> None:
    async with MailflowProcess(tmp_path, config=MAILDIR) as mailflow:
        assert (await (await MailClient.greeted(mailflow.mx_port)).deliver(ALICE, "run-1")).startswith("250 ")
        assert await mailflow.terminate() == 0
        await mailflow.start()
        inside = await MailClient.greeted(mailflow.mx_port)
        assert (await inside.deliver(ALICE, "run-2")).startswith("250 ")
        assert await inside.begin(ALICE) == ""
        inside.send(content("never-confirmed"))
        await mailflow.kill()
        await mailflow.start()
        assert (await (await MailClient.greeted(mailflow.mx_port)).deliver(ALICE, "run-3")).startswith("250 ")
        assert await mailflow.terminate() == 0
    mail = delivered(tmp_path)
    assert [mail.count(b"Message-ID: <run-%d@" % run) for run in (1, 2, 3)] == [1, 1, 1]
    assert b"never-confirmed" not in mail


async def test_sigint_drains_as_sigterm_does(tmp_path: Path) -> None:
    async with MailflowProcess(tmp_path, config=MAILDIR) as mailflow:
        mailflow.send_signal(signal.SIGINT)
        assert await mailflow.wait_end() == 0
    assert mailflow.stderr == ""
