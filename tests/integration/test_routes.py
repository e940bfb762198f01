"""Aliases and maps of users of a running service: their files are swapped under it, and mail goes the new way."""

import asyncio
import json
import os
import signal
from pathlib import Path

from tests.integration.dovecot_server import Dovecot
from tests.integration.mail_client import MailClient, content
from tests.integration.mailflow_process import MailflowProcess, route

UNKNOWN = "550 5.1.1 No such user here"
TAKEN = "250 2.1.5 Recipient ok"
START_S = 20  # for a worker on a busy machine


def make_mailboxes(folder: Path, *addresses: str) -> None:
    for address in addresses:
        local, _, domain = address.partition("@")
        for name in ("tmp", "new", "cur"):
            (folder / domain / local / name).mkdir(parents=True)


def write(path: Path, entries: dict[str, str]) -> None:
    """Write a file beside, then rename it: nobody sees half of it."""
    fresh = path.with_name(f"{path.name}.fresh")
    fresh.write_text("".join(f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in entries.items()))
    fresh.rename(path)


def site(**keys: object) -> str:
    """A maildir backend and a second one, and the route of example.org to the first with these keys."""
    second = '[[backend]]\nname = "second"\nmaildir = "second"\n\n'
    return second + route("example.org", maildir="mail") + "".join(f"{k} = {json.dumps(v)}\n" for k, v in keys.items())


async def ask(client: MailClient, recipient: str) -> str:
    await client.command("MAIL FROM:<a@sender.example>")
    reply = await client.command(f"RCPT TO:<{recipient}>")
    await client.command("RSET")
    return reply


async def send(mailflow: MailflowProcess, recipient: str, token: str) -> str:
    client = await MailClient.greeted(mailflow.mx_port)
    assert await client.begin(recipient) == ""
    client.send(content(token) + b".\r\n")
    return await client.reply()


async def used_until(mailflow: MailflowProcess, event: str, count: int = 1) -> None:
    """Ask about recipients, which is what makes the service look at its files, until it has told of one."""
    client = await MailClient.greeted(mailflow.mx_port)
    async with asyncio.timeout(20):
        while len(mailflow.named(event)) < count:
            assert await ask(client, "alice@example.org") == TAKEN
    client.close()


async def is_greeted(mailflow: MailflowProcess) -> bool:
    """Connect and tell whether a worker answered."""
    client = await MailClient.connect(mailflow.mx_port)
    return (await client.reply()).startswith("220 ")


async def asked_anew(mailflow: MailflowProcess, recipient: str) -> str:
    client = await MailClient.greeted(mailflow.mx_port)
    return await ask(client, recipient)


async def test_an_alias_file_replaced_by_rename_holds_from_then_on_and_a_faulty_one_does_not(tmp_path: Path) -> None:
    make_mailboxes(tmp_path / "mail", "alice@example.org", "bob@example.org")
    aliases = tmp_path / "aliases.toml"
    write(aliases, {"info@example.org": "alice@example.org"})
    async with MailflowProcess(tmp_path, config=site(aliases="aliases.toml")) as mailflow:
        assert (await send(mailflow, "info@example.org", "first")).startswith("250 2.0.0 ")
        assert await asked_anew(mailflow, "sales@example.org") == UNKNOWN
        write(aliases, {"info@example.org": "bob@example.org", "sales@example.org": "info@example.org"})
        await used_until(mailflow, "addresses_reloaded")
        assert (await send(mailflow, "sales+x@example.org", "second")).startswith("250 2.0.0 ")
        for number, faulty in enumerate(("nobody", "info@example.org", "info@elsewhere.example"), 1):
            write(aliases, {"info@example.org": faulty})
            await used_until(mailflow, "addresses_not_reloaded", number)
            assert await asked_anew(mailflow, "sales@example.org") == TAKEN
        assert len(mailflow.named("addresses_not_reloaded")) == 3, "once for each version"
        assert mailflow.stderr == ""
    assert [len(list((tmp_path / "mail/example.org" / user / "new").iterdir())) for user in ("alice", "bob")] == [1, 1]


async def test_files_of_a_config_map_are_swapped_together(tmp_path: Path) -> None:
    make_mailboxes(tmp_path / "mail", "alice@example.org")
    make_mailboxes(tmp_path / "second", "carol@example.org")
    mounted = tmp_path / "config"
    versions: list[dict[str, dict[str, str]]] = [
        {"aliases.toml": {}, "users.toml": {}},
        {"aliases.toml": {"c@example.org": "carol@example.org"}, "users.toml": {"carol@example.org": "second"}},
    ]
    for number, files in enumerate(versions):
        (mounted / f"..version_{number}").mkdir(parents=True)
        for name, entries in files.items():
            write(mounted / f"..version_{number}" / name, entries)
    (mounted / "..data").symlink_to("..version_0")
    for name in ("aliases.toml", "users.toml"):
        (mounted / name).symlink_to(f"..data/{name}")
    config = site(aliases="config/aliases.toml", map="config/users.toml")
    async with MailflowProcess(tmp_path, config=config) as mailflow:
        assert await asked_anew(mailflow, "c@example.org") == UNKNOWN
        (mounted / "..data_tmp").symlink_to("..version_1")
        (mounted / "..data_tmp").rename(mounted / "..data")
        await used_until(mailflow, "addresses_reloaded", 2)
        assert (await send(mailflow, "c+detail@example.org", "second")).startswith("250 2.0.0 ")
        assert (await mailflow.wait_event("message"))["backend"] == "second"


async def test_a_worker_starts_anew_and_a_reload_is_refused_while_a_file_is_gone(tmp_path: Path) -> None:
    make_mailboxes(tmp_path / "mail", "alice@example.org")
    aliases = tmp_path / "aliases.toml"
    write(aliases, {"info@example.org": "alice@example.org"})
    async with MailflowProcess(tmp_path, config=site(aliases="aliases.toml")) as mailflow:
        aliases.unlink()
        (old,) = mailflow.worker_pids
        os.kill(old, signal.SIGKILL)
        await mailflow.wait_event("addresses_not_reloaded")  # said by the new worker, which starts all the same
        async with asyncio.timeout(START_S):
            while not await is_greeted(mailflow):  # 421 as long as that takes
                pass
        assert await asked_anew(mailflow, "info@example.org") == TAKEN
        mailflow.send_signal(signal.SIGHUP)
        (fault,) = (await mailflow.wait_event("reload_refused"))["faults"]
        assert fault.startswith("route[0].aliases = ")
        assert "No such file" in fault
        write(aliases, {"sales@example.org": "alice@example.org"})
        mailflow.send_signal(signal.SIGHUP)
        await mailflow.wait_event("worker_reloaded")
        assert await asked_anew(mailflow, "sales@example.org") == TAKEN
        assert await asked_anew(mailflow, "info@example.org") == UNKNOWN


async def test_a_reload_of_the_separator_changes_whose_mailbox_an_address_is(tmp_path: Path) -> None:
    make_mailboxes(tmp_path / "mail", "alice@example.org")
    async with MailflowProcess(tmp_path, config=site(subaddress="+")) as mailflow:
        assert await asked_anew(mailflow, "alice+a@example.org") == TAKEN
        assert await asked_anew(mailflow, "alice-a@example.org") == UNKNOWN
        file = tmp_path / "mailflow.toml"
        file.write_text(file.read_text().replace('subaddress = "+"', 'subaddress = "-"'))
        mailflow.send_signal(signal.SIGHUP)
        await mailflow.wait_event("worker_reloaded")
        assert await asked_anew(mailflow, "alice+a@example.org") == UNKNOWN
        assert await asked_anew(mailflow, "alice-a@example.org") == TAKEN


async def test_unknown_users_go_to_the_catch_all_address(tmp_path: Path) -> None:
    make_mailboxes(tmp_path / "mail", "alice@example.org")
    async with MailflowProcess(tmp_path, config=site(catch_all="alice@example.org")) as mailflow:
        assert (await send(mailflow, "nobody@example.org", "caught")).startswith("250 2.0.0 ")
    (mail,) = (tmp_path / "mail/example.org/alice/new").iterdir()
    assert b"Delivered-To: alice@example.org\r\n" in mail.read_bytes()


async def test_dovecot_gets_the_alias_with_the_detail_and_delivers_it(tmp_path: Path, dovecot: Dovecot) -> None:
    write(tmp_path / "aliases.toml", {"info@example.org": "bob@example.org", "lost@example.org": "nobody@example.org"})
    config = route("example.org", lmtp=[dovecot.server]) + 'aliases = "aliases.toml"\n'
    async with MailflowProcess(tmp_path, config=config) as mailflow:
        assert (await send(mailflow, "Info+lists@example.org", "aliased")).startswith("250 2.0.0 ")
        event = await mailflow.wait_event("message", action="accept")
        assert await asked_anew(mailflow, "lost@example.org") == UNKNOWN
        found = await asyncio.to_thread(dovecot.mail_with, b"<aliased@", "bob@example.org")
    assert "<bob+lists@example.org>" in event["detail"]
    assert len(found) == 1
