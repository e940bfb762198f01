"""ARC: who handled this message on its way, and does the chain of what they found hold? (RFC 8617)

A chain holds if its latest message signature and every seal verify (s5.2). What needs no key is checked first: the
structure, and the body against the hashes of the signatures, so that a made-up chain sends nobody to the DNS. Then the
keys of all sets are asked for together. An older message signature that no longer verifies only says that the message
was changed after it.

The surprise: for the RFC a failure of the DNS is a failure of the chain (s5.2.1); here it is temperror, since a retry
may mend it, unless something else has failed for good.
"""

import asyncio
import itertools
import time
from dataclasses import dataclass
from typing import Final, NoReturn

from mailflow.dns import Resolver
from mailflow.mailauth.arc_chain import ARC_FIELDS, SealedSet, collect_chain, read_message_signature
from mailflow.mailauth.canonical import Canonicalization, canonicalize_field, erase_signature
from mailflow.mailauth.dkim import find_added_field
from mailflow.mailauth.dkim_key import FoundKeys, KeyName, find_all_keys
from mailflow.mailauth.dkim_signature import MessageSignature
from mailflow.mailauth.dkim_tags import Algorithm, SignatureFault, permanent_fault
from mailflow.mailauth.result import ArcResult, ArcSet, AuthStatus
from mailflow.mailauth.signed_message import SignedMessage, read_message

_NONE: Final = ArcResult(AuthStatus.NONE)
_SEAL_FORM: Final = Canonicalization.RELAXED  # s4.1.3


@dataclass(frozen=True, slots=True)
class _Signed:
    """A set whose message signature fits the body as it is, in one or both of its readings."""

    sealed: SealedSet
    readings: list[MessageSignature]

    @property
    def signature(self) -> MessageSignature:
        """What all readings have in common."""
        return self.readings[0]


async def verify_arc(message: bytes, *, resolver: Resolver, now: float | None = None) -> ArcResult:
    """Check the chain of a message: none, pass, fail, or temperror where the DNS gave no answer for a key.

    `now` is a Unix time in seconds, None the clock.
    """
    return await verify_arc_chain(read_message(message), resolver=resolver, now=now)


async def verify_arc_chain(message: SignedMessage, *, resolver: Resolver, now: float | None = None) -> ArcResult:
    """Do as verify_arc does, with a message that has been split already."""
    if not any(map(message.positions, ARC_FIELDS)):
        return _NONE
    sets: list[SealedSet] = []
    try:
        sets = collect_chain(message.fields)
        unchanged = await _find_unchanged(message, sets, time.time() if now is None else now)
        names = {(each.seal.domain, each.seal.selector) for each in sets}
        names |= {(each.signature.domain, each.signature.selector) for each in unchanged}
        keys = await find_all_keys(resolver, names)
        oldest_pass = await _verify_chain(message, sets, unchanged, keys)
    except SignatureFault as fault:
        if fault.status is AuthStatus.TEMPERROR:
            return ArcResult(AuthStatus.TEMPERROR, sets=_describe(sets), reason=fault.reason)
        return ArcResult(AuthStatus.FAIL, reason=fault.reason)
    return ArcResult(AuthStatus.PASS, oldest_pass, _describe(sets))


def _describe(sets: list[SealedSet]) -> tuple[ArcSet, ...]:
    return tuple(ArcSet(each.instance, each.seal.domain, each.seal.selector, each.payload) for each in sets)


async def _find_unchanged(message: SignedMessage, sets: list[SealedSet], now: float) -> list[_Signed]:
    """Give the sets from the latest down as far as their message signatures can be read and fit the body.

    Raises SignatureFault where not even the latest does (s5.2 step 4).
    """
    unchanged: list[_Signed] = []
    for sealed in reversed(sets):
        try:
            readings = read_message_signature(sealed.signature_tags)
            fitting = await _find_fitting(message, readings, now)
        except SignatureFault as fault:
            if not unchanged:
                _raise_for(fault, "message signature", sealed)
            break
        unchanged.append(_Signed(sealed, fitting))
    return unchanged


async def _find_fitting(message: SignedMessage, readings: list[MessageSignature], now: float) -> list[MessageSignature]:
    """Give the readings by which all that needs no key is well; raises SignatureFault where there is none."""
    signature = readings[0]
    if signature.expires_at is not None and now > signature.expires_at:
        raise permanent_fault("it has expired (x=)")
    # A pass of DKIM does not stand for a second Subject beside the signed one, nor for what l= leaves open.
    if added := find_added_field(message, signature.signed_fields):
        raise permanent_fault(f"the message has more {added.decode().title()} fields than were signed")
    digests = [await message.hash_body(reading.body_form) for reading in readings]
    if signature.length is not None and all(signature.length < digest.size_octets for digest in digests):
        raise permanent_fault("only a part of the body is signed (l=)")
    fitting = [
        reading
        for reading, digest in zip(readings, digests, strict=True)
        if reading.body_hash == digest.whole and reading.length in {None, digest.size_octets}
    ]
    if not fitting:
        raise permanent_fault("the body is not the one that was signed")
    return fitting


async def _verify_chain(
    message: SignedMessage, sets: list[SealedSet], unchanged: list[_Signed], keys: dict[KeyName, FoundKeys]
) -> int:
    """Verify the latest message signature and every seal (s5.2 steps 4 and 6), and give the oldest pass (step 5).

    Raises SignatureFault: of the first that does not verify, of one whose key is not known yet only if all others do.
    """
    unknown: SignatureFault | None = None
    try:
        _verify_message_signature(message, unchanged[0], keys)
    except SignatureFault as fault:
        unknown = fault
        _raise_if_permanent(fault)
    covered, ends = _join_sets(message, sets)
    for sealed in reversed(sets):
        try:
            _verify_seal(message, sealed, covered[: ends[sealed.instance - 1]], keys)
        except SignatureFault as fault:
            _raise_if_permanent(fault)
            unknown = unknown or fault
        if sealed.instance > 1:
            await asyncio.sleep(0)  # a chain can hold a hundred keys of the largest size
    if unknown:
        raise unknown
    return await _find_oldest_pass(message, unchanged, keys)


async def _find_oldest_pass(message: SignedMessage, unchanged: list[_Signed], keys: dict[KeyName, FoundKeys]) -> int:
    for newer, signed in itertools.pairwise(unchanged):
        await asyncio.sleep(0)
        try:
            _verify_message_signature(message, signed, keys)
        except SignatureFault as fault:
            if fault.status is AuthStatus.TEMPERROR:
                raise  # who may be believed can depend on it
            return newer.sealed.instance
    oldest = unchanged[-1].sealed.instance
    return 0 if oldest == 1 else oldest


def _verify_message_signature(message: SignedMessage, signed: _Signed, keys: dict[KeyName, FoundKeys]) -> None:
    signature = signed.signature
    inputs = [
        message.header_input(reading.signed_fields, signed.sealed.signature, reading.header_form)
        for reading in signed.readings
    ]
    try:
        _verify(signature.algorithm, signature.signature, inputs, keys[signature.domain, signature.selector])
    except SignatureFault as fault:
        _raise_for(fault, "message signature", signed.sealed)


def _join_sets(message: SignedMessage, sets: list[SealedSet]) -> tuple[bytes, list[int]]:
    """Give all sets in the order in which seals cover them (s5.1.1), and how far each seal's cover goes: to itself."""
    covered = bytearray()
    ends = []
    for sealed in sets:
        covered += message.canonical_field(sealed.results, _SEAL_FORM)
        covered += message.canonical_field(sealed.signature, _SEAL_FORM)
        ends.append(len(covered))
        covered += message.canonical_field(sealed.seal.position, _SEAL_FORM)
    return bytes(covered), ends


def _verify_seal(message: SignedMessage, sealed: SealedSet, covered: bytes, keys: dict[KeyName, FoundKeys]) -> None:
    seal = sealed.seal
    own = canonicalize_field(erase_signature(message.fields[seal.position]), _SEAL_FORM).removesuffix(b"\r\n")
    try:
        _verify(seal.algorithm, seal.signature, [covered + own], keys[seal.domain, seal.selector])
    except SignatureFault as fault:
        _raise_for(fault, "seal", sealed)


def _verify(algorithm: Algorithm, signature: bytes, inputs: list[bytes], keys: FoundKeys) -> None:
    if isinstance(keys, SignatureFault):
        raise keys
    fitting = [key for key in keys if key.fits(algorithm)]
    if not fitting:
        raise permanent_fault("the key is of another type than the signature (k=, a=)")
    if not any(key.verifies(signature, octets) for octets in inputs for key in fitting):
        raise permanent_fault("it does not fit the signed fields")


def _raise_for(fault: SignatureFault, what: str, sealed: SealedSet) -> NoReturn:
    raise SignatureFault(fault.status, f"the {what} of set {sealed.instance}: {fault.reason}") from fault


def _raise_if_permanent(fault: SignatureFault) -> None:
    if fault.status is not AuthStatus.TEMPERROR:
        raise fault
