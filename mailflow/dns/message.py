"""DNS questions as bytes, and which bytes answer them. (RFC 1035 s4, 5452, 6891)

Pure: the query id is an argument. Queries are written by hand, as they differ in three places only (dnspython takes
60 µs for what is 5). A reply is matched with its question on raw bytes before any of it is parsed, so that forged
datagrams cost next to nothing; what a matching reply says is read in reply.py.
"""

import struct
from dataclasses import dataclass
from typing import Final

import dns.flags
import dns.rcode
import dns.rdataclass
import dns.rdatatype

from mailflow.dns.names import name_to_wire
from mailflow.dns.resolver import RdType

EDNS_PAYLOAD_OCTETS: Final = 1232  # fits one packet on every path (DNS flag day 2020)
HEADER: Final = struct.Struct("!HHHHHH")
TYPE_CODES: Final = {rdtype: dns.rdatatype.from_text(rdtype) for rdtype in RdType}

_FLAGS: Final = dns.flags.RD | dns.flags.AD  # AD: tell us what you validated, without the signatures (RFC 6840 s5.7)
_OPT: Final = b"\0" + struct.pack("!HHIH", dns.rdatatype.OPT, EDNS_PAYLOAD_OCTETS, 0, 0)
_OPCODE_MASK: Final = 0x7800
_RCODE_MASK: Final = 0x000F
_MAY_LACK_QUESTION: Final = frozenset({dns.rcode.FORMERR, dns.rcode.SERVFAIL, dns.rcode.NOTIMP, dns.rcode.REFUSED})


@dataclass(frozen=True, slots=True)
class Question:
    """One name and type, with the wire form that every attempt shares; `name` is canonical (names.py)."""

    name: str
    rdtype: RdType
    wire: bytes

    @classmethod
    def of(cls, name: str, rdtype: RdType) -> "Question":
        """The question for a canonical name."""
        return cls(name, rdtype, name_to_wire(name) + struct.pack("!HH", TYPE_CODES[rdtype], dns.rdataclass.IN))

    def to_query(self, query_id: int, *, has_edns: bool = True) -> bytes:
        """The query message: recursion desired, AD asked for, EDNS payload 1232 (RFC 6891) unless told otherwise."""
        header = HEADER.pack(query_id, _FLAGS, 1, 0, 0, 1 if has_edns else 0)
        return header + self.wire + (_OPT if has_edns else b"")

    def is_answered_by(self, reply: bytes, query_id: int) -> bool:
        """True if id, QR and question of `reply` are ours; anything else on the socket is to be ignored.

        An error without a question section counts: some servers do not repeat what they could not read.
        """
        if len(reply) < HEADER.size:
            return False
        reply_id, flags, questions, *_ = HEADER.unpack_from(reply)
        if reply_id != query_id or not flags & dns.flags.QR or flags & _OPCODE_MASK:
            return False
        if questions == 0:
            return flags & _RCODE_MASK in _MAY_LACK_QUESTION
        # Names are equal whatever their case; the first name of a message cannot be compressed.
        asked = reply[HEADER.size : HEADER.size + len(self.wire)]
        return questions == 1 and asked[-4:] == self.wire[-4:] and asked[:-4].lower() == self.wire[:-4]


def reply_code(reply: bytes) -> dns.rcode.Rcode:
    """The response code of a matching reply: the low four bits, as the extended ones answer nothing we ask."""
    return dns.rcode.Rcode(reply[3] & _RCODE_MASK)


def is_truncated(reply: bytes) -> bool:
    """True if the answer did not fit and must be fetched over TCP."""
    return bool(reply[2] & 0x02)
