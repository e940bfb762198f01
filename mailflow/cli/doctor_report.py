"""What `mailflow doctor` prints: text for a person, or one JSON document.

What strangers wrote is shown as text, never as markup; what a terminal cannot show was replaced before it came here, or
is escaped here as in a zone file or in JSON. The change that mends several findings in a row is shown once, behind the
last of them.
"""

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from mailflow.cli.doctor_finding import Change, Check, Finding, Section, Severity, worst
from mailflow.mail.reply import printable

MAX_OUTLINE_LINES: Final = 80
MAX_LINE_CHARS: Final = 400
MAX_REMOVED_LINES: Final = 20
MAX_REMOVED_CHARS: Final = 4_000

_STYLES: Final = {Severity.GOOD: "green", Severity.WARN: "yellow", Severity.BAD: "bold red"}
_TITLES: Final = {
    Check.MX: "MX: where mail goes",
    Check.SPF: "SPF: who may send",
    Check.DKIM: "DKIM: keys that sign",
    Check.DMARC: "DMARC: what is asked for mail that fails",
    Check.BIMI: "BIMI: the logo beside it",
}


@dataclass(frozen=True, slots=True)
class Report:
    """A domain examined: the checks in the order in which they are shown."""

    domain: str
    sections: tuple[Section, ...]

    @property
    def severity(self) -> Severity:
        """Give the worst of all findings."""
        return worst(section.severity for section in self.sections)


def print_json(report: Report) -> None:
    """Print the report as one document of ASCII."""
    print(json.dumps(as_document(report), indent=2), flush=True)


def as_document(report: Report) -> dict[str, Any]:
    """Give the report as plain values."""
    return {
        "domain": report.domain,
        "severity": report.severity.value,
        "checks": {
            section.check.value: {
                "severity": section.severity.value,
                "findings": [_describe(finding) for finding in section.findings],
                **section.facts,
            }
            for section in report.sections
        },
    }


def _describe(finding: Finding) -> dict[str, Any]:
    return {
        "severity": finding.severity.value,
        "code": finding.code,
        "text": finding.text,
        "advice": finding.advice or None,
        "changes": [
            {
                "name": change.name,
                "type": change.rdtype.value,
                "remove": [line[:MAX_REMOVED_CHARS] for line in change.removed_lines()],
                "publish": change.zone_lines(),
            }
            for change in finding.changes
        ],
    }


def print_text(report: Report) -> None:
    """Print a paragraph for each check: findings, what would mend them, what was seen."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    for section in report.sections:
        console.print(Text(_TITLES[section.check], "bold"))
        for line in _list_lines(section):
            console.print(line)
        console.print()
    counts = [finding.severity for section in report.sections for finding in section.findings]
    summary = ", ".join(f"{counts.count(severity)} {severity}" for severity in Severity)
    console.print(Text.assemble((f"{report.domain}: ", "bold"), (summary, _STYLES[report.severity])))


def _list_lines(section: Section) -> Iterator[Text]:
    for changes, findings in groupby(section.findings, key=lambda finding: finding.changes):
        for finding in findings:
            yield Text.assemble(f"  {finding.severity:4}  ", _shorten(finding.text), style=_STYLES[finding.severity])
            if finding.advice:
                yield Text(f"        -> {_shorten(finding.advice)}")
        for change in changes:
            yield from (Text(f"        {line}") for line in _list_change(change))
    shown = section.outline[:MAX_OUTLINE_LINES]
    yield from (Text(f"        {_shorten(line)}", "dim") for line in shown)
    if len(section.outline) > len(shown):
        yield Text(f"        ... {len(section.outline) - len(shown)} more", "dim")


def _list_change(change: Change) -> Iterator[str]:
    """Whole lines, however long: they are there to be pasted. What goes is only to be recognized."""
    removed = change.removed_lines()
    yield from (f"remove:   {_shorten(line)}" for line in removed[:MAX_REMOVED_LINES])
    if len(removed) > MAX_REMOVED_LINES:
        yield f"remove:   ... {len(removed) - MAX_REMOVED_LINES} more"
    yield from (f"publish:  {line}" for line in change.zone_lines())


def _shorten(line: str) -> str:
    return printable(line, MAX_LINE_CHARS) + ("..." if len(line) > MAX_LINE_CHARS else "")
