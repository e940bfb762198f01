"""A DNS server on loopback that costs little: every answer it has is encoded beforehand. UDP alone.

A zone file has a record a line: name, type, data as in a master file. All TTLs are an hour, so that what was
cached stays fresh for a run. Names that are not in it, and types that a name has not, are denied with an SOA. A
program of its own (`python -m benchmarks.nameserver FILE` prints its port), so that its CPU time is not the mail
server's. Asked for the TXT of `queries.` it says how many other questions it has answered.
"""

import contextlib
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset

from benchmarks.process import run_program

TTL_S = 3600
PAYLOAD_OCTETS = 1232
COUNTER = "queries."


class Nameserver:
    """A running server on `port` of 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def queries(self) -> int:
        """How many questions it has answered."""
        reply = dns.query.udp(dns.message.make_query(COUNTER, "TXT"), "127.0.0.1", port=self.port, timeout=5)
        return int(reply.answer[0][0].to_text().strip('"'))


@contextlib.contextmanager
def run_nameserver(zone: Path) -> Iterator[Nameserver]:
    """Serve the zone file until the block ends."""
    with run_program("benchmarks.nameserver", str(zone)) as program:
        yield Nameserver(int(program.first_line))


class Zone:
    """Replies by question, both in wire form."""

    def __init__(self, lines: Iterable[str]) -> None:
        rrsets: dict[tuple[str, str], list[str]] = {}
        for line in lines:
            name, rdtype, data = line.split(None, 2)
            rrsets.setdefault((name, rdtype), []).append(data)
        self._replies: dict[bytes, bytes] = dict(_encode(name, rdtype, data) for (name, rdtype), data in rrsets.items())
        self._names = {suffix for question in self._replies for suffix in _suffixes(question[:-4])}
        soa = dns.rrset.from_text(".", TTL_S, "IN", "SOA", f". . 1 3600 600 86400 {TTL_S}")
        soa_data: bytes | None = soa[0].to_wire()
        assert soa_data is not None
        self._soa: bytes = b"\0" + struct.pack("!HHIH", dns.rdatatype.SOA, 1, TTL_S, len(soa_data)) + soa_data
        self._opt = b"\0" + struct.pack("!HHIH", dns.rdatatype.OPT, PAYLOAD_OCTETS, 0, 0)

    def answer(self, query: bytes) -> bytes:
        """Give the reply to a query of one question."""
        question = query[12 : query.index(b"\0", 12) + 5].lower()
        reply = self._replies.get(question)
        if reply is not None:
            return query[:2] + reply
        rcode = dns.rcode.NOERROR if question[:-4] in self._names else dns.rcode.NXDOMAIN
        return query[:2] + struct.pack("!HHHHH", 0x8180 | rcode, 1, 0, 1, 1) + question + self._soa + self._opt


def _encode(name: str, rdtype: str, data: list[str]) -> tuple[bytes, bytes]:
    """Give the question and its reply from behind the id on."""
    query = dns.message.make_query(name, rdtype, use_edns=0, payload=PAYLOAD_OCTETS)
    reply = dns.message.make_response(query, recursion_available=True, our_payload=PAYLOAD_OCTETS)
    reply.answer.append(dns.rrset.from_text_list(query.question[0].name, TTL_S, "IN", rdtype, data))
    wire = reply.to_wire()
    assert len(wire) <= PAYLOAD_OCTETS, f"{name} {rdtype} does not fit into a datagram"
    return wire[12 : wire.index(b"\0", 12) + 5], wire[2:]


def _suffixes(name: bytes) -> Iterator[bytes]:
    """Give a name in wire form and all above it: those exist too, if only as nodes."""
    while name:
        yield name
        name = name[name[0] + 1 :]


def serve(zone: Zone) -> None:
    """Answer for ever; print the port first."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind(("127.0.0.1", 0))
        print(sock.getsockname()[1], flush=True)
        queries = 0
        counter = dns.message.make_query(COUNTER, "TXT").to_wire()[12:-11]
        while True:
            query, client = sock.recvfrom(4096)
            if query[12 : 12 + len(counter)] == counter:
                reply = query[:2] + _encode(COUNTER, "TXT", [f'"{queries}"'])[1]
            else:
                queries += 1
                reply = zone.answer(query)
            sock.sendto(reply, client)


if __name__ == "__main__":
    serve(Zone(Path(sys.argv[1]).read_text(encoding="ascii").splitlines()))
