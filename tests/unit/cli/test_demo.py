"""`mailflow demo` as a user runs it: a process of its own, its output, its exit code, its folder."""

import json
import os
import re
import signal
import smtplib
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
TIMEOUT_S = 30


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mailflow", *arguments]


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "COLUMNS": "80", "MAILFLOW_HOSTNAME": "-"}


@contextmanager
def running(*arguments: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command("demo", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment(folder),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """Read stdout up to the line that `pattern` is found in."""
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if re.search(pattern, line):
            return text
    raise AssertionError(f"ended without {pattern}: {text}")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    folder = tmp_path_factory.mktemp("demo")
    return subprocess.run(
        command("demo", "--once", "--json"),
        capture_output=True,
        text=True,
        env=environment(folder),
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.fixture(scope="module")
def document(once: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    document = json.loads(once.stdout)
    assert isinstance(document, dict)
    return document


@pytest.fixture(scope="module")
def messages(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {message["name"]: message for message in document["messages"]}


def test_every_sample_gets_what_it_must_and_nothing_is_complained_of(once: subprocess.CompletedProcess[str]) -> None:
    assert (once.returncode, once.stderr) == (0, "")


def test_the_document_has_the_keys_of_the_contract(document: dict[str, Any]) -> None:
    assert set(document) == {"root", "messages"}
    assert all(set(message) == {"name", "replies", "verdict", "delivered"} for message in document["messages"])


@pytest.mark.parametrize(
    ("name", "verdict", "last_reply", "mailbox"),
    [
        ("ordinary", "accept", "250 2.0.0 Ok ", "anna"),
        ("8bit", "accept", "250 2.0.0 Ok ", "anna"),
        ("smtputf8", "accept", "250 2.0.0 Ok ", "j%C3%BCrgen"),
        ("postmaster", "accept", "250 2.0.0 Ok ", "postmaster"),
        ("unknown-user", "reject", "550 5.1.1 ", None),
        ("relay", "reject", "550 5.7.1 ", None),
        ("null-mx-sender", "reject", "550 5.7.27 ", None),
        ("smuggling", "reject", "521 5.5.2 ", None),
        ("oversize-declared", "reject", "552 5.3.4 ", None),
        ("oversize", "reject", "552 5.3.4 ", None),
        ("loop", "reject", "554 5.4.6 ", None),
        ("newsletter", "accept", "250 2.0.0 Ok ", "anna"),
        ("forwarded", "accept", "250 2.0.0 Ok ", "anna"),
        ("mailing-list", "accept", "250 2.0.0 Ok ", "anna"),
        ("spoof", "reject", "550 5.7.1 ", None),
        ("suspicious", "quarantine", "250 2.0.0 Ok ", "anna"),
        ("bounce", "accept", "250 2.0.0 Ok ", "anna"),
    ],
)
def test_each_sample_is_told_and_delivered_as_it_must_be(
    messages: dict[str, dict[str, Any]], name: str, verdict: str, last_reply: str, mailbox: str | None
) -> None:
    message = messages[name]
    assert message["verdict"] == verdict
    assert message["replies"][-1].startswith(last_reply)
    assert [Path(path).parts[-3] for path in message["delivered"]] == ([mailbox] if mailbox else [])


def test_what_was_delivered_lies_there_after_the_end(messages: dict[str, dict[str, Any]]) -> None:
    (path,) = messages["8bit"]["delivered"]
    header, _, body = Path(path).read_bytes().partition(b"\r\n\r\n")
    assert header.startswith(b"Return-Path: <ben@friend.example>\r\n")
    assert b"(mail.friend.example [127.0.0.1])" in header
    assert body == "Grüße aus der Küche: Äpfel, Öl, Crème brûlée.\r\n".encode()


def test_the_mailboxes_hold_nothing_but_what_the_document_names(
    document: dict[str, Any], messages: dict[str, dict[str, Any]]
) -> None:
    named = {path for message in messages.values() for path in message["delivered"]}
    assert {str(path) for path in Path(document["root"], "mail").rglob("*") if path.is_file()} == named


def test_the_log_in_the_folder_has_one_decision_for_each_sample(
    document: dict[str, Any], messages: dict[str, dict[str, Any]]
) -> None:
    lines = Path(document["root"], "service.log").read_text().splitlines()
    decided = [event["action"] for event in map(json.loads, lines) if "action" in event]
    assert decided == [message["verdict"] for message in messages.values()]


def test_the_folder_holds_a_configuration_that_is_fine(document: dict[str, Any], tmp_path: Path) -> None:
    environ = environment(tmp_path)
    del environ["MAILFLOW_HOSTNAME"]
    check = command("check-config", "-c", str(Path(document["root"], "mailflow.toml")))
    assert subprocess.run(check, env=environ, check=False, capture_output=True, timeout=TIMEOUT_S).returncode == 0


def test_without_once_it_serves_until_ctrl_c_and_then_exits_0(tmp_path: Path) -> None:
    with running(folder=tmp_path) as process:
        shown = read_until(process, "sendmail|swaks")
        mx, metrics = re.findall(r"mail +127.0.0.1:(\d+)|(http://127.0.0.1:\d+/metrics)", shown)
        with smtplib.SMTP("127.0.0.1", int(mx[0]), timeout=TIMEOUT_S) as client:
            client.sendmail(
                "you@friend.example", "anna@demo.example", "From: you@friend.example\nSubject: Hello\n\nHello!"
            )
        with urllib.request.urlopen(metrics[1], timeout=TIMEOUT_S) as response:  # noqa: S310 -- http, by the pattern
            assert b'mailflow_messages_total{action="accept",listener="mx"} 9.0' in response.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0


def test_text_fits_80_columns_but_for_paths_and_commands(tmp_path: Path) -> None:
    with running("--once", folder=tmp_path) as process:
        shown, _ = process.communicate(timeout=TIMEOUT_S)
    assert "All 17 samples got what they must get." in shown
    assert [
        line
        for line in shown.splitlines()
        if len(line) > 80 and str(tmp_path) not in line and not line.startswith(("    =>", "    S: "))
    ] == []


def test_json_without_once_prints_the_document_and_serves_until_sigterm(tmp_path: Path) -> None:
    with running("--json", folder=tmp_path) as process:
        document = json.loads(read_until(process, "^}$"))
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, rest, len(document["messages"])) == (0, "", 17)
