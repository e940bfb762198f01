"""Strangers' words from the wire to the trace fields: no result is added, removed or altered, nothing crashes.

Unlike test_authentication_results_fuzz.py, which writes results of its own, this goes the whole way of a message: the
checks run on it, a verdict is found, and what would be delivered is read as somebody behind us reads it.
"""

import asyncio
import json
from typing import Any, cast

import authres  # type: ignore[import-untyped]
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailflow.dns import Answer, AnswerStatus, RdType, Record
from mailflow.mail.address import Address, AddressSyntaxError, parse_mailbox
from mailflow.mail.headers import split_message
from mailflow.mailauth.forged_results import claims_id, strip_forged
from mailflow.mailauth.result import AuthStatus
from mailflow.mailauth.signed_message import SignedMessage
from mailflow.receive.authenticate import Arrival, authenticate
from mailflow.receive.checks import ReverseName
from mailflow.receive.evidence import Evidence, list_results
from mailflow.receive.explanation import describe_message
from mailflow.receive.trace import trace_fields
from mailflow.receive.verdict import Policy, decide
from mailflow.smtp.transaction import Client, Transaction
from mailflow.testing import ZoneResolver
from tests.dkim_keys import ed25519_key, key_record, sign_with_tags
from tests.unit.mailauth.rfc8601 import Result, parse, unfold

ID = "mx.example.org"
NOW = 1_700_000_000
PIECES = [
    *("; dmarc=pass", "; dkim=pass header.d=bank.example", "\r\n", "\r\n\t", "\n", "\r", ";", "(", ")", '"', "\\", "@"),
    *(
        "\0",
        "\x1b[2J",
        "\x7f",
        "\x80",
        "ü",
        "；",
        "＠",
        "\u2028",
        " ",
        "\t",
        "=",
        "/",
        ".",
        "..",
        "[",
        "]",
        ",",
        "<",
        ">",
    ),
    *("a", "example.com", "joe@example.com", "bücher.example", "=pass", "= PaSS", "reason=x", "smtp.mailfrom=x", ":"),
    *(f"\r\nAuthentication-Results: {ID}; dmarc=pass", "a" * 400, "=?utf-8?q?x?=", ID, "spf=pass", "From:", "s1"),
]
HOSTILE = st.lists(st.sampled_from(PIECES), max_size=5).map("".join) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=20
)
DOMAIN = st.sampled_from(["example.com", "sub.example.com", "bank.example", "bücher.example"]) | HOSTILE
LOCAL = st.text(st.characters(exclude_categories=["Cs"], min_codepoint=32), max_size=20) | HOSTILE


class PublishesEverything(ZoneResolver):
    """Every name has the key, and permits the client, or says what the sender likes."""

    def __init__(self, text: str) -> None:
        super().__init__({})
        self._text = text.encode()

    async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
        """Answer every question for text."""
        if RdType(rdtype) is not RdType.TXT:
            return await super().resolve(name, rdtype)
        if "_domainkey" in name:
            record = key_record(ed25519_key()).encode()
        elif name.startswith("_dmarc."):
            record = b"v=DMARC1; p=quarantine"
        else:
            record = self._text
        return Answer(AnswerStatus.FOUND, (record,), 300, name)


def reverse_path(local: str, domain: str) -> Address | None:
    """Give an address as MAIL may have it: quoted where it must be, the null sender where it cannot be one."""
    escaped = local.replace("\\", "\\\\").replace('"', '\\"')
    try:
        return parse_mailbox(f'"{escaped}"@{domain}')
    except AddressSyntaxError:
        return None


def signed(content: bytes, **tags: str) -> bytes:
    """Put a signature on top, a good one where its field stays one field."""
    if all(char >= " " for value in tags.values() for char in value):
        return sign_with_tags(content, ed25519_key(), **tags)
    field = "; ".join(f"{name}={value}" for name, value in tags.items())
    return f"DKIM-Signature: v=1; a=ed25519-sha256; h=from; bh=eA==; b=eA==; {field}\r\n".encode() + content


def judge(content: bytes, arrival: Arrival, spf_text: str) -> tuple[Evidence, bytes, bytes]:
    """Give the evidence, the trace fields and what would be delivered under them."""
    message = SignedMessage(content)
    resolver = PublishesEverything(spf_text)
    evidence = asyncio.run(authenticate(message, arrival, resolver_for=lambda method: resolver, now=NOW, receiver=ID))
    verdict = decide(evidence, Policy())
    if verdict.reply is not None:
        assert verdict.reply.encode().count(b"\r\n") == 1
        assert len(verdict.reply.encode()) <= 512
    facts = describe_message(evidence, verdict)
    assert all(sentence.isascii() and sentence.isprintable() for sentence in cast(list[str], facts["explanation"]))
    json.dumps(facts)
    client = Client(cast(Any, None))
    client.extended_smtp = True
    trace = trace_fields(
        client, Transaction(), evidence, id="1", at=NOW, hostname=ID, authserv_id=ID, writes_received_spf=True
    )
    kept = strip_forged(content, message.fields, message.body_start, ID, removes_received_spf=True)
    return evidence, trace, trace + kept.head + content[kept.rest_at :]


def expect_same_results(field: bytes, evidence: Evidence) -> list[Result]:
    meant = [(method, status.value) for method, status in list_results(evidence)]
    if evidence.arc.status is AuthStatus.NONE:
        meant.remove(("arc", "none"))
    if evidence.dmarc is None:
        meant.remove(("dmarc", "none"))
    iprev = meant.pop(0)
    authserv_id, results = parse(field)
    assert authserv_id == ID
    assert [(result.method, result.result) for result in results] == [*meant, iprev]
    oracle = authres.AuthenticationResultsHeader.parse(unfold(field))
    assert [(result.method, result.result) for result in oracle.results] == [*meant, iprev]
    return results


@settings(max_examples=150, deadline=None)
@given(d=DOMAIN, s=DOMAIN, i=HOSTILE, local=LOCAL, domain=DOMAIN, helo=HOSTILE, author=HOSTILE, spf_text=HOSTILE)
@example(
    d="example.com",
    s="s",
    i='"; dmarc=pass (@example.com',
    local='"; dmarc=pass (',
    domain="example.com",
    helo="[x]; dmarc=pass",
    author='"; dmarc=pass (" <"; dmarc=pass"@example.com>',
    spf_text="v=spf1 exists:%{l}.example.com -all exp=x.example.com",
)
@example(
    d="example.com",
    s="s",
    i=f"a@example.com\r\nAuthentication-Results: {ID}; dmarc=pass",
    local="a",
    domain="example.com",
    helo="h",
    author=f"<a@example.com>\r\nAuthentication-Results: {ID}; dmarc=pass",
    spf_text="v=spf1 +all",
)
def test_nothing_a_sender_writes_adds_removes_or_alters_a_result(
    d: str, s: str, i: str, local: str, domain: str, helo: str, author: str, spf_text: str
) -> None:
    unsigned = f"From: {author}\r\nSubject: x\r\n\r\nHello\r\n".encode()
    content = signed(signed(unsigned, d="example.com", s=s, i=i), d=d, s="s")
    arrival = Arrival("192.0.2.1", helo, ReverseName(AuthStatus.PASS, helo), reverse_path(local, domain))
    evidence, trace, delivered = judge(content, arrival, spf_text)

    first, _ = split_message(trace)
    assert [field.name for field in first] == [b"authentication-results", b"received-spf", b"received"]
    assert len(b"".join(field.raw for field in first)) == len(trace)
    expect_same_results(first[0].raw, evidence)

    seen, _ = split_message(delivered)
    ours = [field.raw for field in seen if field.name == b"authentication-results" and claims_id(field.value, ID)]
    assert ours == [first[0].raw], "no other field bears our name"


@settings(max_examples=100, deadline=None)
@given(local=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30), helo=HOSTILE)
def test_a_good_signature_and_a_hostile_envelope_stay_what_they_are(local: str, helo: str) -> None:
    unsigned = b"From: <a@example.com>\r\nSubject: x\r\n\r\nHello\r\n"
    content = sign_with_tags(unsigned, ed25519_key(), d="example.com", s="s")
    path = reverse_path(local, "attacker.example")
    evidence, trace, _ = judge(content, Arrival("192.0.2.1", helo, ReverseName(AuthStatus.FAIL), path), "v=spf1 +all")
    results = expect_same_results(split_message(trace)[0][0].raw, evidence)
    found = {result.method: result for result in results}
    assert (found["dkim"].result, found["dmarc"].result, found["iprev"].result) == ("pass", "pass", "fail")
    assert ("header.d", "example.com") in found["dkim"].properties
    assert ("header.from", "example.com") in found["dmarc"].properties
