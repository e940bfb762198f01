"""`mailflow queue` on a stopped service with an SQLite store, and what it refuses."""

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mailflow.cli import app
from mailflow.mail.address import parse_mailbox
from mailflow.mail.envelope import Envelope, Recipient
from mailflow.store.sqlite import SqliteStore

CONFIG = """\
hostname = "mx.test"
roles = ["mx"]

[store]
url = "sqlite://queue.db"

[[backend]]
name = "mailbox"
maildir = "mail"

[[route]]
domains = ["example.org"]
backend = "mailbox"
"""
BODY = (b"Subject: \x1b[31mred\r\n\r\nbody\r\n",)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A stopped service whose store has three messages, one of them held, in two shards."""
    file = tmp_path / "mailflow.toml"
    file.write_text(CONFIG)
    asyncio.run(fill(tmp_path / "queue.db", "m1", "m2"))
    asyncio.run(fill(tmp_path / "queue.db.1", "m3"))
    return file


async def fill(path: Path, *ids: str) -> None:
    store = SqliteStore(path)
    await store.open()
    for id in ids:
        to = parse_mailbox(f"{id}@example.org")
        envelope = Envelope(id, parse_mailbox("a@x.example"), (Recipient(to, to, destination="mailbox"),))
        deadline = asyncio.get_running_loop().time() + 10
        await store.accept(envelope, BODY, deadline=deadline, retry_s=300, last_error="connection refused")
    await store.close()


def run(config: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["queue", *arguments, "-c", str(config)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout


def run_json(config: Path, *arguments: str) -> object:
    code, text = run(config, *arguments, "--json")
    assert code == 0
    return json.loads(text)


def listed(config: Path, *arguments: str) -> list[str]:
    entries = run_json(config, "ls", *arguments)
    assert isinstance(entries, list)
    return [entry["id"] for entry in entries]


def test_ls_lists_all_shards(config: Path) -> None:
    assert listed(config) == ["m1", "m2", "m3"]
    assert listed(config, "--limit", "2") == ["m1", "m2"]
    assert listed(config, "--recipient", "M2@example.org") == ["m2"]
    assert listed(config, "--error", "refused", "--domain", "example.org") == ["m1", "m2", "m3"]
    assert listed(config, "--older-than", "1h") == []


def test_ls_json_has_the_keys_of_the_contract(config: Path) -> None:
    entries = run_json(config, "ls", "--limit", "1")
    assert isinstance(entries, list)
    assert entries[0]["sender"] == "a@x.example"
    assert entries[0]["recipients"] == ["m1@example.org"]
    assert entries[0]["state"] == "deferred"
    assert entries[0]["last_error"] == "connection refused"
    assert entries[0]["next_try"].endswith("Z")


def test_show_prints_nothing_that_a_terminal_obeys(config: Path) -> None:
    code, text = run(config, "show", "m1", "--body")
    assert code == 0
    assert "body" in text
    assert "\x1b" not in text


def test_what_is_not_there_is_1(config: Path) -> None:
    assert run(config, "show", "nobody")[0] == 1
    assert run(config, "retry", "m1", "nobody")[0] == 1
    assert run(config, "release", "m1")[0] == 1


def test_changes_by_id_by_filter_and_all(config: Path) -> None:
    assert run_json(config, "hold", "m1", "m3") == {"changed": ["m1", "m3"]}
    assert listed(config, "--state", "held") == ["m1", "m3"]
    assert run_json(config, "release", "--recipient", "m3@example.org") == {"changed": ["m3"]}
    assert run_json(config, "retry", "--all") == {"changed": ["m2", "m3"]}
    assert run_json(config, "rm", "--state", "held") == {"changed": ["m1"]}
    statistics = run_json(config, "stats")
    assert isinstance(statistics, dict)
    assert sum(statistics["messages"].values()) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["rm"],
        ["retry", "m1", "--all"],
        ["hold", "m1", "--domain", "example.org"],
        ["release"],
        ["ls", "--state", "odd"],
        ["ls", "--older-than", "soon"],
    ],
)
def test_what_cannot_be_meant_is_2(config: Path, arguments: list[str]) -> None:
    assert run(config, *arguments)[0] == 2
    assert listed(config) == ["m1", "m2", "m3"]


def test_a_faulty_configuration_is_2(tmp_path: Path) -> None:
    assert run(tmp_path / "none.toml", "ls")[0] == 2


def test_a_service_without_a_store_is_1(config: Path) -> None:
    config.write_text(CONFIG.replace('url = "sqlite://queue.db"', ""))
    assert run(config, "ls")[0] == 1


async def test_a_store_in_use_is_1(config: Path) -> None:
    store = SqliteStore(config.with_name("queue.db"))
    await store.open()
    try:
        assert (await asyncio.to_thread(run, config, "ls"))[0] == 1
    finally:
        await store.close()
