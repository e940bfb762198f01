"""Gathers the evidence: every check on a message that needs its content, those that are independent together.

A check that fails for want of a DNS answer says so in its result. One that fails by a fault of ours raises, and then
the message gets 451: nothing is believed, and nothing refused, because a check crashed.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

from mailflow.dns import BudgetedResolver, Resolver
from mailflow.dns.at_hand import AtHandResolver, NotAtHand
from mailflow.mail.address import Address
from mailflow.mailauth import check_spf, evaluate_dmarc
from mailflow.mailauth.arc import verify_arc_chain
from mailflow.mailauth.author import Author, read_author
from mailflow.mailauth.dkim import verify_dkim_signatures
from mailflow.mailauth.dmarc import discover_policy
from mailflow.mailauth.signed_message import SignedMessage
from mailflow.receive.checks import ReverseName
from mailflow.receive.evidence import Evidence

MAX_QUERIES = 150  # RFC 7208 s4.6.4 lets SPF alone ask 10 times for the addresses of 10 names
MAX_ARC_QUERIES = 30
MAX_DNS_S = 20.0  # as s4.6.4 says; a client waits ten minutes for its final reply

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


def share_budget(resolver: Resolver) -> Callable[[Method], Resolver]:
    """Give each check the resolver within what one message may ask.

    ARC has a budget of its own: a made-up chain can ask for a hundred keys, and must not use up the others'.
    """
    shared = BudgetedResolver(resolver, max_queries=MAX_QUERIES, max_seconds=MAX_DNS_S)
    for_arc = BudgetedResolver(resolver, max_queries=MAX_ARC_QUERIES, max_seconds=MAX_DNS_S)
    return lambda method: for_arc if method is Method.ARC else shared


async def authenticate(
    message: SignedMessage, arrival: Arrival, *, resolver_for: Callable[[Method], Resolver], now: float, receiver: str
) -> Evidence:
    """Run every check. `now` is Unix time in seconds, `receiver` our name (RFC 7208 s7.3).

    `resolver_for` is what `share_budget` gives, or made of it. Raises only what no check expected.
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
    dmarc = None
    if domain:
        dmarc = await evaluate_dmarc(
            domain, spf.result(), dkim.result(), resolver=resolver_for(Method.DMARC), discovery=policy.result()
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
