"""Lookups of one record type, typed: what SPF, DKIM, DMARC and delivery call.

Each asks its Resolver and hands back an Answer whose records have one static type; failures are DnsTemporary as
everywhere. They decide nothing about mail: no implicit MX (RFC 5321 s5.1), no forward confirmation of a PTR.
The surprise is in `lookup_addresses` over both families: one family's failure does not hide the other's addresses.
"""

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, TypeVar, cast

from mailflow.dns.names import reverse_name
from mailflow.dns.resolver import (
    Answer,
    AnswerStatus,
    DnsTemporary,
    IpAddress,
    MxRecord,
    RdType,
    Record,
    Resolver,
)

R = TypeVar("R", bound=Record)


async def lookup_txt(resolver: Resolver, name: str) -> Answer[bytes]:
    """The TXT records of a name, each as the bytes of its joined strings."""
    return _typed(await resolver.resolve(name, RdType.TXT), bytes)


async def lookup_mx(resolver: Resolver, name: str) -> Answer[MxRecord]:
    """The MX records of a domain, lowest preference first.

    Equals stay in the order received; whoever delivers shuffles them (RFC 5321 s5.1).
    """
    answer = _typed(await resolver.resolve(name, RdType.MX), MxRecord)
    if len(answer.records) < 2:
        return answer
    return replace(answer, records=tuple(sorted(answer.records, key=lambda record: record.preference)))


async def lookup_ptr(resolver: Resolver, ip: IpAddress | str) -> Answer[str]:
    """The names that an address's reverse zone claims for it; anyone can claim any name there (RFC 8601 s3: iprev)."""
    return _typed(await resolver.resolve(reverse_name(ip), RdType.PTR), str)


async def lookup_addresses(resolver: Resolver, name: str, *, family: Literal[4, 6] | None = None) -> Answer[IpAddress]:
    """The addresses of a host: of one family, or of both (IPv6 first, asked at the same time).

    Over both families: FOUND if either has addresses, even where the other failed, as is right for finding a way to a
    host; NXDOMAIN only if both say so. A check that believes or refuses mail asks for the family it needs.
    """
    match family:
        case 4:
            return _typed(await resolver.resolve(name, RdType.A), IPv4Address)
        case 6:
            return _typed(await resolver.resolve(name, RdType.AAAA), IPv6Address)
    async with asyncio.TaskGroup() as group:
        v6 = group.create_task(_answer_or_failure(resolver, name, 6))
        v4 = group.create_task(_answer_or_failure(resolver, name, 4))
    return _merged(v6.result(), v4.result())


async def _answer_or_failure(resolver: Resolver, name: str, family: Literal[4, 6]) -> Answer[IpAddress] | DnsTemporary:
    try:
        return await lookup_addresses(resolver, name, family=family)
    except DnsTemporary as failure:
        return failure


def _merged(v6: Answer[IpAddress] | DnsTemporary, v4: Answer[IpAddress] | DnsTemporary) -> Answer[IpAddress]:
    answers = [answer for answer in (v6, v4) if isinstance(answer, Answer)]
    found = [answer for answer in answers if answer.status is AnswerStatus.FOUND]
    if found:
        records = tuple(record for answer in found for record in answer.records)
        return Answer(
            AnswerStatus.FOUND,
            records,
            min(answer.ttl_s for answer in found),
            found[0].canonical_name,
            all(answer.is_authenticated for answer in found),
        )
    for failure in (v6, v4):
        if isinstance(failure, DnsTemporary):
            raise failure
    return next((answer for answer in answers if answer.status is AnswerStatus.NODATA), answers[0])


def _typed(answer: Answer[Record], kind: type[R]) -> Answer[R]:
    for record in answer.records:
        if not isinstance(record, kind):
            raise TypeError(f"a resolver gave other records than {kind.__name__}")
    return cast("Answer[R]", answer)
