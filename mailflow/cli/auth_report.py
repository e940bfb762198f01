"""What `mailflow auth check` prints: text for a person, or the one JSON document of the contract.

What strangers wrote is shown as text, never as markup; what a terminal cannot show is escaped.
"""

import io
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mailflow.dns import Answer, AnswerStatus, DnsTemporary, MxRecord, RdType, Record
from mailflow.mail.reply import printable
from mailflow.mailauth.author import Author
from mailflow.mailauth.result import AuthStatus
from mailflow.receive.evidence import Evidence
from mailflow.receive.explanation import explain_message
from mailflow.receive.verdict import Action, Verdict

MAX_RECORD_CHARS = 400
_STYLES = {"pass": "green", "fail": "red", "permerror": "red", "temperror": "yellow", "softfail": "yellow"}
_ACTION_STYLES = {
    Action.ACCEPT: "bold green",
    Action.QUARANTINE: "bold yellow",
    Action.REJECT: "bold red",
    Action.DEFER: "bold yellow",
}

Seen: TypeAlias = Mapping[tuple[str, RdType], Answer[Record] | DnsTemporary]


@dataclass(frozen=True, slots=True)
class Report:
    """One message judged: the evidence, the verdict, and by check what it read from the DNS."""

    evidence: Evidence
    verdict: Verdict
    seen: Mapping[str, Seen]


def print_json(report: Report) -> None:
    """Print the document of the contract."""
    print(json.dumps(as_document(report), indent=2), flush=True)


def as_document(report: Report) -> dict[str, Any]:
    """Give the document of the contract as plain values."""
    evidence, verdict = report.evidence, report.verdict
    author = evidence.author if isinstance(evidence.author, Author) else None
    spf, dmarc = evidence.spf, evidence.dmarc
    return {
        "envelope_from": evidence.envelope_from,
        "header_from": author.address if author else None,
        "author_domain": author.domain if author else None,
        "spf": {
            "status": spf.status.value,
            "domain": spf.domain,
            "identity": spf.identity.value,
            "explanation": spf.explanation,
        },
        "dkim": [
            {
                "status": result.status.value,
                "domain": result.domain,
                "selector": result.selector,
                "algorithm": result.algorithm,
                "reason": result.reason,
            }
            for result in evidence.dkim
        ],
        "arc": {"status": evidence.arc.status.value},
        "dmarc": {
            "status": dmarc.status.value if dmarc else AuthStatus.NONE.value,
            "domain": dmarc.domain if dmarc else None,
            "policy": dmarc.policy.value if dmarc and dmarc.policy else None,
            "disposition": dmarc.disposition.value if dmarc and dmarc.disposition else None,
            "aligned": {"spf": bool(dmarc and dmarc.aligned_spf), "dkim": bool(dmarc and dmarc.aligned_dkim)},
        },
        "verdict": {"action": verdict.action.value, "reply": str(verdict.reply) if verdict.reply else None},
        "explanation": explain_message(evidence, verdict),
    }


def print_text(report: Report) -> None:
    """Print the two senders, each check with what it read, the alignment side by side, and the verdict."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    for sentence in explain_message(report.evidence, report.verdict)[:-1]:
        console.print(Text(f"  {sentence}"))
    console.print()
    console.print(_make_alignment(report.evidence))
    console.print(Text("\nWhat was read from the DNS:"))
    for check, seen in report.seen.items():
        for line in _list_records(seen):
            console.print(Text.assemble((f"  {check:6}", "dim"), line))
    verdict = report.verdict
    reply = f" ({verdict.reply})" if verdict.reply else ""
    console.print()
    console.print(Text.assemble((verdict.action.value, _ACTION_STYLES[verdict.action]), f"{reply}: {verdict.reason}"))


def _make_alignment(evidence: Evidence) -> Table:
    """Put each authenticated domain beside the author's."""
    table = Table("check", "result", "its domain", "the author's", "aligned", box=None, pad_edge=True)
    dmarc, author = evidence.dmarc, printable(evidence.author_domain) or "unknown"
    rows = [("SPF", evidence.spf.status, evidence.spf.domain, bool(dmarc and dmarc.aligned_spf))]
    for result in evidence.dkim:
        is_aligned = bool(dmarc and result.status is AuthStatus.PASS and result.domain in dmarc.dkim_domains)
        rows.append(("DKIM", result.status, result.domain, is_aligned))
    if not evidence.dkim:
        rows.append(("DKIM", AuthStatus.NONE, "", False))
    for check, status, domain, is_aligned in rows:
        shown = Text(status.value, _STYLES.get(status.value, ""))
        table.add_row(check, shown, Text(printable(domain)), Text(author), "yes" if is_aligned else "no")
    return table


def _list_records(seen: Seen) -> Iterator[str]:
    for (name, rdtype), outcome in seen.items():
        question = f"{printable(name)} {rdtype}"
        if isinstance(outcome, DnsTemporary):
            yield f"{question}: no answer ({outcome.kind.value})"
        elif outcome.status is not AnswerStatus.FOUND:
            yield f"{question}: {'no such name' if outcome.status is AnswerStatus.NXDOMAIN else 'no record'}"
        else:
            yield from (f"{question}: {_show_record(record)}" for record in outcome.records)


def _show_record(record: Record) -> str:
    match record:
        case bytes():
            text = record.decode("latin-1")
        case MxRecord(preference, exchange):
            text = f"{preference} {exchange}"
        case _:
            text = str(record)
    return printable(text, MAX_RECORD_CHARS)
