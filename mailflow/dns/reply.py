"""What a reply says about its question. (RFC 1035 s4, 2181 s5, 2308, 6604)

Pure. Names and record data are dnspython's to parse; the walk over the sections is ours and looks at no more than the
question needs, since building dnspython's whole message object is two thirds of a query's CPU time. The surprise: a
reply may end in the middle of a CNAME chain, and then it is `Incomplete`: a name to ask about next.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

import dns.exception
import dns.flags
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.wire

from mailflow.dns.message import HEADER, TYPE_CODES, Question, reply_code
from mailflow.dns.names import name_from_labels
from mailflow.dns.resolver import Answer, AnswerStatus, MxRecord, RdType, Record, TlsaRecord

MAX_CHAIN: Final = 8
MAX_TTL_S: Final = 86_400
MAX_NEGATIVE_TTL_S: Final = 3_600  # RFC 2308 s5: one to three hours
MAX_RECORDS: Final = 512  # a section of 64 KB can hold thousands, each with a name of 127 labels to unpack

_QUESTION_POINTER: Final = b"\xc0\x0c"  # how nearly every record names its owner: "as in the question"
_SOA_MIN_OCTETS: Final = 22


class MalformedReply(Exception):
    """A reply to our question that is no DNS message, or contradicts itself."""


@dataclass(frozen=True, slots=True)
class Incomplete:
    """The reply followed the CNAME chain as far as `next_name` and said nothing about that; ask on."""

    next_name: str
    ttl_s: int
    is_authenticated: bool


@dataclass(frozen=True, slots=True)
class _RecordSet:
    """The records of one owner and type: their least TTL and where their data lies."""

    ttl_s: int
    places: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _Reply:
    """A reply to `question`, with the sections that count."""

    question: Question
    wire: bytes
    answers: dict[tuple[str, int], _RecordSet]
    has_authority: bool
    negative_ttl_s: int | None  # None without SOA

    @property
    def flags(self) -> int:
        return self.wire[2] << 8 | self.wire[3]


def parse_reply(question: Question, reply: bytes) -> Answer[Record] | Incomplete:
    """What a NOERROR or NXDOMAIN reply that matches the question says about it.

    The TTL is the least along the chain; of a negative answer that of the SOA and its minimum (RFC 2308 s5), 0 without
    SOA. Raises MalformedReply.
    """
    try:
        return _read_answer(_read_sections(question, reply))
    except (dns.exception.DNSException, ValueError, LookupError, struct.error) as exc:
        raise MalformedReply(type(exc).__name__) from exc


def _read_answer(reply: _Reply) -> Answer[Record] | Incomplete:
    is_authenticated = bool(reply.flags & dns.flags.AD)
    rdtype, name, ttl_s = reply.question.rdtype, reply.question.name, MAX_TTL_S
    for _ in range(MAX_CHAIN + 1):
        if (found := reply.answers.get((name, TYPE_CODES[rdtype]))) is not None:
            records = _values(reply, rdtype, found)
            return Answer(AnswerStatus.FOUND, records, min(ttl_s, found.ttl_s), name, is_authenticated)
        if (alias := reply.answers.get((name, dns.rdatatype.CNAME))) is None:
            return _read_absence(reply, name, ttl_s)
        targets = _values(reply, RdType.CNAME, alias)
        if len(targets) != 1:
            raise MalformedReply("two CNAMEs at one name")  # RFC 1034 s3.6.2
        name, ttl_s = str(targets[0]), min(ttl_s, alias.ttl_s)
    raise MalformedReply("CNAME chain too long")


def _read_absence(reply: _Reply, name: str, ttl_s: int) -> Answer[Record] | Incomplete:
    # The code of a reply with a CNAME chain is that of its last name (RFC 6604 s3).
    is_nxdomain = reply_code(reply.wire) == dns.rcode.NXDOMAIN
    is_authenticated = bool(reply.flags & dns.flags.AD)
    if reply.negative_ttl_s is None and not is_nxdomain:
        if name != reply.question.name:
            return Incomplete(name, ttl_s, is_authenticated)
        if reply.has_authority and not reply.flags & dns.flags.AA:
            # "Ask those over there" is not "there is none" (RFC 2308 s2.2): this server does not recurse for us.
            raise MalformedReply("referral")
    status = AnswerStatus.NXDOMAIN if is_nxdomain else AnswerStatus.NODATA
    # Without SOA such an answer should not be cached (RFC 2308 s5).
    return Answer(status, (), min(ttl_s, reply.negative_ttl_s or 0), name, is_authenticated)


def _read_sections(question: Question, wire: bytes) -> _Reply:
    parser = dns.wire.Parser(wire, HEADER.size)
    _, _, questions, answers, authorities, _ = HEADER.unpack_from(wire)
    if questions != 1 or max(answers, authorities) > MAX_RECORDS:
        raise MalformedReply("section counts")
    parser.seek(HEADER.size + len(question.wire))
    sets: dict[tuple[str, int], _RecordSet] = {}
    for owner, rdtype, ttl_s, place in _walk(question, parser, answers):
        # Differing TTLs within a set are a fault; the least is the safe reading (RFC 2181 s5.2).
        old = sets.get((owner, rdtype), _RecordSet(ttl_s, ()))
        sets[owner, rdtype] = _RecordSet(min(old.ttl_s, ttl_s), (*old.places, place))
    negative_ttl_s = None
    for _, rdtype, ttl_s, (start, size) in _walk(question, parser, authorities):
        if rdtype == dns.rdatatype.SOA:
            if size < _SOA_MIN_OCTETS:
                raise MalformedReply("SOA")
            minimum_s = int.from_bytes(wire[start + size - 4 : start + size], "big")  # the last field
            negative_ttl_s = min(ttl_s, minimum_s, MAX_NEGATIVE_TTL_S)
    return _Reply(question, wire, sets, authorities > 0, negative_ttl_s)


def _walk(question: Question, parser: dns.wire.Parser, count: int) -> Iterator[tuple[str, int, int, tuple[int, int]]]:
    """Owner, type, TTL and place (offset, size) of each record of class IN in a section."""
    for _ in range(count):
        if parser.wire[parser.current : parser.current + 2] == _QUESTION_POINTER:
            parser.seek(parser.current + 2)
            owner = question.name
        else:
            owner = name_from_labels(dns.name.from_wire_parser(parser).labels)
        rdtype, rdclass, ttl_s, size = parser.get_struct("!HHIH")
        start = parser.current
        parser.seek(start + size)
        if rdclass == dns.rdataclass.IN:
            yield owner, rdtype, ttl_s, (start, size)


def _values(reply: _Reply, rdtype: RdType, found: _RecordSet) -> tuple[Record, ...]:
    records = []
    for start, size in found.places:
        parser = dns.wire.Parser(reply.wire, start)
        with parser.restrict_to(size):
            rdata = dns.rdata.from_wire_parser(dns.rdataclass.IN, TYPE_CODES[rdtype], parser)
        records.append(_VALUES[rdtype](rdata))
    return tuple(dict.fromkeys(records))  # a set has no duplicates (RFC 2181 s5)


def _target(rdata: Any) -> str:
    return name_from_labels(rdata.target.labels)


# dnspython's rdata classes carry their fields untyped; this table is the only place that reads them.
_VALUES: Final[dict[RdType, Callable[[Any], Record]]] = {
    RdType.A: lambda rdata: IPv4Address(rdata.address),
    RdType.AAAA: lambda rdata: IPv6Address(rdata.address),
    RdType.CNAME: _target,
    RdType.MX: lambda rdata: MxRecord(rdata.preference, name_from_labels(rdata.exchange.labels)),
    RdType.NS: _target,
    RdType.PTR: _target,
    RdType.TLSA: lambda rdata: TlsaRecord(rdata.usage, rdata.selector, rdata.mtype, bytes(rdata.cert)),
    RdType.TXT: lambda rdata: b"".join(rdata.strings),
}
