"""The run behind `mailflow doctor`: read the arguments, ask the DNS, judge, report.

All checks ask at the same time, each within a budget of its own, so that none can use up what another needs. A DNS that
does not answer is a finding; nothing that a zone holds ends the run.
"""

import asyncio
import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from mailflow.cli.doctor_bimi import BimiFacts, gather_bimi, judge_bimi
from mailflow.cli.doctor_dkim import gather_dkim, judge_dkim
from mailflow.cli.doctor_dmarc import judge_dmarc
from mailflow.cli.doctor_dmarc_facts import DmarcFacts, gather_dmarc
from mailflow.cli.doctor_finding import Section, Severity
from mailflow.cli.doctor_mx import gather_mx, judge_mx
from mailflow.cli.doctor_report import Report, print_json, print_text
from mailflow.cli.doctor_spf import judge_spf
from mailflow.cli.doctor_spf_facts import gather_spf
from mailflow.cli.usage import UsageFault, open_resolver, read_nameserver
from mailflow.dns import BudgetedResolver, Resolver
from mailflow.dns.names import canonical_name
from mailflow.mail.address import AddressSyntaxError, parse_domain
from mailflow.mailauth.dkim_tags import to_domain

MAX_QUERIES: Final = 200  # of one check
MAX_SECONDS: Final = 30.0
MAX_SELECTORS: Final = 50

_FINAL_DOT: Final = re.compile("[.\u3002\uff0e\uff61]\\Z")


def run_doctor(domain: str, *, nameserver: str | None, selectors: Sequence[str], as_json: bool) -> int:
    """Examine one domain; give the exit code. Raises UsageFault."""
    name = read_domain(domain)
    asked = [_read_selector(selector) for selector in selectors]
    if len(asked) > MAX_SELECTORS:
        raise UsageFault(f"--selector: allowed are {MAX_SELECTORS}")
    nameservers = [] if nameserver is None else [read_nameserver(nameserver)]
    report = asyncio.run(_examine(name, asked, nameservers))
    (print_json if as_json else print_text)(report)
    return 1 if report.severity is Severity.BAD else 0


async def _examine(domain: str, selectors: Sequence[str], nameservers: list[str]) -> Report:
    async with open_resolver(nameservers) as resolver:
        return await examine(domain, resolver, selectors=selectors)


async def examine(domain: str, resolver: Resolver, *, selectors: Sequence[str] = ()) -> Report:
    """Examine a domain, given in A-labels, by whatever `resolver` says."""
    async with asyncio.TaskGroup() as group:
        mx_task = group.create_task(gather_mx(domain, _bounded(resolver)))
        spf_task = group.create_task(gather_spf(domain, _bounded(resolver)))
        dkim_task = group.create_task(gather_dkim(domain, selectors, _bounded(resolver)))
        policy_task = group.create_task(_gather_policy(domain, resolver))
    mx, spf, dkim = mx_task.result(), spf_task.result(), dkim_task.result()
    dmarc, bimi = policy_task.result()
    sections: tuple[Section, ...] = (
        judge_mx(mx),
        judge_spf(spf, mx),
        judge_dkim(dkim, sends_nothing=spf.allows_nobody),
        judge_dmarc(dmarc, mx),
        judge_bimi(bimi, dmarc, mx),
    )
    return Report(domain, sections)


async def _gather_policy(domain: str, resolver: Resolver) -> tuple[DmarcFacts, BimiFacts]:
    dmarc = await gather_dmarc(domain, _bounded(resolver))
    return dmarc, await gather_bimi(domain, dmarc.organizational_domain, _bounded(resolver))


def _bounded(resolver: Resolver) -> Resolver:
    return BudgetedResolver(resolver, max_queries=MAX_QUERIES, max_seconds=MAX_SECONDS)


def read_domain(text: str) -> str:
    """Give a domain of two labels or more in A-labels; it may have U-labels, upper case, a final dot."""
    allowed = "allowed is a domain name such as example.org"
    try:
        name = parse_domain(_FINAL_DOT.sub("", text))
    except AddressSyntaxError as exc:
        raise UsageFault(f"{text!r}: {allowed} ({exc})") from exc
    if canonical_name(name) is None:
        raise UsageFault(f"{text!r}: {allowed} (longer than 253 octets)")
    if _is_address(name):
        raise UsageFault(f"{text!r}: {allowed}, not an address")
    if "." not in name:
        raise UsageFault(f"{text!r}: {allowed}, of two labels or more")
    return name


def _read_selector(text: str) -> str:
    selector = to_domain(text)
    if selector is None:
        raise UsageFault(f"--selector {text!r}: allowed is one label or more, such as s1")
    return selector


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
