"""Gathers the evidence: every check on a message that needs its content, those that are independent together.

A check that fails for want of a DNS answer says so in its result. One that fails by a fault of ours raises, and then
the message gets 451: nothing is believed, and nothing refused, because a check crashed.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from mailflow.dns import BudgetedResolver, Resolver
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
    dmarc = None
    if domain and policy:
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
