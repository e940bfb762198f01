"""DMARC: does an authenticated domain stand for the author's, and what does the author's domain ask for if not?
(RFC 9989 s4.10.1, s4.10.2, s5.3)

The policy is looked for at the author domain, then by the tree walk (dmarc_walk.py). Alignment compares organizational
domains, each found by a walk from its own domain, and only where it can matter: an identifier equal to the author
domain needs none, strict mode needs none, and one that is not below the author's organizational domain cannot share
it. A DNS failure is temperror where its answer could have changed the result, and then only: what aligns under any
record is said, whatever failed. The same holds for a check that ended in temperror for a domain that would align: the
message "cannot be considered to pass or fail" (s5.4). Never decides what is done with the mail.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mailflow.dns import AnswerStatus, DnsTemporary, Resolver, lookup_mx
from mailflow.dns.names import canonical_name
from mailflow.mailauth.dmarc_record import DmarcRecord, Psd
from mailflow.mailauth.dmarc_walk import TreeWalks, WalkStep, domain_of_walk, is_same_organization
from mailflow.mailauth.result import AuthStatus, DkimResult, DmarcPolicy, DmarcResult, SpfResult


@dataclass(frozen=True, slots=True)
class PolicyDiscovery:
    """What the DNS says about an author domain: the names asked, in order, and the policy found.

    `author_domain` is canonical, "" where the text can be no domain name. `record` is the one that applies, at
    `record_domain`; `policy` and `tag` say what it asks for this author domain, None and "" where it asks for nothing.
    `failure` is the answer that is missing: to the search for the record, which is then None, or to the question
    whether the author domain exists, and then `policy` is the strictest that the answer could bring.
    """

    author_domain: str
    steps: tuple[WalkStep, ...] = ()
    record: DmarcRecord | None = None
    record_domain: str = ""
    policy: DmarcPolicy | None = None
    tag: str = ""
    failure: DnsTemporary | None = None

    @property
    def disposition(self) -> DmarcPolicy | None:
        """What is left of the policy after t=y."""
        if self.record is None or self.policy is None:
            return None
        return self.record.disposition_of(self.policy)


async def discover_policy(author_domain: str, resolver: Resolver) -> PolicyDiscovery:
    """Find the DMARC record for an author domain and what it asks for (RFC 9989 s4.10.1).

    Asks no further than the author domain where that has a record. `author_domain` may hold U-labels, upper case and a
    trailing dot.
    """
    author = _to_name(author_domain)
    if not author or author.startswith("["):
        return PolicyDiscovery(author)
    walks = TreeWalks(resolver)
    first = await walks.ask(author)
    if first.record is not None:
        return _applied(author, [first], first)
    steps = await walks.walk(author)
    if steps[-1].failure is not None:
        return PolicyDiscovery(author, tuple(steps), failure=steps[-1].failure)
    found = _find_step(steps)
    if found is None:
        return PolicyDiscovery(author, tuple(steps))
    return await _with_existence(_applied(author, steps, found), resolver)


async def evaluate_dmarc(
    author_domain: str,
    spf: SpfResult | None,
    dkim: Sequence[DkimResult],
    *,
    resolver: Resolver,
    discovery: PolicyDiscovery | None = None,
) -> DmarcResult:
    """Judge a message by DMARC (RFC 9989 s5.3).

    `spf` is the result for the MAIL FROM identity (of the null sender that is postmaster@HELO). Only a pass stands for
    anybody; a temperror that could have been the one that does makes a fail a temperror. `discovery` is what
    `discover_policy` gave for this author domain, where that was asked before.
    none: no record, or one that asks for nothing. permerror: `author_domain` is no domain name.
    """
    if discovery is None:
        discovery = await discover_policy(author_domain, resolver)
    author = discovery.author_domain
    if not author:
        return DmarcResult(AuthStatus.PERMERROR, reason="the author domain is not a domain name")
    if author.startswith("["):
        reason = "the author has an address literal, for which there is no DMARC record"
        return DmarcResult(AuthStatus.NONE, author_domain=author, reason=reason)
    passed = _domains_with(AuthStatus.PASS, spf, dkim)
    if discovery.policy is None:
        return _without_policy(discovery, passed)
    return await _with_policy(discovery, passed, _domains_with(AuthStatus.TEMPERROR, spf, dkim), resolver)


@dataclass(frozen=True, slots=True)
class _Domains:
    """The domains of the checks that ended alike, canonical; `spf` is "" where that one did not."""

    spf: str
    dkim: list[str]


def _domains_with(status: AuthStatus, spf: SpfResult | None, dkim: Sequence[DkimResult]) -> _Domains:
    spf_domain = _to_name(spf.domain) if spf is not None and spf.status is status else ""
    return _Domains(spf_domain, _unique(_to_name(result.domain) for result in dkim if result.status is status))


def _without_policy(discovery: PolicyDiscovery, passed: _Domains) -> DmarcResult:
    author = discovery.author_domain
    domain = domain_of_walk(discovery.steps)
    if discovery.failure is not None:
        # Whatever the record would say, strict or relaxed, what is equal to the author domain aligns.
        aligned = tuple(domain for domain in passed.dkim if domain == author)
        return DmarcResult(
            AuthStatus.TEMPERROR,
            domain=domain,
            aligned_spf=passed.spf == author,
            aligned_dkim=bool(aligned),
            author_domain=author,
            dkim_domains=aligned,
            reason=f"DNS failure: {discovery.failure}",
        )
    if discovery.record is None:
        return DmarcResult(AuthStatus.NONE, domain=domain, author_domain=author, reason="there is no DMARC record")
    return DmarcResult(
        AuthStatus.NONE,
        domain=domain,
        author_domain=author,
        record_domain=discovery.record_domain,
        record=discovery.record.text,
        reason="the DMARC record has no valid policy and no valid rua=, and asks for nothing",
    )


async def _with_policy(
    discovery: PolicyDiscovery, passed: _Domains, unanswered: _Domains, resolver: Resolver
) -> DmarcResult:
    record = discovery.record
    assert record is not None  # whence the policy
    alignment = _Alignment(discovery, resolver)
    await alignment.walk_author()
    spf_aligned, dkim_aligned = await alignment.check_all(passed, record)
    aligned = tuple(domain for domain, is_aligned in dkim_aligned.items() if is_aligned)
    reason = None
    if spf_aligned or aligned:
        status = AuthStatus.PASS
    elif failure := discovery.failure or alignment.failure:
        status, reason = AuthStatus.TEMPERROR, f"DNS failure: {failure}"
    elif reason := _find_unanswered(*await alignment.check_all(unanswered, record)):
        status = AuthStatus.TEMPERROR
    else:
        status = AuthStatus.FAIL
    return DmarcResult(
        status,
        policy=discovery.policy,
        disposition=discovery.disposition,
        domain=alignment.domain,
        aligned_spf=bool(spf_aligned),
        aligned_dkim=bool(aligned),
        author_domain=discovery.author_domain,
        record_domain=discovery.record_domain,
        record=record.text,
        tag=discovery.tag,
        dkim_domains=aligned,
        reason=reason,
    )


def _find_unanswered(spf_aligned: bool | None, dkim_aligned: Mapping[str, bool | None]) -> str | None:
    """Say which check had no answer from the DNS though its domain does or may align; None where there is none."""
    if spf_aligned is not False:
        return "SPF had no answer from the DNS, and could have stood for the author"
    if any(is_aligned is not False for is_aligned in dkim_aligned.values()):
        return "DKIM had no answer from the DNS, and could have stood for the author"
    return None


class _Alignment:
    """Compares identifiers with one author domain (RFC 9989 s4.10.2).

    `domain` is the author's organizational domain, known after `walk_author`. `failure` is the answer whose lack left a
    comparison open.
    """

    def __init__(self, discovery: PolicyDiscovery, resolver: Resolver) -> None:
        self._author = discovery.author_domain
        self._walks = TreeWalks(resolver, discovery.steps)
        self._author_walk: Sequence[WalkStep] = ()
        self.domain = ""
        self.failure: DnsTemporary | None = None

    async def walk_author(self) -> None:
        """Walk on from where the search for the record ended."""
        self._author_walk = await self._walks.walk(self._author)
        self.domain = domain_of_walk(self._author_walk)

    async def check_all(self, domains: _Domains, record: DmarcRecord) -> tuple[bool | None, dict[str, bool | None]]:
        """Check the domain of SPF and those of DKIM, each in the mode its record wants."""
        spf_aligned = await self.check(domains.spf, is_strict=record.is_spf_strict)
        return spf_aligned, {
            domain: await self.check(domain, is_strict=record.is_dkim_strict) for domain in domains.dkim
        }

    async def check(self, identifier: str, *, is_strict: bool) -> bool | None:
        """Tell whether an identifier aligns; None where that hangs on an answer that is missing."""
        if not identifier or identifier == self._author:
            return bool(identifier)
        if is_strict or not self._may_share(identifier):
            return False
        walk = await self._walks.walk(identifier)
        is_aligned = is_same_organization(self._author_walk, walk)
        if is_aligned is None:
            self.failure = self._author_walk[-1].failure or walk[-1].failure
        return is_aligned

    def _may_share(self, identifier: str) -> bool:
        """Tell whether the organizational domain, which is always the name itself or above it, can be the same."""
        top = self._author.rpartition(".")[2] if self._author_walk[-1].failure else self.domain
        return f".{identifier}".endswith(f".{top}")


def _find_step(steps: Sequence[WalkStep]) -> WalkStep | None:
    """Find the record for a domain that has none itself: its organizational domain's, else its public suffix's."""
    domain = domain_of_walk(steps)
    with_record = [step for step in steps if step.record is not None]
    at_domain = [step for step in with_record if step.domain == domain]
    of_suffix = [step for step in with_record if step.record is not None and step.record.psd is Psd.YES]
    return next(iter(at_domain + of_suffix), None)


def _applied(author: str, steps: Sequence[WalkStep], found: WalkStep) -> PolicyDiscovery:
    record = found.record
    assert record is not None
    policy, tag = record.policy_for(is_subdomain=found.domain != author) or (None, "")
    return PolicyDiscovery(author, tuple(steps), record, found.domain, policy, tag)


async def _with_existence(found: PolicyDiscovery, resolver: Resolver) -> PolicyDiscovery:
    """Apply np where the author domain does not exist; asks only where that makes a difference."""
    record = found.record
    assert record is not None
    other = record.policy_for(is_subdomain=True, exists=False)
    if found.policy is None or other is None or other[0] is found.policy or found.steps[0].is_name_known:
        return found
    failure = None
    policy, tag = other
    try:
        # Any type would do: that the name is there is told by every answer but NXDOMAIN (RFC 8020).
        answer = await lookup_mx(resolver, found.author_domain)
        exists = answer.status is not AnswerStatus.NXDOMAIN or answer.canonical_name not in {"", found.author_domain}
    except DnsTemporary as exc:
        if record.disposition_of(policy) is record.disposition_of(found.policy):
            return found
        failure = exc
        exists = _STRICTNESS[policy] < _STRICTNESS[found.policy]
    if exists:
        policy, tag = found.policy, found.tag
    return PolicyDiscovery(found.author_domain, found.steps, record, found.record_domain, policy, tag, failure)


_STRICTNESS = {policy: step for step, policy in enumerate(DmarcPolicy)}


def _to_name(text: str) -> str:
    """Give a domain in the form in which domains are compared, "" for what is none; a literal stays."""
    return text if text.startswith("[") else (canonical_name(text) or "").removeprefix(".")


def _unique(names: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name]
