"""Gathers the evidence: every check on a message that needs its content, those that are independent together.

A check that fails for want of a DNS answer says so in its result. One that fails by a fault of ours raises, and then
the message gets 451: nothing is believed, and nothing refused, because a check crashed.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Generic, TypeVar

from mailflow.dns import Resolver
from mailflow.dns.at_hand import AtHandResolver, NotAtHand
from mailflow.mail.address import Address
from mailflow.mailauth import check_spf, evaluate_dmarc
from mailflow.mailauth.arc import verify_arc_chain
from mailflow.mailauth.author import Author, read_author
from mailflow.mailauth.dkim import verify_dkim_signatures
from mailflow.mailauth.dmarc import PolicyDiscovery, discover_policy
from mailflow.mailauth.result import AuthStatus, DkimResult, DmarcResult, SpfResult
from mailflow.mailauth.signed_message import SignedMessage
from mailflow.receive.checks import ReverseName
from mailflow.receive.evidence import Evidence

R = TypeVar("R", SpfResult, DkimResult)
T = TypeVar("T")


class Method(Enum):
    """The checks that ask the DNS, for whoever wants to know which of them asked what."""

    SPF = "spf"
    DKIM = "dkim"
    ARC = "arc"
    DMARC = "dmarc"


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a message came: who brought it and what its envelope says. `reverse_path` None is the null sender."""

    client_ip: str
    helo: str
    reverse_name: ReverseName
    reverse_path: Address | None
    may_relay: bool = False


async def authenticate(
    message: SignedMessage, arrival: Arrival, *, resolver_for: Callable[[Method], Resolver], now: float, receiver: str
) -> Evidence:
    """Run every check. `now` is Unix time in seconds, `receiver` our name (RFC 7208 s7.3).

    The resolvers should share one budget. Raises only what no check expected.
    """
    author = read_author(message.content, (message.fields, message.body_start))
    sender = str(arrival.reverse_path or "")
    spf = _Check(
        resolver_for(Method.SPF),
        lambda resolver: check_spf(
            ip=arrival.client_ip, helo=arrival.helo, sender=sender, resolver=resolver, receiver=receiver, now=now
        ),
    )
    dkim = _Check(
        resolver_for(Method.DKIM), lambda resolver: verify_dkim_signatures(message, resolver=resolver, now=now)
    )
    arc = _Check(resolver_for(Method.ARC), lambda resolver: verify_arc_chain(message, resolver=resolver, now=now))
    domain = author.domain if isinstance(author, Author) else ""
    policy = _Check(resolver_for(Method.DMARC), lambda resolver: discover_policy(domain, resolver))
    await _run_all([spf, dkim, arc, policy] if domain else [spf, dkim, arc])
    dmarc = if_answered = None
    if domain:
        dmarc, if_answered = await _judge_alignment(
            domain, policy.result(), spf.result(), dkim.result(), resolver_for(Method.DMARC)
        )
    return Evidence(
        client_ip=arrival.client_ip,
        helo=arrival.helo,
        reverse_name=arrival.reverse_name,
        reverse_path=arrival.reverse_path,
        may_relay=arrival.may_relay,
        author=author,
        spf=spf.result(),
        dkim=tuple(dkim.result()),
        arc=arc.result(),
        dmarc=dmarc,
        dmarc_if_answered=if_answered,
    )


class _Check(Generic[T]):
    """One check, which asks whatever resolver it is run with; it may be run again until it has a result."""

    def __init__(self, resolver: Resolver, check: Callable[[Resolver], Coroutine[Any, Any, T]]) -> None:
        self._resolver = resolver
        self._check = check
        self._results: list[T] = []

    async def run_at_once(self) -> bool:
        """Run with what is at hand; False where the check needs more than that, and has no result yet."""
        try:
            self._results.append(await self._check(AtHandResolver(self._resolver)))
        except* NotAtHand:  # out of a task group inside the check too
            pass
        return bool(self._results)

    async def run(self) -> None:
        """Run to the end, however long the DNS takes."""
        self._results.append(await self._check(self._resolver))

    def result(self) -> T:
        """Give what the check found."""
        return self._results[0]


async def _run_all(checks: Sequence[_Check[Any]]) -> None:
    """Run checks in turn while all they ask is at hand, as nearly always; from one that has to wait on, together."""
    waiting = deque(checks)
    while waiting and await waiting[0].run_at_once():
        waiting.popleft()
    if waiting:
        async with asyncio.TaskGroup() as group:
            for check in waiting:
                group.create_task(check.run())


async def _judge_alignment(
    author_domain: str, policy: PolicyDiscovery, spf: SpfResult, dkim: list[DkimResult], resolver: Resolver
) -> tuple[DmarcResult, DmarcResult | None]:
    """Give DMARC's result, and where it is a fail what it would be if what the DNS left unanswered had passed."""
    dmarc = await evaluate_dmarc(author_domain, spf, dkim, resolver=resolver, discovery=policy)
    is_unanswered = AuthStatus.TEMPERROR in (spf.status, *(result.status for result in dkim))
    if dmarc.status is not AuthStatus.FAIL or not is_unanswered:
        return dmarc, None
    answered = await evaluate_dmarc(
        author_domain,
        _as_if_answered(spf),
        [_as_if_answered(result) for result in dkim],
        resolver=resolver,
        discovery=policy,
    )
    return dmarc, answered


def _as_if_answered(result: R) -> R:
    return replace(result, status=AuthStatus.PASS) if result.status is AuthStatus.TEMPERROR else result
