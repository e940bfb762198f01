"""Trace fields that we write: Received, Return-Path, Delivered-To (RFC 5321 s4.4, RFC 9228).

What a client claimed (its EHLO name) stands beside what we saw (its address, its reverse name), and
no foreign character gets in unchecked: a Received field that a client can shape is a forged trace.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from mailflow.mail.address import Address

_ATOM_UNSAFE = re.compile(r"[^A-Za-z0-9.:_\-]")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True, slots=True)
class Hop:
    """What we know of the hop that brought a message.

    `client_name` is the verified reverse name, None where there is none; `protocol` the word of RFC 3848 and
    RFC 6531 s4.3 (SMTP, ESMTP, ESMTPS, UTF8SMTPS…); `tls` the version and cipher, None in plain text.
    """

    helo: str
    client_ip: str
    client_name: str | None
    protocol: str
    tls: tuple[str, str] | None


def received_field(hop: Hop, *, hostname: str, id: str, recipient: Address | None, at: float) -> bytes:
    """Write the Received field, folded, with CRLF. `at` is a Unix time in seconds.

    `recipient` is named only where it is the only one (s7.2: others must not learn of it).
    """
    client_ip = hop.client_ip.partition("%")[0]  # a zone (`%eth0`) means nothing to others
    literal = f"IPv6:{client_ip}" if ":" in client_ip else client_ip
    # Who has a reverse zone has any octet in its names: verified is not harmless.
    client_name = _ATOM_UNSAFE.sub("", hop.client_name or "")
    tcp_info = f"{client_name} [{literal}]" if client_name else f"[{literal}]"
    lines = [f"Received: from {_extended_domain(hop.helo)} ({tcp_info})"]
    if hop.tls:
        version, cipher = (_ATOM_UNSAFE.sub("", word) for word in hop.tls)
        lines.append(f"(using {version} with cipher {cipher})")
    clause = f"by {hostname} with {hop.protocol} id {id}"
    lines.append(f"{clause} for <{recipient}>;" if recipient else f"{clause};")
    lines.append(format_date(at))
    return ("\r\n\t".join(lines) + "\r\n").encode()


def return_path_field(reverse_path: Address | None) -> bytes:
    """Write the Return-Path field that final delivery puts first (RFC 5321 s4.4)."""
    return f"Return-Path: <{reverse_path or ''}>\r\n".encode()


def delivered_to_field(recipient: Address) -> bytes:
    """Write the Delivered-To field by which a loop is seen (RFC 9228)."""
    return f"Delivered-To: {recipient}\r\n".encode()


def format_date(at: float) -> str:
    """Give a Unix time in seconds as an RFC 5322 s3.3 date-time in UTC; never in the locale's words."""
    return _format_second(int(at // 1))


@lru_cache(maxsize=16)  # all mail of a second has the same
def _format_second(at: int) -> str:
    t = datetime.fromtimestamp(at, UTC)
    return f"{_DAYS[t.weekday()]}, {t.day} {_MONTHS[t.month - 1]} {t:%Y %H:%M:%S} +0000"


def _extended_domain(helo: str) -> str:
    """Keep a Domain or address literal; anything else loses what is no part of one."""
    if helo.startswith("[") and helo.endswith("]"):
        return f"[{_ATOM_UNSAFE.sub('', helo[1:-1])}]"
    return _ATOM_UNSAFE.sub("", helo) or "unknown"
