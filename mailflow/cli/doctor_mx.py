"""Where a domain's mail goes: its MX hosts, and whether they can be reached. (RFC 5321 s5.1, 7505, 2181 s10.3)

`gather_mx` asks, `judge_mx` is pure. No host is connected to.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, ip_network
from itertools import islice
from typing import Any, Final

from mailflow.cli.doctor_finding import Change, Check, Finding, Section, Severity, good, no_answer
from mailflow.dns import (
    AnswerStatus,
    DnsTemporary,
    IpAddress,
    MxRecord,
    RdType,
    Resolver,
    lookup_addresses,
    lookup_mx,
)
from mailflow.mail.reply import printable

MAX_HOSTS: Final = 20
MAX_FINDINGS: Final = 3 * MAX_HOSTS
NULL_MX: Final = MxRecord(0, ".")
# Not `is_private`: that has the networks of examples in it too.
_UNREACHABLE: Final = [
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.168.0.0/16", "224.0.0.0/3", "::/127", "::ffff:0:0/96", "fc00::/7", "fe80::/10", "ff00::/8"),
    )
]


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the DNS says of one MX host. `alias_of` is the name its CNAME leads to, "" where it is none."""

    name: str
    addresses: tuple[IpAddress, ...] = ()
    alias_of: str = ""
    failure: DnsTemporary | None = None


@dataclass(frozen=True, slots=True)
class MxFacts:
    """A domain's MX records by preference and the hosts behind them, at most MAX_HOSTS.

    `addresses` are the domain's own, asked only where it has no MX.
    """

    domain: str
    owner: str = ""
    exists: bool = True
    records: tuple[MxRecord, ...] = ()
    hosts: tuple[HostFacts, ...] = ()
    addresses: tuple[IpAddress, ...] = ()
    failure: DnsTemporary | None = None

    @property
    def takes_mail(self) -> bool:
        """False only where the DNS says so: by a null MX, or by neither MX nor address."""
        if self.failure is not None:
            return True
        return any(not record.is_null for record in self.records) or (not self.records and bool(self.addresses))


async def gather_mx(domain: str, resolver: Resolver) -> MxFacts:
    """Ask for the MX records and, all at the same time, for the addresses of their hosts."""
    try:
        answer = await lookup_mx(resolver, domain)
        owner = answer.canonical_name or domain
        if answer.status is not AnswerStatus.FOUND:
            addresses = await lookup_addresses(resolver, domain)
            exists = AnswerStatus.NXDOMAIN not in {answer.status, addresses.status}
            return MxFacts(domain, owner, exists, addresses=addresses.records)
    except DnsTemporary as failure:
        return MxFacts(domain, domain, failure=failure)
    names = list(dict.fromkeys(record.exchange for record in answer.records if not record.is_null))[:MAX_HOSTS]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_gather_host(name, resolver)) for name in names]
    return MxFacts(domain, owner, records=answer.records, hosts=tuple(task.result() for task in tasks))


async def _gather_host(name: str, resolver: Resolver) -> HostFacts:
    if _read_literal(name) is not None:
        return HostFacts(name)
    try:
        alias = await resolver.resolve(name, RdType.CNAME)
        answer = await lookup_addresses(resolver, name)
    except DnsTemporary as failure:
        return HostFacts(name, failure=failure)
    # The end of the chain, as there may be several links.
    alias_of = (answer.canonical_name or str(alias.records[0])) if alias.records else ""
    return HostFacts(name, answer.records, alias_of)


def judge_mx(facts: MxFacts) -> Section:
    """Judge what was gathered."""
    findings = tuple(islice(_judge(facts), MAX_FINDINGS))
    outline = [f"{record.preference} {printable(record.exchange)}" for record in facts.records[:MAX_HOSTS]]
    return Section(Check.MX, findings, tuple(outline), _describe(facts))


def _judge(facts: MxFacts) -> Iterator[Finding]:
    if facts.failure is not None:
        yield no_answer(Check.MX, facts.failure, "the MX records")
    elif not facts.exists:
        text, advice = "the domain does not exist", "look at its spelling, and whether it is registered and delegated"
        yield Finding(Severity.BAD, "mx-no-domain", text, advice=advice)
    elif not facts.records:
        yield _judge_without_records(facts)
    elif all(record.is_null for record in facts.records):
        yield _judge_null(facts)
    else:
        for host in facts.hosts:
            yield from _judge_host(facts, host)
        yield from _judge_records(facts)


def _judge_without_records(facts: MxFacts) -> Finding:
    if facts.addresses:
        return Finding(
            Severity.WARN,
            "mx-implicit",
            "no MX record: mail goes to the domain's own address (RFC 5321 s5.1)",
            (Change(facts.owner, RdType.MX, (MxRecord(10, facts.owner),)),),
            "if the domain takes no mail, publish the null MX `0 .` instead",
        )
    return Finding(
        Severity.WARN,
        "mx-none",
        "neither MX nor address: the domain takes no mail, and senders try for days",
        (Change(facts.owner, RdType.MX, (NULL_MX,)),),
    )


def _judge_null(facts: MxFacts) -> Finding:
    if facts.records == (NULL_MX,):
        return good("mx-null", "the domain says that it takes no mail (null MX)")
    return Finding(
        Severity.WARN,
        "mx-null-form",
        "a null MX must be one record of preference 0 (RFC 7505 s3)",
        (Change(facts.owner, RdType.MX, (NULL_MX,), facts.records),),
    )


def _judge_records(facts: MxFacts) -> Iterator[Finding]:
    if nulls := tuple(record for record in facts.records if record.is_null):
        yield Finding(
            Severity.BAD,
            "mx-null-beside-others",
            "a null MX stands beside others: whether the domain takes mail is anyone's guess (RFC 7505 s3)",
            (Change(facts.owner, RdType.MX, (), nulls),),
        )
    counts = Counter(record.exchange for record in facts.records)
    for name in [name for name, count in counts.items() if count > 1 and name != "."]:
        same = tuple(record for record in facts.records if record.exchange == name)
        yield Finding(
            Severity.WARN,
            "mx-duplicate",
            f"{printable(name)} is there {len(same)} times, which brings nothing",
            (Change(facts.owner, RdType.MX, same[:1], same),),
        )
    if len(counts) - ("." in counts) > MAX_HOSTS:
        text = f"{len(counts)} MX hosts, of which {MAX_HOSTS} were looked at"
        yield Finding(Severity.WARN, "mx-too-many", text, advice="senders try a few and give up: name fewer")


def _judge_host(facts: MxFacts, host: HostFacts) -> Iterator[Finding]:
    shown = printable(host.name)
    literal = _read_literal(host.name)
    if literal is not None:
        yield _judge_literal(facts, host, literal)
    elif host.failure is not None:
        yield no_answer(Check.MX, host.failure, f"the addresses of {shown}")
    elif not host.addresses:
        yield _judge_lost_host(facts, host)
    elif bad := [address for address in host.addresses if _is_unreachable(address)]:
        text = f"{shown} has the address {bad[0]}, to which nobody outside can send"
        changes = (Change(host.alias_of or host.name, _type_of(bad), (), tuple(bad)),)
        if len(bad) < len(host.addresses) and len({address.version for address in bad}) == 1:
            yield Finding(Severity.BAD, "mx-private-address", text, changes)
        else:
            yield Finding(Severity.BAD, "mx-private-address", text, advice="publish the address the world may use")
    elif host.alias_of:
        yield Finding(
            Severity.WARN,
            "mx-alias",
            f"{shown} is an alias (CNAME), which an MX host must not be (RFC 2181 s10.3): some senders refuse it",
            _rename(facts, host.name, host.alias_of),
        )
    else:
        yield _judge_families(facts, host)


def _judge_families(facts: MxFacts, host: HostFacts) -> Finding:
    families = {address.version for address in host.addresses}
    addresses = ", ".join(map(str, host.addresses[:4])) + ("..." if len(host.addresses) > 4 else "")
    text = f"{printable(host.name)} has {addresses}"
    if families != {6}:
        return good("mx-host", text + ("" if 6 in families else " (IPv4 only)"))
    is_alone = all(address.version == 6 for other in facts.hosts for address in other.addresses)
    return Finding(
        Severity.BAD if is_alone else Severity.WARN,
        "mx-ipv6-only",
        f"{text}: IPv6 only, and most senders have IPv4 only",
        advice=f"publish an A record at {printable(host.name)} too",
    )


def _judge_lost_host(facts: MxFacts, host: HostFacts) -> Finding:
    shown = printable(host.name)
    where = f" (an alias of {printable(host.alias_of)})" if host.alias_of else ""
    text = f"{shown}{where} has no address: nothing can be delivered there"
    lost = tuple(record for record in facts.records if record.exchange == host.name)
    advice = f"publish an A or AAAA record at {shown}"
    if any(other.addresses for other in facts.hosts):
        change = Change(facts.owner, RdType.MX, (), lost)
        return Finding(Severity.BAD, "mx-no-address", text, (change,), f"or {advice}")
    return Finding(Severity.BAD, "mx-no-address", text, advice=f"{advice}, or name another host")


def _judge_literal(facts: MxFacts, host: HostFacts, literal: IPv4Address) -> Finding:
    name = f"mx-{str(literal).replace('.', '-')}.{facts.owner}"
    return Finding(
        Severity.BAD,
        "mx-literal",
        f"{host.name} is an address, and an MX must name a host (RFC 1035 s3.3.9)",
        (*_rename(facts, host.name, name), Change(name, RdType.A, (literal,))),
    )


def _rename(facts: MxFacts, old: str, new: str) -> tuple[Change, ...]:
    removed = tuple(record for record in facts.records if record.exchange == old)
    others = {record.exchange for record in facts.records} - {old}
    added = () if new in others else (MxRecord(removed[0].preference, new),)
    return (Change(facts.owner, RdType.MX, added, removed),)


def _read_literal(name: str) -> IPv4Address | None:
    try:
        return IPv4Address(name)
    except AddressValueError:
        return None


def _is_unreachable(address: IpAddress) -> bool:
    return any(address in network for network in _UNREACHABLE)


def _type_of(addresses: Sequence[IpAddress]) -> RdType:
    return RdType.A if addresses[0].version == 4 else RdType.AAAA


def _describe(facts: MxFacts) -> dict[str, Any]:
    return {
        "takes_mail": None if facts.failure else facts.takes_mail,
        "records": [[record.preference, record.exchange] for record in facts.records[:MAX_HOSTS]],
        "hosts": [
            {
                "name": host.name,
                "addresses": [str(address) for address in host.addresses[:MAX_HOSTS]],
                "alias_of": host.alias_of or None,
            }
            for host in facts.hosts
        ],
    }
