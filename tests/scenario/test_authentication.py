"""Who sent this? Through the server: what is refused, what is delivered and how marked, and what the log says."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mailflow.smtp.server import SmtpSession
from tests.scenario.mailauth_site import CONTENT, ENFORCE, SIGNED, ZONE, asking, decisions, send, split_ours
from tests.scenario.memory import MemoryClient
from tests.scenario.service import serve
from tests.unit.mailauth.rfc8601 import parse

REFUSED = "550 5.7.1 DMARC: neither SPF nor DKIM stands for bank.example, whose policy is to reject (p=reject)"
ANYWHERE = '[[route]]\ndomains = ["*"]\nbackend = "mailboxes"\n'
MARK = b"X-Spam-Flag: YES\r\n"


@pytest.mark.parametrize(
    ("policy", "mailauth", "sender", "content", "reply", "action", "rule"),
    [
        ("p=reject", "", "x@attacker.example", CONTENT, REFUSED, "reject", "dmarc_policy"),
        ("p=quarantine", "", "x@attacker.example", CONTENT, "250 2.0.0 Ok ", "quarantine", "dmarc_policy"),
        ("p=reject; t=y", "", "x@attacker.example", CONTENT, "250 2.0.0 Ok ", "quarantine", "dmarc_policy"),
        ("p=none", "", "x@attacker.example", CONTENT, "250 2.0.0 Ok ", "accept", "dmarc_policy"),
        ("p=reject", "", "x@attacker.example", SIGNED, "250 2.0.0 Ok ", "accept", "dmarc_pass"),
        ("p=reject", "", "x@news.bank.example", CONTENT, "250 2.0.0 Ok ", "accept", "dmarc_pass"),
        ("p=reject; aspf=s", "", "x@news.bank.example", CONTENT, REFUSED, "reject", "dmarc_policy"),
        ("p=sometimes", "", "x@attacker.example", CONTENT, "250 2.0.0 Ok ", "accept", "dmarc_none"),
        ("p=reject", 'dmarc = "monitor"', "x@attacker.example", CONTENT, "250 2.0.0 Ok ", "accept", "monitor"),
        ("p=quarantine", 'dmarc = "monitor"', "x@attacker.example", CONTENT, "250 2.0.0 Ok ", "accept", "monitor"),
        (
            "p=reject",
            'allow = ["bank.example 127.0.0.0/8"]',
            "x@attacker.example",
            CONTENT,
            "250 2.0.0 Ok ",
            "accept",
            "override_allowed",
        ),
        (
            "p=reject",
            'allow = ["bank.example 192.0.2.0/24"]',
            "x@attacker.example",
            CONTENT,
            REFUSED,
            "reject",
            "dmarc_policy",
        ),
        (
            "p=reject",
            'allow = [".bank.example 127.0.0.0/8"]',
            "x@attacker.example",
            CONTENT,
            REFUSED,
            "reject",
            "dmarc_policy",
        ),
    ],
)
async def test_decision_is_answered_delivered_counted_and_logged_once(
    tmp_path: Path, policy: str, mailauth: str, sender: str, content: bytes, reply: str, action: str, rule: str
) -> None:
    with capture_logs() as events:
        async with serve(tmp_path, config=f"[mailauth]\n{mailauth}\n", zone=asking(policy)) as service:
            client = await service.greeted()
            assert (await send(client, content, sender=sender)).startswith(reply)
            assert await client.command("NOOP") == "250 2.0.0 Ok"
            delivered = service.all_delivered()
            assert service.count("mailflow_messages_total", listener="mx", action=action) == 1
    (event,) = decisions(events)
    assert (event["action"], event["rule"], event["command"]) == (action, rule, "DATA")
    assert event["mail_from"] == sender
    assert event["header_from"] == "ceo@bank.example"
    assert event["explanation"][-1].endswith(".")
    assert len(delivered) == (action in ("accept", "quarantine"))
    assert [mail for mail in delivered if not mail.endswith(content)] == []
    assert [MARK in mail.partition(b"\r\n\r\n")[0] + b"\r\n" for mail in delivered] == [action == "quarantine"] * len(
        delivered
    )


async def test_results_are_counted_by_method(tmp_path: Path) -> None:
    async with serve(tmp_path, config=ENFORCE, zone=ZONE) as service:
        await send(await service.greeted(), SIGNED)
        for method, result in (
            ("iprev", "pass"),
            ("spf", "pass"),
            ("dkim", "pass"),
            ("arc", "none"),
            ("dmarc", "pass"),
        ):
            assert service.count("mailflow_auth_results_total", method=method, result=result) == 1


async def test_what_is_found_stands_on_the_message(tmp_path: Path) -> None:
    config = '[mailauth]\nauthserv_id = "example.org"\n'
    async with serve(tmp_path, config=config, zone=ZONE) as service:
        await send(await service.greeted(), SIGNED)
        (mail,) = service.delivered()
    fields, rest = split_ours(mail)
    assert rest == SIGNED
    assert [field.partition(b":")[0] for field in fields] == [
        *(b"Return-Path", b"Delivered-To", b"Authentication-Results", b"Received")
    ]
    authserv_id, results = parse(fields[2])
    assert authserv_id == "example.org"
    found = {result.method: result for result in results}
    assert {method: result.result for method, result in found.items()} == {
        **dict.fromkeys(("spf", "dkim", "dmarc", "iprev"), "pass")
    }
    assert ("smtp.mailfrom", "x@attacker.example") in found["spf"].properties
    assert ("header.d", "bank.example") in found["dkim"].properties
    assert ("header.from", "bank.example") in found["dmarc"].properties


FROM = b"From: Ceo <ceo@bank.example>\r\n"
ATTACKS = {
    "two From fields": (FROM + b"From: <x@attacker.example>\r\n", "there is more than one From field"),
    "the same From field twice": (FROM + FROM, "there is more than one From field"),
    "a twin with a blank before it": (FROM + b"From : <x@attacker.example>\r\n", "there is more than one From field"),
    "a twin in capitals": (FROM + b"FROM\t:<x@attacker.example>\r\n", "there is more than one From field"),
    "no From field": (b"Sender: <ceo@bank.example>\r\n", "there is no From field"),
    "authors of two domains": (b"From: <a@attacker.example>, <b@bank.example>\r\n", "authors of more than one domain"),
    "no address": (b"From: Ceo\r\n", "names no address"),
    "an empty field": (b"From:\r\n", "names no address"),
    "an empty group": (b"From: Undisclosed:;\r\n", ""),
    "two angle addresses": (b"From: <a@attacker.example> <b@bank.example>\r\n", "authors of more than one domain"),
    "a From field behind a broken line": (
        b"From: <a@attacker.example>\r\nthis is no field\r\n" + FROM,
        "a From field stands where it has ended",
    ),
    "the only From field behind a broken line": (b"no field\r\n" + FROM, "a From field stands where it has ended"),
}


@pytest.mark.parametrize(("header", "reason"), ATTACKS.values(), ids=ATTACKS)
async def test_message_whose_author_cannot_be_told_is_refused(tmp_path: Path, header: bytes, reason: str) -> None:
    with capture_logs() as events:
        async with serve(tmp_path, config=ENFORCE, zone=ZONE) as service:
            client = await service.greeted()
            reply = await send(client, header + b"Subject: Hello\r\n\r\nHello\r\n", sender="a@attacker.example")
            assert reply.startswith("550 5.7.1 The author (From) cannot be told: ")
            assert reason in reply
            assert (await send(client, SIGNED)).startswith("250 2.0.0 ")
            assert len(service.all_delivered()) == 1
    refused, _ = decisions(events)
    assert (refused["action"], refused["rule"], refused["header_from"]) == ("reject", "author_unknown", None)
    assert refused["dmarc"] == "none"


async def test_nul_in_the_from_field_is_521(tmp_path: Path) -> None:
    async with serve(tmp_path, config=ENFORCE, zone=ZONE) as service:
        client = await service.greeted()
        content = b"From: <ceo@bank.example\0@attacker.example>\r\n\r\nHello\r\n"
        assert (await send(client, content)).startswith("521 5.5.2 ")
        assert await client.rest() == b""
        assert service.all_delivered() == []


FORGED = [
    b"Authentication-Results: mx.test; dmarc=pass header.from=bank.example\r\n",
    b"authentication-results:MX.Test.; dmarc=pass\r\n",
    b"Authentication-Results : mx.test; dmarc=pass\r\n",
    b"Authentication-Results:\r\n\tmx.test 1;\r\n dmarc=pass\r\n",
    b"Authentication-Results: (comment) mx.test (another); dmarc=pass\r\n",
    b'Authentication-Results: "mx.test"; dmarc=pass\r\n',
    b'Authentication-Results: "mx\\.test"; dmarc=pass\r\n',
    b"Authentication-Results: mx.test\r\n",
    b"Authentication-Results: other.example mx.test; dmarc=pass\r\n",
    b"Authentication-Results: (never ends mx.test; dmarc=pass\r\n",
    b"Authentication-Results: dmarc=pass\r\n",
    b"Authentication-Results:\r\n",
]
OTHERS = [
    b"Authentication-Results:   other.example;\r\n\tspf=pass   smtp.mailfrom=a@b.example\r\n",
    b"X-Authentication-Results: mx.test; dmarc=pass\r\n",
    b"ARC-Authentication-Results: i=1; mx.test; dmarc=pass\r\n",
    b"Authentication-Results-Original: mx.test; dmarc=pass\r\n",
    b"Authentication-Results: mx.test.example; dmarc=pass\r\n",
    b"Received-SPF: pass (mx.test: ok) client-ip=192.0.2.1;\r\n",
]
BODY = b"\r\n" + FORGED[0] + b"Received-SPF: pass\r\n.\r\n \r\nlast line without a friend"


@pytest.mark.parametrize("writes_received_spf", [False, True])
async def test_forged_results_are_removed_and_others_kept_octet_for_octet(
    tmp_path: Path, writes_received_spf: bool
) -> None:
    header: list[bytes] = [FROM]
    for number in range(max(len(FORGED), len(OTHERS))):
        header += [*FORGED[number : number + 1], *OTHERS[number : number + 1]]
    kept = [line for line in header if line not in FORGED]
    config = f"[mailauth]\nreceived_spf = {str(writes_received_spf).lower()}\n"
    async with serve(tmp_path, config=config, zone=asking("p=none")) as service:
        client = await service.greeted()
        stuffed = BODY.replace(b"\r\n.", b"\r\n..") + b"\r\n"
        assert (await send(client, b"".join(header) + stuffed)).startswith("250 ")
        (mail,) = service.delivered()
    fields, rest = split_ours(mail)
    if writes_received_spf:  # readers could not tell a stranger's from ours
        kept.remove(OTHERS[-1])
    assert rest == b"".join(kept) + BODY + b"\r\n"
    names = [field.partition(b":")[0] for field in fields[2:]]
    assert names == [b"Authentication-Results", *[b"Received-SPF"] * writes_received_spf, b"Received"]
    if writes_received_spf:
        assert fields[3].startswith(b"Received-SPF: pass")
        assert b'envelope-from="x@attacker.example"' in fields[3]


async def test_the_configured_authserv_id_is_ours_and_the_hostname_is_not(tmp_path: Path) -> None:
    ours = b"Authentication-Results: example.org; dmarc=pass\r\n"
    config = '[mailauth]\nauthserv_id = "example.org"\n'
    async with serve(tmp_path, config=config, zone=asking("p=none")) as service:
        await send(await service.greeted(), ours + FORGED[0] + CONTENT)
        (mail,) = service.delivered()
    assert split_ours(mail)[1] == FORGED[0] + CONTENT


async def test_client_that_may_relay_is_not_held_to_dmarc(tmp_path: Path) -> None:
    with capture_logs() as events:
        config = f'{ENFORCE}[mx]\nrelay_from = ["127.0.0.0/8"]\n{ANYWHERE}'
        async with serve(tmp_path, config=config, zone=ZONE) as service:
            assert (await send(await service.greeted())).startswith("250 ")
            (mail,) = service.delivered()
    assert b"dmarc=fail" in mail
    assert [event["rule"] for event in decisions(events)] == ["override_relay"]


async def test_client_that_has_gone_before_it_was_looked_at_is_no_fault_of_ours(tmp_path: Path) -> None:
    async with serve(tmp_path, config=ENFORCE, zone=ZONE) as service:
        client = MemoryClient(SmtpSession(service.worker._mx), ip="")
        assert (await client.reply()).startswith("220 ")
        client.send(b"EHLO client.test\r\nMAIL FROM:<ceo@bank.example>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\n")
        assert (await client.reply()).startswith("250")
        assert await client.reply() == "421 4.4.2 Connection lost"
        assert await client.rest() == b""
        assert service.all_delivered() == []
        client.close()
