"""The DNS gives no answer: a message waits only where the answers it could have had lead to different actions."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from mailflow.dns import Answer, RdType, Record
from mailflow.testing import ZoneResolver
from tests.arc_chains import pass_on
from tests.arc_chains import zone as hop_zone
from tests.scenario.mailauth_site import CONTENT, ENFORCE, KEY, SIGNED, ZONE, asking, decisions, send
from tests.scenario.service import serve

DEFERRED = (
    "451 4.7.0 DMARC: the DNS gave no answer needed to authenticate bank.example, try again later",
    "dns_unanswered",
)
TAKEN = ("250 2.0.0 Ok ", "dmarc_pass")
REFUSED = ("550 5.7.1 DMARC: ", "dmarc_policy")
HARMLESS = ("250 2.0.0 Ok ", "dmarc_policy")
BY_SETTING = ("250 2.0.0 Ok ", "dns_unanswered")
OWN, BELOW, OTHER = "ceo@bank.example", "ceo@news.bank.example", "x@attacker.example"
REVERSE, CLIENT = "127.0.0.1", "mail.client.example"
POLICY = "_dmarc.bank.example"


@pytest.mark.parametrize("failure", ["TIMEOUT", "SERVFAIL"])
@pytest.mark.parametrize(
    ("policy", "sender", "content", "failing", "expected"),
    [
        # The author's own domain signed: it aligns under any record, whatever else is missing.
        ("p=reject", OTHER, SIGNED, "attacker.example", TAKEN),
        ("p=reject", OTHER, SIGNED, POLICY, TAKEN),
        ("p=reject", OTHER, SIGNED, REVERSE, TAKEN),
        ("p=reject", OTHER, SIGNED, CLIENT, TAKEN),
        # SPF of a domain below the author's: its answer matters, and whether it aligns hangs on the records.
        ("p=reject", BELOW, CONTENT, "news.bank.example", DEFERRED),
        ("p=reject", BELOW, CONTENT, POLICY, DEFERRED),
        ("p=reject", BELOW, CONTENT, "_dmarc.news.bank.example", DEFERRED),
        ("p=reject", BELOW, CONTENT, REVERSE, TAKEN),
        ("p=quarantine", BELOW, CONTENT, "news.bank.example", DEFERRED),
        ("p=reject; aspf=s", BELOW, CONTENT, "news.bank.example", REFUSED),  # strict: it could not align
        ("p=reject; aspf=s", OWN, CONTENT, "bank.example", DEFERRED),
        # SPF of another domain: no answer of its could help.
        ("p=reject", OTHER, CONTENT, "attacker.example", REFUSED),
        ("p=reject", OTHER, CONTENT, REVERSE, REFUSED),
        ("p=reject", OTHER, CONTENT, POLICY, DEFERRED),
        # A key of the author's domain.
        ("p=reject", OTHER, SIGNED, KEY, DEFERRED),
        ("p=quarantine", OTHER, SIGNED, KEY, DEFERRED),
        ("p=reject", BELOW, SIGNED, KEY, TAKEN),  # SPF passes and aligns
        # p=none never defers, once it is known.
        ("p=none", BELOW, CONTENT, "news.bank.example", HARMLESS),
        ("p=none", BELOW, CONTENT, "_dmarc.news.bank.example", HARMLESS),
        ("p=none", OTHER, SIGNED, KEY, HARMLESS),
        ("p=quarantine; t=y", OTHER, SIGNED, KEY, HARMLESS),
        ("p=none", OTHER, CONTENT, POLICY, DEFERRED),
    ],
)
async def test_missing_answer_defers_only_where_it_can_matter(
    tmp_path: Path, failure: str, policy: str, sender: str, content: bytes, failing: str, expected: tuple[str, str]
) -> None:
    zone = asking(policy) | {failing: [failure]}
    for on_temperror in ("defer", "accept"):
        reply, rule = BY_SETTING if expected == DEFERRED and on_temperror == "accept" else expected
        folder = tmp_path / on_temperror
        folder.mkdir()
        with capture_logs() as events:
            async with serve(folder, config=f'[mailauth]\non_temperror = "{on_temperror}"\n', zone=zone) as service:
                client = await service.greeted()
                assert (await send(client, content, sender=sender)).startswith(reply)
                assert len(service.all_delivered()) == reply.startswith("250")
                assert await client.command("NOOP") == "250 2.0.0 Ok"
        (event,) = decisions(events)
        assert event["rule"] == rule


@pytest.mark.parametrize("failing", [POLICY, KEY, "attacker.example", "bank.example", REVERSE])
async def test_monitor_defers_nothing(tmp_path: Path, failing: str) -> None:
    async with serve(tmp_path, zone=ZONE | {failing: ["TIMEOUT"]}) as service:
        assert (await send(await service.greeted(), SIGNED)).startswith("250 ")


NAMES = [f"h{number}.hostile.example" for number in range(10)]
HOSTILE: dict[str, list[Any]] = {
    "hostile.example": [{"TXT": f"v=spf1 {' '.join(f'mx:{name}' for name in NAMES)} -all"}],
    **{name: [{"MX": [host, f"x{host}.{name}"]} for host in range(10)] for name in NAMES},
    **{f"x{host}.{name}": [{"A": "192.0.2.200"}] for host in range(10) for name in NAMES},
}


@pytest.mark.parametrize(
    ("trusted", "key", "expected"),
    [
        ("hop1.example", hop_zone("hop1.example"), ("250 2.0.0 Ok ", "override_arc")),
        ("hop1.example", {"s._domainkey.hop1.example": ["TIMEOUT"]}, DEFERRED),
        ("hop1.example", {}, REFUSED),
        ("", {"s._domainkey.hop1.example": ["TIMEOUT"]}, REFUSED),
        ("", hop_zone("hop1.example"), REFUSED),
    ],
)
async def test_key_of_a_seal_matters_where_sealers_are_trusted(
    tmp_path: Path, trusted: str, key: dict[str, list[Any]], expected: tuple[str, str]
) -> None:
    sealed = await pass_on(SIGNED, "hop1.example", change=(b"Hello Alice", b"Hello all"))
    config = f"[mailauth]\ntrusted_arc_sealers = {[trusted] if trusted else []}\n"
    with capture_logs() as events:
        async with serve(tmp_path, config=config, zone=ZONE | key) as service:
            assert (await send(await service.greeted(), sealed)).startswith(expected[0])
    (event,) = decisions(events)
    assert event["rule"] == expected[1]


class Far(ZoneResolver):
    """A resolver that has nothing at hand: each question waits a turn, as all real ones do."""

    async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
        """Answer in the next turn of the loop."""
        await asyncio.sleep(0)
        return await super().resolve(name, rdtype)


OF_CLIENT_AND_SENDER = 3  # PTR, A, and the sender's MX: budgets of their own


@pytest.mark.parametrize(
    ("record", "reply"), [("v=DMARC1; p=reject", "550 5.7.1 "), ("v=DMARC1; p=none", "250 2.0.0 ")]
)
async def test_record_that_asks_for_all_that_may_be_asked_ends_in_a_result(
    tmp_path: Path, record: str, reply: str
) -> None:
    resolver = Far(ZONE | HOSTILE | {"_dmarc.hostile.example": [{"TXT": record}]})
    content = CONTENT.replace(b"ceo@bank.example", b"x@hostile.example")
    with capture_logs() as events:
        async with serve(tmp_path, config=ENFORCE, resolver=resolver) as service:
            client = await service.greeted()
            assert (await send(client, content, sender="x@hostile.example")).startswith(reply)
            asked = len(resolver.queries)
            assert (await send(client, SIGNED)).startswith("250 2.0.0 ")  # the next one has a budget of its own
    assert 110 < asked <= 150 + OF_CLIENT_AND_SENDER
    assert [event["spf"] for event in decisions(events)] == ["fail", "pass"]
