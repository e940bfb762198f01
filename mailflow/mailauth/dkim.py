"""DKIM: which domains vouch for this message as it stands? (RFC 6376, 8301, 8463, 8616)

Every signature up to MAX_SIGNATURES gives a result, whatever others say. The order of work keeps what a stranger can
make us do small: fields are read, keys asked for together, header signatures checked, and only for a good one is the
body hashed. A pass means that the fields and the whole body are as they were signed: a signature whose l= leaves a part
of the body open, or beside which somebody put another From, Subject… is `policy` and counts for nobody.
"""

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Final

from mailflow.dns import Resolver
from mailflow.mailauth.canonical import BodyDigest, Canonicalization
from mailflow.mailauth.dkim_key import FoundKeys, KeyName, KeyRecord, find_all_keys
from mailflow.mailauth.dkim_signature import MessageSignature, parse_dkim_signature
from mailflow.mailauth.dkim_tags import SignatureFault, parse_tag_list, permanent_fault, to_domain
from mailflow.mailauth.result import AuthStatus, DkimResult
from mailflow.mailauth.signed_message import SignedMessage, read_message

MAX_SIGNATURES: Final = 10
MAX_CLOCK_SKEW_S: Final = 900
# Fields that there may be one of (RFC 5322 s3.6, 2045) and that a reader shows or obeys: which of two is his choice.
SINGLE_FIELDS: Final = (
    *(b"from", b"sender", b"reply-to", b"to", b"cc", b"subject", b"date"),
    *(b"content-type", b"content-transfer-encoding"),
)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A signature that could be read from its `tags`; `key` is the one that made it, once that is known."""

    position: int
    tags: dict[str, str]
    signature: MessageSignature
    agent_domain: str
    key: KeyRecord | None = None


async def verify_dkim(message: bytes, *, resolver: Resolver, now: float | None = None) -> list[DkimResult]:
    """Check the signatures of a message; results in header order, top first, [] where there is none.

    `now` is a Unix time in seconds, None the clock. Behind MAX_SIGNATURES one result (policy) stands for all the rest.
    Lines may end in bare LF, if all do.
    """
    return await verify_dkim_signatures(read_message(message), resolver=resolver, now=now)


async def verify_dkim_signatures(
    message: SignedMessage, *, resolver: Resolver, now: float | None = None
) -> list[DkimResult]:
    """Do as verify_dkim does, with a message that has been split already."""
    positions = message.positions(b"dkim-signature")
    if not positions:
        return []
    now = time.time() if now is None else now
    read = [_read_signature(message, position, now) for position in positions[:MAX_SIGNATURES]]
    names = {(item.signature.domain, item.signature.selector) for item in read if isinstance(item, _Candidate)}
    keys = await find_all_keys(resolver, names)
    checked = []
    for item in read:
        checked.append(_check_header(message, item, keys) if isinstance(item, _Candidate) else item)
        if len(read) > 1:  # ten of the largest keys are worth 20 ms
            await asyncio.sleep(0)
    digests = await _hash_bodies(message, [item.signature for item in checked if isinstance(item, _Candidate)])
    results = [
        _judge(message, item, digests[item.signature.body_form], now) if isinstance(item, _Candidate) else item
        for item in checked
    ]
    if (unread := len(positions) - MAX_SIGNATURES) > 0:
        results.append(DkimResult(AuthStatus.POLICY, reason=f"{unread} more signatures were not looked at"))
    return _shorten_tags_b(results)


def _read_signature(message: SignedMessage, position: int, now: float) -> _Candidate | DkimResult:
    try:
        tags = parse_tag_list(message.fields[position].value)
    except SignatureFault as fault:
        return DkimResult(fault.status, reason=fault.reason)
    try:
        signature, agent_domain = parse_dkim_signature(tags)
        if signature.expires_at is not None and now > signature.expires_at:
            raise permanent_fault("the signature has expired (x=)")
    except SignatureFault as fault:
        return _end(tags, fault.status, fault.reason)
    return _Candidate(position, tags, signature, agent_domain)


def _check_header(message: SignedMessage, item: _Candidate, found: dict[KeyName, FoundKeys]) -> _Candidate | DkimResult:
    """Look for a key that may have made this signature and did: the candidate goes on with it."""
    signature = item.signature
    keys = found[signature.domain, signature.selector]
    if isinstance(keys, SignatureFault):
        return _end(item.tags, keys.status, keys.reason)
    fitting = [key for key in keys if key.fits(signature.algorithm)]
    if not fitting:
        return _end(item.tags, AuthStatus.PERMERROR, "the key is of another type than the signature (k=, a=)")
    allowed = [key for key in fitting if not key.is_strict or item.agent_domain == signature.domain]
    if not allowed:
        return _end(item.tags, AuthStatus.PERMERROR, "the key allows no subdomain in the identity (t=s, i=)")
    signed = message.header_input(signature.signed_fields, item.position, signature.header_form)
    for key in allowed:
        if key.verifies(signature.signature, signed):
            return _Candidate(item.position, item.tags, signature, item.agent_domain, key)
    return _end(item.tags, AuthStatus.FAIL, "the signature does not fit the signed fields", allowed[0])


async def _hash_bodies(
    message: SignedMessage, signatures: list[MessageSignature]
) -> dict[Canonicalization, BodyDigest]:
    lengths: dict[Canonicalization, set[int]] = {}
    for signature in signatures:
        lengths.setdefault(signature.body_form, set())
        if signature.length is not None:
            lengths[signature.body_form].add(signature.length)
    return {form: await message.hash_body(form, wanted) for form, wanted in lengths.items()}


def _judge(message: SignedMessage, item: _Candidate, digest: BodyDigest, now: float) -> DkimResult:
    """Give the result of a signature whose header is good."""
    tags, signature, key = item.tags, item.signature, item.key
    body_hash = digest.of(signature.length)
    if body_hash is None:  # "MUST NOT be larger than the actual number of octets"
        return _end(tags, AuthStatus.PERMERROR, "the signed length (l=) is larger than the body", key)
    if body_hash != signature.body_hash:
        return _end(tags, AuthStatus.FAIL, "the body is not the one that was signed", key)
    if signature.length is not None and signature.length < digest.size_octets:
        reason = f"only {signature.length} of the {digest.size_octets} octets of the body are signed (l=)"
        return _end(tags, AuthStatus.POLICY, reason, key)
    if added := find_added_field(message, signature.signed_fields):
        reason = f"the message has more {added.decode().title()} fields than were signed"
        return _end(tags, AuthStatus.POLICY, reason, key)
    # s3.5 lets us ignore it; a wrong clock is what it mostly is.
    is_early = signature.signed_at is not None and signature.signed_at > now + MAX_CLOCK_SKEW_S
    return _end(tags, AuthStatus.PASS, "its time (t=) lies in the future" if is_early else None, key)


def find_added_field(message: SignedMessage, signed_fields: tuple[bytes, ...]) -> bytes | None:
    """Name a field that was signed and now has unsigned company: a reader may show that instead (s8.15)."""
    for name in SINGLE_FIELDS:
        count = len(message.positions(name))
        if count > 1 and 0 < signed_fields.count(name) < count:
            return name
    return None


def _end(tags: dict[str, str], status: AuthStatus, reason: str | None, key: KeyRecord | None = None) -> DkimResult:
    return DkimResult(
        status,
        domain=to_domain(tags.get("d", "")) or "",
        selector=tags.get("s", ""),
        algorithm=tags.get("a", ""),
        reason=reason,
        auid=tags.get("i", ""),
        tag_b=tags.get("b", "").replace(" ", "").replace("\t", ""),
        key_bits=key.bits if key else 0,
        is_testing=key is not None and key.is_testing,
    )


def _shorten_tags_b(results: list[DkimResult]) -> list[DkimResult]:
    """Cut b= to what tells the signatures apart, 8 octets or more (RFC 6008 s4)."""
    tags = {result.tag_b for result in results}
    length = 8
    while len({tag[:length] for tag in tags}) < len(tags):
        length *= 2
    return [replace(result, tag_b=result.tag_b[:length]) for result in results]
