"""What a domain asks for mail that fails: its DMARC policy judged. (RFC 9989, 9990)

Pure. Bad is what leaves a domain without a policy against its will; a policy that does little is a warning. A change is
named only where the record that it publishes was judged as well and is free of the fault.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from mailflow.cli.doctor_dmarc_facts import DmarcFacts
from mailflow.cli.doctor_dmarc_mend import STRICTNESS, read_as_record, repair, strengthen
from mailflow.cli.doctor_finding import MAX_MENDED_OCTETS, Change, Check, Finding, Section, Severity, good, no_answer
from mailflow.cli.doctor_mx import MxFacts
from mailflow.dns import RdType
from mailflow.mail.reply import printable
from mailflow.mailauth.dmarc_record import DmarcRecord, Psd, parse_dmarc_record
from mailflow.mailauth.dmarc_walk import WalkStep
from mailflow.mailauth.result import DmarcPolicy

MAX_READ_OCTETS: Final = 4_000
_SHOWN_CHARS: Final = 160


def judge_dmarc(facts: DmarcFacts, mx: MxFacts) -> Section:
    """Judge what was gathered; `mx` tells whether the domain can take reports itself."""
    findings = [no_answer(Check.DMARC, facts.failure, "the DMARC record")] if facts.failure is not None else []
    if facts.discovery.record is not None:
        findings += _with_changes(facts, mx, _judge(facts.discovery.record, facts, mx))
        findings += _judge_destinations(facts)
        findings += _judge_near_misses(facts, mx) if facts.near_misses else ()
        if len(facts.own_records) > 1:
            findings.append(_judge_several(facts, facts.own_owner, facts.own_records, mx))
    elif facts.failure is None:
        several = facts.own_records or facts.records
        owner = facts.own_owner if facts.own_records else facts.owner
        findings += [_judge_several(facts, owner, several, mx)] if several else _judge_missing(facts, mx)
    outline = [f"_dmarc.{step.domain}: {_describe_step(step)}" for step in facts.steps]
    outline.append(f"organizational domain: {facts.organizational_domain}")
    return Section(Check.DMARC, tuple(findings), tuple(map(printable, outline)), _describe(facts))


def enforcing_change(facts: DmarcFacts, mx: MxFacts) -> Change | None:
    """Give the change that makes the policy quarantine or reject, in force; None where the record is not known."""
    if facts.failure is not None and facts.discovery.record is None:
        return None
    record, removed = facts.discovery.record, facts.records or facts.near_misses
    if record is None:
        record = parse_dmarc_record(removed[0]) if facts.records else read_as_record(b"".join(removed[:1]))
    if record is None or len(record.text) > MAX_READ_OCTETS:
        return None
    text = strengthen(record, reports_to=_reports_to(facts, mx), least=_least(mx))
    return Change(facts.owner if facts.records else facts.own_owner, RdType.TXT, (text,), removed)


def _judge(record: DmarcRecord, facts: DmarcFacts, mx: MxFacts) -> Iterator[Finding]:
    """Judge one record as the one that applies; it may be the one that is to take its place."""
    where = "" if facts.place == facts.domain else f" of {facts.place}"
    yield good("dmarc-record", f"the record{where}: {printable(record.text, _SHOWN_CHARS)}")
    is_subdomain = facts.place != facts.domain
    asked = record.policy_for(is_subdomain=is_subdomain, exists=facts.discovery.tag != "np")
    if asked is None:
        text = "the record has no valid policy and no valid rua=, so that it asks for nothing (s4.10.1)"
        yield Finding(Severity.BAD, "dmarc-asks-nothing", text, advice="give it p=")
    else:
        policy, tag = asked
        if policy is DmarcPolicy.NONE:
            text = f"{tag}=none: mail that fails is only reported, so anyone can write in the domain's name"
            advice = "take the next step when the reports show none of your own mail failing"
            yield Finding(Severity.WARN, "dmarc-policy-none", text, advice=advice)
        else:
            yield good("dmarc-policy", f"{tag}={policy}: mail that fails is {_FATES[policy]}")
    if record.is_testing:
        text = "t=y: the policy is only tested, and one step milder is done"
        yield Finding(Severity.WARN, "dmarc-testing", text, advice="leave it out when the reports are clean")
    yield from _judge_subdomains(record)
    yield from _judge_problems(record, asks=asked is not None)
    if not record.rua and asked is not None and mx.takes_mail:
        text = "no valid rua=: nobody learns whether the domain's own mail fails"
        yield Finding(Severity.WARN, "dmarc-no-rua", text, advice="name a mailbox that somebody reads")


_FATES: Final = {DmarcPolicy.QUARANTINE: "to be treated with suspicion", DmarcPolicy.REJECT: "to be refused"}


def _judge_subdomains(record: DmarcRecord) -> Iterator[Finding]:
    if record.p is None or record.has_invalid_policy:
        return
    for tag, policy, other in (("sp", record.sp, record.p), ("np", record.np, record.sp or record.p)):
        if policy is not None and STRICTNESS[policy] < STRICTNESS[other]:
            names = "names below the domain" if tag == "sp" else "names that do not exist"
            text = f"{tag}={policy} is weaker than the policy beside it ({other}): {names} can be used instead"
            yield Finding(Severity.WARN, f"dmarc-weak-{tag}", text, advice=f"leave {tag}= out")


def _judge_problems(record: DmarcRecord, *, asks: bool) -> Iterator[Finding]:
    for problem in record.problems:
        if "was removed by" in problem:
            yield Finding(Severity.WARN, "dmarc-removed-tag", problem, advice="leave it out")
        elif problem.startswith("the record has"):
            if asks:
                yield Finding(Severity.BAD, "dmarc-invalid-policy", problem, advice="write none, quarantine or reject")
        else:
            yield Finding(Severity.WARN, "dmarc-syntax", problem, advice="correct it, or leave it out")


def _with_changes(facts: DmarcFacts, mx: MxFacts, judged: Iterator[Finding]) -> Iterator[Finding]:
    """Add the mildest mended record that is free of a finding to it."""
    record = facts.discovery.record
    assert record is not None  # it was judged
    findings = list(judged)
    reports_to = _reports_to(facts, mx)
    offers: list[tuple[bytes, set[str]]] = []
    if len(record.text) <= MAX_READ_OCTETS:
        texts = (repair(record, reports_to=reports_to), strengthen(record, reports_to=reports_to, least=_least(mx)))
        for text in texts:
            mended = parse_dmarc_record(text)
            assert mended is not None  # by its beginning
            left = {found.code for found in _judge(mended, facts, mx) if found.severity is not Severity.GOOD}
            offers.append((text, left))
    for finding in findings:
        fit = [text for text, faults in offers if finding.code not in faults and len(text) <= MAX_MENDED_OCTETS]
        if finding.severity is Severity.GOOD or not fit:
            yield finding
        else:
            yield replace(finding, changes=(Change(facts.owner, RdType.TXT, (fit[0],), facts.records),))


def _judge_destinations(facts: DmarcFacts) -> Iterator[Finding]:
    for destination in facts.destinations:
        host = printable(destination.host)
        if destination.failure is not None:
            yield no_answer(Check.DMARC, destination.failure, f"whether {host} takes reports for {facts.place}")
        elif not destination.has_agreed:
            yield Finding(
                Severity.WARN,
                "dmarc-destination",
                f"reports go to {host}, which has not said that it takes them: they are not sent (RFC 9990)",
                (Change(destination.name, RdType.TXT, (b"v=DMARC1;",)),),
                f"the owner of {host} publishes it; else name a mailbox of your own in rua= and ruf=",
            )
        else:
            yield good("dmarc-destination", f"{host} has said that it takes the reports")


def _judge_several(facts: DmarcFacts, owner: str, records: Sequence[bytes], mx: MxFacts) -> Finding:
    record = parse_dmarc_record(records[0])
    text = f"{len(records)} DMARC records at {printable(owner)}, so that none counts (s4.10)"
    if record is None or len(record.text) > MAX_READ_OCTETS:
        return Finding(Severity.BAD, "dmarc-several", text, advice="leave one of them")
    change = Change(owner, RdType.TXT, (repair(record, reports_to=_reports_to(facts, mx)),), tuple(records))
    return Finding(
        Severity.BAD, "dmarc-several", text, (change,), "this is the first of them: look whether it is right"
    )


def _judge_missing(facts: DmarcFacts, mx: MxFacts) -> Iterator[Finding]:
    if facts.near_misses:
        yield from _judge_near_misses(facts, mx)
        return
    text = "no DMARC record, neither here nor above: receivers do as they like with mail that fails"
    if not mx.takes_mail:
        change = Change(facts.owner, RdType.TXT, (b"v=DMARC1; p=reject",))
        yield Finding(
            Severity.BAD, "dmarc-none", text, (change,), "the domain takes no mail, so it sends none it seems"
        )
        return
    record = f"v=DMARC1; p=none; rua={_reports_to(facts, mx)}".encode("ascii")
    change = Change(facts.owner, RdType.TXT, (record,))
    yield Finding(Severity.BAD, "dmarc-none", text, (change,), "take the next step when the reports are clean")


def _judge_near_misses(facts: DmarcFacts, mx: MxFacts) -> Iterator[Finding]:
    near = facts.near_misses[0]
    text = f"a TXT record is meant to be DMARC and is none: {printable(near.decode('latin-1'), 60)}"
    is_needed = facts.discovery.record is None or facts.place != facts.domain
    severity = Severity.BAD if is_needed else Severity.WARN
    if len(near) > MAX_READ_OCTETS:
        yield Finding(severity, "dmarc-near-miss", text, advice="let it begin with `v=DMARC1;`")
        return
    mended = (repair(read_as_record(near), reports_to=_reports_to(facts, mx)),) if is_needed else ()
    change = Change(facts.own_owner, RdType.TXT, mended, facts.near_misses)
    yield Finding(severity, "dmarc-near-miss", text, (change,))


def _reports_to(facts: DmarcFacts, mx: MxFacts) -> str:
    """Name the mailbox that each domain that takes mail must have (RFC 5321 s4.5.1)."""
    return f"mailto:postmaster@{facts.domain}" if mx.takes_mail else ""


def _least(mx: MxFacts) -> DmarcPolicy:
    return DmarcPolicy.QUARANTINE if mx.takes_mail else DmarcPolicy.REJECT


def _describe_step(step: WalkStep) -> str:
    if step.failure is not None:
        return f"{step.finding} ({step.failure.kind.value})"
    if step.record is None:
        return str(step.finding)
    psd = "" if step.record.psd is Psd.UNKNOWN else f" with psd={step.record.psd}, where the walk ends"
    return f"{step.finding}{psd}"


def _describe(facts: DmarcFacts) -> dict[str, Any]:
    found = facts.discovery
    return {
        "record": found.record.text[:MAX_READ_OCTETS] if found.record is not None else None,
        "record_domain": found.record_domain or None,
        "policy": found.policy.value if found.policy is not None else None,
        "disposition": found.disposition.value if found.disposition is not None else None,
        "organizational_domain": facts.organizational_domain,
        "walk": [
            {
                "name": f"_dmarc.{step.domain}",
                "finding": step.finding.name.lower(),
                "psd": step.record.psd.value if step.record is not None else None,
            }
            for step in facts.steps
        ],
    }
