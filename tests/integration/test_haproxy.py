"""Behind a real HAProxy: PROXY v2, STARTTLS behind it, health checks by LOCAL; and what happens without the header."""

import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.certificates import write_pair
from tests.integration.mail_client import MailClient
from tests.integration.mailflow_process import MailflowProcess
from tests.servers import free_port, require_program, wait_for_port

# HAProxy's own address, the client's, and one of the load balancer's network that does not know the protocol.
LB, CLIENT, STRAY = "127.0.0.2", "127.0.0.7", "127.0.0.3"
HAPROXY = """\
global
  log stdout format raw local0 info
defaults
  mode tcp
  log global
  timeout connect 2s
  timeout client 60s
  timeout server 60s
frontend smtp
  bind 127.0.0.1:{port}
  default_backend mailflow
backend mailflow
  option smtpchk EHLO check.example
  source {lb}
  server one 127.0.0.1:{mx_port} send-proxy-v2 check check-send-proxy inter 100ms fall 2 rise 1
"""
CONFIG = """\
[tls]
certificate = "{certificate}"
key = "{key}"

[[backend]]
name = "mailboxes"
maildir = "mail"
create = true

[[route]]
domains = ["example.org", "*"]
backend = "mailboxes"
"""
MX = f"""\
proxy_protocol_from = ["{LB}/31"]
relay_from = ["{CLIENT}"]
max_connections_per_client = 3
"""
ELSEWHERE = "someone@elsewhere.example"


@pytest.fixture
async def mailflow(tmp_path: Path) -> AsyncIterator[MailflowProcess]:
    certificate, key = write_pair(tmp_path)
    config = CONFIG.format(certificate=certificate, key=key)
    async with MailflowProcess(tmp_path, config=config, mx=MX, workers=2) as process:
        yield process


@pytest.fixture
def port(tmp_path: Path, mailflow: MailflowProcess) -> Iterator[int]:
    """HAProxy's, which passes everything on."""
    program = require_program("haproxy")
    port = free_port()
    config = tmp_path / "haproxy.cfg"
    config.write_text(HAPROXY.format(port=port, lb=LB, mx_port=mailflow.mx_port))
    with (tmp_path / "haproxy.log").open("wb") as log:
        process = subprocess.Popen([program, "-db", "-f", str(config)], stdout=log, stderr=log)
    try:
        wait_for_port(port, what="HAProxy")
        yield port
    finally:
        process.kill()
        process.wait()


async def connect(port: int, *, source: str) -> MailClient:
    """Connect from an address of loopback, read nothing."""
    return MailClient(*await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0)))


async def greeted(port: int, *, source: str = CLIENT) -> MailClient:
    """A client that comes through HAProxy."""
    client = await connect(port, source=source)
    assert (await client.reply()).startswith("220 ")
    assert (await client.command("EHLO client.example")).startswith("250")
    return client


async def ask_rcpt(client: MailClient, recipient: str) -> str:
    """The reply to a recipient."""
    assert (await client.command("MAIL FROM:<a@sender.example>")).startswith("250")
    reply = await client.command(f"RCPT TO:<{recipient}>")
    assert (await client.command("RSET")).startswith("250")
    return reply


async def test_the_true_client_is_logged_and_traced_also_under_starttls(
    mailflow: MailflowProcess, port: int, tmp_path: Path
) -> None:
    client = await greeted(port)
    assert (await client.deliver("alice@example.org", "plain")).startswith("250 ")
    event = await mailflow.wait_event("message", action="accept")
    assert event["client_ip"] == CLIENT

    assert (await client.command("STARTTLS")).startswith("220 ")
    context = ssl.create_default_context(cafile=str(tmp_path / "tls.crt"))
    await client.writer.start_tls(context, server_hostname="mx.example.org")
    assert (await client.command("EHLO client.example")).startswith("250")
    assert (await client.deliver("alice@example.org", "secured")).startswith("250 ")
    event = await mailflow.wait_event("message", 2, action="accept")
    assert event["client_ip"] == CLIENT
    assert event["tls"].startswith("TLS")

    mails = [file.read_bytes() for file in (tmp_path / "mail/example.org/alice/new").iterdir()]
    assert len(mails) == 2
    assert all(f"[{CLIENT}]".encode() in mail and LB.encode() not in mail for mail in mails)


async def test_health_checks_are_no_clients(mailflow: MailflowProcess, port: int) -> None:
    """A check every 100 ms, and three sessions allowed to a network: the checks would be shed with the clients."""
    clients = [await greeted(port, source=f"127.0.{number}.7") for number in range(3)]
    held = [await greeted(port, source=CLIENT) for _ in range(2)]
    async with asyncio.timeout(5):
        while (await mailflow.metric("mailflow_shed_total")) == 0:  # the network's third session was the first above
            extra = await connect(port, source=CLIENT)
            assert (await extra.reply()).startswith("421 4.7.0")
    for client in (*clients, *held):
        assert (await client.command("NOOP")).startswith("250")
    assert await mailflow.metric("mailflow_proxy_missing_total") == 0
    assert not [event for event in mailflow.events if event["event"] != "ready"]


async def test_without_the_header_the_peer_is_refused_and_nobody_relays(mailflow: MailflowProcess, port: int) -> None:
    client = await greeted(port)
    assert (await ask_rcpt(client, ELSEWHERE)).startswith("250 ")
    assert (await ask_rcpt(await greeted(port, source="127.0.5.7"), ELSEWHERE)).startswith("550 5.7.1")
    assert json.loads((await mailflow.get("/readyz"))[1]) == {"status": "ok"}

    stray = await connect(mailflow.mx_port, source=STRAY)
    stray.send(b"EHLO stray.example\r\n")
    assert (await stray.reply()).startswith("421 ")
    assert await stray.rest() == b""
    await mailflow.wait_event("proxy_header_missing", peer=STRAY)

    status, body = await mailflow.get("/readyz")
    assert status == 200
    (detail,) = json.loads(body)["detail"]
    assert STRAY in detail
    assert await mailflow.metric("mailflow_proxy_missing_total") == 1
    # Sessions of both workers, whichever the kernel gives them.
    for fresh in (client, *[await greeted(port) for _ in range(2)]):
        assert (await ask_rcpt(fresh, ELSEWHERE)).startswith("550 5.7.1")
        assert (await ask_rcpt(fresh, "alice@example.org")).startswith("250 ")


async def test_a_silent_peer_of_the_trusted_network_is_refused_after_a_while(mailflow: MailflowProcess) -> None:
    stray = await connect(mailflow.mx_port, source=STRAY)
    assert (await stray.reply()).startswith("421 ")
    assert (await mailflow.wait_event("proxy_header_missing"))["peer"] == STRAY
