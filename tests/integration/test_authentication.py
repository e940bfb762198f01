"""Who sent this? The running service and `mailflow auth check` on the same mail, with a real resolver's answers."""

import asyncio
import re
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mailflow.cli.demo_messages import Sample, compose
from mailflow.deliver.quarantine import QUARANTINE_FIELD
from tests.integration.authenticated_site import (
    TRUSTED,
    Site,
    check,
    decision,
    delivered,
    read_mailbox,
    run_mailflow,
    run_site,
    send,
)
from tests.integration.lmtp_sink_process import run_lmtp_sink
from tests.integration.mailflow_process import MailflowProcess, route
from tests.lmtp_server import LmtpTestServer
from tests.unit.mailauth.rfc8601 import parse

KEYS = [
    *("envelope_from", "header_from", "author_domain", "spf", "dkim", "arc", "dmarc", "verdict", "explanation"),
]
# action, rule, results of SPF, DKIM, ARC and DMARC
EXPECTED = {
    "newsletter": ("accept", "dmarc_pass", "pass", ["pass"], "none", "pass"),
    "forwarded": ("accept", "dmarc_pass", "fail", ["pass"], "none", "pass"),
    "mailing-list": ("accept", "override_arc", "pass", ["fail"], "pass", "fail"),
    "spoof": ("reject", "dmarc_policy", "pass", [], "none", "fail"),
    "suspicious": ("quarantine", "dmarc_policy", "fail", [], "none", "fail"),
    "bounce": ("accept", "dmarc_pass", "pass", [], "none", "pass"),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with run_site(tmp_path_factory.mktemp("unbound")) as site:
        yield site


def results_on(mail: bytes) -> tuple[str, list[tuple[str, str]]]:
    """The authserv-id and the results of the first Authentication-Results field."""
    match = re.search(rb"^(Authentication-Results: .*?\r\n)(?![ \t])", mail, re.MULTILINE | re.DOTALL)
    assert match
    authserv_id, results = parse(match[1])
    return authserv_id, [(result.method, result.result) for result in results]


async def test_senders_are_told_apart_answered_marked_logged_and_counted(tmp_path: Path, site: Site) -> None:
    async with run_mailflow(tmp_path, site) as mailflow:
        for name, (action, rule, spf, dkim, arc, dmarc) in EXPECTED.items():
            sample = site.samples[name]
            assert (await send(mailflow, sample)).startswith(f"{sample.expected} "), name
            mail = delivered(mailflow, sample)
            assert (mail is not None) is (action != "reject"), name
            if mail is not None:
                found = [("spf", spf), *(("dkim", each) for each in dkim or ["none"])]
                found += [("arc", arc)] if arc != "none" else []
                assert results_on(mail) == ("mx.example.org", [*found, ("dmarc", dmarc), ("iprev", "pass")]), name
                assert (QUARANTINE_FIELD in mail.partition(b"\r\n\r\n")[0]) is (action == "quarantine"), name
            event = await decision(mailflow, sample)
            assert (event["action"], event["rule"], event["spf"], event["dmarc"]) == (action, rule, spf, dmarc), name
            assert [each.partition(":")[0] for each in event["dkim"]] == dkim, name
            assert event.get("arc", "none") == arc, name
            assert "truncated" not in event, name
        assert len(read_mailbox(mailflow)) == 5
        await expect_counts(mailflow)


async def expect_counts(mailflow: MailflowProcess) -> None:
    """What the six of EXPECTED leave in /metrics."""
    messages = {
        action: await mailflow.metric("mailflow_messages_total", listener="mx", action=action)
        for action in ("accept", "quarantine", "reject", "defer")
    }
    assert messages == {"accept": 4, "quarantine": 1, "reject": 1, "defer": 0}
    counts = (await mailflow.metrics())["mailflow_auth_results_total"]
    assert {tuple(sorted(value for _, value in labels)): count for labels, count in counts.items()} == {
        ("iprev", "pass"): 6,
        ("pass", "spf"): 4,
        ("fail", "spf"): 2,
        ("dkim", "pass"): 2,
        ("dkim", "fail"): 1,
        ("dkim", "none"): 3,
        ("arc", "pass"): 1,
        ("arc", "none"): 5,
        ("dmarc", "pass"): 3,
        ("dmarc", "fail"): 3,
    }


async def test_auth_check_says_of_each_what_the_service_said(tmp_path: Path, site: Site) -> None:
    async with run_mailflow(tmp_path, site) as mailflow:
        config = ("-c", str(tmp_path / "mailflow.toml"))
        for name, (action, _, spf, dkim, arc, dmarc) in EXPECTED.items():
            sample = site.samples[name]
            reply = await send(mailflow, sample)
            event = await decision(mailflow, sample)
            code, document = await check(tmp_path, sample, *config)
            expect_contract(document)
            assert code == (action == "reject"), name
            assert document["verdict"] == {"action": action, "reply": reply if action == "reject" else None}, name
            assert document["explanation"] == event["explanation"], name
            assert (document["envelope_from"], document["header_from"]) == (sample.sender, event["header_from"]), name
            assert document["spf"]["status"] == spf, name
            assert document["spf"]["identity"] == ("mailfrom" if sample.sender else "helo"), name
            assert [each["status"] for each in document["dkim"]] == dkim, name
            assert (document["arc"]["status"], document["dmarc"]["status"]) == (arc, dmarc), name


def expect_contract(document: dict[str, Any]) -> None:
    """The keys of the document, all of them and no other."""
    assert list(document) == KEYS
    assert list(document["spf"]) == ["status", "domain", "identity", "explanation"]
    assert {tuple(each) for each in document["dkim"]} <= {("status", "domain", "selector", "algorithm", "reason")}
    assert list(document["arc"]) == ["status"]
    assert list(document["dmarc"]) == ["status", "domain", "policy", "disposition", "aligned"]
    assert list(document["dmarc"]["aligned"]) == ["spf", "dkim"]
    assert list(document["verdict"]) == ["action", "reply"]
    assert all(isinstance(sentence, str) for sentence in document["explanation"])


async def test_auth_check_without_configuration_trusts_no_sealer(tmp_path: Path, site: Site) -> None:
    nameserver = ("--nameserver", site.nameserver)
    checked = await asyncio.gather(*(check(tmp_path, site.samples[name], *nameserver) for name in EXPECTED))
    for name, (code, document) in zip(EXPECTED, checked, strict=True):
        expect_contract(document)
        action = "reject" if name == "mailing-list" else EXPECTED[name][0]
        assert (code, document["verdict"]["action"]) == (action == "reject", action), name
    listed = checked[list(EXPECTED).index("mailing-list")][1]
    assert listed["arc"] == {"status": "pass"}
    assert listed["dmarc"] == {
        "status": "fail",
        "domain": "author.example",
        "policy": "reject",
        "disposition": "reject",
        "aligned": {"spf": False, "dkim": False},
    }
    newsletter = checked[list(EXPECTED).index("newsletter")][1]
    assert newsletter["dkim"] == [
        {"status": "pass", "domain": "shop.example", "selector": "s1", "algorithm": "rsa-sha256", "reason": None}
    ]
    assert newsletter["dmarc"]["aligned"] == {"spf": False, "dkim": True}


async def test_post_of_a_list_that_nobody_trusts_is_refused(tmp_path: Path, site: Site) -> None:
    async with run_mailflow(tmp_path, site, "") as mailflow:
        assert (await send(mailflow, site.samples["mailing-list"])).startswith("550 5.7.1 DMARC: ")
        assert read_mailbox(mailflow) == []


@pytest.mark.parametrize(
    ("mailauth", "name", "action", "rule"),
    [
        ('dmarc = "monitor"', "spoof", "accept", "monitor"),
        ('dmarc = "monitor"', "suspicious", "accept", "monitor"),
        ('dmarc = "monitor"', "outage", "accept", "monitor"),
        ("", "outage", "defer", "dns_unanswered"),
        ('on_temperror = "accept"', "outage", "accept", "dns_unanswered"),
        ('allow = ["bank.example 127.0.0.0/8"]', "spoof", "accept", "override_allowed"),
        ('allow = ["bank.example 192.0.2.0/24"]', "spoof", "reject", "dmarc_policy"),
    ],
)
async def test_what_the_operator_sets_holds_for_the_service_and_for_auth_check(
    tmp_path: Path, site: Site, mailauth: str, name: str, action: str, rule: str
) -> None:
    sample = site.samples[name]
    async with run_mailflow(tmp_path, site, f"[mailauth]\n{mailauth}\n") as mailflow:
        reply = await send(mailflow, sample)
        assert reply.startswith({"accept": "250 2.0.0 ", "reject": "550 5.7.1 ", "defer": "451 4.7.0 "}[action])
        event = await decision(mailflow, sample)
        mail = delivered(mailflow, sample)
        code, document = await check(tmp_path, sample, "-c", str(tmp_path / "mailflow.toml"))
    assert (event["action"], event["rule"]) == (action, rule)
    assert (mail is not None) is (action == "accept")
    assert mail is None or QUARANTINE_FIELD not in mail
    assert code == (action != "accept")
    assert document["verdict"] == {"action": action, "reply": None if action == "accept" else reply}
    assert document["explanation"] == event["explanation"]


async def test_name_in_the_results_and_received_spf_are_by_setting(tmp_path: Path, site: Site) -> None:
    forged = b"Authentication-Results: example.org; dmarc=pass\r\nReceived-SPF: pass client-ip=192.0.2.1;\r\n"
    others = b"Authentication-Results: mx.example.org; dmarc=pass\r\n"
    newsletter = site.samples["newsletter"]
    sample = replace(newsletter, content=forged + others + newsletter.content)
    async with run_mailflow(
        tmp_path, site, '[mailauth]\nauthserv_id = "example.org"\nreceived_spf = true\n'
    ) as mailflow:
        assert (await send(mailflow, sample)).startswith("250 2.0.0 ")
        (mail,) = read_mailbox(mailflow)
    assert mail.endswith(b"\r\n" + others + newsletter.content)
    trace = mail.removesuffix(others + newsletter.content)
    assert results_on(trace)[0] == "example.org"
    assert trace.count(b"\r\nReceived-SPF: pass ") == 1
    assert trace.count(b"Authentication-Results:") == 1
    assert trace.index(b"\r\nReceived-SPF: ") < trace.index(b"\r\nReceived: ")


def numbered(token: str) -> Sample:
    """A message for quarantine whose Subject tells the sink what its body is."""
    body = "Bring a friend."
    subject = f"{token} {zlib.crc32(f'{body}'.encode() + bytes((13, 10))):08x}"
    content = compose(subject, body, sender="board@club.example", recipient="alice@one.example")
    return Sample("suspicious", "", "250 2.0.0", content, sender="board@club.example")


@pytest.mark.parametrize(
    ("quarantine", "recipient", "filed"),
    [
        ("+Junk", "alice@one.example", "alice+Junk@one.example"),
        ("+Junk", "alice+lists@one.example", "alice+Junk@one.example"),
        ("header", "alice@one.example", "alice@one.example"),
    ],
)
async def test_quarantine_is_a_subaddress_or_a_field_for_a_mailbox_server(
    tmp_path: Path, site: Site, quarantine: str, recipient: str, filed: str
) -> None:
    async with run_lmtp_sink() as sink:
        config = route("one.example", lmtp=[f"127.0.0.1:{sink.port}"], quarantine=quarantine)
        async with MailflowProcess(tmp_path, config=config, nameservers=[site.nameserver]) as mailflow:
            assert (await send(mailflow, numbered("held"), recipient)).startswith("250 2.0.0 ")
            event = await mailflow.wait_event("message", action="quarantine")
            assert mailflow.stderr == ""
        assert dict(sink.copies) == {("held", filed): 1}
    assert event["rcpt_to"] == recipient


async def test_mailbox_server_gets_the_marks_on_top_of_the_message(tmp_path: Path, site: Site) -> None:
    async with LmtpTestServer() as server:
        config = TRUSTED + route("example.org", lmtp=[f"127.0.0.1:{server.port}"])
        async with MailflowProcess(tmp_path, config=config, nameservers=[site.nameserver]) as mailflow:
            for name in ("newsletter", "suspicious"):
                assert (await send(mailflow, site.samples[name])).startswith("250 2.0.0 ")
            assert mailflow.stderr == ""
    newsletter, suspicious = server.messages
    assert newsletter.recipients == suspicious.recipients == ("alice@example.org",)
    assert newsletter.content.startswith(b"Authentication-Results: mx.example.org;\r\n")
    assert suspicious.content.startswith(QUARANTINE_FIELD)
    assert results_on(suspicious.content)[1] == [
        ("spf", "fail"),
        ("dkim", "none"),
        ("dmarc", "fail"),
        ("iprev", "pass"),
    ]
