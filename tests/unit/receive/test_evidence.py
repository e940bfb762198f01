"""Evidence about one message: what waited for the DNS in vain is told apart, and the checks do not wait for another."""

import asyncio
from typing import Any

import pytest

from mailflow.dns import Answer, BudgetedResolver, RdType, Record, Resolver
from mailflow.mail.address import parse_mailbox
from mailflow.mailauth.author import AuthorFault
from mailflow.mailauth.result import AuthStatus, DmarcPolicy, SpfIdentity
from mailflow.mailauth.signed_message import SignedMessage
from mailflow.receive.authenticate import Arrival, Method, authenticate
from mailflow.receive.checks import ReverseName
from mailflow.receive.evidence import Evidence, list_results
from mailflow.receive.verdict import Action, Policy, decide
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
    resolver: Resolver | None = None,
) -> Evidence:
    asked = resolver or ZoneResolver(zone)
    arrival = Arrival("192.0.2.1", "mail.bank.example", ReverseName(PASS, "mail.bank.example"), _path(sender))
    return await authenticate(
        SignedMessage(content), arrival, resolver_for=lambda method: asked, now=NOW, receiver="mx.example.org"
    )


def _path(sender: str) -> Any:
    return parse_mailbox(sender) if sender else None


@pytest.mark.parametrize(
    ("sender", "spf", "content", "zone", "action"),
    [
        # SPF of the author's own domain, or of one below the same organizational domain: it could have aligned.
        ("ceo@bank.example", TEMPERROR, PLAIN, {"bank.example": ["TIMEOUT"]}, Action.DEFER),
        ("ceo@bank.example", TEMPERROR, PLAIN, {"bank.example": ["SERVFAIL"]}, Action.DEFER),
        ("ceo@news.bank.example", TEMPERROR, PLAIN, {"news.bank.example": ["TIMEOUT"]}, Action.DEFER),
        # Of another domain it could not, whatever the answer.
        ("x@attacker.example", TEMPERROR, PLAIN, {"attacker.example": ["TIMEOUT"]}, Action.REJECT),
        # DKIM of the author's domain, though SPF has answered.
        ("ceo@bank.example", FAIL, SIGNED, {"bank.example": FORBIDDEN, KEY: ["TIMEOUT"]}, Action.DEFER),
        # Nothing is missing: the key is not there, or the record says no.
        ("ceo@bank.example", FAIL, SIGNED, {"bank.example": FORBIDDEN}, Action.REJECT),
        ("ceo@bank.example", FAIL, PLAIN, {"bank.example": FORBIDDEN}, Action.REJECT),
    ],
)
async def test_missing_answer_matters_where_it_could_have_aligned(
    sender: str, spf: AuthStatus, content: bytes, zone: dict[str, list[Any]], action: Action
) -> None:
    evidence = await gather(RECORD | zone, content, sender=sender)
    assert evidence.spf.status is spf
    assert evidence.dmarc is not None
    assert evidence.dmarc.policy is DmarcPolicy.REJECT
    assert evidence.dmarc.aligned_spf is evidence.dmarc.aligned_dkim is False
    assert decide(evidence, Policy()).action is action


async def test_signature_of_a_stranger_whose_key_is_not_answered_could_not_have_aligned() -> None:
    content = sign_with_tags(PLAIN, ed25519_key(), d="attacker.example", s="s")
    zone = RECORD | {"bank.example": FORBIDDEN, "s._domainkey.attacker.example": ["TIMEOUT"]}
    evidence = await gather(zone, content)
    assert [result.status for result in evidence.dkim] == [TEMPERROR]
    assert evidence.dmarc is not None
    assert evidence.dmarc.status is FAIL
    assert decide(evidence, Policy()).action is Action.REJECT


async def test_where_dmarc_passes_nothing_is_missing_whatever_was_not_answered() -> None:
    zone = RECORD | {"bank.example": PERMITTED, KEY: ["TIMEOUT"]}
    evidence = await gather(zone, SIGNED)
    assert [result.status for result in evidence.dkim] == [TEMPERROR]
    assert evidence.dmarc is not None
    assert evidence.dmarc.status is PASS


class Far(ZoneResolver):
    """A resolver that has nothing at hand: each question waits a turn, as all real ones do."""

    async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
        """Answer in the next turn of the loop."""
        await asyncio.sleep(0)
        return await super().resolve(name, rdtype)


NAMES = [f"h{number}.bank.example" for number in range(10)]
COSTLY: dict[str, list[Any]] = {
    "bank.example": [{"TXT": f"v=spf1 {' '.join(f'mx:{name}' for name in NAMES)} -all"}],
    **{name: [{"MX": [host, f"x{host}.{name}"]} for host in range(10)] for name in NAMES},
    **{f"x{host}.{name}": [{"A": "192.0.2.200"}] for host in range(10) for name in NAMES},
}


@pytest.mark.parametrize(
    ("limit", "policy", "spf", "action"),
    [
        (10, "reject", TEMPERROR, Action.DEFER),
        (100, "reject", TEMPERROR, Action.DEFER),
        (100, "none", TEMPERROR, Action.ACCEPT),
        (150, "reject", FAIL, Action.REJECT),
        (0, "none", TEMPERROR, Action.DEFER),  # not even the policy is known
    ],
)
async def test_budget_used_up_by_a_costly_record_is_a_result(
    limit: int, policy: str, spf: AuthStatus, action: Action
) -> None:
    far = Far(COSTLY | {"_dmarc.bank.example": [{"TXT": f"v=DMARC1; p={policy}"}]})
    evidence = await gather({}, resolver=BudgetedResolver(far, max_queries=limit))
    assert len(far.queries) <= limit
    assert evidence.spf.status is spf
    assert decide(evidence, Policy()).action is action


async def test_null_sender_is_judged_by_helo_and_can_align() -> None:
    zone = RECORD | {"mail.bank.example": PERMITTED}
    evidence = await gather(zone, sender="")
    assert (evidence.spf.status, evidence.spf.identity) == (PASS, SpfIdentity.HELO)
    assert evidence.envelope_from == ""
    assert evidence.dmarc is not None
    assert evidence.dmarc.aligned_spf


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
