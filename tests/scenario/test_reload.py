"""A running worker takes up other configurations: what is made meanwhile follows the new one."""

import asyncio
from pathlib import Path

import pytest

from mailflow.config import Settings, load_settings
from tests.scenario.service import serve

CONFIG = '[mx]\npostmaster = "ops-mail@example.org"\n'


def settings(folder: Path, *, size: int, aliases: str = "") -> Settings:
    """The configuration that `serve` wrote, with another SIZE and a file of aliases."""
    text = (folder / "mailflow.toml").read_text() + f'aliases = "{aliases}"\n\n[mx]\nmax_message_bytes = {size}\n'
    file = folder / f"{size}.toml"
    file.write_text(text)
    return load_settings(file, {})


async def test_of_two_reloads_at_once_the_later_holds(tmp_path: Path) -> None:
    """The first has a file to wait for, the second has not."""
    (tmp_path / "aliases.toml").touch()
    async with serve(tmp_path) as service:
        first, second = settings(tmp_path, size=1111, aliases="aliases.toml"), settings(tmp_path, size=2222)
        await asyncio.gather(service.worker.reload(first), service.worker.reload(second))
        client = await service.connect()
        await client.reply()
        client.send(b"EHLO client.test\r\n")
        assert "SIZE 2222" in [(await client.line()).decode()[4:].strip() for _ in range(4)]


async def test_separator_that_a_reload_brings_finds_a_mailbox_for_the_postmaster(tmp_path: Path) -> None:
    async with serve(tmp_path, config=CONFIG) as service:
        file = tmp_path / "mailflow.toml"
        file.write_text(file.read_text() + 'subaddress = "-"\n')
        await service.worker.reload(load_settings(file, {}))
        client = await service.greeted()
        for command in ("MAIL FROM:<a@sender.example>", "RCPT TO:<postmaster>", "DATA"):
            assert (await client.command(command))[0] in "23"
        assert (await client.command("Subject: down\r\n\r\n.")).startswith("250 2.0.0 ")
        assert len(service.delivered("ops@example.org")) == 1


async def test_reload_that_fails_leaves_mailboxes_where_they_were(tmp_path: Path) -> None:
    async with serve(tmp_path, mailboxes=["al-ice@example.org", "postmaster@example.org"]) as service:
        file = tmp_path / "mailflow.toml"
        (tmp_path / "file").touch()
        text = file.read_text().replace('maildir = "mail"', 'maildir = "file/mail"\ncreate = true')
        file.write_text(text + 'subaddress = "-"\n')
        with pytest.raises(OSError, match="File exists"):
            await service.worker.reload(load_settings(file, {}))
        client = await service.greeted()
        assert (await client.command("MAIL FROM:<a@sender.example>")).startswith("250")
        assert (await client.command("RCPT TO:<al-ice@example.org>")).startswith("250")


async def test_reload_takes_up_what_is_done_with_spoofed_mail_between_transactions(tmp_path: Path) -> None:
    """One session, whose later mail is judged, named and put aside by the later configurations."""
    zone = {"_dmarc.bank.example": [{"TXT": "v=DMARC1; p=quarantine"}]}
    async with serve(tmp_path, zone=zone) as service:
        client = await service.greeted()
        file = tmp_path / "mailflow.toml"
        first = file.read_text()

        async def send() -> str:
            for command in ("MAIL FROM:<a@attacker.example>", "RCPT TO:<alice@example.org>", "DATA"):
                assert (await client.command(command))[0] in "23"
            return await client.command("From: a@bank.example\r\n\r\n.")

        async def reload(old: str, new: str) -> None:
            file.write_text(first.replace(old, new))
            await service.worker.reload(load_settings(file, {}))

        assert (await send()).startswith("250")
        (monitored,) = service.delivered()
        assert b"X-Spam-Flag" not in monitored
        await reload('dmarc = "monitor"', 'authserv_id = "other.test"\nreceived_spf = true')
        assert (await send()).startswith("250")
        (flagged,) = set(service.delivered()) - {monitored}
        assert b"X-Spam-Flag: YES\r\n" in flagged
        assert b"\nAuthentication-Results: other.test;" in flagged
        assert b"\nReceived-SPF: none " in flagged
        file.write_text(
            first.replace('dmarc = "monitor"', "").replace('maildir = "mail"', 'maildir = "mail"\nquarantine = "+Junk"')
        )
        await service.worker.reload(load_settings(file, {}))
        assert (await send()).startswith("250")
        (diverted,) = set(service.delivered()) - {monitored, flagged}
        assert b"\nDelivered-To: alice+Junk@example.org\r\n" in diverted  # a folder takes mail whatever the detail
        await reload('dmarc = "monitor"', 'allow = ["bank.example 127.0.0.0/8"]')
        assert (await send()).startswith("250")
        (allowed,) = set(service.delivered()) - {monitored, flagged, diverted}
        assert b"X-Spam-Flag" not in allowed


async def test_reload_inside_a_transaction_leaves_it_its_policy(tmp_path: Path) -> None:
    zone = {"_dmarc.bank.example": [{"TXT": "v=DMARC1; p=reject"}]}
    async with serve(tmp_path, zone=zone) as service:
        client = await service.greeted()
        replies = []
        for is_reloaded in (True, False):
            for command in ("MAIL FROM:<a@attacker.example>", "RCPT TO:<alice@example.org>", "DATA"):
                assert (await client.command(command))[0] in "23"
            if is_reloaded:
                file = tmp_path / "mailflow.toml"
                file.write_text(file.read_text().replace("monitor", "enforce"))
                await service.worker.reload(load_settings(file, {}))
            replies.append((await client.command("From: a@bank.example\r\n\r\n."))[:9])
        assert replies == ["250 2.0.0", "550 5.7.1"]
