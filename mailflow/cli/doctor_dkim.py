"""Which keys a domain signs with: selectors that are known by name, as the DNS lists none. (RFC 6376 s3.6, 8301, 8463)

`gather_dkim` asks for all of them at the same time, and for one that cannot exist: where that has records too, a
wildcard answers, and what it says is nobody's selector. A key record that verifiers refuse is bad, since whatever is
signed with it fails; a domain without any selector found is not, its selector may have another name.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from mailflow.cli.doctor_finding import Change, Check, Finding, Section, Severity, good, no_answer
from mailflow.dns import AnswerStatus, DnsTemporary, RdType, Resolver, lookup_txt
from mailflow.dns.names import canonical_name
from mailflow.mail.reply import printable
from mailflow.mailauth.dkim_key import MAX_RECORD_OCTETS, MIN_RSA_BITS, KeyRecord, parse_key_record
from mailflow.mailauth.dkim_tags import SignatureFault, parse_tag_list, read_base64, read_list

GOOD_RSA_BITS: Final = 2048  # "Signers SHOULD use RSA keys of at least 2048 bits" (RFC 8301 s3.2)
UNLIKELY_SELECTOR: Final = "no-such-selector-3f9b71"
MAX_SHOWN: Final = 30
COMMON_SELECTORS: Final = (
    *("default", "dkim", "mail", "email", "smtp", "mx", "key", "key1", "key2", "sig1", "selector", "s"),
    *("s1", "s2", "s3", "k1", "k2", "k3", "dkim1", "dkim2", "m1", "m2", "x", "selector1", "selector2"),
    *("google", "20161025", "20210112", "20221208", "20230601"),
    *("fm1", "fm2", "fm3", "mesmtp", "mxvault", "mandrill", "mailjet", "mailchannels", "sib", "brevo1", "brevo2"),
    *("protonmail", "protonmail2", "protonmail3", "zoho", "zmail", "everlytickey1", "everlytickey2", "cm", "pic"),
    *("pm", "krs", "mg", "mta", "hs1", "hs2", "ctct1", "ctct2", "turbo-smtp", "smtpapi", "sendgrid", "ed25519", "rsa"),
)


@dataclass(frozen=True, slots=True)
class SelectorFacts:
    """What stands at one selector. `owner` is where, behind a CNAME another name; `is_asked` by the user himself.

    `is_dangling`: the CNAME leads to a name that does not exist.
    """

    selector: str
    owner: str
    records: tuple[bytes, ...] = ()
    failure: DnsTemporary | None = None
    is_asked: bool = False
    is_dangling: bool = False


@dataclass(frozen=True, slots=True)
class DkimFacts:
    """The selectors that have records, or were asked for, or did not answer; `wildcard` is what any other name has."""

    domain: str
    selectors: tuple[SelectorFacts, ...] = ()
    wildcard: tuple[bytes, ...] = ()
    silent: tuple[SelectorFacts, ...] = ()


async def gather_dkim(domain: str, asked: Sequence[str], resolver: Resolver) -> DkimFacts:
    """Ask for the common selectors and those in `asked`, which are A-labels."""
    names = dict.fromkeys([*asked, *COMMON_SELECTORS])
    async with asyncio.TaskGroup() as group:
        unlikely = group.create_task(_ask(domain, UNLIKELY_SELECTOR, False, resolver))
        tasks = [group.create_task(_ask(domain, name, name in asked, resolver)) for name in names]
    answers = [task.result() for task in tasks]
    wildcard = unlikely.result().records
    found = [
        facts
        for facts in answers
        if facts.failure is None
        and (facts.is_asked or facts.is_dangling or (sorted(facts.records) != sorted(wildcard) and _is_meant(facts)))
    ]
    return DkimFacts(domain, tuple(found), wildcard, tuple(facts for facts in answers if facts.failure is not None))


async def _ask(domain: str, selector: str, is_asked: bool, resolver: Resolver) -> SelectorFacts:
    name = f"{selector}._domainkey.{domain}"
    try:
        answer = await lookup_txt(resolver, name)
    except DnsTemporary as failure:
        return SelectorFacts(selector, name, (), failure, is_asked)
    owner = answer.canonical_name or name
    is_dangling = answer.status is AnswerStatus.NXDOMAIN and owner != canonical_name(name)
    return SelectorFacts(selector, owner, answer.records, None, is_asked, is_dangling)


def _is_meant(facts: SelectorFacts) -> bool:
    """Tell key records, good or not, from text that stands there for something else."""
    return any(b"p=" in record or b"DKIM1" in record for record in facts.records)


def judge_dkim(facts: DkimFacts, *, sends_nothing: bool) -> Section:
    """Judge what was gathered; `sends_nothing` where SPF says that no host sends for the domain."""
    findings = list(_judge_wildcard(facts))
    for selector in facts.selectors[:MAX_SHOWN]:
        findings += _judge_selector(facts.domain, selector)
    if facts.silent:
        first = facts.silent[0]
        what = f"{len(facts.silent)} selectors" if len(facts.silent) > 1 else first.owner
        assert first.failure is not None
        findings.append(no_answer(Check.DKIM, first.failure, what))
    if not facts.selectors and not facts.silent and not any(map(_is_good_key, facts.wildcard)):
        findings.append(_judge_none(facts, sends_nothing))
    return Section(Check.DKIM, tuple(findings), (), _describe(facts))


def _judge_none(facts: DkimFacts, sends_nothing: bool) -> Finding:
    if sends_nothing:
        return good("dkim-none-needed", "no key found, and none is needed: SPF says that nobody sends for the domain")
    return Finding(
        Severity.WARN,
        "dkim-none",
        f"none of the {len(COMMON_SELECTORS)} common selectors has a key; they cannot be listed",
        advice=f"name yours with --selector, or make a key: mailflow dkim keygen --domain {facts.domain} "
        "--selector s1 --out DIR prints the record to publish",
    )


def _judge_wildcard(facts: DkimFacts) -> Iterator[Finding]:
    if not facts.wildcard:
        return
    name = f"*._domainkey.{facts.domain}"
    if all(_is_revoked(record) for record in facts.wildcard):
        yield good("dkim-wildcard-revoked", f"{name} says that there are no other keys")
    else:
        shown = printable(facts.wildcard[0].decode("latin-1"), 60)
        text = f"every selector has a TXT record, by a wildcard above it: {shown}"
        change = Change(name, RdType.TXT, (b"v=DKIM1; p=",))
        yield Finding(
            Severity.WARN,
            "dkim-wildcard",
            text,
            (change,),
            "or take the wildcard away: what it says is taken for a key of any name",
        )


def _judge_selector(domain: str, facts: SelectorFacts) -> Iterator[Finding]:
    where = f"selector {printable(facts.selector)}"
    renew = f"make a new key: mailflow dkim keygen --domain {domain} --selector NEW --out DIR prints its record"
    if facts.is_dangling:
        text = f"{where}: an alias (CNAME) of {printable(facts.owner)}, which does not exist: who makes it can sign"
        advice = f"take the CNAME at {printable(facts.selector)}._domainkey.{domain} away, or have the key published"
        yield Finding(Severity.BAD, "dkim-dangling", text, advice=advice)
        return
    if not facts.records:
        yield Finding(Severity.BAD, "dkim-no-key", f"{where}: there is no key", advice=renew)
        return
    if len(facts.records) > 1:
        yield _judge_several(facts, where, renew)
        return
    (octets,) = facts.records
    if _is_revoked(octets):
        yield good("dkim-revoked", f"{where}: the key has been revoked")
        return
    try:
        key = parse_key_record(octets)
    except SignatureFault as fault:
        yield _judge_faulty(facts, octets, f"{where}: {_explain(octets, fault)}", renew)
        return
    text = f"{where}: {_kind(key)}"
    if isinstance(key.key, RSAPublicKey) and key.bits < GOOD_RSA_BITS:
        yield Finding(Severity.WARN, "dkim-short-key", f"{text}, {GOOD_RSA_BITS} are advised (RFC 8301)", advice=renew)
    elif not key.is_testing:
        yield good("dkim-key", text)
    if key.is_testing:
        text = f"{where}: t=y says that signing is only tried out, so that failures may be overlooked"
        yield Finding(Severity.WARN, "dkim-testing", text, _replace(facts, octets))


def _judge_several(facts: SelectorFacts, where: str, renew: str) -> Finding:
    keys = [record for record in facts.records if _is_good_key(record)]
    text = f"{where}: {len(facts.records)} TXT records, which of them is taken is anyone's guess (RFC 6376 s3.6.2.2)"
    severity = Severity.WARN if keys else Severity.BAD
    if len(set(keys)) == 1:
        change = Change(facts.owner, RdType.TXT, (keys[0],), facts.records)
        return Finding(severity, "dkim-several", text, (change,))
    return Finding(severity, "dkim-several", text, advice=f"leave the one that is signed with, or {renew}")


def _judge_faulty(facts: SelectorFacts, octets: bytes, text: str, renew: str) -> Finding:
    """A record that verifiers refuse may hold a good key: then it is the tags around it that are wrong."""
    mended = _mend(octets)
    if mended is not None and _is_good_key(mended):
        return Finding(Severity.BAD, "dkim-unusable", text, _replace(facts, octets))
    return Finding(Severity.BAD, "dkim-unusable", text, advice=renew)


def _replace(facts: SelectorFacts, octets: bytes) -> tuple[Change, ...]:
    mended = _mend(octets)
    return (Change(facts.owner, RdType.TXT, (mended,), facts.records),) if mended is not None else ()


def _mend(octets: bytes) -> bytes | None:
    """Give the same key with nothing around it that limits its use, but for t=s; None where there is no key."""
    text = octets.decode("ascii", "ignore").replace('"', "").strip() if len(octets) <= MAX_RECORD_OCTETS else ""
    tags: dict[str, str] = {}
    for part in text.split(";"):
        name, _, value = part.partition("=")
        tags.setdefault(name.strip().lower(), "".join(value.split()))
    if not tags.get("p"):
        return None
    kind = tags.get("k", "rsa").lower()
    flags = "; t=s" if "s" in read_list(tags.get("t", "")) else ""
    return f"v=DKIM1; k={kind}; p={tags['p']}{flags}".encode("ascii", "ignore")


def _is_good_key(octets: bytes) -> bool:
    try:
        parse_key_record(octets)
    except SignatureFault:
        return False
    return True


def _is_revoked(octets: bytes) -> bool:
    try:
        return parse_tag_list(octets).get("p") == ""
    except SignatureFault:
        return False


def _explain(octets: bytes, fault: SignatureFault) -> str:
    bits = _read_bits(octets)
    if bits is not None and bits < MIN_RSA_BITS:
        return f"the RSA key has {bits} bits, and verifiers refuse less than {MIN_RSA_BITS} (RFC 8301)"
    return f"{fault.reason}, so verifiers refuse it"


def _read_bits(octets: bytes) -> int | None:
    try:
        key = load_der_public_key(read_base64(parse_tag_list(octets[:MAX_RECORD_OCTETS]), "p"))
    except (SignatureFault, ValueError, UnsupportedAlgorithm):
        return None
    return key.key_size if isinstance(key, RSAPublicKey) else None


def _kind(key: KeyRecord) -> str:
    return f"RSA, {key.bits} bits" if isinstance(key.key, RSAPublicKey) else "Ed25519"


def _describe(facts: DkimFacts) -> dict[str, Any]:
    return {
        "probed": len(COMMON_SELECTORS),
        "has_wildcard": bool(facts.wildcard),
        "selectors": [_describe_selector(selector) for selector in facts.selectors[:MAX_SHOWN]],
    }


def _describe_selector(facts: SelectorFacts) -> dict[str, Any]:
    (key, fault) = (None, None)
    if len(facts.records) == 1:
        try:
            key = parse_key_record(facts.records[0])
        except SignatureFault as failed:
            fault = failed.reason
    return {
        "selector": facts.selector,
        "records": len(facts.records),
        "type": None if key is None else "rsa" if isinstance(key.key, RSAPublicKey) else "ed25519",
        "bits": key.bits if key is not None else _read_bits(facts.records[0]) if facts.records else None,
        "is_testing": key.is_testing if key is not None else None,
        "fault": fault,
    }
