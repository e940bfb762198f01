"""Behind a load balancer: the true client is known, or the connection is refused; nobody relays in doubt."""

import json
from pathlib import Path

import pytest

from mailflow.receive.proxy_trust import DOUBT_S, ProxyTrust
from mailflow.smtp.proxy_header import SIGNATURE
from mailflow.testing import FakeClock
from tests.scenario.client import SmtpClient
from tests.scenario.service import RunningService, serve

LB, STRANGER, CLIENT = "127.0.0.2", "127.0.0.9", "192.0.2.7"
HEADER = b"PROXY TCP4 192.0.2.7 198.51.100.1 4567 25\r\n"
CONFIG = f"""
[mx]
proxy_protocol_from = ["{LB}"]
relay_from = ["192.0.2.0/24", "127.0.0.0/8"]

[[route]]
domains = ["*"]
backend = "mailboxes"
"""
ELSEWHERE = "alice@elsewhere.example"
MAILBOXES = ("alice@example.org", "postmaster@example.org", ELSEWHERE)


async def behind(service: RunningService, header: bytes = HEADER) -> SmtpClient:
    """A connection that the load balancer passes on."""
    client = await service.connect(address=LB)
    client.send(header)
    assert (await client.reply()).startswith("220 ")
    assert (await client.command("EHLO client.test")).startswith("250")
    return client


async def ask_rcpt(client: SmtpClient, recipient: str) -> str:
    """The reply to a recipient."""
    assert (await client.command("MAIL FROM:<a@sender.example>")).startswith("250")
    reply = await client.command(f"RCPT TO:<{recipient}>")
    await client.command("RSET")
    return reply


async def deliver(client: SmtpClient, recipient: str = "alice@example.org") -> str:
    """The reply to a whole message."""
    for command in ("MAIL FROM:<a@sender.example>", f"RCPT TO:<{recipient}>", "DATA"):
        reply = await client.command(command)
        assert reply[0] in "23", reply
    client.send(b"From: a@sender.example\r\n\r\nhello\r\n.\r\n")
    return await client.reply()


async def test_received_names_the_true_client(tmp_path: Path) -> None:
    async with serve(tmp_path, config=CONFIG) as service:
        client = await behind(service)
        assert (await deliver(client)).startswith("250 ")
        (mail,) = service.delivered()
        assert b"[192.0.2.7]" in mail
        assert LB.encode() not in mail


async def test_header_and_commands_may_share_a_segment(tmp_path: Path) -> None:
    async with serve(tmp_path, config=CONFIG) as service:
        client = await service.connect(address=LB)
        client.send(HEADER + b"EHLO client.test\r\nMAIL FROM:<a@sender.example>\r\n")
        assert (await client.reply()).startswith("220 ")
        assert (await client.reply()).startswith("250")
        assert (await client.reply()).startswith("250 2.1.0")


async def test_a_header_in_single_octets_is_taken(tmp_path: Path) -> None:
    v2 = SIGNATURE + b"\x21\x11\x00\x0c" + bytes([192, 0, 2, 7, 198, 51, 100, 1, 17, 215, 0, 25])
    async with serve(tmp_path, config=CONFIG) as service:
        for header in (HEADER, v2):
            client = await service.connect(address=LB)
            for octet in header:
                await client.send_all(bytes([octet]))
            assert (await client.reply()).startswith("220 ")
            assert (await client.command("EHLO client.test")).startswith("250")
            assert (await deliver(client)).startswith("250 ")
        assert all(b"[192.0.2.7]" in mail for mail in service.delivered())


async def test_nobody_else_may_send_the_header(tmp_path: Path) -> None:
    async with serve(tmp_path, config=CONFIG) as service:
        client = await service.connect(address=STRANGER)
        client.send(HEADER)
        assert (await client.reply()).startswith("220 ")
        assert (await client.reply()).startswith("521 ")
        assert await client.rest() == b""


@pytest.mark.parametrize("header", [SIGNATURE + b"\x20\x00\x00\x00", b"PROXY UNKNOWN\r\n"])
async def test_a_health_check_is_greeted_and_may_not_mail(tmp_path: Path, header: bytes) -> None:
    async with serve(tmp_path, config=CONFIG.replace("[mx]", "[mx]\nmax_connections_per_client = 1")) as service:
        held = await behind(service, header)
        checks = [await behind(service, header) for _ in range(3)]
        for check in (held, *checks):
            assert (await check.command("MAIL FROM:<a@sender.example>")).startswith("550 5.7.1")
            assert (await check.command("QUIT")).startswith("221")
        assert service.count("mailflow_proxy_missing_total") == 0


@pytest.mark.parametrize("first", [b"EHLO client.test\r\n", b"\x16\x03\x01", b"PROXY TCP4 1.2.3 4 5 6\r\n"])
async def test_a_trusted_peer_without_the_header_is_refused_and_nobody_relays_then(
    tmp_path: Path, first: bytes
) -> None:
    async with serve(tmp_path, config=CONFIG, mailboxes=MAILBOXES) as service:
        before = await behind(service)
        assert (await ask_rcpt(before, ELSEWHERE)).startswith("250 ")
        client = await service.connect(address=LB)
        client.send(first)
        assert (await client.reply()).startswith("421 ")
        assert await client.rest() == b""
        assert service.count("mailflow_proxy_missing_total") == 1
        assert (await ask_rcpt(before, ELSEWHERE)).startswith("550 5.7.1"), "an open session is in doubt too"
        assert (await ask_rcpt(await behind(service), ELSEWHERE)).startswith("550 5.7.1")
        assert (await ask_rcpt(before, "alice@example.org")).startswith("250 "), "our own mail goes on"
        assert "sent no PROXY header" in json.dumps(service.worker.proxy_trust.describe())


async def test_a_peer_that_only_connects_is_a_check(tmp_path: Path) -> None:
    async with serve(tmp_path, config=CONFIG) as service:
        client = await service.connect(address=LB)
        client.close()
        await behind(service)
        assert service.count("mailflow_proxy_missing_total") == 0
        assert not service.worker.proxy_trust.is_in_doubt()


async def test_relaying_goes_by_the_true_client(tmp_path: Path) -> None:
    async with serve(tmp_path, config=CONFIG, mailboxes=MAILBOXES) as service:
        outside = await behind(service, HEADER.replace(b"192.0.2.7", b"203.0.113.7"))
        assert (await ask_rcpt(outside, ELSEWHERE)).startswith("550 5.7.1")
        assert (await deliver(await behind(service), ELSEWHERE)).startswith("250 ")
        assert len(service.delivered(ELSEWHERE)) == 1


def test_doubt_ends_after_a_while() -> None:
    clock = FakeClock()
    told: list[str] = []
    trust = ProxyTrust((), clock=clock, on_missing=told.append)
    trust.note_missing("10.0.0.1")
    assert trust.is_in_doubt()
    assert trust.missing_peers() == told == ["10.0.0.1"]
    clock.advance(DOUBT_S)
    assert not trust.is_in_doubt()
    assert trust.describe() == trust.missing_peers() == []
