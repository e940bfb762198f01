"""DMARC once more, the slow way: RFC 9989 s4.10 read aloud, over a whole zone in a dictionary.

Shares nothing with the service but its words. It walks fully for everybody, whether it matters or not, and knows no
DNS failures. By a note in s4.10.2 an author domain that equals all identifiers needs no walk and "is treated as the
Organizational Domain": read here as the shortcut it is. No alignment hangs on it, and whose domain an author's is shall
not hang on what happens to pass.
"""

from collections.abc import Mapping
from typing import NamedTuple

Zone = Mapping[str, Mapping[str, str]]
"""The tags of the one DMARC record at each name."""


class Verdict(NamedTuple):
    status: str
    policy: str | None
    disposition: str | None
    domain: str
    aligned_spf: bool
    aligned_dkim: tuple[str, ...]


def parents(domain: str) -> list[str]:
    """Steps 3, 4 and 7."""
    target = domain.split(".")
    x = len(target)
    target = target[1:] if x < 8 else target[x - 7 :]
    names = []
    while target:
        names.append(".".join(target))
        target = target[1:]
    return names


def walk(zone: Zone, domain: str) -> list[str]:
    """Steps 1 to 7: the names where a record was found."""
    found = []
    for name in [domain, *parents(domain)]:
        if name in zone:
            found.append(name)
            if zone[name].get("psd") in {"y", "n"}:
                break
    return found


def organizational_domain(zone: Zone, domain: str) -> str:
    """s4.10.2, its three numbered rules."""
    found = walk(zone, domain)
    for name in found:
        if zone[name].get("psd") == "n":
            return name
        if zone[name].get("psd") == "y" and name != domain:
            below = domain[: -len(name) - 1]
            return below.split(".")[-1] + "." + name
    return min(found, key=lambda name: name.count(".")) if found else domain


def policy_domain(zone: Zone, author: str) -> str | None:
    """s4.10.1: the author domain, its organizational domain, its public suffix domain; of "the set produced by the DNS
    Tree Walk", as an organizational domain of eight labels may never have been asked.
    """
    found = walk(zone, author)
    if author in found:
        return author
    if organizational_domain(zone, author) in found:
        return organizational_domain(zone, author)
    return next((name for name in found if zone[name].get("psd") == "y"), None)


def judge(zone: Zone, author: str, spf: str, dkim: list[str], *, exists: bool) -> Verdict:
    """Judge a message whose SPF passed for `spf` ("": it did not) and whose signatures passed for `dkim`."""
    at = policy_domain(zone, author)
    domain = organizational_domain(zone, author)
    if at is None:
        return Verdict("none", None, None, domain, aligned_spf=False, aligned_dkim=())
    record = zone[at]
    policy = record["p"]
    if at != author:
        policy = record.get("sp", policy)
        policy = policy if exists else record.get("np", policy)
    lowered = {"reject": "quarantine", "quarantine": "none", "none": "none"}[policy]

    def is_aligned(identifier: str, mode: str) -> bool:
        if mode == "s":
            return identifier == author
        return identifier == author or organizational_domain(zone, identifier) == domain

    aligned_spf = bool(spf) and is_aligned(spf, record.get("aspf", "r"))
    aligned_dkim = tuple(name for name in dkim if is_aligned(name, record.get("adkim", "r")))
    return Verdict(
        "pass" if aligned_spf or aligned_dkim else "fail",
        policy,
        lowered if record.get("t") == "y" else policy,
        domain,
        aligned_spf,
        aligned_dkim,
    )
