"""What `mailflow doctor` says: findings, and the changes in the DNS that would mend them.

Pure values. A change names records to take away and records to publish, so that it can be pasted into a zone, or put
into one by a test. The texts of findings are for people: whatever a stranger wrote in them went through `printable`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from mailflow.dns import DnsTemporary, MxRecord, RdType, Record, TlsaRecord

MAX_STRING_OCTETS: Final = 255  # RFC 1035 s3.3
MAX_MENDED_OCTETS: Final = 2_000  # what is longer than that is no record to be pasted

_SPECIAL: Final = re.compile(r'[;"()@$]')
_HARMLESS: Final = frozenset(range(0x20, 0x7F)) - frozenset(b'"\\')


class Severity(StrEnum):
    """How much a finding matters, mildest first."""

    GOOD = "good"
    WARN = "warn"
    BAD = "bad"


class Check(StrEnum):
    """What is looked at, in the order of the report."""

    MX = "mx"
    SPF = "spf"
    DKIM = "dkim"
    DMARC = "dmarc"
    BIMI = "bimi"


@dataclass(frozen=True, slots=True)
class Change:
    """Records of one type at one name (no trailing dot): those to take away, and those to publish."""

    name: str
    rdtype: RdType
    publish: tuple[Record, ...] = ()
    remove: tuple[Record, ...] = ()

    def zone_lines(self) -> list[str]:
        """Give what is to be published as lines of a zone file (RFC 1035 s5.1): printable ASCII alone."""
        return [_zone_line(self.name, self.rdtype, record) for record in self.publish]

    def removed_lines(self) -> list[str]:
        """Give what is to be taken away, in the same form."""
        return [_zone_line(self.name, self.rdtype, record) for record in self.remove]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `code` is the same for the same fault, and stays so.

    What is not good has `changes`, each of which is needed, or `advice` where no record can be named without knowing
    more than the DNS says; it may have both.
    """

    severity: Severity
    code: str
    text: str
    changes: tuple[Change, ...] = ()
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """One check: its findings, `outline` (indented lines) and `facts` (plain values) of what was seen."""

    check: Check
    findings: tuple[Finding, ...]
    outline: tuple[str, ...]
    facts: dict[str, Any]

    @property
    def severity(self) -> Severity:
        """Give the worst of the findings."""
        return worst(finding.severity for finding in self.findings)


def worst(severities: Iterable[Severity]) -> Severity:
    """Give the worst, GOOD where there is none."""
    return max(severities, key=list(Severity).index, default=Severity.GOOD)


def good(code: str, text: str) -> Finding:
    """Make a finding that asks for nothing."""
    return Finding(Severity.GOOD, code, text)


def no_answer(check: Check, failure: DnsTemporary, what: str) -> Finding:
    """Make the finding about a DNS that does not answer: nothing is known, so nothing is bad."""
    return Finding(
        Severity.WARN,
        f"{check}-no-answer",
        f"no answer from the DNS for {what}: {failure.kind.value}",
        advice="ask again later; if it stays so, look at the nameservers of the zone",
    )


def _zone_line(name: str, rdtype: RdType, record: Record) -> str:
    return f"{zone_name(name)} IN {rdtype} {_present(record)}"


def zone_name(name: str) -> str:
    """Write a canonical name as a zone file has it, with the dot behind."""
    return name if name == "." else _SPECIAL.sub(lambda match: "\\" + match[0], name) + "."


def _present(record: Record) -> str:
    match record:
        case MxRecord(preference, exchange):
            return f"{preference} {zone_name(exchange)}"
        case bytes():
            starts = range(0, len(record), MAX_STRING_OCTETS) or [0]
            return " ".join(f'"{_escape(record[at : at + MAX_STRING_OCTETS])}"' for at in starts)
        case str():
            return zone_name(record)
        case TlsaRecord(usage, selector, matching_type, data):
            return f"{usage} {selector} {matching_type} {data.hex()}"
        case _:
            return str(record)


def _escape(octets: bytes) -> str:
    return "".join(chr(octet) if octet in _HARMLESS else f"\\{octet:03d}" for octet in octets)
