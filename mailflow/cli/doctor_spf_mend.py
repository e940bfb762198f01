"""A faulty SPF record made good, as far as that is possible without asking its owner. (RFC 7208)

Pure. Terms that make the record permerror are repaired where it is plain what was meant, else dropped; what lets
everyone send becomes `~all`, which no forwarding breaks. Over the limit of lookups, hosts and included records are
written out as the addresses that they have today. Whether the result is free of a fault is for the judge to say, who
looks at it as at any other record (`after_mending`).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from mailflow.cli.doctor_spf_facts import SpfFacts, read_node
from mailflow.dns import IpAddress
from mailflow.mailauth.result import AuthStatus
from mailflow.mailauth.spf_lookups import MAX_LOOKUPS, MAX_VOID_LOOKUPS
from mailflow.mailauth.spf_record import Mechanism, MechanismKind, RecordFault, SpfRecord, parse_record
from mailflow.mailauth.spf_tree import SpfTree, Unread, count_lookups

_VERSION: Final = "v=spf1"
_OPENING: Final = re.compile(r"\A[\s\"']*v?\s*=?\s*spf\s*=?\s*v?1?", re.IGNORECASE)
_WRITTEN_AS: Final = re.compile(r"([+?~-]?)(ipv?[46]?|include|mx|a|exists|ptr)[=:]+(.+)", re.IGNORECASE)
_UNWANTED: Final = re.compile(r"[^\x21-\x7e]|[,;\"']+\Z|\A[,;\"']+")
_FAMILIES: Final = (4, 6)


def repair_terms(text: str) -> list[str]:
    """Give the terms of a record, or of what was meant to be one, each good in itself."""
    terms = _OPENING.sub("", text, count=1).split()
    return list(_unique(good for term in terms if (good := _repair(term))))


def is_misspelt_modifier(term: str) -> bool:
    """Tell whether a term is an unknown modifier that must have been meant as a mechanism, as `ip4=192.0.2.1`."""
    written = _WRITTEN_AS.fullmatch(term)
    return written is not None and "=" in term and _is_good(term) and _repair(term) != term


def mend(facts: SpfFacts) -> bytes:
    """Give the record to publish in place of what there is; `facts` have one record or several."""
    terms = list(_unique(term for record in facts.records for term in repair_terms(record.decode("latin-1"))))
    if len(facts.records) > 1:  # each had its own end: the mildest stays, so that nobody loses what he had
        terms = _merge_ends(terms)
    terms = [term for term in _drop_ignored(terms) if not _is_ptr(term)]
    if facts.tree is not None and facts.tree.unread is None:
        broken = {child.term.lower() for child in facts.tree.children if is_broken(child) or is_open(child)}
        terms = [term for term in terms if term.lower() not in broken]
        terms = _drop_void(terms, facts)
        terms = _write_out(terms, facts)
    return " ".join([_VERSION, *_end(terms)]).encode("ascii")


def after_mending(facts: SpfFacts, mended: bytes) -> SpfFacts:
    """Give the facts as they will be, as far as they are known: what the terms that stay lead to has not changed."""
    record = parse_record(mended)
    if isinstance(record, RecordFault):
        return replace(facts, records=(mended,), near_misses=())
    stays = {term.lower() for term in mended.decode("ascii").split(" ")}
    children = tuple(child for child in facts.tree.children if child.term.lower() in stays) if facts.tree else ()
    lookups = count_lookups(record) + sum(child.lookups for child in children)
    tree = SpfTree(facts.domain, "", mended.decode("ascii"), "", lookups, (), children)
    terms = tuple(term for term in facts.terms if (term.link or term.text).lower() in stays)
    return SpfFacts(facts.domain, facts.owner, (mended,), (), tree, terms)


def is_broken(child: SpfTree) -> bool:
    """Tell whether a branch ends in permerror for every message that comes to its end."""
    return any(node.unread is Unread.PERMANENT for node in child.walk())


def is_open(child: SpfTree) -> bool:
    """Tell whether a branch makes everyone pass, by `+all` in a record that it leads to."""
    records = [read_node(node) for node in child.walk()]
    return any(record is not None and is_plus_all(record) for record in records)


def is_plus_all(record: SpfRecord) -> bool:
    """Tell whether a record lets everyone send."""
    end = find_all(record)
    return end is not None and end.status is AuthStatus.PASS


def find_all(record: SpfRecord) -> Mechanism | None:
    """Give the all that ends a record."""
    return next((term for term in record.mechanisms if term.kind is MechanismKind.ALL), None)


def count_voids(facts: SpfFacts, family: int) -> int:
    """Count the terms that find nothing for clients of a family, in the worst case."""
    return sum(family in term.void_families for term in facts.terms)


def _repair(term: str) -> str:
    term = _UNWANTED.sub("", term)
    if "=" in term and (written := _WRITTEN_AS.fullmatch(term)):
        respelt = f"{written[1]}{written[2]}:{written[3]}"
        term = _repair_network(respelt) or (respelt if _is_good(respelt) else "")
    if term and _is_good(term):
        return term
    return _repair_network(term)


def _repair_network(term: str) -> str:
    """Give a network under the mechanism of its family, "" where it is none."""
    written = _WRITTEN_AS.fullmatch(term)
    if written is None or not written[2].lower().startswith("ip"):
        return ""
    forms = [f"{written[1]}ip{family}:{written[3].strip('[]')}" for family in _FAMILIES]
    return next((form for form in forms if _is_good(form)), "")


def _is_good(term: str) -> bool:
    return not isinstance(parse_record(f"{_VERSION} {term}".encode("latin-1", "replace")), RecordFault)


def _is_ptr(term: str) -> bool:
    return re.match(r"[+?~-]?ptr(?::|\Z)", term, re.IGNORECASE) is not None


def _is_all(term: str) -> bool:
    return term.lower().lstrip("+?~-") == "all"


def _merge_ends(terms: Sequence[str]) -> list[str]:
    ends = [term for term in terms if _is_all(term)]
    rest = [term for term in terms if not _is_all(term)]
    return [*rest, "-all" if ends and all(end == "-all" for end in ends) else "~all"]


def _drop_ignored(terms: Sequence[str]) -> list[str]:
    """Drop redirect= beside all, and of modifiers and ends given twice the later; what stands behind all comes first.

    Whoever wrote a term behind all meant it to count.
    """
    kept: list[str] = []
    seen: set[str] = set()
    ends = [term for term in terms if _is_all(term)]
    for term in (term for term in terms if not _is_all(term)):
        modifier = match[1].lower() if (match := re.match(r"([a-z][\w.-]*)=", term, re.IGNORECASE)) else ""
        if modifier and (modifier in seen or (modifier == "redirect" and ends)):
            continue
        seen.add(modifier)
        kept.append(term)
    return [*kept, *ends[:1]]


def _end(terms: Sequence[str]) -> list[str]:
    """Let the record end in a decision."""
    if any(term.lower().startswith("redirect=") for term in terms):
        return list(terms)
    return [*(term for term in terms if not _is_all(term)), next((t for t in terms if t.lower() == "-all"), "~all")]


def _drop_void(terms: Sequence[str], facts: SpfFacts) -> list[str]:
    if all(count_voids(facts, family) <= MAX_VOID_LOOKUPS for family in _FAMILIES):
        return list(terms)
    written_out = {term.text: term.addresses for term in facts.terms if not term.link and term.void_families}
    return _replace_hosts(terms, written_out)


def _write_out(terms: list[str], facts: SpfFacts) -> list[str]:
    """Come down to the limit of lookups: own hosts first, then what includes lead to, the costliest first."""
    if _count(terms, facts) <= MAX_LOOKUPS:
        return terms
    hosts = {term.text: term.addresses for term in facts.terms if not term.link and term.addresses}
    terms = _replace_hosts(terms, hosts)
    children = facts.tree.children if facts.tree is not None else ()
    for child in sorted(children, key=lambda child: child.lookups, reverse=True):
        if _count(terms, facts) <= MAX_LOOKUPS:
            break
        if child.term in terms and child.term.lower().lstrip("+").startswith("include:"):
            flat = _flatten(child, facts)
            if flat is not None:
                at = terms.index(child.term)
                terms = list(_unique([*terms[:at], *flat, *terms[at + 1 :]]))
    return terms


def _count(terms: Sequence[str], facts: SpfFacts) -> int:
    tree = after_mending(facts, " ".join([_VERSION, *terms]).encode("ascii")).tree
    return tree.lookups if tree is not None else 0


def _replace_hosts(terms: Iterable[str], hosts: dict[str, tuple[IpAddress, ...]]) -> list[str]:
    return list(_unique(new for term in terms for new in (_networks(term, hosts[term]) if term in hosts else [term])))


def _networks(term: str, addresses: Iterable[IpAddress]) -> Iterator[str]:
    """Write a or mx as networks, with its qualifier and its prefix lengths."""
    record = parse_record(f"{_VERSION} {term}".encode("ascii"))
    assert isinstance(record, SpfRecord)  # the term is of a record that was read
    (mechanism,) = record.mechanisms
    sign = term[0] if term[0] in "?~-" else ""
    for address in addresses:
        prefix = mechanism.prefix4 if address.version == 4 else mechanism.prefix6
        yield f"{sign}ip{address.version}:{address}" + ("" if prefix == address.max_prefixlen else f"/{prefix}")


def _flatten(node: SpfTree, facts: SpfFacts) -> list[str] | None:
    """Give the networks that pass in a branch, None where they do not tell all: what does not pass may come first."""
    record = read_node(node)
    if record is None:
        return None
    found: list[str] = []
    known = {term.text: term.addresses for term in facts.terms if term.domain and not term.failure}
    links = {child.term: child for child in node.children}
    for mechanism in record.mechanisms:
        if mechanism.kind is MechanismKind.ALL:
            return found
        child = links.get(mechanism.text)
        if mechanism.status is not AuthStatus.PASS:
            return None
        if mechanism.family:
            found.append(mechanism.text.lstrip("+"))
        elif child is not None and (flat := _flatten(child, facts)) is not None:
            found += flat
        elif mechanism.domain is not None and mechanism.kind in _HOSTS and mechanism.text in known:
            found += _networks(mechanism.text, known[mechanism.text])
        else:
            return None
    redirect = next((child for term, child in links.items() if term.startswith("redirect=")), None)
    rest = _flatten(redirect, facts) if redirect is not None else []
    return None if rest is None else found + rest


_HOSTS: Final = {MechanismKind.A, MechanismKind.MX}


def _unique(terms: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for term in terms:
        if term.lower() not in seen:
            seen.add(term.lower())
            yield term
