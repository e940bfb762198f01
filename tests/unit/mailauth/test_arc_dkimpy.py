"""Chains of any length, sealed by us and by dkimpy in turn and changed on their way: both tell the same of them."""

import asyncio
import logging
from collections.abc import Callable

import dkim  # type: ignore[import-untyped]
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailflow.mailauth import seal_arc, verify_arc
from mailflow.mailauth.result import ArcResult
from tests.arc_chains import HOPS, NOW, SELECTOR, resolver, zone
from tests.dkim_keys import rsa_key

PEM = rsa_key().private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
RECORDS = {name + ".": rows[0]["TXT"].encode() for name, rows in zone(*HOPS).items()}
ARC = b"ARC-"
logging.getLogger("dkimpy").setLevel(logging.CRITICAL)  # it tells every fault
CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda message: message,
    "footer": lambda message: message + b"-- \r\nfooter\r\n",
    "white space in the body": lambda message: message.replace(b"Hello there", b"Hello \t there "),
    "empty lines at the end": lambda message: message + b"\r\n\r\n",
    "subject": lambda message: message.replace(b"Subject: ", b"Subject: [list] "),
    "white space in the header": lambda message: message.replace(b"Subject: ", b"SUBJECT: \t"),
    "trace": lambda message: b"Received: from x by y; Thu, 1 Jan 1970 00:00:00 +0000\r\n" + message,
}
MESSAGES = st.sampled_from(
    [
        b"From: a@author.example\r\nTo: b@list.example\r\nSubject: Hi\r\nDate: today\r\n\r\nHello there\r\n",
        b"Received: x\r\nReceived: y\r\nSubject: a\r\n b\r\n\tc \r\nfrom:a@author.example\r\n\r\n",
        b"From: a@author.example\r\nSubject: x\r\n\r\n\r\n\r\nHello there\r\n \r\n\r\n",
    ]
)
HOP = st.tuples(st.booleans(), st.sampled_from(list(CHANGES)))
# How the chain is broken at the end: (number of the field counted from the top, what becomes of it).
TAMPERING = st.none() | st.tuples(st.integers(0, 14), st.sampled_from(["drop", "repeat", "cut", "letter", "fold"]))


def verify(message: bytes) -> ArcResult:
    return asyncio.run(verify_arc(message, resolver=resolver(*HOPS), now=NOW))


def verify_by_dkimpy(message: bytes) -> str:
    def find_key(name: bytes, timeout: int = 5) -> bytes | None:
        return RECORDS.get(name.decode())

    status, _, _ = dkim.arc_verify(message, dnsfunc=find_key)
    return status.decode() if status else "fail"  # None: the chain has ended


def seal(message: bytes, arc: ArcResult, domain: str) -> bytes:
    sealing = seal_arc(
        message,
        domain=domain,
        selector=SELECTOR,
        key=rsa_key(),
        authserv_id=f"mx.{domain}",
        authentication_results="dmarc=pass header.from=author.example;\r\n spf=fail",
        arc=arc,
        now=NOW,
    )
    return asyncio.run(sealing) + message


def seal_by_dkimpy(message: bytes, arc: ArcResult, domain: str) -> bytes:
    results = f"Authentication-Results: mx.{domain}; dmarc=pass; arc={arc.status.value}\r\n"
    message = results.encode() + message
    fields = dkim.arc_sign(message, SELECTOR.encode(), domain.encode(), PEM, f"mx.{domain}".encode(), timestamp=NOW)
    return b"".join(fields) + message


def tamper(message: bytes, number: int, how: str) -> bytes:
    header, _, body = message.partition(b"\r\n\r\n")
    fields = header.replace(b"\r\n ", b"\0").replace(b"\r\n\t", b"\1").split(b"\r\n")
    positions = [position for position, field in enumerate(fields) if field.startswith(ARC)]
    if number >= len(positions):
        return message
    position = positions[number]
    field = fields[position]
    middle = len(field) // 2
    fields[position : position + 1] = {
        "drop": [],
        "repeat": [field, field],
        "cut": [field[:middle]],
        "letter": [field[:middle] + b"x" + field[middle:]],
        "fold": [field.replace(b"; ", b";\0")],
    }[how]
    return b"\r\n".join(fields).replace(b"\0", b"\r\n ").replace(b"\1", b"\r\n\t") + b"\r\n\r\n" + body


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(MESSAGES, st.lists(HOP, max_size=5), TAMPERING)
def test_both_tell_the_same_of_a_chain_that_both_have_sealed(
    message: bytes, hops: list[tuple[bool, str]], tampering: tuple[int, str] | None
) -> None:
    changed_at = 0
    for number, (is_ours, change) in enumerate(hops):
        arc = verify(message)
        assert arc.status.value == verify_by_dkimpy(message)
        message = CHANGES[change](message)
        if verify(message) != arc:
            changed_at = number
        message = (seal if is_ours else seal_by_dkimpy)(message, arc, HOPS[number])
    result = verify(message)
    assert result.status.value == verify_by_dkimpy(message) == ("pass" if hops else "none")
    assert result.oldest_pass == (changed_at + 1 if changed_at else 0)
    if tampering:
        message = tamper(message, *tampering)
        assert verify(message).status.value == verify_by_dkimpy(message)
