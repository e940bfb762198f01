"""Evidence about one message: what waited for the DNS in vain is told apart, and the checks do not wait for another."""

import asyncio
from typing import Any

import pytest

from mailflow.dns import Answer, RdType, Record, Resolver
from mailflow.mail.address import parse_mailbox
from mailflow.mailauth.author import AuthorFault
from mailflow.mailauth.result import AuthStatus, DmarcPolicy, SpfIdentity
from mailflow.mailauth.signed_message import SignedMessage
from mailflow.receive.authenticate import Arrival, Method, authenticate
from mailflow.receive.checks import ReverseName
from mailflow.receive.evidence import Evidence, list_results
from mailflow.testing import ZoneResolver
from tests.arc_chains import pass_on
from tests.dkim_keys import ed25519_key, key_record, sign_with_tags

PASS, FAIL, NONE, TEMPERROR = AuthStatus.PASS, AuthStatus.FAIL, AuthStatus.NONE, AuthStatus.TEMPERROR
NOW = 1_700_000_000
PLAIN = b"From: <ceo@bank.example>\r\nTo: <alice@example.org>\r\nSubject: Hello\r\n\r\nHello\r\n"
SIGNED = sign_with_tags(PLAIN, ed25519_key(), d="bank.example", s="s")
RECORD: dict[str, list[Any]] = {"_dmarc.bank.example": [{"TXT": "v=DMARC1; p=reject"}]}
FORBIDDEN = [{"TXT": "v=spf1 -all"}]
PERMITTED = [{"TXT": "v=spf1 ip4:192.0.2.1 -all"}]
KEY = "s._domainkey.bank.example"


async def gather(
    zone: dict[str, list[Any]],
    content: bytes = PLAIN,
    *,
    sender: str = "ceo@bank.example",
    ip: str = "192.0.2.1",
    resolver: Resolver | None = None,
) -> Evidence:
    asked = resolver or ZoneResolver(zone)
    arrival = Arrival(ip, "mail.bank.example", ReverseName(PASS, "mail.bank.example"), _path(sender))
    return await authenticate(
        SignedMessage(content), arrival, resolver_for=lambda method: asked, now=NOW, receiver="mx.example.org"
    )


def _path(sender: str) -> Any:
    return parse_mailbox(sender) if sender else None


@pytest.mark.parametrize(
    ("sender", "spf", "content", "zone", "if_answered"),
    [
        # SPF of the author's own domain, or of one below the same organizational domain: it could have aligned.
        ("ceo@bank.example", TEMPERROR, PLAIN, {"bank.example": ["TIMEOUT"]}, PASS),
        ("ceo@bank.example", TEMPERROR, PLAIN, {"bank.example": ["SERVFAIL"]}, PASS),
        ("ceo@news.bank.example", TEMPERROR, PLAIN, {"news.bank.example": ["TIMEOUT"]}, PASS),
        # Of another domain it could not, whatever the answer.
        ("x@attacker.example", TEMPERROR, PLAIN, {"attacker.example": ["TIMEOUT"]}, FAIL),
        # DKIM of the author's domain, though SPF has answered.
        ("ceo@bank.example", FAIL, SIGNED, {"bank.example": FORBIDDEN, KEY: ["TIMEOUT"]}, PASS),
        # Nothing is missing: the key is not there, or the record says no.
        ("ceo@bank.example", FAIL, SIGNED, {"bank.example": FORBIDDEN}, None),
        ("ceo@bank.example", FAIL, PLAIN, {"bank.example": FORBIDDEN}, None),
    ],
)
async def test_result_if_answered_says_what_the_missing_answer_could_have_changed(
    sender: str, spf: AuthStatus, content: bytes, zone: dict[str, list[Any]], if_answered: AuthStatus | None
) -> None:
    evidence = await gather(RECORD | zone, content, sender=sender)
    assert evidence.spf.status is spf
    assert evidence.dmarc is not None
    assert (evidence.dmarc.status, evidence.dmarc.policy) == (FAIL, DmarcPolicy.REJECT)
    found = evidence.dmarc_if_answered
    assert (found and found.status) == if_answered
    assert evidence.dmarc.aligned_spf is evidence.dmarc.aligned_dkim is False


async def test_signature_of_a_stranger_whose_key_is_not_answered_could_not_have_aligned() -> None:
    content = sign_with_tags(PLAIN, ed25519_key(), d="attacker.example", s="s")
    zone = RECORD | {"bank.example": FORBIDDEN, "s._domainkey.attacker.example": ["TIMEOUT"]}
    evidence = await gather(zone, content)
    assert [result.status for result in evidence.dkim] == [TEMPERROR]
    assert evidence.dmarc_if_answered is not None
    assert evidence.dmarc_if_answered.status is FAIL


async def test_where_dmarc_passes_nothing_is_missing_whatever_was_not_answered() -> None:
    zone = RECORD | {"bank.example": PERMITTED, KEY: ["TIMEOUT"]}
    evidence = await gather(zone, SIGNED)
    assert [result.status for result in evidence.dkim] == [TEMPERROR]
    assert evidence.dmarc is not None
    assert evidence.dmarc.status is PASS
    assert evidence.dmarc_if_answered is None


async def test_two_missing_answers_leave_the_result_open() -> None:
    """SPF might have passed, and whether it then aligned hangs on a walk that failed too."""
    zone = RECORD | {"news.bank.example": ["TIMEOUT"], "_dmarc.news.bank.example": ["TIMEOUT"]}
    evidence = await gather(zone, sender="ceo@news.bank.example")
    assert evidence.dmarc is not None
    assert evidence.dmarc.status is FAIL
    assert evidence.dmarc_if_answered is not None
    assert evidence.dmarc_if_answered.status is TEMPERROR


async def test_null_sender_is_judged_by_helo_and_can_align() -> None:
    zone = RECORD | {"mail.bank.example": PERMITTED}
    evidence = await gather(zone, sender="")
    assert (evidence.spf.status, evidence.spf.identity) == (PASS, SpfIdentity.HELO)
    assert evidence.envelope_from == ""
    assert evidence.dmarc is not None
    assert evidence.dmarc.aligned_spf


@pytest.mark.parametrize(
    ("sender", "domain", "identity"),
    [
        ("ceo@bank.example", "bank.example", SpfIdentity.MAILFROM),
        ("", "mail.bank.example", SpfIdentity.HELO),
    ],
)
async def test_client_that_has_gone_leaves_spf_unanswered(sender: str, domain: str, identity: SpfIdentity) -> None:
    evidence = await gather(RECORD, sender=sender, ip="")
    assert (evidence.spf.status, evidence.spf.domain, evidence.spf.identity) == (TEMPERROR, domain, identity)
    assert evidence.dmarc_if_answered is not None
    assert evidence.dmarc_if_answered.status is PASS


async def test_without_an_author_dmarc_is_not_asked_and_the_other_checks_are() -> None:
    resolver = ZoneResolver({"bank.example": PERMITTED})
    evidence = await gather({}, PLAIN.replace(b"From:", b"X-From:"), resolver=resolver)
    assert isinstance(evidence.author, AuthorFault)
    assert evidence.dmarc is None
    assert evidence.author_domain == ""
    assert evidence.spf.status is PASS
    assert not [name for name, _ in resolver.queries if name.startswith("_dmarc.")]
    assert list_results(evidence) == [("iprev", PASS), ("spf", PASS), ("dkim", NONE), ("arc", NONE), ("dmarc", NONE)]


async def test_every_signature_is_counted() -> None:
    content = sign_with_tags(SIGNED, ed25519_key(), d="lists.example", s="s")
    evidence = await gather(RECORD | {KEY: [{"TXT": key_record(ed25519_key())}]}, content)
    assert [pair for pair in list_results(evidence) if pair[0] == "dkim"] == [
        ("dkim", AuthStatus.PERMERROR),
        ("dkim", PASS),
    ]


class Gathering:
    """Resolvers by check, none of which answers before all four checks have asked."""

    def __init__(self) -> None:
        self.waiting: set[Method] = set()
        self.all_asked = asyncio.Event()

    def resolver_for(self, method: Method) -> Resolver:
        return _Waiting(self, method)


class _Waiting(ZoneResolver):
    def __init__(self, gathering: Gathering, method: Method) -> None:
        super().__init__(RECORD)
        self._gathering = gathering
        self._method = method

    async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
        """Answer once everybody has asked."""
        self._gathering.waiting.add(self._method)
        if self._gathering.waiting == set(Method):
            self._gathering.all_asked.set()
        await self._gathering.all_asked.wait()
        return await super().resolve(name, rdtype)


async def test_spf_dkim_arc_and_the_search_for_the_policy_ask_at_once() -> None:
    sealed = await pass_on(SIGNED, "hop1.example")
    arrival = Arrival("192.0.2.1", "mail.bank.example", ReverseName(PASS), _path("ceo@bank.example"))
    gathering = Gathering()
    async with asyncio.timeout(5):
        evidence = await authenticate(
            SignedMessage(sealed), arrival, resolver_for=gathering.resolver_for, now=NOW, receiver="mx.example.org"
        )
    assert gathering.waiting == set(Method)
    assert evidence.dmarc is not None
    assert evidence.dmarc.policy is DmarcPolicy.REJECT


class Broken(ZoneResolver):
    """A fault of ours where one check asks."""

    async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
        """Raise what nobody expects."""
        raise RuntimeError("injected")


@pytest.mark.parametrize("method", Method)
async def test_fault_of_ours_in_any_check_is_no_result(method: Method) -> None:
    sealed = await pass_on(SIGNED, "hop1.example")
    arrival = Arrival("192.0.2.1", "mail.bank.example", ReverseName(PASS), _path("ceo@bank.example"))

    def resolver_for(asking: Method) -> Resolver:
        return Broken({}) if asking is method else ZoneResolver(RECORD)

    with pytest.raises(ExceptionGroup) as raised:
        await authenticate(SignedMessage(sealed), arrival, resolver_for=resolver_for, now=NOW, receiver="mx")
    assert raised.group_contains(RuntimeError, match="injected")
