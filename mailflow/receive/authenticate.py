"""Gathers the evidence: every check on a message that needs its content, those that are independent together.

A check that fails for want of a DNS answer says so in its result. One that fails by a fault of ours raises, and then
the message gets 451: nothing is believed, and nothing refused, because a check crashed.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeVar

from mailflow.dns import Resolver
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
    async with asyncio.TaskGroup() as group:
        spf = group.create_task(
            check_spf(
                ip=arrival.client_ip,
                helo=arrival.helo,
                sender=str(arrival.reverse_path or ""),
                resolver=resolver_for(Method.SPF),
                receiver=receiver,
                now=now,
            )
        )
        dkim = group.create_task(verify_dkim_signatures(message, resolver=resolver_for(Method.DKIM), now=now))
        arc = group.create_task(verify_arc_chain(message, resolver=resolver_for(Method.ARC), now=now))
        domain = author.domain if isinstance(author, Author) else None
        policy = domain and group.create_task(discover_policy(domain, resolver_for(Method.DMARC)))
    dmarc = if_answered = None
    if domain and policy:
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
