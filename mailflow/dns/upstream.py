"""The recursive servers a worker asks: which next, how long, and when to give up. (RFC 1035 s7, 2308, 9520)

A server that timed out, broke off or refused is tried last for half a minute. SERVFAIL sends the question on to the
next server but counts against none: it mostly speaks of the zone, and a hostile zone must not reorder our servers.
Only servers that kept silent are asked again: datagrams get lost, errors do not mend at once. CNAMEs that a server did
not follow are followed here.
"""

import ipaddress
import os
import time
from collections.abc import Sequence
from pathlib import Path

import dns.rcode

from mailflow.dns.message import Question, reply_code
from mailflow.dns.reply import MAX_CHAIN, Incomplete, MalformedReply, parse_reply
from mailflow.dns.resolver import Answer, Clock, DnsFailure, DnsTemporary, RdType, Record
from mailflow.dns.transport import Nameserver, exchange

DNS_PORT = 53
DEMOTED_S = 30.0
_MAX_ROUNDS = 3
_ANSWERS = frozenset({dns.rcode.NOERROR, dns.rcode.NXDOMAIN})
_FAILURES = {dns.rcode.SERVFAIL: DnsFailure.SERVFAIL, dns.rcode.REFUSED: DnsFailure.REFUSED}
_DEMOTING = frozenset({DnsFailure.TIMEOUT, DnsFailure.UNREACHABLE, DnsFailure.MALFORMED, DnsFailure.REFUSED})


class Upstreams:
    """A list of recursive servers, asked one after the other.

    `try_timeout_s` bounds one question to one server, `total_timeout_s` the whole, CNAMEs included. `clock` is
    monotonic, in seconds.
    """

    def __init__(
        self,
        servers: Sequence[Nameserver],
        *,
        try_timeout_s: float = 2.0,
        total_timeout_s: float = 5.0,
        clock: Clock = time.monotonic,
    ) -> None:
        self._servers = tuple(servers)
        self._try_timeout_s = try_timeout_s
        self._total_timeout_s = total_timeout_s
        self._clock = clock
        self._failed_at: dict[Nameserver, float] = {}

    async def ask(self, name: str, rdtype: RdType) -> Answer[Record]:
        """The answer for a canonical name, CNAMEs followed; raises DnsTemporary."""
        deadline = self._clock() + self._total_timeout_s
        ttl_s, is_authenticated, asked = None, True, name
        for _ in range(MAX_CHAIN + 1):
            part = await self._ask_in_turn(Question.of(asked, rdtype), deadline)
            ttl_s = part.ttl_s if ttl_s is None else min(ttl_s, part.ttl_s)
            # Authenticated as a whole only if every part of the chain is.
            is_authenticated = is_authenticated and part.is_authenticated
            if isinstance(part, Answer):
                return Answer(part.status, part.records, ttl_s, part.canonical_name, is_authenticated)
            asked = part.next_name
        raise DnsTemporary(DnsFailure.MALFORMED, name, rdtype)  # a chain without end

    async def _ask_in_turn(self, question: Question, deadline: float) -> Answer[Record] | Incomplete:
        telling: DnsFailure | None = None  # an error a server spoke says more than another's silence
        candidates = self._in_order()
        for _ in range(_MAX_ROUNDS):
            silent = []
            for server in candidates:
                timeout_s = min(self._try_timeout_s, deadline - self._clock())
                if timeout_s <= 0:
                    break
                outcome = await self._ask_one(server, question, timeout_s)
                if not isinstance(outcome, DnsFailure):
                    self._failed_at.pop(server, None)
                    return outcome
                if outcome in _DEMOTING:
                    self._failed_at[server] = self._clock()
                if outcome is DnsFailure.TIMEOUT:
                    silent.append(server)
                else:
                    telling = telling or outcome
            candidates = silent
        raise DnsTemporary(telling or DnsFailure.TIMEOUT, question.name, question.rdtype)

    async def _ask_one(
        self, server: Nameserver, question: Question, timeout_s: float
    ) -> Answer[Record] | Incomplete | DnsFailure:
        try:
            reply = await exchange(server, question, timeout_s=timeout_s)
            if reply_code(reply) == dns.rcode.FORMERR:
                # Perhaps it does not know EDNS (RFC 6891 s7); ask in the words of 1987.
                reply = await exchange(server, question, timeout_s=timeout_s, has_edns=False)
            code = reply_code(reply)
            return parse_reply(question, reply) if code in _ANSWERS else _FAILURES.get(code, DnsFailure.OTHER)
        except TimeoutError:
            return DnsFailure.TIMEOUT
        except OSError:
            return DnsFailure.UNREACHABLE
        except MalformedReply:
            return DnsFailure.MALFORMED

    def _in_order(self) -> list[Nameserver]:
        since = self._clock() - DEMOTED_S
        failed = {server: at for server, at in self._failed_at.items() if at > since}
        return sorted(self._servers, key=lambda server: failed.get(server, since))


def parse_nameserver(text: str) -> Nameserver:
    """A server from "192.0.2.53:53", "[2001:db8::53]:53", or an address alone (port 53); else ValueError."""
    host, port = text, DNS_PORT
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"not HOST:PORT: {text!r}")
        port = _parse_port(rest[1:]) if rest else DNS_PORT
    elif text.count(":") == 1:
        host, _, digits = text.partition(":")
        port = _parse_port(digits)
    return Nameserver(str(ipaddress.ip_address(host)), port)


def system_nameservers(path: str | os.PathLike[str] = "/etc/resolv.conf") -> list[Nameserver]:
    """The servers the system uses, in its order; 127.0.0.1 where none is named, as in resolv.conf(5).

    Search lists and options are ignored on purpose: names are absolute here.
    """
    servers = []
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        match line.split():
            case ["nameserver", host, *_] if _is_address(host):
                servers.append(Nameserver(host, DNS_PORT))
    return servers or [Nameserver("127.0.0.1", DNS_PORT)]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _parse_port(digits: str) -> int:
    if not digits.isascii() or not digits.isdigit() or not 0 < int(digits) < 65_536:
        raise ValueError(f"not a port: {digits!r}")
    return int(digits)
