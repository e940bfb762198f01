"""The tree of records behind a domain's SPF: what include and redirect lead to, and what is wrong with it. (RFC 7208)

For people who publish a record, not for judging mail: every branch is followed, whatever a client's address would
decide, so the count of terms is that of the worst case (s4.6.4). Bounded in depth and in number; a target with macros
has no name before there is a message, and is not followed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import islice, takewhile
from typing import Final

from mailflow.dns import DnsTemporary, Resolver, lookup_txt
from mailflow.mailauth.result import AuthStatus
from mailflow.mailauth.spf_lookups import MAX_LOOKUPS
from mailflow.mailauth.spf_macro import shown
from mailflow.mailauth.spf_record import (
    DomainSpec,
    MechanismKind,
    RecordFault,
    SpfRecord,
    TargetName,
    is_spf_record,
    parse_record,
    read_target,
)

MAX_DEPTH: Final = MAX_LOOKUPS  # deeper than that no evaluation gets
MAX_RECORDS: Final = 50


class Unread(Enum):
    """Why there is no record to follow at a name."""

    NO_ANSWER = "no answer"
    NOT_FOLLOWED = "not followed"
    """It depends on the message, or there were too many before it."""
    PERMANENT = "permanent"
    """Who is led there gets permerror."""


@dataclass(frozen=True, slots=True)
class SpfTree:
    """One domain's record and what it leads to; where that could not be read, `failure` and `unread` say why.

    `term` is the include or redirect that leads here, "" at the root. `record` is the text as published, raw. `lookups`
    counts the terms that ask the DNS in the worst case, here and below. `problems` are those of this record alone, at
    the root also those of the whole.
    """

    domain: str
    term: str = ""
    record: str = ""
    failure: str = ""
    lookups: int = 0
    problems: tuple[str, ...] = ()
    children: tuple["SpfTree", ...] = ()
    unread: Unread | None = None

    def walk(self) -> Iterator["SpfTree"]:
        """Give this node and all below it, in the order of evaluation."""
        yield self
        for child in self.children:
            yield from child.walk()


async def walk_record(domain: str, resolver: Resolver) -> SpfTree:
    """Follow a domain's record to all its ends. A domain without record, or without DNS, is a tree with a failure."""
    walker = _Walker(resolver)
    return await walker.visit(read_target(domain.removesuffix(".")), "", (), is_root=True)


class _Walker:
    """What one walk shares: whom it asks, and how much it has asked."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._records_left = MAX_RECORDS

    async def visit(self, target: TargetName, term: str, above: tuple[str, ...], *, is_root: bool = False) -> SpfTree:
        """Give the tree from one name on; `above` are the names on the way to it."""
        domain = target.name or shown(target.text)
        if refusal := self._refuse(target, above):
            return SpfTree(domain, term, failure=refusal[0], unread=refusal[1])
        self._records_left -= 1
        try:
            answer = await lookup_txt(self._resolver, target.question)
        except DnsTemporary as failed:
            return SpfTree(domain, term, failure=f"DNS gave no answer: {failed.kind.value}", unread=Unread.NO_ANSWER)
        published = [record for record in answer.records if is_spf_record(record)]
        if len(published) != 1:
            count = len(published)
            failure = f"publishes {count} SPF records" if count else "has no SPF record"
            return SpfTree(domain, term, failure=failure, unread=Unread.PERMANENT)
        text = published[0].decode("latin-1")
        record = parse_record(published[0])
        if isinstance(record, RecordFault):
            return SpfTree(domain, term, text, failure=f"syntax error: {record.reason}", unread=Unread.PERMANENT)
        links = islice(_links(record), MAX_RECORDS)
        children = [await self._follow(spec, link, (*above, target.name)) for link, spec in links]
        lookups = count_lookups(record) + sum(child.lookups for child in children)
        problems = list(_find_problems(record, is_final=is_root or term.lower().startswith("redirect=")))
        if is_root and lookups > MAX_LOOKUPS:
            problems.append(f"{lookups} terms need DNS, {MAX_LOOKUPS} are allowed")
        return SpfTree(domain, term, text, "", lookups, tuple(problems), tuple(children))

    async def _follow(self, spec: DomainSpec, term: str, above: tuple[str, ...]) -> SpfTree:
        if spec.fixed is None:
            failure = "not followed: the name depends on the message"
            return SpfTree(spec.text, term, failure=failure, unread=Unread.NOT_FOLLOWED)
        return await self.visit(spec.fixed, term, above)

    def _refuse(self, target: TargetName, above: tuple[str, ...]) -> tuple[str, Unread] | None:
        """Why not to ask about a name, None if nothing speaks against it."""
        if not target.is_domain:
            return "is no domain name of several labels", Unread.PERMANENT
        if target.name in above:
            return "leads back to itself", Unread.PERMANENT
        if len(above) > MAX_DEPTH or not self._records_left:
            return "not followed: too many records", Unread.NOT_FOLLOWED
        return None


def _links(record: SpfRecord) -> Iterator[tuple[str, DomainSpec]]:
    for mechanism in record.mechanisms:
        if mechanism.kind is MechanismKind.ALL:
            return  # s5.1: what stands behind it, and redirect=, MUST be ignored
        if mechanism.kind is MechanismKind.INCLUDE and mechanism.domain is not None:
            yield mechanism.text, mechanism.domain
    if record.redirect is not None:
        yield f"redirect={record.redirect.text}", record.redirect


def count_lookups(record: SpfRecord) -> int:
    """Count the terms of one record that ask the DNS if it is evaluated to its end (s4.6.4)."""
    reached = list(takewhile(lambda mechanism: mechanism.kind is not MechanismKind.ALL, record.mechanisms))
    is_redirected = record.redirect is not None and len(reached) == len(record.mechanisms)
    return sum(mechanism.asks_dns for mechanism in reached) + is_redirected


def _find_problems(record: SpfRecord, *, is_final: bool) -> Iterator[str]:
    """`is_final`: no record behind this one decides, so that it should itself."""
    kinds = [mechanism.kind for mechanism in record.mechanisms]
    if MechanismKind.PTR in kinds:
        yield "ptr should not be used: slow, and others' DNS decides (s5.5)"
    if any("p" in spec.string.letters for spec in _specs(record)):
        yield "%{p} should not be used: slow, and others' DNS decides (s7.2)"
    if MechanismKind.ALL not in kinds:
        if is_final and record.redirect is None:
            yield "neither all nor redirect= at the end: everyone else is neutral (s4.7)"
        return
    end = kinds.index(MechanismKind.ALL)
    if record.mechanisms[end].status is AuthStatus.PASS:
        yield f"{record.mechanisms[end].text} lets everyone send"
    if end + 1 < len(kinds):
        yield f"terms behind {record.mechanisms[end].text} are ignored (s5.1)"
    if record.redirect is not None:
        yield f"redirect= beside {record.mechanisms[end].text} is ignored (s5.1)"


def _specs(record: SpfRecord) -> Iterator[DomainSpec]:
    for spec in (*(mechanism.domain for mechanism in record.mechanisms), record.redirect, record.explanation):
        if spec is not None:
            yield spec
