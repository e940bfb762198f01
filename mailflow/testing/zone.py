"""A Resolver that answers from a dictionary in the shape of the RFC 7208 test suite's zonedata.

    ZoneResolver({"example.com": [{"MX": [10, "mx.example.com"]}, {"TXT": ["v=spf1 ", "-all"]}, "TIMEOUT"]})

A row is {type: value}. "TIMEOUT" or "SERVFAIL" among the rows fails every type without record at that name. The
surprises are the suite's: an SPF row doubles as TXT unless the name has a TXT row, {"TXT": "NONE"} is a TXT row without
record, and text is octets, one per character (Latin-1), or UTF-8 where that cannot be. An address for a name means its
reverse name.
"""

import contextlib
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from mailflow.dns import Answer, AnswerStatus, DnsFailure, DnsTemporary, MxRecord, RdType, Record, TlsaRecord
from mailflow.dns.names import canonical_name, reverse_name

Row: TypeAlias = Mapping[str, Any] | str
Zone: TypeAlias = Mapping[str, Iterable[Row]]

_FAILURES: Final = {"TIMEOUT": DnsFailure.TIMEOUT, "SERVFAIL": DnsFailure.SERVFAIL}
_MAX_CHAIN: Final = 8


@dataclass(slots=True)
class _Name:
    """What the zone holds at one name; a listed type may have no record."""

    records: dict[RdType, list[Record]] = field(default_factory=dict)
    failure: DnsFailure | None = None


class ZoneResolver:
    """A Resolver over a fixed zone; a name it does not hold is NXDOMAIN.

    `ttl_s` is the life of every answer. `queries` lists what was asked, in order, as (name as given, type). Raises
    ValueError for a row it does not understand.
    """

    def __init__(self, zone: Zone, *, ttl_s: int = 300) -> None:
        self.queries: list[tuple[str, RdType]] = []
        self._ttl_s = ttl_s
        self._names: dict[str, _Name] = {}
        for name, rows in zone.items():
            _add_rows(self._names.setdefault(_zone_name(name), _Name()), list(rows))
        # Ancestors of names exist without records of their own (RFC 8020).
        self._ancestors = {
            ancestor
            for name in self._names
            for ancestor in (name.split(".", cut)[-1] for cut in range(1, name.count(".") + 1))
        }

    async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
        """Answer from the zone, following CNAMEs; see mailflow.dns.Resolver.resolve."""
        rdtype = RdType(rdtype)
        self.queries.append((name, rdtype))
        current = canonical_name(name)
        if current is None:
            return Answer(AnswerStatus.NXDOMAIN)
        for _ in range(_MAX_CHAIN + 1):
            here = self._names.get(current)
            if here is None:
                status = AnswerStatus.NODATA if current in self._ancestors else AnswerStatus.NXDOMAIN
                return Answer(status, (), self._ttl_s, current)
            if rdtype not in here.records and (alias := here.records.get(RdType.CNAME)):
                current = str(alias[0])
                continue
            records = tuple(here.records.get(rdtype, ()))
            if not records and here.failure is not None:
                raise DnsTemporary(here.failure, name, rdtype)
            return Answer(AnswerStatus.FOUND if records else AnswerStatus.NODATA, records, self._ttl_s, current)
        raise DnsTemporary(DnsFailure.MALFORMED, name, rdtype)  # a CNAME loop


def _add_rows(here: _Name, rows: Sequence[Row]) -> None:
    spf: list[Record] = []
    for row in rows:
        if isinstance(row, str):
            if row not in _FAILURES:
                raise ValueError(f"not a zone row: {row!r}")
            here.failure = _FAILURES[row]
            continue
        for rdtype, value in row.items():
            records = spf if rdtype == "SPF" else here.records.setdefault(RdType(rdtype), [])
            if value != "NONE":
                records.append(_parse_value("TXT" if rdtype == "SPF" else rdtype, value))
    if spf:
        here.records.setdefault(RdType.TXT, spf)


def _parse_value(rdtype: str, value: Any) -> Record:
    match RdType(rdtype):
        case RdType.A:
            return ipaddress.IPv4Address(value)
        case RdType.AAAA:
            return ipaddress.IPv6Address(value)
        case RdType.MX:
            preference, exchange = value
            return MxRecord(int(preference), _zone_name(exchange or "."))
        case RdType.TLSA:
            usage, selector, matching_type, data = value
            return TlsaRecord(usage, selector, matching_type, bytes.fromhex(data) if isinstance(data, str) else data)
        case RdType.TXT:
            strings = [value] if isinstance(value, str | bytes) else value
            return b"".join(_to_octets(string) for string in strings)
        case RdType.CNAME | RdType.NS | RdType.PTR:
            return _zone_name(value or ".")


def _zone_name(text: str) -> str:
    with contextlib.suppress(ValueError):  # a name, as nearly always
        text = reverse_name(text)
    name = canonical_name(text)
    if name is None:
        raise ValueError(f"not a DNS name: {text!r}")
    return name


def _to_octets(text: str | bytes) -> bytes:
    if isinstance(text, bytes):
        return text
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()
