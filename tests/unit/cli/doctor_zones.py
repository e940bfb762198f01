"""Zones for the tests of `mailflow doctor`: one without a fault, variations of it, and the pasting of changes."""

import asyncio
import base64
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mailflow.cli.doctor_finding import Change, Check, Finding, Section
from mailflow.cli.doctor_report import Report
from mailflow.cli.doctor_run import examine
from mailflow.dns import MxRecord, RdType, Record
from mailflow.testing import ZoneResolver

Zone = Mapping[str, Sequence[Any]]


@lru_cache
def public_key(bits: int = 2048) -> str:
    key = generate_private_key(public_exponent=65537, key_size=bits)
    return base64.b64encode(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


def good_zone() -> dict[str, list[Any]]:
    return {
        "example.com": [{"MX": (10, "mx.example.com")}, {"TXT": "v=spf1 mx -all"}, {"TXT": "token=1"}],
        "mx.example.com": [{"A": "192.0.2.1"}, {"AAAA": "2001:db8::1"}],
        "s1._domainkey.example.com": [{"TXT": f"v=DKIM1; k=rsa; p={public_key()}"}],
        "_dmarc.example.com": [{"TXT": "v=DMARC1; p=reject; rua=mailto:dmarc@example.com"}],
        "mx.example.net": [{"A": "198.51.100.1"}],
    }


def varied(**names: Sequence[Any]) -> dict[str, list[Any]]:
    """Give the good zone with other rows at some names; `at` stands for the domain, `_` for a dot."""
    zone = good_zone()
    for name, rows in names.items():
        zone["example.com" if name == "at" else name.replace("_", ".")] = list(rows)
    return zone


def spf(record: str | bytes) -> list[Any]:
    """Give the rows of a domain with this record."""
    return [{"MX": (10, "mx.example.com")}, {"TXT": record}, {"TXT": "token=1"}]


def run(zone: Zone, *selectors: str, domain: str = "example.com") -> Report:
    return asyncio.run(examine(domain, ZoneResolver(zone), selectors=selectors))


def section(report: Report, check: Check) -> Section:
    return next(section for section in report.sections if section.check is check)


def codes(found: Section) -> dict[str, str]:
    """Give the severity of each finding by its code; of several the last."""
    return {finding.code: finding.severity.value for finding in found.findings}


def faults(found: Section) -> dict[str, str]:
    return {code: severity for code, severity in codes(found).items() if severity != "good"}


def find(report: Report, code: str) -> Finding:
    return next(finding for part in report.sections for finding in part.findings if finding.code == code)


def paste(zone: Zone, changes: Sequence[Change]) -> dict[str, list[Any]]:
    """Put changes into a zone, as their reader would."""
    pasted = {name: list(rows) for name, rows in zone.items()}
    for change in changes:
        rows = pasted.setdefault(change.name, [])
        kept = [row for row in rows if not (isinstance(row, dict) and _records(row) & _keyed(change))]
        pasted[change.name] = [*kept, *(_row(change.rdtype, record) for record in change.publish)]
    return pasted


def _keyed(change: Change) -> set[tuple[str, str]]:
    return {(change.rdtype.value, repr(record)) for record in change.remove}


def _records(row: Mapping[str, Any]) -> set[tuple[str, str]]:
    (name,) = row
    answer = asyncio.run(ZoneResolver({"x.example": [row]}).resolve("x.example", name))
    return {(name, repr(record)) for record in answer.records}


def _row(rdtype: RdType, record: Record) -> dict[str, Any]:
    match record:
        case MxRecord(preference, exchange):
            return {"MX": (preference, exchange)}
        case bytes():
            return {"TXT": record}
        case _:
            return {rdtype.value: str(record)}
