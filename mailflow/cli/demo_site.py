"""The folder `mailflow demo` lives in: configuration, certificate, mailboxes, log.

A real mailflow.toml, so that `mailflow check-config` and `mailflow serve` take the same folder
afterwards. Never removed by us: what was delivered is there to be looked at.
"""

import ipaddress
import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mailflow.cli.demo_messages import DOMAIN, HOSTNAME, LISTS, MAILBOXES, MAX_MESSAGE_BYTES
from mailflow.deliver.maildir import encode_name, make_mailbox
from mailflow.mail.address import parse_mailbox

CONFIGURATION = f"""\
# Written by `mailflow demo`; `mailflow config-reference` lists every key.
hostname = "{HOSTNAME}"
roles = ["mx", "admin"]

[mx]
listen = ["127.0.0.1:0"]          # a free port
max_message_bytes = {MAX_MESSAGE_BYTES}

[tls]
certificate = "tls.crt"
key = "tls.key"

[mailauth]
trusted_arc_sealers = ["{LISTS}"]

[[backend]]
name = "mailboxes"
maildir = "mail"

[[route]]
domains = ["{DOMAIN}"]
backend = "mailboxes"

[drain]
timeout_s = 5

[admin]
listen = "127.0.0.1:0"
"""


@dataclass(frozen=True, slots=True)
class Site:
    """The folder and what is where in it."""

    root: Path

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.root / "mailflow.toml"

    @property
    def log(self) -> Path:
        """The service's log."""
        return self.root / "service.log"

    @property
    def mail(self) -> Path:
        """The folder of the mailboxes."""
        return self.root / "mail"

    def mailbox(self, address: str) -> Path:
        """The Maildir of an address."""
        parsed = parse_mailbox(address)
        return self.mail / encode_name(parsed.ascii_domain) / encode_name(parsed.local)

    def delivered(self) -> set[Path]:
        """Every message that lies in a mailbox now."""
        return {path for path in self.mail.glob("*/*/*/*") if path.parent.name in ("new", "cur")}

    def client_tls(self) -> ssl.SSLContext:
        """TLS for a client that trusts this site's certificate and no other."""
        return ssl.create_default_context(cafile=str(self.root / "tls.crt"))


def make_site(root: Path) -> Site:
    """Put everything into the folder `root`, which is there. Raises OSError."""
    site = Site(root.resolve())
    site.config.write_text(CONFIGURATION)
    for address in MAILBOXES:
        make_mailbox(site.mailbox(address))
    key = ec.generate_private_key(ec.SECP256R1())
    _write_private(site.root / "tls.key", _encode_key(key))
    (site.root / "tls.crt").write_bytes(_make_certificate(key).public_bytes(serialization.Encoding.PEM))
    return site


def _make_certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """Sign a certificate with its own key; good for a week, for our name and for loopback."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOSTNAME)])
    names = [x509.DNSName(HOSTNAME), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _encode_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_private(path: Path, content: bytes) -> None:
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)
