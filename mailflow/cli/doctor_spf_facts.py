"""A domain's SPF as the DNS has it: its records, the tree behind them, and which of its terms find nothing. (RFC 7208)

The tree follows every branch, so what is counted is the worst case. Terms that ask for addresses are looked up for both
families, as a host without IPv6 is a term that finds nothing for clients that have it (s4.6.4).
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Final

from mailflow.dns import AnswerStatus, DnsTemporary, IpAddress, Resolver, lookup_addresses, lookup_mx, lookup_txt
from mailflow.mailauth.spf_lookups import MAX_MX_NAMES
from mailflow.mailauth.spf_record import Mechanism, MechanismKind, RecordFault, SpfRecord, is_spf_record, parse_record
from mailflow.mailauth.spf_tree import MAX_RECORDS, SpfTree, walk_record

MAX_TERMS: Final = 40
MAX_NEAR_MISSES: Final = 4

_ASKING: Final = {MechanismKind.A, MechanismKind.MX, MechanismKind.EXISTS}
_NEAR_MISSES: Final = (b"v=spf", b"v =spf", b"v= spf", b"v = spf", b"vspf1", b"spf1 ", b"spf=v1")


@dataclass(frozen=True, slots=True)
class TermFacts:
    """What one a, mx or exists finds. `link` is the term of the root that leads to its record, "" if it stands there.

    `void_families` are the clients (4, 6) for whom it finds nothing.
    """

    text: str
    domain: str
    link: str
    addresses: tuple[IpAddress, ...] = ()
    void_families: frozenset[int] = frozenset()
    has_too_many_names: bool = False
    failure: DnsTemporary | None = None


@dataclass(frozen=True, slots=True)
class SpfFacts:
    """What the DNS says. `records` are the domain's SPF records, `near_misses` texts that were meant to be one.

    `tree` is None unless there is exactly one record. `owner` is where the records stand, behind a CNAME another name.
    """

    domain: str
    owner: str = ""
    records: tuple[bytes, ...] = ()
    near_misses: tuple[bytes, ...] = ()
    tree: SpfTree | None = None
    terms: tuple[TermFacts, ...] = ()
    failure: DnsTemporary | None = None

    @property
    def allows_nobody(self) -> bool:
        """True where the one record says that no host sends: `-all` and nothing before it."""
        record = read_node(self.tree) if self.tree is not None else None
        return record is not None and [term.text.lower() for term in record.mechanisms[:1]] == ["-all"]


def read_node(node: SpfTree) -> SpfRecord | None:
    """Give a node's record parsed, None where there is none without fault."""
    return _read_text(node.record)


@lru_cache(maxsize=MAX_RECORDS)  # every question about a tree reads all of it, and a record may have 64 KB
def _read_text(text: str) -> SpfRecord | None:
    octets = text.encode("latin-1")
    record = parse_record(octets) if is_spf_record(octets) else None
    return None if isinstance(record, RecordFault) else record


async def gather_spf(domain: str, resolver: Resolver) -> SpfFacts:
    """Ask for the records, then for the tree, then for the terms, those at the same time."""
    try:
        answer = await lookup_txt(resolver, domain)
    except DnsTemporary as failure:
        return SpfFacts(domain, domain, failure=failure)
    owner = answer.canonical_name or domain
    records = tuple(record for record in answer.records if is_spf_record(record))
    near = (record for record in answer.records if not is_spf_record(record) and _is_near_miss(record))
    if len(records) != 1:
        return SpfFacts(domain, owner, records, tuple(islice(near, MAX_NEAR_MISSES)))
    tree = await walk_record(domain, resolver)
    asking = list(islice(_list_asking(tree, ""), MAX_TERMS))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_look_up(name, link, term, resolver)) for name, link, term in asking]
    terms = tuple(task.result() for task in tasks)
    return SpfFacts(domain, owner, records, tuple(islice(near, MAX_NEAR_MISSES)), tree, terms)


def _is_near_miss(record: bytes) -> bool:
    text = record[:40].strip(b" \t\"'").lower()
    return text.startswith(_NEAR_MISSES)


def _list_asking(node: SpfTree, link: str) -> Iterator[tuple[str, str, Mechanism]]:
    record = read_node(node)
    for mechanism in record.mechanisms if record is not None else ():
        if mechanism.kind is MechanismKind.ALL:
            break
        if mechanism.kind in _ASKING and (mechanism.domain is None or mechanism.domain.fixed is not None):
            spec = mechanism.domain
            yield (node.domain if spec is None or spec.fixed is None else spec.fixed.question), link, mechanism
    for child in node.children:
        yield from _list_asking(child, link or child.term)


async def _look_up(name: str, link: str, term: Mechanism, resolver: Resolver) -> TermFacts:
    try:
        match term.kind:
            case MechanismKind.MX:
                return await _look_up_mx(name, link, term, resolver)
            case MechanismKind.EXISTS:
                answer = await lookup_addresses(resolver, name, family=4)
                is_void = answer.status is not AnswerStatus.FOUND
                return TermFacts(term.text, name, link, void_families=frozenset({4, 6} if is_void else ()))
            case _:
                addresses, voids = await _find_addresses(name, resolver)
                return TermFacts(term.text, name, link, addresses, voids)
    except DnsTemporary as failure:
        return TermFacts(term.text, name, link, failure=failure)


async def _look_up_mx(name: str, link: str, term: Mechanism, resolver: Resolver) -> TermFacts:
    answer = await lookup_mx(resolver, name)
    hosts = [record.exchange for record in answer.records if not record.is_null]
    if answer.status is not AnswerStatus.FOUND or len(answer.records) > MAX_MX_NAMES:
        voids = frozenset[int]() if answer.records else frozenset({4, 6})
        return TermFacts(term.text, name, link, (), voids, has_too_many_names=bool(answer.records))
    found = [await _find_addresses(host, resolver) for host in hosts]
    addresses = tuple(address for one, _ in found for address in one)
    # One host without an address makes it a term that found nothing, in the strict reading of s4.6.4.
    return TermFacts(term.text, name, link, addresses, frozenset[int]().union(*(voids for _, voids in found)))


async def _find_addresses(name: str, resolver: Resolver) -> tuple[tuple[IpAddress, ...], frozenset[int]]:
    v4 = await lookup_addresses(resolver, name, family=4)
    v6 = await lookup_addresses(resolver, name, family=6)
    voids = {family for family, answer in ((4, v4), (6, v6)) if answer.status is not AnswerStatus.FOUND}
    return (*v4.records, *v6.records), frozenset(voids)
