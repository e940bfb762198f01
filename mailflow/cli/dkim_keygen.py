"""Key pairs for DKIM, RSA or Ed25519: the record that publishes one, and the two files. (RFC 6376 s3.6.1)

RSA keys are of 2048 bits: signers should use no less (RFC 8301 s3.2), and more no longer fits a DNS reply over UDP at
every resolver. The private key is PKCS #8 in PEM, without a password: the service that reads it has nobody to ask.
"""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from mailflow.deliver.maildir import make_folders, sync_folder, write_synced
from mailflow.mail.address import AddressSyntaxError, parse_domain

RSA_BITS = 2048
MAX_STRING_OCTETS = 255  # RFC 1035 s3.3
MAX_NAME_CHARS = 253  # 255 octets on the wire (RFC 1035 s3.1)


class NameFault(ValueError):
    """A domain or selector that cannot be used; the message says which and why."""


@dataclass(frozen=True, slots=True)
class KeyNames:
    """Whose key it is: both in lower-case A-labels."""

    domain: str
    selector: str

    @property
    def owner(self) -> str:
        """Where the record is published (RFC 6376 s3.6.2.1), without the last dot."""
        return f"{self.selector}._domainkey.{self.domain}"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A fresh key: `pem` is the secret half, `record` the text to publish."""

    names: KeyNames
    algorithm: str
    pem: bytes
    record: str

    @property
    def zone_line(self) -> str:
        """Give the record as a line of a zone file (RFC 1035 s5.1), its text in strings of at most 255 octets."""
        parts = [self.record[at : at + MAX_STRING_OCTETS] for at in range(0, len(self.record), MAX_STRING_OCTETS)]
        text = " ".join(f'"{part}"' for part in parts)  # base64 and tags: nothing in them needs an escape
        return f"{self.names.owner}. IN TXT {text}\n"


class KeyFiles(NamedTuple):
    """Where the halves lie."""

    key: Path
    record: Path


def parse_names(domain: str, selector: str) -> KeyNames:
    """Check both names (RFC 6376 s3.1, s3.5) and give them in A-labels. Raises NameFault."""
    names = KeyNames(_parse_name("--domain", domain), _parse_name("--selector", selector))
    if "." not in names.domain:
        raise NameFault(f"--domain {domain!r}: a domain of two labels or more is needed (RFC 6376 s3.5)")
    if len(names.owner) > MAX_NAME_CHARS:
        raise NameFault(f"{names.owner}: longer than {MAX_NAME_CHARS} characters, so no name in DNS")
    return names


def make_key(names: KeyNames, *, is_ed25519: bool) -> KeyPair:
    """Make a fresh key pair; RSA takes up to a second of CPU."""
    private_key: Ed25519PrivateKey | RSAPrivateKey
    if is_ed25519:
        private_key = Ed25519PrivateKey.generate()
        # The bare 32 octets, not a SubjectPublicKeyInfo as with RSA (RFC 8463 s4.2).
        kind, public = "ed25519", private_key.public_key().public_bytes_raw()
    else:
        private_key = generate_private_key(public_exponent=65537, key_size=RSA_BITS)
        kind, public = "rsa", private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pem = private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    record = f"v=DKIM1; k={kind}; p={base64.b64encode(public).decode()}"
    return KeyPair(names, f"{kind}-sha256", pem, record)


def write_key(key: KeyPair, folder: Path) -> KeyFiles:
    """Write `selector.domain.key` (0600 from the start) and `.txt` into `folder`, made where it is missing; synced.

    Raises OSError, FileExistsError where either is there; then nothing of this key is left.
    """
    stem = f"{key.names.selector}.{key.names.domain}"
    files = KeyFiles(folder / f"{stem}.key", folder / f"{stem}.txt")
    make_folders(folder)
    write_synced(files.key, [key.pem])
    try:
        write_synced(files.record, [key.zone_line.encode("ascii")])
    except BaseException:
        files.key.unlink()
        raise
    sync_folder(folder)
    return files


def render_json(key: KeyPair, files: KeyFiles) -> str:
    """Give what the key is, and where, as one JSON document; the secret is not in it."""
    document = {
        "domain": key.names.domain,
        "selector": key.names.selector,
        "algorithm": key.algorithm,
        "name": key.names.owner,
        "type": "TXT",
        "record": key.record,
        "zone": key.zone_line,
        "key_file": str(files.key),
        "record_file": str(files.record),
    }
    return json.dumps(document)


def _parse_name(option: str, text: str) -> str:
    try:
        return parse_domain(text)
    except AddressSyntaxError as error:
        raise NameFault(f"{option} {text!r}: {error}") from None
