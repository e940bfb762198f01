"""pyspf as an oracle: its own evaluation, over a zone in the shape ZoneResolver takes.

Only its DNS is replaced, as its own test suite does; it is strict, and its limits are 10 lookups and, unless told
otherwise, 2 void ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import spf  # type: ignore[import-untyped]

Zone = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Verdict:
    """What pyspf says: the result, and its explanation on a fail or its own text."""

    status: str
    text: str


def ask_oracle(zone: Zone, *, ip: str, helo: str, sender: str, max_voids: int = 2) -> Verdict:
    """Evaluate once, over this zone alone."""
    with _dns_of(zone, max_voids):
        query = spf.query(i=ip, s=sender, h=helo, receiver="unknown", querytime=0)
        query.set_default_explanation("DEFAULT")
        status, _, text = query.check()
    return Verdict(status, text)


@contextmanager
def _dns_of(zone: Zone, max_voids: int) -> Iterator[None]:
    rows = {name.lower(): list(found) for name, found in zone.items()}

    def look_up(name: str, qtype: str, strict: bool = True, timeout: float = 0) -> list[Any]:
        del strict, timeout
        found = rows.get(name.lower(), [])
        records = [(key, value) for row in found if isinstance(row, dict) for key, value in row.items()]
        answer = [((name, key), _as_pydns(key, value)) for key, value in records if key in {qtype, "CNAME"}]
        if not answer and any(isinstance(row, str) for row in found):
            raise spf.TempError("DNS timeout")
        return answer

    before = spf.DNSLookup, spf.MAX_VOID_LOOKUPS
    spf.DNSLookup, spf.MAX_VOID_LOOKUPS = look_up, max_voids
    try:
        yield
    finally:
        spf.DNSLookup, spf.MAX_VOID_LOOKUPS = before


def _as_pydns(qtype: str, value: Any) -> Any:
    match qtype:
        case "TXT":
            strings = [value] if isinstance(value, str) else value
            return tuple(string.encode("latin-1") for string in strings)
        case "MX":
            return tuple(value)
        case _:
            return value
