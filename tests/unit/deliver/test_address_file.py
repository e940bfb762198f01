"""Files of addresses read again: what changed is taken up, what is faulty is told once, together is together."""

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mailflow.deliver.address_file import LOOK_S, AddressFiles
from mailflow.mail.address import parse_mailbox
from mailflow.mail.address_book import AddressBook, AddressRules
from mailflow.mail.domain_table import DomainTable
from mailflow.observe.nursery import Nursery
from mailflow.testing.clock import FakeClock

INFO = parse_mailbox("info@example.org")


def write(path: Path, entries: dict[str, str]) -> None:
    """Replace a file by rename."""
    fresh = path.with_name("fresh")
    fresh.write_text("".join(f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in entries.items()))
    fresh.rename(path)


class Site:
    """Aliases of example.org and of other.example, and a map of users, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.aliases, self.other, self.users = (folder / name for name in ("aliases", "other", "users"))
        self.clock = FakeClock()
        self.nursery = Nursery()
        write(self.aliases, {"info@example.org": "alice@example.org"})
        write(self.other, {})
        write(self.users, {"alice@example.org": "new"})
        rules = [
            ("example.org", AddressRules(self.aliases, self.users)),
            ("other.example", AddressRules(self.other)),
        ]
        self.files = AddressFiles(
            AddressBook(DomainTable(rules)),
            alias_files=[self.aliases, self.other],
            user_maps=[self.users],
            backends=["home", "new"],
            nursery=self.nursery,
            clock=self.clock,
        )

    async def refresh(self) -> list[tuple[str, str]]:
        """Look at the files; give what was logged: event and file."""
        with capture_logs() as logs:
            await self.files.refresh()
        return [(entry["event"], Path(entry["file"]).name) for entry in logs]

    def target(self, address: str = "info@example.org") -> str:
        return str(self.files.book.follow_aliases(parse_mailbox(address)))


@pytest.fixture
async def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    await site.refresh()
    return site


async def test_a_replaced_file_is_taken_up_and_told_once(site: Site) -> None:
    assert site.target() == "alice@example.org"
    write(site.aliases, {"info@example.org": "bob@example.org"})
    assert await site.refresh() == [("addresses_reloaded", "aliases")]
    assert await site.refresh() == []
    assert site.target() == "bob@example.org"


def break_toml(site: Site) -> None:
    site.aliases.write_text("nonsense")


def remove(site: Site) -> None:
    site.aliases.unlink()


def make_pipe(site: Site) -> None:
    site.aliases.unlink()
    os.mkfifo(site.aliases)


def make_loop(site: Site) -> None:
    write(site.aliases, {"info@example.org": "info@example.org"})


def lead_away(site: Site) -> None:
    write(site.aliases, {"info@example.org": "info@elsewhere.example"})


@pytest.mark.parametrize("break_file", [break_toml, remove, make_pipe, make_loop, lead_away])
async def test_a_faulty_file_keeps_the_old_contents_and_is_told_once(
    site: Site, break_file: Callable[[Site], None]
) -> None:
    break_file(site)
    assert await site.refresh() == [("addresses_not_reloaded", "aliases")]
    assert await site.refresh() == []
    assert site.target() == "alice@example.org"
    write(site.aliases, {"info@example.org": "alice@example.org"})
    assert await site.refresh() == [("addresses_reloaded", "aliases")], "that it is well again is told too"


async def test_a_map_that_names_an_unknown_backend_keeps_the_old_one(site: Site) -> None:
    write(site.users, {"alice@example.org": "nowhere"})
    assert await site.refresh() == [("addresses_not_reloaded", "users")]
    assert site.files.book.find_backend(parse_mailbox("alice@example.org")) == "new"


async def test_a_faulty_file_holds_up_no_other(site: Site) -> None:
    site.users.write_text("nonsense")
    write(site.aliases, {"info@example.org": "bob@example.org"})
    assert sorted(await site.refresh()) == [("addresses_not_reloaded", "users"), ("addresses_reloaded", "aliases")]
    assert site.target() == "bob@example.org"


async def test_files_that_changed_together_are_judged_together(site: Site) -> None:
    write(site.other, {"x@other.example": "info@example.org"})
    await site.refresh()
    # Either alone would make a loop with what the other was.
    write(site.aliases, {"info@example.org": "x@other.example"})
    write(site.other, {"x@other.example": "x2@other.example"})
    assert len(await site.refresh()) == 2
    assert site.target() == "x2@other.example"


async def test_a_refused_file_is_tried_again_when_another_changes(site: Site) -> None:
    write(site.other, {"x@other.example": "info@example.org"})
    await site.refresh()
    write(site.aliases, {"info@example.org": "x@other.example"})
    assert await site.refresh() == [("addresses_not_reloaded", "aliases")]
    write(site.other, {})
    assert sorted(await site.refresh()) == [("addresses_reloaded", "aliases"), ("addresses_reloaded", "other")]
    assert site.target() == "x@other.example"


async def test_a_file_that_could_not_be_read_for_want_of_descriptors_is_read_at_the_next_look(site: Site) -> None:
    write(site.aliases, {"info@example.org": "bob@example.org"})
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptor = os.open(site.aliases, os.O_RDONLY)  # the lowest that is free
    os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptor, limits[1]))
    try:
        assert await site.refresh() == [("addresses_not_reloaded", "aliases")]
        assert await site.refresh() == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert await site.refresh() == [("addresses_reloaded", "aliases")]
    assert site.target() == "bob@example.org"


async def test_a_look_is_taken_once_a_second_and_nobody_waits_for_it(site: Site) -> None:
    site.files.look()
    await site.nursery.wait_empty(None)
    write(site.aliases, {"info@example.org": "bob@example.org"})
    site.files.look()
    assert len(site.nursery) == 0, "not a second has passed"
    site.clock.advance(LOOK_S)
    site.files.look()
    site.files.look()
    assert len(site.nursery) == 1
    assert site.target() == "alice@example.org", "the one who asked is answered by what is known"
    await site.nursery.wait_empty(None)
    assert site.target() == "bob@example.org"
