"""The demo notices what is not as it must be: a comparison that cannot fail would show nothing."""

import shutil
from pathlib import Path

import pytest

from mailflow.cli.demo_client import Dialogue
from mailflow.cli.demo_messages import ANNA, SAMPLES, ZONE, Sample
from mailflow.cli.demo_outcome import compare, verdict_of
from mailflow.cli.demo_report import JsonReport
from mailflow.cli.demo_run import send_samples
from mailflow.cli.demo_service import DemoService
from mailflow.cli.demo_site import make_site
from mailflow.config import load_settings
from mailflow.testing import ZoneResolver

SAMPLE = Sample(name="x", shows="", expected="250 2.0.0", content=b"A: b\r\n\r\nc\r\n", mailbox=ANNA)


def told(*replies: str, fault: str = "") -> Dialogue:
    return Dialogue([("S", reply) for reply in replies], fault)


@pytest.fixture
def mailbox(tmp_path: Path) -> Path:
    (tmp_path / "anna" / "new").mkdir(parents=True)
    return tmp_path / "anna"


@pytest.fixture
def delivered(mailbox: Path) -> Path:
    path = mailbox / "new" / "1"
    path.write_bytes(b"Received: here\r\n" + SAMPLE.content)
    return path


@pytest.mark.parametrize(
    ("replies", "verdict"),
    [
        (["250 2.0.0 Ok"], "accept"),
        (["250 2.1.0 Ok", "550 5.1.1 No"], "reject"),
        (["451 4.3.0 Later"], "defer"),
        (["354 Go on"], "defer"),
        ([], "defer"),
    ],
)
def test_the_verdict_is_what_the_peer_was_told_last(replies: list[str], verdict: str) -> None:
    assert verdict_of(told(*replies)) == verdict


def test_a_message_in_its_mailbox_as_it_was_sent_is_fine(mailbox: Path, delivered: Path) -> None:
    assert compare(SAMPLE, told("250 2.0.0 Ok 1"), [delivered], mailbox).differences == []


def test_another_reply_is_a_difference(mailbox: Path, delivered: Path) -> None:
    assert len(compare(SAMPLE, told("250 2.0.01 Ok"), [delivered], mailbox).differences) == 1


def test_a_message_accepted_and_not_delivered_is_a_difference(mailbox: Path) -> None:
    assert len(compare(SAMPLE, told("250 2.0.0 Ok 1"), [], mailbox).differences) == 1


def test_a_message_delivered_twice_is_a_difference(mailbox: Path, delivered: Path) -> None:
    assert len(compare(SAMPLE, told("250 2.0.0 Ok 1"), [delivered, delivered], mailbox).differences) == 1


def test_a_message_in_another_mailbox_is_a_difference(tmp_path: Path, delivered: Path) -> None:
    assert len(compare(SAMPLE, told("250 2.0.0 Ok 1"), [delivered], tmp_path / "ben").differences) == 1


def test_a_changed_message_is_a_difference(mailbox: Path, delivered: Path) -> None:
    delivered.write_bytes(delivered.read_bytes() + b"more\r\n")
    assert len(compare(SAMPLE, told("250 2.0.0 Ok 1"), [delivered], mailbox).differences) == 1


def test_a_refused_message_that_lies_in_a_mailbox_is_a_difference(delivered: Path) -> None:
    assert len(compare(SAMPLE, told("250 2.0.0 Ok 1"), [delivered], None).differences) == 1


def test_a_conversation_that_broke_off_is_a_difference(mailbox: Path, delivered: Path) -> None:
    broken = told("250 2.0.0 Ok 1", fault="connection lost")
    assert len(compare(SAMPLE, broken, [delivered], mailbox).differences) == 1


def test_names_of_samples_are_unique() -> None:
    assert len({sample.name for sample in SAMPLES}) == len(SAMPLES)


async def test_a_service_without_a_mailbox_it_must_have_does_not_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = make_site(tmp_path)
    shutil.rmtree(site.mailbox(ANNA))
    service = DemoService(load_settings(site.config, {}), ZoneResolver(ZONE))
    await service.start()
    try:
        is_fine = await send_samples(service.listeners["mx"][0], site, JsonReport(site))
    finally:
        await service.drain()
    complaints = capsys.readouterr().err.splitlines()
    assert not is_fine
    assert "mailflow demo: ordinary: the last reply must begin with 250 2.0.0, it was: 550 5.1.1" in complaints[0]
    assert {line.split(": ")[1] for line in complaints} == {"ordinary", "8bit", "smuggling", "oversize", "loop"}
