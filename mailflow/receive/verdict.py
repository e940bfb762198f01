"""What is done with a message: a pure function of its evidence and the operator's policy.

Refused is only what a rule below names, and each verdict says which. A missing DNS answer defers a message only where
the answers it could have been lead to different actions. The operator may know better than a domain's owner, and then
the reason is recorded: an allow-list of author domains and networks, ARC seals of domains he trusts, clients that may
relay. In `monitor` everything is judged and nothing is done.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from typing import Protocol

from mailflow.mail.reply import Reply, printable
from mailflow.mailauth.arc_trust import find_trusted_set
from mailflow.mailauth.author import AuthorFault
from mailflow.mailauth.result import ArcResult, ArcSet, AuthStatus, DmarcPolicy, DmarcResult
from mailflow.receive.evidence import Evidence
from mailflow.receive.proxy_trust import is_in

MAX_DOMAIN_CHARS = 100  # of a domain in a reply: it must stay one line of 512 octets (RFC 5321 s4.5.3.1.5)


class Action(StrEnum):
    """What becomes of a message."""

    ACCEPT = "accept"
    QUARANTINE = "quarantine"
    REJECT = "reject"
    DEFER = "defer"


class Rule(StrEnum):
    """Which rule decided; a word to filter logs by."""

    AUTHOR_UNKNOWN = "author_unknown"
    DMARC_PASS = "dmarc_pass"  # noqa: S105  # no password
    DMARC_NONE = "dmarc_none"
    """The author's domain publishes nothing, or nothing valid."""
    DMARC_POLICY = "dmarc_policy"
    """The check failed, and the domain's policy says what follows."""
    DNS_UNANSWERED = "dns_unanswered"
    OVERRIDE_RELAY = "override_relay"
    OVERRIDE_ALLOWED = "override_allowed"
    OVERRIDE_ARC = "override_arc"
    MONITOR = "monitor"


class Allowance(Protocol):
    """An entry of the allow-list: authors of `domain` (a leading dot: below it; "*": anybody) from `network`."""

    @property
    def domain(self) -> str:
        """Lower-case A-labels."""
        ...

    @property
    def network(self) -> IPv4Network | IPv6Network:
        """Where it comes from."""
        ...


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator wants. `is_enforced` False: monitor; `defers_unanswered` False: no 451 for want of DNS."""

    is_enforced: bool = True
    defers_unanswered: bool = True
    trusted_arc_sealers: frozenset[str] = frozenset()
    allow: Sequence[Allowance] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision: `reply` is what the client is told, None where the message is taken; `reason` says it in words."""

    action: Action
    rule: Rule
    reason: str
    reply: Reply | None = None


def decide(evidence: Evidence, policy: Policy) -> Verdict:
    """Decide what becomes of a message."""
    verdict = _judge(evidence, policy)
    if policy.is_enforced or verdict.action is Action.ACCEPT:
        return verdict
    return Verdict(Action.ACCEPT, Rule.MONITOR, f"Accepted, as nothing is enforced; else: {verdict.reason}")


def may_report(evidence: Evidence, verdict: Verdict) -> bool:
    """Tell whether a DSN about this message would go to who sent it and to no stranger (backscatter, RFC 5321 s6.1).

    SPF passed for the envelope sender, or DMARC for the author; never where the message is quarantined, never to the
    null sender. A client that may relay is known: whoever answers for it answers for the senders that it names.
    """
    if evidence.reverse_path is None or verdict.action is Action.QUARANTINE:
        return False
    has_dmarc_pass = evidence.dmarc is not None and evidence.dmarc.status is AuthStatus.PASS
    return evidence.may_relay or evidence.spf.status is AuthStatus.PASS or has_dmarc_pass


def _judge(evidence: Evidence, policy: Policy) -> Verdict:
    if isinstance(evidence.author, AuthorFault) or evidence.dmarc is None:
        return _refuse_author(evidence.author.reason if isinstance(evidence.author, AuthorFault) else "")
    action = _effect(evidence.dmarc)
    if action is Action.ACCEPT:
        return _accept(evidence.dmarc)
    override = _find_override(evidence, evidence.dmarc, policy)
    if override is not None:
        return override
    if action is Action.DEFER or _could_be_lifted(evidence.arc, evidence.dmarc, policy):
        return _leave_unanswered(evidence.dmarc, policy)
    return _follow_policy(evidence.dmarc, action)


def _effect(dmarc: DmarcResult) -> Action:
    """What a DMARC result leads to; DEFER where it takes an answer that did not come."""
    match dmarc.status:
        case AuthStatus.FAIL:
            return _DISPOSITIONS[dmarc.disposition or DmarcPolicy.NONE]
        case AuthStatus.TEMPERROR:  # what is aligned by name alone is aligned under any record
            is_settled = dmarc.aligned_spf or dmarc.aligned_dkim or dmarc.disposition is DmarcPolicy.NONE
            return Action.ACCEPT if is_settled else Action.DEFER
        case _:
            return Action.ACCEPT


_DISPOSITIONS = {
    DmarcPolicy.NONE: Action.ACCEPT,
    DmarcPolicy.QUARANTINE: Action.QUARANTINE,
    DmarcPolicy.REJECT: Action.REJECT,
}


def _accept(dmarc: DmarcResult) -> Verdict:
    domain = _shown(dmarc.author_domain)
    match dmarc.status:
        case AuthStatus.PASS:
            return Verdict(Action.ACCEPT, Rule.DMARC_PASS, f"Accepted: the author's domain {domain} is authenticated.")
        case AuthStatus.TEMPERROR if dmarc.aligned_spf or dmarc.aligned_dkim:
            reason = f"Accepted: the author's domain {domain} is authenticated, whatever its DMARC record says."
            return Verdict(Action.ACCEPT, Rule.DMARC_PASS, reason)
        case AuthStatus.TEMPERROR:
            reason = (
                f"Accepted: whether {domain} stands for this message is not known, but it asks for nothing to be done."
            )
            return Verdict(Action.ACCEPT, Rule.DMARC_POLICY, reason)
        case AuthStatus.FAIL:
            reason = f"Accepted: the author's domain {domain} is not authenticated, and asks for nothing to be done."
            return Verdict(Action.ACCEPT, Rule.DMARC_POLICY, reason)
        case _:
            reason = f"Accepted: the author's domain {domain} has no DMARC policy."
            return Verdict(Action.ACCEPT, Rule.DMARC_NONE, reason)


def _refuse_author(fault: str) -> Verdict:
    reply = Reply(550, "5.7.1", f"The author (From) cannot be told: {printable(fault, 300)}")
    return Verdict(Action.REJECT, Rule.AUTHOR_UNKNOWN, f"Refused: the author cannot be told: {fault}.", reply)


def _find_override(evidence: Evidence, dmarc: DmarcResult, policy: Policy) -> Verdict | None:
    domain = _shown(dmarc.author_domain)
    if evidence.may_relay:
        reason = "Accepted: the client may relay, so DMARC is not applied to its mail."
        return Verdict(Action.ACCEPT, Rule.OVERRIDE_RELAY, reason)
    if (allowance := _find_allowance(evidence, policy)) is not None:
        reason = f"Accepted: mail of {domain} from {allowance.network} is allowed here, whatever DMARC says."
        return Verdict(Action.ACCEPT, Rule.OVERRIDE_ALLOWED, reason)
    if (sealed := _find_seal(evidence.arc, dmarc, policy)) is not None:
        reason = f"Accepted: {_shown(sealed.domain)}, trusted here, sealed that it passed for {domain} before (ARC)."
        return Verdict(Action.ACCEPT, Rule.OVERRIDE_ARC, reason)
    return None


def _find_seal(arc: ArcResult, dmarc: DmarcResult, policy: Policy) -> ArcSet | None:
    return find_trusted_set(
        arc,
        author_domain=dmarc.author_domain,
        organizational_domain=dmarc.domain,
        trusted=policy.trusted_arc_sealers,
    )


def _could_be_lifted(arc: ArcResult, dmarc: DmarcResult, policy: Policy) -> bool:
    """Tell whether a chain that the DNS left without an answer would override the policy if it held."""
    return arc.status is AuthStatus.TEMPERROR and bool(_find_seal(replace(arc, status=AuthStatus.PASS), dmarc, policy))


def _find_allowance(evidence: Evidence, policy: Policy) -> Allowance | None:
    for entry in policy.allow:
        if is_in((entry.network,), evidence.client_ip) and _covers(entry.domain, evidence.author_domain):
            return entry
    return None


def _covers(allowed: str, domain: str) -> bool:
    return allowed in ("*", domain) or (allowed.startswith(".") and domain.endswith(allowed))


def _leave_unanswered(dmarc: DmarcResult, policy: Policy) -> Verdict:
    domain = _shown(dmarc.author_domain)
    missing = f"the DNS gave no answer that tells whether {domain} stands for this message"
    if not policy.defers_unanswered:
        return Verdict(Action.ACCEPT, Rule.DNS_UNANSWERED, f"Accepted by setting, though {missing}.")
    reply = Reply(451, "4.7.0", f"DMARC: the DNS gave no answer needed to authenticate {domain}, try again later")
    return Verdict(Action.DEFER, Rule.DNS_UNANSWERED, f"Deferred: {missing}.", reply)


def _follow_policy(dmarc: DmarcResult, action: Action) -> Verdict:
    domain, asked = _shown(dmarc.author_domain), f"{dmarc.tag}={dmarc.policy}"
    if dmarc.disposition is not dmarc.policy:
        asked += ", as a test: t=y"
    if action is Action.QUARANTINE:
        reason = f"Quarantined: {domain} is not authenticated, and its policy ({asked}) asks for that."
        return Verdict(action, Rule.DMARC_POLICY, reason)
    reply = Reply(550, "5.7.1", f"DMARC: neither SPF nor DKIM stands for {domain}, whose policy is to reject ({asked})")
    reason = f"Refused: {domain} is not authenticated, and its policy ({asked}) asks for that."
    return Verdict(action, Rule.DMARC_POLICY, reason, reply)


def _shown(domain: str) -> str:
    return printable(domain, MAX_DOMAIN_CHARS)
