"""A mailbox over quota, told by a real Dovecot at RCPT or only after the content, for good or for now."""

import asyncio
import smtplib
from pathlib import Path

import pytest

from tests.integration.dovecot_server import Dovecot, run_dovecot
from tests.integration.mail_client import MailClient
from tests.integration.mailflow_process import MailflowProcess, route

FULL = "full@example.org"  # has room for one message
CONTENT = b"From: <a@sender.example>\r\nSubject: quota\r\n\r\nbody\r\n.\r\n"
REPLIES = {True: "452 4.2.2 Mailbox full", False: "552 5.2.2 Mailbox full"}


def fill(dovecot: Dovecot) -> None:
    """Deliver the one message past mailflow."""
    with smtplib.LMTP("127.0.0.1", dovecot.lmtp_port) as client:
        client.sendmail("a@sender.example", [FULL], CONTENT)


async def send(client: MailClient) -> list[str]:
    """The replies to RCPT and, where that was good, to the content."""
    await client.command("RSET")
    await client.command("MAIL FROM:<a@sender.example>")
    replies = [await client.command(f"RCPT TO:<{FULL}>")]
    if replies[0].startswith("250"):
        assert (await client.command("DATA")).startswith("354")
        client.send(CONTENT)
        replies.append(await client.reply())
    return [reply.partition(" Ok")[0] for reply in replies]


@pytest.mark.parametrize("full_is_temporary", REPLIES)
async def test_over_quota_is_told_at_rcpt_where_dovecot_checks_there(tmp_path: Path, full_is_temporary: bool) -> None:
    with run_dovecot(checks_quota_at_rcpt=True, full_is_temporary=full_is_temporary) as dovecot:
        await asyncio.to_thread(fill, dovecot)
        async with MailflowProcess(tmp_path, config=route("example.org", lmtp=[dovecot.server])) as mailflow:
            client = await MailClient.greeted(mailflow.mx_port)
            assert await send(client) == [REPLIES[full_is_temporary]]
            assert await mailflow.metric("mailflow_rcpt_total", result="refused") == 1
        assert len(dovecot.mail(FULL)) == 1


@pytest.mark.parametrize("full_is_temporary", REPLIES)
async def test_over_quota_is_told_after_the_content_where_dovecot_does_not_check_at_rcpt(
    tmp_path: Path, full_is_temporary: bool
) -> None:
    with run_dovecot(checks_quota_at_rcpt=False, full_is_temporary=full_is_temporary) as dovecot:
        await asyncio.to_thread(fill, dovecot)
        async with MailflowProcess(tmp_path, config=route("example.org", lmtp=[dovecot.server])) as mailflow:
            client = await MailClient.greeted(mailflow.mx_port)
            # Twice: what a mailbox says after the content is about this message, the next may be smaller.
            assert await send(client) == ["250 2.1.5 Recipient ok", REPLIES[full_is_temporary]]
            assert await send(client) == ["250 2.1.5 Recipient ok", REPLIES[full_is_temporary]]
            assert await mailflow.metric("mailflow_handoff_seconds_count", outcome="refused") == 2
        assert len(dovecot.mail(FULL)) == 1


@pytest.mark.parametrize("full_is_temporary", REPLIES)
async def test_a_refusal_at_the_rcpt_of_a_delivery_is_heard_by_the_next_rcpt(
    tmp_path: Path, full_is_temporary: bool
) -> None:
    with run_dovecot(checks_quota_at_rcpt=True, full_is_temporary=full_is_temporary) as dovecot:
        async with MailflowProcess(tmp_path, config=route("example.org", lmtp=[dovecot.server])) as mailflow:
            client = await MailClient.greeted(mailflow.mx_port)
            assert await send(client) == ["250 2.1.5 Recipient ok", "250 2.0.0"]
            # Known good from memory, so it is the delivery that finds the mailbox full.
            assert await send(client) == ["250 2.1.5 Recipient ok", REPLIES[full_is_temporary]]
            assert await send(client) == [REPLIES[full_is_temporary]]
        assert len(dovecot.mail(FULL)) == 1
