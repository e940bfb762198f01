"""Mail as an authenticated sender's: realistic header and text, one DKIM signature, and the DNS records behind it.

Every sender domain has an MX, SPF that passes 127.0.0.1 by an include, a DKIM key and a DMARC record that asks for
rejection. The envelope's sender is at its `bounces.` and the author at the domain itself, so that both SPF and DKIM
align, SPF after a tree walk. RSA keys take long to make: domains share a few, which nobody can tell from the DNS.
"""

import base64
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mailflow.mailauth import sign_dkim

CLIENT = "client.example"  # what the load client says it is
CLIENT_ZONE = (
    f"1.0.0.127.in-addr.arpa PTR {CLIENT}.",
    f"{CLIENT} A 127.0.0.1",
    f'{CLIENT} TXT "v=spf1 a -all"',
)
TEXT = (
    "a about account all and any are as at be been business can change come customer date delivery details do for "
    "from has have here if in information is it just know later like list mail make may meeting more much need new "
    "next no not now of offer on only or order our out over payment please price product question rate read see send "
    "service should so some store take than that the their them then there these they this time to today until up use "
    "was we week well were what when which will with work would year you your"
)
WORDS = TEXT.split()


@dataclass(frozen=True, slots=True)
class SenderDomain:
    """A domain that signs what it sends."""

    name: str
    selector: str
    key: RSAPrivateKey

    @property
    def zone(self) -> list[str]:
        """Its records, as lines of a zone file."""
        name = self.name
        public = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        record = f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode('ascii')}"
        strings = " ".join(f'"{record[start : start + 255]}"' for start in range(0, len(record), 255))
        return [
            f"{name} MX 10 mx.{name}.",
            f"mx.{name} A 192.0.2.25",
            f"{name} A 192.0.2.80",
            f'{name} TXT "v=spf1 ip4:192.0.2.0/24 include:_spf.{name} -all"',
            f'_spf.{name} TXT "v=spf1 ip4:198.51.100.0/24 ip4:127.0.0.1 -all"',
            f"bounces.{name} MX 10 mx.{name}.",
            f'bounces.{name} TXT "v=spf1 ip4:192.0.2.0/24 include:_spf.{name} -all"',
            f"{self.selector}._domainkey.{name} TXT {strings}",
            f'_dmarc.{name} TXT "v=DMARC1; p=reject; rua=mailto:dmarc@{name}"',
        ]


def make_keys(count: int) -> list[RSAPrivateKey]:
    """Make RSA keys of 2048 bits."""
    return [generate_private_key(public_exponent=65537, key_size=2048) for _ in range(count)]


def make_domains(prefix: str, count: int, keys: Sequence[RSAPrivateKey]) -> list[SenderDomain]:
    """Make as many domains, `PREFIX0.example` and on, which share the keys."""
    return [SenderDomain(f"{prefix}{n}.example", f"s{n % 7}", keys[n % len(keys)]) for n in range(count)]


class Writer:
    """Writes distinct signed messages; the same seed gives the same texts."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._number = 0
        self._paragraphs = [self._write_paragraph() for _ in range(500)]

    async def write(self, domains: Sequence[SenderDomain], messages: int, size_bytes: int) -> list[tuple[str, bytes]]:
        """Give messages from the domains in turn, each with the sender of its envelope."""
        return [await self.sign(domains[n % len(domains)], self.write_text(size_bytes - 1800)) for n in range(messages)]

    def write_text(self, size_bytes: int) -> bytes:
        """Give paragraphs of about this size in all."""
        text, octets = [], 0
        while octets < size_bytes:
            text.append(self._random.choice(self._paragraphs))
            octets += len(text[-1])
        return b"".join(text)[:size_bytes].rpartition(b"\r\n")[0] + b"\r\n"

    async def sign(self, domain: SenderDomain, body: bytes) -> tuple[str, bytes]:
        """Give a message of the domain with this body and the sender of its envelope."""
        self._number += 1
        message = self._write_header(domain.name) + b"\r\n" + body
        field = await sign_dkim(message, domain=domain.name, selector=domain.selector, key=domain.key)
        return f"bounce+{self._number}@bounces.{domain.name}", field + message

    def _write_header(self, domain: str) -> bytes:
        now = time.time()
        hops = [
            CLIENT,
            f"out.{domain}",
            f"relay.{domain}",
            f"app.{domain}",
            f"worker-{self._number % 9}.{domain}",
            "[10.0.0.7]",
        ]
        received = [
            f"Received: from {earlier} ({earlier} [192.0.2.{self._random.randrange(1, 255)}])\r\n"
            f"\tby {later} (Postfix) with ESMTPS id {self._random.getrandbits(40):010X}\r\n"
            f"\tfor <user@rcpt.example>; {formatdate(now - hop)}"
            for hop, (later, earlier) in enumerate(itertools.pairwise(hops))
        ]
        subject = " ".join(self._random.choices(WORDS, k=6))
        fields = [
            *received,
            f'From: "News of {domain}" <news@{domain}>',
            "To: A User <user@rcpt.example>",
            f"Subject: {subject} ({self._number})",
            f"Date: {formatdate(now)}",
            f"Message-ID: <{self._random.getrandbits(80):020x}.{self._number}@{domain}>",
            "MIME-Version: 1.0",
            "Content-Type: text/plain; charset=utf-8",
        ]
        return "".join(f"{field}\r\n" for field in fields).encode("ascii")

    def _write_paragraph(self) -> bytes:
        """Lines of words of up to 76 octets, some with runs of white space, and an empty line."""
        lines = []
        for _ in range(self._random.randrange(3, 12)):
            line = ""
            while len(line) < 68:
                line += self._random.choice(WORDS) + self._random.choices((" ", "  ", "\t"), (20, 2, 1))[0]
            lines.append(line[:76] if self._random.random() < 0.1 else line[:76].rstrip())
        return "\r\n".join([*lines, "", ""]).encode("ascii")
