"""`mailflow auth check`: what it refuses to run on, what it reads from its arguments, and what it prints."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mailflow.cli import app, usage
from mailflow.cli.auth_check import check_message, run_check
from mailflow.cli.auth_report import Report, as_document, print_json, print_text
from mailflow.mail.address import parse_mailbox
from mailflow.receive.verdict import Policy
from mailflow.testing import ZoneResolver
from tests.dkim_keys import ed25519_key, key_record, sign_with_tags

CONTENT = b"From: Ceo <ceo@bank.example>\r\nTo: <alice@example.org>\r\nSubject: Hello\r\n\r\nHello\r\n"
ZONE: dict[str, list[Any]] = {
    "bank.example": [{"TXT": "v=spf1 ip4:192.0.2.1 -all"}],
    "_dmarc.bank.example": [{"TXT": "v=DMARC1; p=reject"}],
    "s._domainkey.bank.example": [{"TXT": key_record(ed25519_key())}],
}
NOW = 1_700_000_000
GOOD = ("--ip", "192.0.2.1", "--mail-from", "ceo@bank.example")


def judged(
    content: bytes = CONTENT,
    *,
    zone: dict[str, list[Any]] | None = None,
    sender: str = "ceo@bank.example",
    helo: str = "mail.bank.example",
    now: float = NOW,
) -> Report:
    return asyncio.run(
        check_message(
            content,
            "192.0.2.1",
            helo,
            parse_mailbox(sender) if sender else None,
            ZoneResolver(ZONE if zone is None else zone),
            policy=Policy(),
            now=now,
            receiver="mx.example.org",
        )
    )


@pytest.fixture
def mail(tmp_path: Path) -> Path:
    file = tmp_path / "mail.eml"
    file.write_bytes(CONTENT)
    return file


class OpenZone(ZoneResolver):
    """Stands in for the resolver of the command, which closes it."""

    async def aclose(self) -> None:
        """Close nothing."""


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What the DNS says to the command: empty, to be filled."""
    zone: dict[str, list[Any]] = {}
    monkeypatch.setattr(usage, "StubResolver", lambda nameservers: OpenZone(zone))
    return zone


CONFIG_FAULTS = 'hostname = "mx.example.org"\nworkers = 999\n[mailauth]\ndmarc = "sometimes"\n'


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["absent.eml", *GOOD], "absent.eml: No such file or directory"),
        ([".", *GOOD], ".: Is a directory"),
        (["mail.eml", *GOOD, "--ip", "192.0.2"], "--ip '192.0.2': allowed is an IPv4 or IPv6 address"),
        (["mail.eml", *GOOD, "--ip", ""], "--ip ''"),
        (["mail.eml", *GOOD, "--ip", "mail.bank.example"], "--ip 'mail.bank.example'"),
        (["mail.eml", *GOOD, "--mail-from", "ceo"], "--mail-from 'ceo': allowed is an address"),
        (["mail.eml", *GOOD, "--mail-from", "<ceo@bank.example"], "--mail-from '<ceo@bank.example'"),
        (["mail.eml", *GOOD, "--mail-from", "a b@bank.example"], "--mail-from 'a b@bank.example'"),
        (["mail.eml", *GOOD, "--at", "yesterday"], "--at 'yesterday': allowed is a Unix time or ISO 8601"),
        (["mail.eml", *GOOD, "--at", ""], "--at ''"),
        (["mail.eml", *GOOD, "--at", "nan"], "--at 'nan'"),
        (["mail.eml", *GOOD, "--at", "9" * 400], "--at '999"),
        (["mail.eml", *GOOD, "--at", "2026-02-30"], "--at '2026-02-30'"),
        (["mail.eml", *GOOD, "--nameserver", "ns.example:port"], "--nameserver 'ns.example:port': allowed is"),
        (["mail.eml", *GOOD, "--nameserver", "127.0.0.1:99999"], "--nameserver '127.0.0.1:99999'"),
        (["mail.eml", *GOOD, "--nameserver", ""], "--nameserver ''"),
        (["mail.eml", *GOOD, "-c", "absent.toml"], "absent.toml: the configuration file cannot be read"),
        (["mail.eml", *GOOD, "-c", "faulty.toml"], "mailauth.dmarc"),
        (["mail.eml", *GOOD, "-c", "faulty.toml"], "workers"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_fault_of_usage_is_told_on_stderr_alone_with_exit_code_2(
    mail: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str, as_json: bool
) -> None:
    monkeypatch.chdir(mail.parent)
    (mail.parent / "faulty.toml").write_text(CONFIG_FAULTS)
    done = CliRunner().invoke(app, ["auth", "check", *arguments, *["--json"] * as_json])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith("mailflow auth check: ")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("missing", ["--ip", "--mail-from", "FILE"])
def test_arguments_that_must_be_given(mail: Path, missing: str) -> None:
    given = {"FILE": [str(mail)], "--ip": ["--ip", "192.0.2.1"], "--mail-from": ["--mail-from", ""]}
    done = CliRunner().invoke(app, ["auth", "check", *(word for key in given if key != missing for word in given[key])])
    assert (done.exit_code, done.stdout) == (2, "")
    assert missing in done.stderr


def check_json(mail: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> tuple[int, Any]:
    arguments: dict[str, Any] = {
        "ip": "192.0.2.1",
        "helo": "mail.bank.example",
        "mail_from": "ceo@bank.example",
        "config": None,
        "nameserver": None,
        "at": None,
        "as_json": True,
    }
    code = run_check(mail, **arguments | changes)
    printed = capsys.readouterr()
    assert printed.err == ""
    return code, json.loads(printed.out)


@pytest.mark.parametrize("written", ["", "<>"])
def test_null_sender_is_written_in_two_ways(
    mail: Path, capsys: pytest.CaptureFixture[str], published: dict[str, list[Any]], written: str
) -> None:
    _, document = check_json(mail, capsys, mail_from=written)
    assert document["envelope_from"] == ""
    assert (document["spf"]["identity"], document["spf"]["domain"]) == ("helo", "mail.bank.example")


@pytest.mark.parametrize("written", ["ceo@bank.example", "<ceo@bank.example>"])
def test_sender_may_stand_in_angle_brackets(
    mail: Path, capsys: pytest.CaptureFixture[str], published: dict[str, list[Any]], written: str
) -> None:
    code, document = check_json(mail, capsys, mail_from=written)
    assert document["envelope_from"] == "ceo@bank.example"
    assert (document["spf"]["identity"], document["spf"]["domain"]) == ("mailfrom", "bank.example")
    assert (code, document["verdict"]) == (0, {"action": "accept", "reply": None})


def test_file_with_bare_lf_is_read_as_crlf(
    mail: Path, capsys: pytest.CaptureFixture[str], published: dict[str, list[Any]]
) -> None:
    mail.write_bytes(b"From: <a@x.example>\nSubject: x\r\n\nbody\n")
    code, document = check_json(mail, capsys)
    assert (code, document["header_from"], document["author_domain"]) == (0, "a@x.example", "x.example")


@pytest.mark.parametrize(
    ("at", "status"),
    [
        ("1700000000", "pass"),
        ("1700003600", "pass"),
        ("1700003601", "permerror"),
        ("2023-11-14T22:13:20Z", "pass"),
        ("2023-11-14T23:13:20Z", "pass"),
        ("2023-11-14T23:13:21Z", "permerror"),
        ("2023-11-14T23:13:21", "permerror"),  # without an offset: UTC
        ("2023-11-15T00:13:20+01:00", "pass"),
        ("2023-11-15", "permerror"),
    ],
)
def test_message_is_judged_as_of_the_time_given(
    mail: Path,
    capsys: pytest.CaptureFixture[str],
    published: dict[str, list[Any]],
    at: str,
    status: str,
) -> None:
    published |= ZONE
    expires = str(NOW + 3600)
    mail.write_bytes(sign_with_tags(CONTENT, ed25519_key(), d="bank.example", s="s", t=str(NOW), x=expires))
    _, document = check_json(mail, capsys, at=at)
    assert [signature["status"] for signature in document["dkim"]] == [status]


def test_client_that_may_relay_by_the_configuration_is_judged_as_the_service_does(
    mail: Path, capsys: pytest.CaptureFixture[str], published: dict[str, list[Any]]
) -> None:
    published |= ZONE
    config = mail.parent / "mailflow.toml"
    config.write_text(
        'hostname = "mx.example.org"\nroles = ["mx"]\n[mx]\nrelay_from = ["192.0.2.0/28"]\n'
        '[[backend]]\nname = "m"\nmaildir = "mail"\n[[route]]\ndomains = ["example.org", "*"]\nbackend = "m"\n'
    )
    code, document = check_json(mail, capsys, ip="192.0.2.15", config=config)
    assert (code, document["dmarc"]["status"], document["verdict"]["action"]) == (0, "fail", "accept")
    code, document = check_json(mail, capsys, ip="192.0.2.16", config=config)
    assert (code, document["dmarc"]["status"], document["verdict"]["action"]) == (1, "fail", "reject")


def test_document_of_a_refused_message() -> None:
    content = sign_with_tags(CONTENT, ed25519_key(), d="bank.example", s="s").replace(b"Hello\r\n\r\n", b"Bye\r\n\r\n")
    zone = ZONE | {
        "attacker.example": [{"TXT": "v=spf1 -all exp=why.attacker.example"}],
        "why.attacker.example": [{"TXT": "Not %{i}"}],
    }
    document = as_document(judged(content, zone=zone, sender="x@attacker.example"))
    explanation, reason = document.pop("explanation"), document["dkim"][0].pop("reason")
    assert document == {
        "envelope_from": "x@attacker.example",
        "header_from": "ceo@bank.example",
        "author_domain": "bank.example",
        "spf": {"status": "fail", "domain": "attacker.example", "identity": "mailfrom", "explanation": "Not 192.0.2.1"},
        "dkim": [{"status": "fail", "domain": "bank.example", "selector": "s", "algorithm": "ed25519-sha256"}],
        "arc": {"status": "none"},
        "dmarc": {
            "status": "fail",
            "domain": "bank.example",
            "policy": "reject",
            "disposition": "reject",
            "aligned": {"spf": False, "dkim": False},
        },
        "verdict": {
            "action": "reject",
            "reply": "550 5.7.1 DMARC: neither SPF nor DKIM stands for bank.example, whose policy is to reject "
            "(p=reject)",
        },
    }
    assert isinstance(reason, str)
    assert len(explanation) == 6


def test_document_of_a_message_whose_author_cannot_be_told_has_nulls() -> None:
    document = as_document(judged(b"Subject: x\r\n\r\n"))
    explanation = document.pop("explanation")
    assert document == {
        "envelope_from": "ceo@bank.example",
        "header_from": None,
        "author_domain": None,
        "spf": {"status": "pass", "domain": "bank.example", "identity": "mailfrom", "explanation": None},
        "dkim": [],
        "arc": {"status": "none"},
        "dmarc": {
            "status": "none",
            "domain": None,
            "policy": None,
            "disposition": None,
            "aligned": {"spf": False, "dkim": False},
        },
        "verdict": {
            "action": "reject",
            "reply": "550 5.7.1 The author (From) cannot be told: there is no From field",
        },
    }
    assert explanation[-1] == "Refused: the author cannot be told: there is no From field."


def test_document_without_a_record_has_no_policy() -> None:
    document = as_document(judged(zone={}))
    assert document["dmarc"] == {
        "status": "none",
        "domain": "bank.example",
        "policy": None,
        "disposition": None,
        "aligned": {"spf": False, "dkim": False},
    }
    assert document["verdict"] == {"action": "accept", "reply": None}


@pytest.mark.parametrize(
    "content", [b"", b"\r\n", b"no header at all", b"\0\xff\r\n\r\n", b"From: <\xff@\xfe>\r\n\r\n"]
)
def test_document_of_anything_at_all_is_json(content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    print_json(judged(content, helo="\udcff\x1b"))
    assert json.loads(capsys.readouterr().out)["verdict"]["action"] == "reject"


def test_text_shows_both_senders_the_records_read_the_alignment_and_the_verdict(
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = sign_with_tags(CONTENT, ed25519_key(), d="bank.example", s="s")
    print_text(judged(content, sender="x@attacker.example"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "  The envelope sender (EnvFrom) is x@attacker.example; the author (HeaderFrom), whom the reader sees, is "
        "ceo@bank.example."
    )
    rows = [line.split() for line in lines]
    assert ["SPF", "none", "attacker.example", "bank.example", "no"] in rows
    assert ["DKIM", "pass", "bank.example", "bank.example", "yes"] in rows
    assert any(line.startswith("  iprev 1.2.0.192.in-addr.arpa") for line in lines)
    assert "  spf   attacker.example TXT: no such name" in lines
    assert "  dmarc _dmarc.bank.example TXT: v=DMARC1; p=reject" in lines
    assert any(line.startswith("  dkim  s._domainkey.bank.example TXT: v=DKIM1; k=ed25519; p=") for line in lines)
    assert lines[-1] == "accept: Accepted: the author's domain bank.example is authenticated."


ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m [bold red]x[/bold red] :smile: \u202e"
HOSTILE_FROM = f'From: "{ESCAPES.strip()}" <"a{ESCAPES[:8]}"@bank.example>\r\n'.encode()
HOSTILE_ZONE: dict[str, list[Any]] = {
    "bank.example": [{"TXT": f"v=spf1 include:{ESCAPES} -all".encode()}],
    "_dmarc.bank.example": [{"TXT": f"v=DMARC1; p=reject; rua={ESCAPES}".encode()}, {"TXT": ESCAPES.encode()}],
    "s._domainkey.bank.example": [{"TXT": f"v=DKIM1; n={ESCAPES}; p=".encode()}],
    "192.0.2.1": [{"PTR": "m\x1b[31m.bank.example"}],
}


@pytest.mark.parametrize("prefix", [b"", HOSTILE_FROM])
def test_text_shows_what_strangers_wrote_as_text(prefix: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    signature = f"DKIM-Signature: v=1; a=ed25519-sha256; d=bank.example; s={ESCAPES}; h=from; bh=eA==; b=eA==\r\n"
    content = (signature * 2).encode() + (prefix or CONTENT[: CONTENT.index(b"\r\n") + 2]) + b"\r\nbody\r\n"
    report = judged(content, zone=HOSTILE_ZONE, helo=ESCAPES, sender="")
    print_text(report)
    shown = capsys.readouterr().out
    assert all(char == "\n" or char.isprintable() for char in shown)
    assert "\x1b" not in shown
    assert "[bold red]x[/bold red] :smile:" in shown, "markup is text"
