"""The DNS tree walk: which names are asked for DMARC records, and what they say together. (RFC 9989 s4.10)

From a domain to its top-level domain, eight queries at most: a name of eight labels or more goes on with its last
seven. Every record on the way counts, also those without psd=; a name with several has none. The walk ends at a record
with psd=y or psd=n. The organizational domain is chosen afterwards (s4.10.2). The surprise is the name that did not
answer: the walk ends there, and two walks that ended so are still compared under every answer that could have come, so
that a failure which changes nothing need not defer mail.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from mailflow.dns import AnswerStatus, DnsTemporary, Resolver, lookup_txt
from mailflow.mailauth.dmarc_record import DmarcRecord, Psd, parse_dmarc_record, select_records

MAX_LABELS = 7  # of the second name asked and those behind it: with the first and the last, eight queries


class Finding(StrEnum):
    """What was found at one name."""

    RECORD = "a DMARC record"
    NOTHING = "no DMARC record"
    SEVERAL = "several DMARC records, which counts as none"
    FAILURE = "no answer"


@dataclass(frozen=True, slots=True)
class WalkStep:
    """One name that was asked: TXT of `_dmarc.` and `domain`. `is_name_known` is False only where it is NXDOMAIN."""

    domain: str
    finding: Finding
    record: DmarcRecord | None = None
    failure: DnsTemporary | None = None
    is_name_known: bool = True

    @property
    def ends_walk(self) -> bool:
        """Tell whether the names above are not asked: it is said who is who (s4.10 steps 2 and 6), or nothing is."""
        return self.failure is not None or (self.record is not None and self.record.psd is not Psd.UNKNOWN)


class TreeWalks:
    """The walks of one message: no name is asked twice. `steps` are those that were taken before."""

    def __init__(self, resolver: Resolver, steps: Sequence[WalkStep] = ()) -> None:
        self._resolver = resolver
        self._steps = {step.domain: step for step in steps}

    async def ask(self, domain: str) -> WalkStep:
        """Ask one name. A DNS failure is a finding."""
        step = self._steps.get(domain)
        if step is None:
            step = self._steps[domain] = await _ask(self._resolver, domain)
        return step

    async def walk(self, domain: str) -> list[WalkStep]:
        """Walk up from `domain`, a canonical name; the steps are in the order of the names, longest first."""
        steps = []
        for name in names_to_ask(domain):
            step = await self.ask(name)
            steps.append(step)
            if step.ends_walk:
                break
        return steps


@lru_cache(maxsize=1024)  # by name: most mail comes from few domains
def names_to_ask(domain: str) -> Sequence[str]:
    """Give the names of a whole walk from `domain`, a canonical name (s4.10 steps 1, 4 and 7)."""
    labels = domain.split(".")
    rest = min(len(labels) - 1, MAX_LABELS)
    return (domain, *(".".join(labels[-count:]) for count in range(rest, 0, -1)))


def organizational_domain(start: str, records: Sequence[tuple[str, Psd]]) -> str:
    """Choose from the names where a walk from `start` found a record, longest first (s4.10.2)."""
    for name, psd in records:
        if psd is Psd.NO:
            return name
        if psd is Psd.YES and name != start:
            return one_label_below(name, start)
    return records[-1][0] if records else start


def one_label_below(name: str, start: str) -> str:
    """Give the ancestor of `start` that is a child of `name`, asked or not."""
    labels = name.count(".") + 2
    return ".".join(start.split(".")[-labels:])


def domain_of_walk(steps: Sequence[WalkStep]) -> str:
    """Give the organizational domain that a walk found for its first name, from what has answered."""
    return organizational_domain(steps[0].domain, _records(steps))


def is_same_organization(walk: Sequence[WalkStep], other: Sequence[WalkStep]) -> bool | None:
    """Tell whether two walks end in one organizational domain; None where that hangs on an answer that is missing.

    Where the same name failed both, three answers stand for all there can be: no record there, one with psd=u and one
    with psd=y. Whatever stands further up makes one domain of both, as the second does.
    """
    missing = walk[-1] if walk[-1].failure else other[-1]
    if missing.failure is None:
        return domain_of_walk(walk) == domain_of_walk(other)
    if walk[-1].domain != other[-1].domain:
        return None
    outcomes = {
        organizational_domain(walk[0].domain, [*_records(walk), *answer])
        == organizational_domain(other[0].domain, [*_records(other), *answer])
        for answer in ([], [(missing.domain, Psd.UNKNOWN)], [(missing.domain, Psd.YES)])
    }
    return outcomes.pop() if len(outcomes) == 1 else None


def _records(steps: Sequence[WalkStep]) -> list[tuple[str, Psd]]:
    return [(step.domain, step.record.psd) for step in steps if step.record is not None]


async def _ask(resolver: Resolver, domain: str) -> WalkStep:
    name = f"_dmarc.{domain}"
    try:
        answer = await lookup_txt(resolver, name)
    except DnsTemporary as failure:
        return WalkStep(domain, Finding.FAILURE, failure=failure)
    # An alias that leads nowhere exists itself (RFC 8020 s2).
    is_known = answer.status is not AnswerStatus.NXDOMAIN or answer.canonical_name not in {"", name}
    records = select_records(answer.records) if answer.records else []
    if len(records) == 1:
        return WalkStep(domain, Finding.RECORD, parse_dmarc_record(records[0]))
    return WalkStep(domain, Finding.SEVERAL if records else Finding.NOTHING, is_name_known=is_known)
