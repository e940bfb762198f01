"""The checks of one message together: the evidence is the same whatever of the DNS is at hand."""

from itertools import combinations
from typing import Any

import pytest

from mailflow.dns import Answer, BudgetedResolver, DnsFailure, DnsTemporary, RdType, Record
from mailflow.mail.address import parse_mailbox
from mailflow.mailauth.result import AuthStatus
from mailflow.mailauth.signed_message import SignedMessage
from mailflow.receive.authenticate import Arrival, authenticate
from mailflow.receive.checks import ReverseName
from mailflow.receive.evidence import Evidence
from mailflow.testing import ZoneResolver
from mailflow.testing.zone import Zone
from tests.dkim_keys import key_record, rsa_key, sign_with_tags

NOW = 1_700_000_000
SPF, KEY, OTHER_KEY = "bounce.example.com", "s._domainkey.example.com", "s._domainkey.esp.example"
POLICY = "_dmarc.example.com"
ZONE: Zone = {
    SPF: [{"TXT": "v=spf1 ip4:192.0.2.1 -all"}],
    KEY: [{"TXT": key_record(rsa_key())}],
    OTHER_KEY: [{"TXT": key_record(rsa_key())}],
    POLICY: [{"TXT": "v=DMARC1; p=reject"}],
}
PLAIN = b"From: a@example.com\r\nTo: b@example.org\r\nSubject: Hello\r\n\r\nOne line.\r\n"
SIGNED = sign_with_tags(sign_with_tags(PLAIN, rsa_key()), rsa_key(), d="esp.example")
ARRIVAL = Arrival(
    "192.0.2.1", "mx.example.com", ReverseName(AuthStatus.PASS, "mx.example.com"), parse_mailbox("x@bounce.example.com")
)


class PartlyKnown(ZoneResolver):
    """A zone of which some names are at hand; one name has a fault of ours."""

    def __init__(self, known: set[str], *, broken: str = "") -> None:
        super().__init__(ZONE)
        self._known = known
        self._broken = broken
        self._at_hand = ZoneResolver(ZONE)

    def peek(self, name: str, rdtype: RdType | str) -> Answer[Record] | None:
        if name not in self._known:
            return None
        self._fail(name)
        return finish(self._at_hand.resolve(name, rdtype))

    async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
        self._fail(name)
        return await super().resolve(name, rdtype)

    def _fail(self, name: str) -> None:
        if name == self._broken:
            raise LookupError(name)


def finish(coroutine: Any) -> Any:
    """Run what never waits."""
    with pytest.raises(StopIteration) as caught:
        coroutine.send(None)
    return caught.value.value


def check(resolver: ZoneResolver, content: bytes = SIGNED) -> Any:
    budget = BudgetedResolver(resolver)
    return authenticate(
        SignedMessage(content), ARRIVAL, resolver_for=lambda _: budget, now=NOW, receiver="mx.example.org"
    )


async def test_the_evidence_is_the_same_whatever_is_at_hand() -> None:
    expected: Evidence = await check(ZoneResolver(ZONE))
    assert expected.spf.status is AuthStatus.PASS
    assert [result.status for result in expected.dkim] == [AuthStatus.PASS, AuthStatus.PASS]
    assert expected.dmarc is not None
    assert expected.dmarc.aligned_dkim
    for count in range(5):
        for known in combinations([SPF, KEY, OTHER_KEY, POLICY], count):
            resolver = PartlyKnown(set(known))
            assert await check(resolver) == expected
            asked = [name for name, _ in resolver.queries]
            assert len(asked) == len(set(asked))
            assert not set(asked) & set(known)


async def test_with_everything_at_hand_nothing_waits_for_a_turn_of_the_loop() -> None:
    content = sign_with_tags(PLAIN, rsa_key())
    evidence = finish(check(PartlyKnown({SPF, KEY, POLICY, "_dmarc.example", "_dmarc." + SPF}), content))
    assert evidence == await check(ZoneResolver(ZONE), content)


@pytest.mark.parametrize("name", [SPF, KEY, OTHER_KEY, POLICY])
@pytest.mark.parametrize("known", [set(), {SPF, KEY, OTHER_KEY, POLICY}])
async def test_a_fault_of_ours_is_no_result(name: str, known: set[str]) -> None:
    with pytest.raises((LookupError, ExceptionGroup)) as caught:
        await check(PartlyKnown(known, broken=name))
    fault: BaseException = caught.value
    while isinstance(fault, ExceptionGroup):
        (fault,) = fault.exceptions
    assert isinstance(fault, LookupError)


async def test_an_answer_that_never_comes_is_temperror_of_that_check_alone() -> None:
    class Failing(PartlyKnown):
        async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
            if name == SPF:
                raise DnsTemporary(DnsFailure.TIMEOUT, name, rdtype)
            return await super().resolve(name, rdtype)

    evidence = await check(Failing({KEY, OTHER_KEY, POLICY}))
    assert evidence.spf.status is AuthStatus.TEMPERROR
    assert [result.status for result in evidence.dkim] == [AuthStatus.PASS, AuthStatus.PASS]
    assert evidence.dmarc.status is AuthStatus.PASS
