"""The logo a domain wants beside its mail: its BIMI record, if it has one. (draft-brand-indicators-for-message-
identification)

No domain needs one, so that none is good as well; one that shows nothing, for its faults or for want of a DMARC policy,
is a warning. Neither the logo nor the certificate is fetched.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from mailflow.cli.doctor_dmarc import enforcing_change
from mailflow.cli.doctor_dmarc_facts import DmarcFacts
from mailflow.cli.doctor_finding import MAX_MENDED_OCTETS, Change, Check, Finding, Section, Severity, good, no_answer
from mailflow.cli.doctor_mx import MxFacts
from mailflow.dns import DnsTemporary, RdType, Resolver, lookup_txt
from mailflow.mail.reply import printable
from mailflow.mailauth.bimi_record import BimiRecord, read_bimi_records
from mailflow.mailauth.result import DmarcPolicy

SELECTOR: Final = "default"
_SHOWN_CHARS: Final = 160


@dataclass(frozen=True, slots=True)
class BimiFacts:
    """The record of the domain, else of its organizational domain: `place`. `owner` is where it stands."""

    place: str
    owner: str
    record: BimiRecord
    texts: tuple[bytes, ...] = ()
    failure: DnsTemporary | None = None


async def gather_bimi(domain: str, organizational_domain: str, resolver: Resolver) -> BimiFacts:
    """Ask at the domain, and where it has no record at its organizational domain (s7.2)."""
    place = domain
    try:
        answer = await lookup_txt(resolver, f"{SELECTOR}._bimi.{place}")
        if not read_bimi_records(answer.records).is_present and organizational_domain != domain:
            place = organizational_domain
            answer = await lookup_txt(resolver, f"{SELECTOR}._bimi.{place}")
    except DnsTemporary as failure:
        return BimiFacts(place, f"{SELECTOR}._bimi.{place}", read_bimi_records(()), failure=failure)
    texts = tuple(text for text in answer.records if read_bimi_records([text]).is_present)
    owner = answer.canonical_name or f"{SELECTOR}._bimi.{place}"
    return BimiFacts(place, owner, read_bimi_records(texts), texts)


def judge_bimi(facts: BimiFacts, dmarc: DmarcFacts, mx: MxFacts) -> Section:
    """Judge what was gathered, beside the DMARC policy that it needs."""
    findings = tuple(_judge(facts, dmarc, mx))
    outline = tuple(printable(text.decode("latin-1"), _SHOWN_CHARS) for text in facts.texts[:4])
    return Section(Check.BIMI, findings, outline, _describe(facts))


def _judge(facts: BimiFacts, dmarc: DmarcFacts, mx: MxFacts) -> Iterator[Finding]:
    record = facts.record
    if facts.failure is not None:
        yield no_answer(Check.BIMI, facts.failure, "the BIMI record")
    elif not record.is_present:
        yield good("bimi-none", "no BIMI record, and none is needed")
    elif record.is_declined:
        yield good("bimi-declined", f"{facts.place} says that it has no logo")
    else:
        for problem in record.problems:
            yield _judge_problem(facts, problem)
        if record.is_valid:
            evidence = "" if record.evidence_uri else ", without evidence (a=), which some mailbox providers want"
            yield good("bimi-record", f"{facts.place} names a logo{evidence}: {printable(record.logo_uri, 120)}")
        yield from _judge_policy(dmarc, mx)


def _judge_problem(facts: BimiFacts, problem: str) -> Finding:
    mended = _mend(facts.texts)
    if mended is None:
        return Finding(Severity.WARN, "bimi-fault", problem, advice="give l= the https address of an SVG file")
    change = Change(facts.owner, RdType.TXT, (mended,), facts.texts)
    return Finding(Severity.WARN, "bimi-fault", problem, (change,))


def _judge_policy(dmarc: DmarcFacts, mx: MxFacts) -> Iterator[Finding]:
    if dmarc.discovery.disposition in {DmarcPolicy.QUARANTINE, DmarcPolicy.REJECT} or dmarc.failure is not None:
        return
    text = "no logo is shown without a DMARC policy of quarantine or reject"
    change = enforcing_change(dmarc, mx)
    changes = (change,) if change is not None else ()
    advice = "take this step when the reports show none of your own mail failing"
    yield Finding(Severity.WARN, "bimi-policy", text, changes, advice)


def _mend(texts: tuple[bytes, ...]) -> bytes | None:
    """Give the first record that becomes good by leaving its faulty tags out, http made https; None where none does."""
    for text in texts:
        tags: dict[str, str] = {}
        for part in text.decode("ascii", "ignore").split(";")[1:]:
            name, _, value = part.partition("=")
            tags.setdefault(name.strip(" \t").lower(), value.strip(" \t"))
        kept = {name: re.sub(r"\Ahttp://", "https://", value) for name, value in tags.items()}
        for names in (("l", "a", "avp"), ("l", "a"), ("l",)):
            mended = "; ".join(["v=BIMI1", *(f"{name}={kept[name]}" for name in names if name in kept)]).encode("ascii")
            record = read_bimi_records([mended])
            if record.is_valid and record.logo_uri and len(mended) <= MAX_MENDED_OCTETS:
                return mended
    return None


def _describe(facts: BimiFacts) -> dict[str, Any]:
    record = facts.record
    return {
        "domain": facts.place if record.is_present else None,
        "logo": record.logo_uri[:MAX_MENDED_OCTETS] or None,
        "evidence": record.evidence_uri[:MAX_MENDED_OCTETS] or None,
    }
