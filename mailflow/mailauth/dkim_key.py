"""Public keys in the DNS: finding them, what their records allow, and whether a signature is theirs. (RFC 6376 s3.6)

Used for DKIM and ARC. Keys come from strangers: a record is bounded in octets, a key in bits (RFC 8301 s3.2) and in its
exponent, so that none costs more than a fraction of a millisecond. Parsed records are kept, by their octets alone.
"""

import asyncio
import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from mailflow.dns import DnsTemporary, Resolver, lookup_txt
from mailflow.dns.at_hand import AtHandResolver, NotAtHand
from mailflow.mailauth.dkim_tags import (
    Algorithm,
    SignatureFault,
    parse_tag_list,
    permanent_fault,
    read_base64,
    read_list,
    read_required,
)
from mailflow.mailauth.result import AuthStatus

PublicKey: TypeAlias = RSAPublicKey | Ed25519PublicKey

MIN_RSA_BITS: Final = 1024
MAX_RSA_BITS: Final = 8192
MAX_KEY_RECORDS: Final = 4
MAX_TXT_RECORDS: Final = 20  # that are looked at to find them: an answer of the DNS can have thousands
MAX_RECORD_OCTETS: Final = 8192
_MAX_EXPONENT_BITS: Final = 33  # 65537 is what keys have; time grows with every bit
_PADDING: Final = PKCS1v15()
_SHA256: Final = SHA256()


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key that may sign mail with SHA-256. `is_testing` is t=y, `is_strict` t=s: i= has the very domain of d=."""

    key: PublicKey
    bits: int
    is_testing: bool = False
    is_strict: bool = False

    def fits(self, algorithm: Algorithm) -> bool:
        """True if the key is one for this a= (RFC 6376 s3.6.1 k=)."""
        return isinstance(self.key, RSAPublicKey) is (algorithm is Algorithm.RSA_SHA256)

    def verifies(self, signature: bytes, signed: bytes) -> bool:
        """True if `signature` is this key's over the octets `signed` (s3.3.1, RFC 8463 s3)."""
        try:
            if isinstance(self.key, RSAPublicKey):
                self.key.verify(signature, signed, _PADDING, _SHA256)
            else:
                self.key.verify(signature, hashlib.sha256(signed).digest())
        except InvalidSignature:
            return False
        return True


KeyName: TypeAlias = tuple[str, str]  # domain and selector, A-labels
FoundKeys: TypeAlias = tuple[KeyRecord, ...] | SignatureFault


async def find_all_keys(resolver: Resolver, names: Iterable[KeyName]) -> dict[KeyName, FoundKeys]:
    """Find the keys of several selectors, those that have to be waited for together; a fault stands for its keys."""
    found: dict[KeyName, FoundKeys] = {}
    awaited: list[KeyName] = []
    at_hand = AtHandResolver(resolver)
    for name in names:
        try:
            found[name] = await _find_keys_or_fault(at_hand, name)
        except NotAtHand:
            awaited.append(name)
    if len(awaited) == 1:  # as mostly: no task for it
        found[awaited[0]] = await _find_keys_or_fault(resolver, awaited[0])
    elif awaited:
        async with asyncio.TaskGroup() as group:
            tasks = {name: group.create_task(_find_keys_or_fault(resolver, name)) for name in awaited}
        found |= {name: task.result() for name, task in tasks.items()}
    return found


async def _find_keys_or_fault(resolver: Resolver, name: KeyName) -> FoundKeys:
    try:
        return await find_keys(resolver, *name)
    except SignatureFault as fault:
        return fault


async def find_keys(resolver: Resolver, domain: str, selector: str) -> tuple[KeyRecord, ...]:
    """Find the keys of a selector, one or more; both names are A-labels.

    There should be one record; of several each may be tried (s6.1.2), here the first MAX_KEY_RECORDS good ones. Raises
    SignatureFault: temperror where the DNS gave no answer, else permerror.
    """
    try:
        answer = await lookup_txt(resolver, f"{selector}._domainkey.{domain}")
    except DnsTemporary as exc:
        raise SignatureFault(AuthStatus.TEMPERROR, f"no answer from the DNS for the key ({exc.kind.value})") from exc
    return select_keys(answer.records)


def select_keys(records: Iterable[bytes]) -> tuple[KeyRecord, ...]:
    """Give the good ones of the TXT records at one name; raises a SignatureFault about the first where none is."""
    keys: list[KeyRecord] = []
    reason = ""  # the text alone: an exception kept in its own frame would be garbage in a circle
    for record in islice(records, MAX_TXT_RECORDS):
        try:
            keys.append(parse_key_record(record))
        except SignatureFault as fault:
            reason = reason or fault.reason
        if len(keys) == MAX_KEY_RECORDS:
            break
    if not keys:
        raise permanent_fault(reason or "there is no key in the DNS")
    return tuple(keys)


@functools.lru_cache(maxsize=1024)
def parse_key_record(record: bytes) -> KeyRecord:
    """Parse a key record (s3.6.1). Raises SignatureFault where it holds no key that may sign mail with SHA-256."""
    if len(record) > MAX_RECORD_OCTETS:
        raise permanent_fault("the key record is too long")
    tags = parse_tag_list(record)
    if "v" in tags and (tags["v"] != "DKIM1" or next(iter(tags)) != "v"):  # "MUST be discarded"
        raise permanent_fault("the TXT record is no DKIM key record")
    if "h" in tags and "sha256" not in read_list(tags["h"]):
        raise permanent_fault("the key is not for sha256 (h=)")
    if not {"*", "email"}.intersection(read_list(tags.get("s", "*"))):
        raise permanent_fault("the key is not for mail (s=)")
    flags = read_list(tags.get("t", ""))
    if not read_required(tags, "p"):
        raise permanent_fault("the key has been revoked")
    octets = read_base64(tags, "p")
    match tags.get("k", "rsa"):
        case "rsa":
            key, bits = _load_rsa(octets)
        case "ed25519":
            key, bits = _load_ed25519(octets)
        case _:
            raise permanent_fault("the type of the key (k=) is not known")
    return KeyRecord(key, bits, is_testing="y" in flags, is_strict="s" in flags)


def _load_rsa(octets: bytes) -> tuple[PublicKey, int]:
    """Load a SubjectPublicKeyInfo, or the bare RSAPublicKey that the RFC names (erratum 3017): both are published."""
    try:
        key = load_der_public_key(octets)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise permanent_fault("the key cannot be read") from exc
    if not isinstance(key, RSAPublicKey):
        raise permanent_fault("the key is of another type than its record says (k=)")
    if key.key_size < MIN_RSA_BITS:  # "Verifiers MUST NOT consider signatures using RSA keys of less than 1024 bits"
        raise permanent_fault(f"the key has less than {MIN_RSA_BITS} bits")
    if key.key_size > MAX_RSA_BITS or key.public_numbers().e.bit_length() > _MAX_EXPONENT_BITS:
        raise permanent_fault("the key is too large")
    return key, key.key_size


def _load_ed25519(octets: bytes) -> tuple[PublicKey, int]:
    """Load the 32 octets themselves, in no ASN.1 (RFC 8463 s4)."""
    try:
        return Ed25519PublicKey.from_public_bytes(octets), 256
    except ValueError as exc:
        raise permanent_fault("the key cannot be read") from exc
