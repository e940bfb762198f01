"""Who may send for a domain: its SPF record judged, with all that it leads to. (RFC 7208)

Pure. Permerror is bad: to a receiver it is no SPF at all. A change is named only where the record that it publishes was
judged as well and is free of the fault.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from mailflow.cli.doctor_finding import MAX_MENDED_OCTETS, Change, Check, Finding, Section, Severity, good, no_answer
from mailflow.cli.doctor_mx import MxFacts
from mailflow.cli.doctor_spf_facts import SpfFacts, read_node
from mailflow.cli.doctor_spf_mend import (
    after_mending,
    count_voids,
    find_all,
    is_broken,
    is_misspelt_modifier,
    is_open,
    mend,
    repair_terms,
)
from mailflow.dns import RdType
from mailflow.mail.reply import printable
from mailflow.mailauth.result import AuthStatus
from mailflow.mailauth.spf_lookups import MAX_LOOKUPS, MAX_MX_NAMES, MAX_VOID_LOOKUPS
from mailflow.mailauth.spf_macro import shown
from mailflow.mailauth.spf_record import MechanismKind, RecordFault, SpfRecord, parse_record
from mailflow.mailauth.spf_tree import SpfTree, Unread

MAX_READ_OCTETS: Final = 4_000  # of a record that is to be mended
MAX_FINDINGS: Final = 20
_SHOWN_CHARS: Final = 160
_DECISIONS: Final = {
    AuthStatus.FAIL: "others fail",
    AuthStatus.SOFTFAIL: "others softfail",
    AuthStatus.NEUTRAL: "others are neutral",
    AuthStatus.PASS: "everyone passes",
}


def judge_spf(facts: SpfFacts, mx: MxFacts) -> Section:
    """Judge what was gathered; `mx` tells a domain that takes no mail, which is taken to send none either."""
    if facts.failure is not None:
        return Section(Check.SPF, (no_answer(Check.SPF, facts.failure, "the SPF record"),), (), {"record": None})
    if not facts.records:
        findings = [_judge_missing(facts, mx)]
    else:
        findings = list(_with_changes(facts, list(_judge(facts))[:MAX_FINDINGS]))
    if facts.records and facts.near_misses:
        text = f"a TXT record looks like SPF and is none: {printable(_text(facts.near_misses[0]), 60)}"
        change = Change(facts.owner, RdType.TXT, (), facts.near_misses)
        findings.append(Finding(Severity.WARN, "spf-near-miss", text, (change,)))
    outline = tuple(_outline(facts.tree, 0)) if facts.tree is not None and facts.tree.children else ()
    return Section(Check.SPF, tuple(findings), outline, _describe(facts))


def _judge_missing(facts: SpfFacts, mx: MxFacts) -> Finding:
    if facts.near_misses:
        near = facts.near_misses[0]
        text = f"no SPF record, but a TXT record that must be meant as one: {printable(_text(near), 60)}"
        if len(near) > MAX_READ_OCTETS:
            return Finding(Severity.BAD, "spf-none", text, advice="let it begin with `v=spf1 `")
        fixed = mend(replace(facts, records=(" ".join(["v=spf1", *repair_terms(_text(near))]).encode("ascii"),)))
        change = Change(facts.owner, RdType.TXT, (fixed,), facts.near_misses)
        return Finding(Severity.BAD, "spf-none", text, (change,))
    if not mx.takes_mail:
        text = "no SPF record: anyone may send as this domain, which itself sends no mail it seems"
        return Finding(Severity.BAD, "spf-none", text, (Change(facts.owner, RdType.TXT, (b"v=spf1 -all",)),))
    change = Change(facts.owner, RdType.TXT, (b"v=spf1 mx ~all",))
    advice = "mx stands for the hosts that take the domain's mail: add whatever else sends for it"
    text = "no SPF record: nothing says who may send for this domain"
    return Finding(Severity.BAD, "spf-none", text, (change,), advice)


def _with_changes(facts: SpfFacts, findings: list[Finding]) -> Iterator[Finding]:
    """Add the mended record to each finding that it mends."""
    is_readable = sum(map(len, facts.records)) <= MAX_READ_OCTETS
    faulty = [finding for finding in findings if finding.severity is not Severity.GOOD]
    if not faulty or not is_readable:
        yield from findings
        return
    mended = mend(facts)
    after = _judge(after_mending(facts, mended))
    left = {finding.code for finding in after if finding.severity is not Severity.GOOD}
    change = Change(facts.owner, RdType.TXT, (mended,), facts.records)
    for finding in findings:
        is_mended = finding.code not in left and len(mended) <= MAX_MENDED_OCTETS
        yield replace(finding, changes=(change,)) if finding in faulty and is_mended else finding


def _judge(facts: SpfFacts) -> Iterator[Finding]:
    if len(facts.records) > 1:
        text = f"{len(facts.records)} SPF records, where there must be one: permerror (s4.5)"
        yield _bad("spf-several", text, "make one record of them")
        return
    (octets,) = facts.records
    record = parse_record(octets)
    if isinstance(record, RecordFault):
        yield _bad("spf-syntax", f"syntax error, so permerror: {record.reason}", "correct the term, or leave it out")
        return
    tree = facts.tree
    if tree is None or tree.unread is not None:
        failure = tree.failure if tree is not None else "there is none"
        yield _warn("spf-unread", f"the record changed or was gone while it was read: {failure}", "ask again")
        return
    yield good("spf-record", printable(_text(octets), _SHOWN_CHARS))
    yield from _judge_limits(facts, tree)
    yield from _judge_end(record, tree)
    yield from _judge_terms(record)
    yield from _judge_branches(tree)
    yield from _judge_lookups(facts)


def _judge_limits(facts: SpfFacts, tree: SpfTree) -> Iterator[Finding]:
    if tree.lookups > MAX_LOOKUPS:
        text = f"{tree.lookups} terms need DNS, {MAX_LOOKUPS} are allowed: permerror (s4.6.4)"
        yield _bad(
            "spf-lookups", text, "leave out includes that nothing sends through; addresses written out may change"
        )
    else:
        yield good("spf-lookups", f"{tree.lookups} of {MAX_LOOKUPS} terms that need DNS")
    voids = {family: count_voids(facts, family) for family in (4, 6)}
    if min(voids.values()) > MAX_VOID_LOOKUPS:
        names = _quote({term.text for term in facts.terms if len(term.void_families) == 2})
        text = f"{min(voids.values())} terms find nothing in DNS, {MAX_VOID_LOOKUPS} may: permerror (s4.6.4): {names}"
        yield _bad("spf-voids", text, "leave out what finds nothing")
    elif max(voids.values()) > MAX_VOID_LOOKUPS:
        family = max(voids, key=lambda family: voids[family])
        names = _quote({term.text for term in facts.terms if family in term.void_families})
        text = f"for IPv{family} clients {voids[family]} terms find nothing, {MAX_VOID_LOOKUPS} may (s4.6.4): {names}"
        yield _warn("spf-voids-one-family", text, "name networks instead of hosts")


def _judge_end(record: SpfRecord, tree: SpfTree) -> Iterator[Finding]:
    """Judge what becomes of those who match nothing, where need be at the end of a chain of redirect=."""
    node, where = tree, ""
    while find_all(record) is None and record.redirect is not None:
        last = next((child for child in reversed(node.children) if child.term.startswith("redirect=")), None)
        following = read_node(last) if last is not None else None
        if last is None or following is None:
            return  # judged as a branch
        node, record, where = last, following, f" in the record of {shown(last.domain)}"
    advice = f"mend the record of {shown(node.domain)}" if where else "end it with ~all or -all"
    end = find_all(record)
    if end is None:
        yield _warn("spf-no-end", f"neither all nor redirect= at the end{where}: all others are neutral (s4.7)", advice)
    elif end.status is AuthStatus.PASS:
        yield _bad("spf-plus-all", f"{end.text}{where} lets everyone send", advice)
    elif end.status is AuthStatus.NEUTRAL:
        yield _warn("spf-neutral-all", f"{end.text}{where} says nothing about others", advice)
    else:
        yield good("spf-end", f"{end.text}{where}: {_DECISIONS[end.status]}")
    if end is not None and not where:
        kinds = [term.kind for term in record.mechanisms]
        if kinds.index(MechanismKind.ALL) + 1 < len(kinds):
            yield _warn("spf-behind-all", f"terms behind {end.text} are ignored (s5.1)", "move them in front of it")
        if record.redirect is not None:
            yield _warn("spf-redirect-ignored", f"redirect= beside {end.text} is ignored (s6.1)", "leave it out")


def _judge_terms(record: SpfRecord) -> Iterator[Finding]:
    if any(term.kind is MechanismKind.PTR for term in record.mechanisms):
        yield _warn("spf-ptr", "ptr must not be published: slow, and others' DNS decides (s5.5)", "name networks")
    specs = [*(term.domain for term in record.mechanisms), record.redirect, record.explanation]
    if any(spec is not None and "p" in spec.string.letters for spec in specs):
        yield _warn("spf-macro-p", "%{p} must not be published: slow, and others' DNS decides (s7.2)", "name networks")
    misspelt = {term for term in record.text.split(" ") if is_misspelt_modifier(term)}
    if misspelt:
        text = f"ignored as unknown modifiers, for a mechanism has a colon: {_quote(misspelt)} (s6)"
        yield _bad("spf-modifier", text, "write them with a colon")


def _judge_branches(tree: SpfTree) -> Iterator[Finding]:
    for child in tree.children:
        term = shown(child.term)
        if is_broken(child):
            node = next(node for node in child.walk() if node.unread is Unread.PERMANENT)
            text = f"{term}: {shown(node.domain)} {node.failure}, so permerror (s5.2)"
            yield _bad("spf-broken-include", text, "leave it out, or have its owner mend it")
        elif is_open(child):
            yield _bad("spf-open-include", f"{term} leads to a record that lets everyone send", "leave it out")
        elif silent := [node for node in child.walk() if node.unread is Unread.NO_ANSWER]:
            text = f"{term}: no answer for {shown(silent[0].domain)}, so temperror ({silent[0].failure})"
            yield _warn("spf-include-no-answer", text, "ask again later; if it stays so, leave it out")
        elif any(_has_ptr(node) for node in child.walk()):
            yield _warn(
                "spf-included-ptr", f"{term} leads to a record with ptr, which is slow (s5.5)", "tell its owner"
            )


def _judge_lookups(facts: SpfFacts) -> Iterator[Finding]:
    for term in facts.terms:
        if term.has_too_many_names:
            text = f"{shown(term.text)} has more than {MAX_MX_NAMES} MX names: permerror (s4.6.4)"
            yield _bad("spf-mx-names", text, "name networks instead")
        elif term.failure is not None:
            text = f"{shown(term.text)}: no answer from the DNS, so temperror ({term.failure.kind.value})"
            yield _warn("spf-term-no-answer", text, "ask again later")


def _has_ptr(node: SpfTree) -> bool:
    record = read_node(node)
    return record is not None and any(term.kind is MechanismKind.PTR for term in record.mechanisms)


def _bad(code: str, text: str, advice: str) -> Finding:
    return Finding(Severity.BAD, code, text, advice=advice)


def _warn(code: str, text: str, advice: str) -> Finding:
    return Finding(Severity.WARN, code, text, advice=advice)


def _quote(terms: set[str]) -> str:
    names = sorted(terms)
    return ", ".join(map(shown, names[:4])) + (", ..." if len(names) > 4 else "")


def _text(octets: bytes) -> str:
    return octets.decode("latin-1")


def _outline(node: SpfTree, depth: int) -> Iterator[str]:
    name = f"{shown(node.term)} ({node.lookups})" if node.term else f"{node.domain} ({node.lookups})"
    said = node.failure if node.unread is not None else printable(node.record, _SHOWN_CHARS)
    yield f"{'  ' * depth}{name}: {said}"
    for child in node.children:
        yield from _outline(child, depth + 1)


def _describe(facts: SpfFacts) -> dict[str, Any]:
    tree = facts.tree
    return {
        "record": _text(facts.records[0])[:MAX_READ_OCTETS] if len(facts.records) == 1 else None,
        "lookups": tree.lookups if tree is not None and tree.unread is None else None,
        "max_lookups": MAX_LOOKUPS,
        "void_lookups": max(count_voids(facts, family) for family in (4, 6)),
        "tree": _describe_tree(tree) if tree is not None else None,
    }


def _describe_tree(node: SpfTree) -> dict[str, Any]:
    return {
        "domain": printable(node.domain),
        "term": printable(node.term) or None,
        "record": node.record[:MAX_READ_OCTETS] or None,
        "lookups": node.lookups,
        "failure": node.failure or None,
        "problems": list(node.problems),
        "includes": [_describe_tree(child) for child in node.children],
    }
