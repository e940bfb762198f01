"""SPF evaluation: may this client send for this domain? (RFC 7208)

What a record says is read in spf_record.py and its macros in spf_macro.py, what may be asked of the DNS is counted in
spf_lookups.py; here the terms are weighed. The DNS failing is temperror, save where the RFC says otherwise: a failing
ptr does not match (s5.5), a failing explanation is none (s6.2). A budget used up before the result is temperror
everywhere. The surprise: an include that passes is a match of the term inside it, and that one is reported.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final

from mailflow.dns import DnsTemporary, IpAddress, Resolver
from mailflow.mailauth.result import AuthStatus, SpfIdentity, SpfResult
from mailflow.mailauth.spf_lookups import PermanentError, SpfLookups
from mailflow.mailauth.spf_macro import SpfSyntaxError, expand_name, expand_text, parse_explain_string, shown
from mailflow.mailauth.spf_record import (
    MAX_KEPT_OCTETS,
    MAX_RECORD_OCTETS,
    DomainSpec,
    Mechanism,
    MechanismKind,
    RecordFault,
    SpfRecord,
    TargetName,
    is_spf_record,
    parse_record,
    read_target,
)

MAX_TERM_CHARS: Final = 250
MAX_EXPLANATION_CHARS: Final = 500  # s6.2: "SHOULD limit the length", it has to fit into a reply


async def check_spf(
    *,
    ip: str,
    helo: str,
    sender: str,
    resolver: Resolver,
    receiver: str = "unknown",
    now: float | None = None,
) -> SpfResult:
    """Judge whether the client at `ip` may use `sender`, or `helo` where the sender is null ("" or "<>").

    `resolver` should carry a budget of time. `receiver` and `now` (Unix time, None the clock) are for explanations
    that name them. Raises ValueError where `ip` is no address.
    """
    client = _parse_client(ip)
    identity = SpfIdentity.MAILFROM if sender not in {"", "<>"} else SpfIdentity.HELO
    local, _, domain = sender.rpartition("@") if identity is SpfIdentity.MAILFROM else ("", "", helo)
    target = _judged_name(domain)
    if not target.is_domain or domain.startswith("["):
        reason = f'"{shown(domain)}" is no domain name of several labels'
        return SpfResult(AuthStatus.NONE, target.name or domain, identity, reason=reason)
    check = _Check(client, resolver, _Asked(local or "postmaster", target.text, helo, receiver, now))  # s4.3
    try:
        decision = await check.judge(target)
    except PermanentError as error:
        status, reason = AuthStatus.PERMERROR, error.reason
    except DnsTemporary as failure:
        status, reason = AuthStatus.TEMPERROR, f"DNS lookup of {shown(failure.name)} failed: {failure.kind.value}"
    else:
        if decision is None:
            return SpfResult(
                AuthStatus.NONE, target.name, identity, reason=f"{shown(target.name)} publishes no SPF record"
            )
        explanation = await check.explain(decision) if decision.status is AuthStatus.FAIL else None
        return SpfResult(
            decision.status,
            target.name,
            identity,
            explanation,
            decision.term,
            decision.term_domain,
            check.lookups.terms,
        )
    return SpfResult(
        status, target.name, identity, record_domain=check.record_domain, lookups=check.lookups.terms, reason=reason
    )


@lru_cache(maxsize=1024)  # a client brings many messages
def _parse_client(ip: str) -> IpAddress:
    client = ip_address(ip.partition("%")[0])
    if isinstance(client, IPv6Address) and client.ipv4_mapped is not None:
        return client.ipv4_mapped  # s5: "MUST still be considered an IPv4 address"
    return client


def _judged_name(domain: str) -> TargetName:
    """What macros see as the domain is spelled as the sender did, but for U-labels (RFC 8616 s4) and the last dot."""
    target = read_target(domain.removesuffix("."))
    return target if domain.isascii() or not target.name else read_target(target.name)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What macros may name beside the client and the domain; `domain` is that of the sender, not of the record."""

    local: str
    domain: str
    helo: str
    receiver: str
    now: float | None


@dataclass(frozen=True, slots=True)
class _Decision:
    """A result, the record whose explanation holds for it, and the term that decided, "" where none did."""

    status: AuthStatus
    record: SpfRecord
    domain: TargetName
    term: str
    term_domain: str


class _Check:
    """One evaluation: what it is asked, and whose record it is at."""

    def __init__(self, client: IpAddress, resolver: Resolver, asked: _Asked) -> None:
        self.record_domain = ""
        self.lookups = SpfLookups(client, resolver)
        self._client = client
        self._family = self.lookups.family
        self._number = int(client)
        self._asked = asked

    async def judge(self, domain: TargetName) -> _Decision | None:
        """Evaluate the record of a domain (s4.6), None where there is none. Raises PermanentError, DnsTemporary."""
        record = await self._find_record(domain)
        if record is None:
            return None
        for mechanism in record.mechanisms:
            if mechanism.family:
                if mechanism.family == self._family and self._number & mechanism.mask == mechanism.network:
                    return _decide(mechanism, record, domain)
            elif mechanism.kind is MechanismKind.ALL:
                return _decide(mechanism, record, domain)
            elif mechanism.kind is MechanismKind.INCLUDE:
                if decision := await self._include(mechanism, record, domain):
                    return decision
            elif await self._matches(mechanism, domain):
                return _decide(mechanism, record, domain)
        if record.redirect is None:
            return _Decision(AuthStatus.NEUTRAL, record, domain, "", domain.name)  # s4.7
        return await self._redirect(record.redirect, domain)

    async def _find_record(self, domain: TargetName) -> SpfRecord | None:
        # s4.3 holds for targets too, where it makes include and redirect a permerror.
        if not domain.is_domain:
            return None
        self.record_domain = domain.name
        texts = await self.lookups.find_texts(domain.question)
        records = [text for text in texts if is_spf_record(text)]
        if len(records) > 1:
            raise PermanentError(f"{shown(domain.name)} publishes {len(records)} SPF records")
        if not records:
            return None
        record = parse_record(records[0])
        if len(records[0]) > MAX_KEPT_OCTETS:  # parsed anew each time, which takes some milliseconds
            await asyncio.sleep(0)
        if isinstance(record, RecordFault):
            raise PermanentError(f"record of {shown(domain.name)}: {record.reason}")
        return record

    async def _include(self, mechanism: Mechanism, record: SpfRecord, domain: TargetName) -> _Decision | None:
        """Ask whether the other record passes the client (s5.2); None where it does not, as any mechanism."""
        self.lookups.count_term()
        target = await self._target(mechanism.domain, domain)
        if target is None:
            return None
        decision = await self.judge(target)
        self.record_domain = domain.name
        if decision is None:
            raise PermanentError(f"{shown(target.text)} is included and has no SPF record")
        if decision.status is not AuthStatus.PASS:
            return None
        if mechanism.status is not AuthStatus.PASS:
            return _decide(mechanism, record, domain)
        # The explanation would be this record's, but a pass has none: the term inside says more.
        return _Decision(AuthStatus.PASS, record, domain, decision.term, decision.term_domain)

    async def _redirect(self, redirect: DomainSpec, domain: TargetName) -> _Decision:
        self.lookups.count_term()
        target = await self._target(redirect, domain)
        decision = None if target is None else await self.judge(target)
        if decision is None:  # s6.1: "permerror" rather than "none"
            self.record_domain = domain.name
            raise PermanentError(f"redirect={shown(redirect.text)} leads to no SPF record")
        return decision

    async def _matches(self, mechanism: Mechanism, domain: TargetName) -> bool:
        self.lookups.count_term()
        target = await self._target(mechanism.domain, domain)
        # What cannot be a DNS name matches nothing, and is no void lookup: nothing was asked.
        if target is None or not target.name:
            return False
        match mechanism.kind:
            case MechanismKind.A:
                return await self._is_host(target.question, mechanism)
            case MechanismKind.MX:
                return await self._is_exchange(target.question, mechanism)
            case MechanismKind.EXISTS:  # s5.7: always A
                return bool(await self.lookups.find_addresses(target.question, 4))
            case _:
                return await self._is_named_under(target.name)

    async def _is_host(self, name: str, mechanism: Mechanism) -> bool:
        shift = 32 - mechanism.prefix4 if self._family == 4 else 128 - mechanism.prefix6
        addresses = await self.lookups.find_addresses(name, self._family)
        return any((int(address) ^ self._number) >> shift == 0 for address in addresses)

    async def _is_exchange(self, name: str, mechanism: Mechanism) -> bool:
        for host in await self.lookups.find_exchanges(name):
            if await self._is_host(host, mechanism):
                return True
        return False

    async def _is_named_under(self, target: str) -> bool:
        """Whether a name of the client that leads back to it is the target or below it (s5.5)."""
        for name in await self.lookups.find_client_names():
            if (name == target or name.endswith(f".{target}")) and await self.lookups.is_validated(name):
                return True
        return False

    async def _target(self, spec: DomainSpec | None, domain: TargetName) -> TargetName | None:
        """The name a term means; None for one that matches nothing: no DNS label is like such a local part."""
        if spec is None:
            return domain
        if spec.fixed is not None:
            return spec.fixed
        # RFC 8616 s4: terms with %{s} or %{l} "do not match anything"
        if spec.string.letters & {"s", "l"} and not self._asked.local.isascii():
            return None
        return read_target(expand_name(spec.string, await self._macro_values(spec.string.letters, domain)))

    async def _macro_values(self, letters: frozenset[str], domain: TargetName) -> Mapping[str, str]:
        asked, is_v4 = self._asked, self._family == 4
        return {
            "s": f"{asked.local}@{asked.domain}",
            "l": asked.local,
            "o": asked.domain,
            "d": domain.text,
            "i": str(self._client) if is_v4 else ".".join(f"{self._number:032X}"),
            "p": await self.lookups.validated_name(domain.name) if "p" in letters else "",
            "v": "in-addr" if is_v4 else "ip6",
            "h": asked.helo,
            "c": str(self._client),
            "r": asked.receiver,
            "t": str(int(time.time() if asked.now is None else asked.now)),
        }

    async def explain(self, decision: _Decision) -> str | None:
        """The domain owner's explanation of a fail (s6.2); None for every reason not to have one."""
        spec = decision.record.explanation
        if spec is None:
            return None
        self.lookups.stop_counting()
        try:
            target = await self._target(spec, decision.domain)
            if target is None or not target.name:
                return None
            records = await self.lookups.find_texts(target.question)
            if len(records) != 1 or len(records[0]) > MAX_RECORD_OCTETS:
                return None
            string = parse_explain_string(records[0].decode("ascii"))
            values = await self._macro_values(string.letters, decision.domain)
        except (DnsTemporary, SpfSyntaxError, UnicodeDecodeError):
            return None
        text = expand_text(string, values, max_chars=MAX_EXPLANATION_CHARS)
        # Macros bring in what the sender wrote; this goes into a reply.
        return text if text and text.isascii() and text.isprintable() else None


def _decide(mechanism: Mechanism, record: SpfRecord, domain: TargetName) -> _Decision:
    return _Decision(mechanism.status, record, domain, mechanism.text[:MAX_TERM_CHARS], domain.name)
