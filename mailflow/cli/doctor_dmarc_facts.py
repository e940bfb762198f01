"""A domain's DMARC as the DNS has it: the tree walk, the record that applies, who gets its reports. (RFC 9989, 9990)

The walk is the one that judges mail, gone to its end, so that the organizational domain is known as well. Whether a
destination of reports outside of that has agreed to them is asked as RFC 9990 says (before it RFC 7489 s7.1).
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from mailflow.dns import DnsTemporary, Resolver, lookup_txt
from mailflow.dns.names import canonical_name
from mailflow.mailauth.dmarc import PolicyDiscovery, discover_policy
from mailflow.mailauth.dmarc_record import DmarcRecord, is_dmarc_record, select_records
from mailflow.mailauth.dmarc_walk import Finding as WalkFinding
from mailflow.mailauth.dmarc_walk import TreeWalks, WalkStep, domain_of_walk, is_same_organization

MAX_DESTINATIONS: Final = 10
MAX_RECORDS: Final = 4


@dataclass(frozen=True, slots=True)
class Destination:
    """A host that is to get reports and is not of the organization: has it agreed? `name` is where it would say so."""

    host: str
    name: str
    has_agreed: bool = False
    failure: DnsTemporary | None = None


@dataclass(frozen=True, slots=True)
class DmarcFacts:
    """What the DNS says. `place` is the domain whose `_dmarc` is to be mended: that of the record that applies, the
    nearest with several, else the domain itself.

    `records` are the DMARC records there, at `owner`, which is another name behind a CNAME; `own_records` those of the
    domain itself and `near_misses` texts that were meant to be one, both at `own_owner`. `steps` is the whole walk.
    """

    domain: str
    discovery: PolicyDiscovery
    steps: tuple[WalkStep, ...]
    place: str
    owner: str
    own_owner: str
    records: tuple[bytes, ...] = ()
    own_records: tuple[bytes, ...] = ()
    near_misses: tuple[bytes, ...] = ()
    destinations: tuple[Destination, ...] = ()
    failure: DnsTemporary | None = None

    @property
    def organizational_domain(self) -> str:
        """Give the domain that the walk found, as far as it came."""
        return domain_of_walk(self.steps)


async def gather_dmarc(domain: str, resolver: Resolver) -> DmarcFacts:
    """Walk, read what stands at the place found, and ask the destinations of reports, those at the same time."""
    discovery = await discover_policy(domain, resolver)
    steps = tuple(await TreeWalks(resolver, discovery.steps).walk(domain))
    several = (step.domain for step in steps if step.finding is WalkFinding.SEVERAL)
    place = discovery.record_domain or next(several, domain)
    own = f"_dmarc.{domain}"
    if discovery.failure is not None and discovery.record is None:
        return DmarcFacts(domain, discovery, steps, place, own, own, failure=discovery.failure)
    try:
        at_place = await lookup_txt(resolver, f"_dmarc.{place}")
        at_domain = await lookup_txt(resolver, own)
    except DnsTemporary as failure:
        return DmarcFacts(domain, discovery, steps, place, own, own, failure=failure)
    near = (text for text in at_domain.records if b"dmarc" in text[:80].lower() and not is_dmarc_record(text))
    return DmarcFacts(
        domain,
        discovery,
        steps,
        place,
        at_place.canonical_name or f"_dmarc.{place}",
        at_domain.canonical_name or own,
        tuple(select_records(at_place.records)),
        tuple(select_records(at_domain.records)),
        tuple(islice(near, MAX_RECORDS)),
        await _ask_destinations(discovery, steps, resolver),
        discovery.failure,
    )


async def _ask_destinations(
    discovery: PolicyDiscovery, steps: Sequence[WalkStep], resolver: Resolver
) -> tuple[Destination, ...]:
    if discovery.record is None:
        return ()
    hosts = islice(dict.fromkeys(list_hosts(discovery.record)), MAX_DESTINATIONS)
    place = discovery.record_domain
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_ask_destination(host, place, steps, resolver)) for host in hosts]
    return tuple(found for task in tasks if (found := task.result()) is not None)


async def _ask_destination(host: str, place: str, steps: Sequence[WalkStep], resolver: Resolver) -> Destination | None:
    """Give a destination outside of the organization, None for one within."""
    name = f"{place}._report._dmarc.{host}"
    others = await TreeWalks(resolver, steps).walk(host)
    is_same = is_same_organization(steps, others)
    if is_same:
        return None
    if is_same is None:
        return Destination(host, name, failure=others[-1].failure or steps[-1].failure)
    try:
        answer = await lookup_txt(resolver, name)
    except DnsTemporary as failure:
        return Destination(host, name, failure=failure)
    return Destination(host, name, has_agreed=any(is_dmarc_record(text) for text in answer.records))


def list_hosts(record: DmarcRecord) -> Iterable[str]:
    """Give the hosts of the mailto: URIs, canonical."""
    for uri in (*record.rua, *record.ruf):
        scheme, _, rest = uri.partition(":")
        host = canonical_name(rest.partition("?")[0].rpartition("@")[2])
        if scheme.lower() == "mailto" and host:
            yield host
