"""A faulty DMARC record made good, in one of two ways. (RFC 9989 s4.7)

Pure. `repair` keeps the policy that the owner asks for, and reads what is plainly misspelt as what was meant;
`strengthen` goes one step further, to a policy that does something, for all names below as well.
"""

import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from typing import Final

from mailflow.mailauth.dmarc_record import MAX_URIS, DmarcRecord, Psd, parse_dmarc_record
from mailflow.mailauth.result import DmarcPolicy

STRICTNESS: Final = {policy: step for step, policy in enumerate(DmarcPolicy)}

_OPENING: Final = re.compile(r"\A[\s\"']{0,40}v?\s{0,9}=?\s{0,9}dmarc\s{0,9}1?\s{0,9};?", re.IGNORECASE)
_ADDRESS: Final = re.compile(r"([A-Za-z0-9.+_-]+@[A-Za-z0-9.-]+)(?:![0-9]+[kmgtKMGT]?)?")


def read_as_record(text: bytes) -> DmarcRecord:
    """Read what was meant to be a DMARC record as if it began as one must."""
    rest = _OPENING.sub("", text.decode("latin-1"), count=1).strip(" \t\"'")
    record = parse_dmarc_record(b"v=DMARC1;" + rest.encode("latin-1"))
    assert record is not None  # by its beginning
    return record


def repair(record: DmarcRecord, *, reports_to: str) -> bytes:
    """Give the record without its faults; `reports_to` gets reports where nobody does, "" for nobody."""
    return _write(record, _read_policies(record), is_testing=_is_testing(record), reports_to=reports_to)


def strengthen(record: DmarcRecord, *, reports_to: str, least: DmarcPolicy = DmarcPolicy.QUARANTINE) -> bytes:
    """Give the record with a policy of at least `least`, in force, and none for subdomains that is weaker."""
    policies = _read_policies(record)
    p = max(policies.get("p", least), least, key=STRICTNESS.__getitem__)
    strong = {"p": p} | {
        name: policy for name, policy in policies.items() if name != "p" and STRICTNESS[policy] >= STRICTNESS[p]
    }
    return _write(record, strong, is_testing=False, reports_to=reports_to)


def _write(record: DmarcRecord, policies: dict[str, DmarcPolicy], *, is_testing: bool, reports_to: str) -> bytes:
    tags = _read_tags(record)
    ruf = list(_repair_uris(tags.get("ruf", "")))
    rua = list(_repair_uris(tags.get("rua", ""))) or [reports_to] * bool(reports_to)
    values = {
        "p": policies["p"],
        "sp": policies.get("sp", ""),
        "np": policies.get("np", ""),
        "t": "y" if is_testing else "",
        "psd": "" if record.psd is Psd.UNKNOWN else record.psd,
        "adkim": "s" if record.is_dkim_strict else "",
        "aspf": "s" if record.is_spf_strict else "",
        "rua": ",".join(rua),
        "ruf": ",".join(ruf),
        "fo": ":".join(record.fo) if ruf and record.fo != ("0",) else "",
    }
    return "; ".join(["v=DMARC1", *(f"{name}={value}" for name, value in values.items() if value)]).encode("ascii")


def _read_policies(record: DmarcRecord) -> dict[str, DmarcPolicy]:
    tags = _read_tags(record)
    read = {"p": record.p or DmarcPolicy.NONE} | {
        name: policy for name, policy in (("sp", record.sp), ("np", record.np)) if policy is not None
    }
    for name in ("p", "sp", "np"):
        if name in tags and getattr(record, name) is None:
            for meant in get_close_matches(tags[name][:20].lower(), list(DmarcPolicy), n=1):
                read[name] = DmarcPolicy(meant)
    return read


def _is_testing(record: DmarcRecord) -> bool:
    """pct=0 was what t=y is now (RFC 9989 A.6)."""
    return record.is_testing or _read_tags(record).get("pct") == "0"


def _read_tags(record: DmarcRecord) -> dict[str, str]:
    tags: dict[str, str] = {}
    for part in record.text.split(";")[1:]:
        name, _, value = part.partition("=")
        tags.setdefault(name.strip(" \t").lower(), value.strip(" \t"))
    return tags


def _repair_uris(value: str) -> Iterator[str]:
    parsed = parse_dmarc_record(f"v=DMARC1; rua={value}".encode("ascii"))
    found: Iterable[str] = parsed.rua if parsed is not None else ()
    yield from found
    for part in value.split(",")[:MAX_URIS]:
        if bare := _ADDRESS.fullmatch(part.strip(" \t")):
            yield f"mailto:{bare[1]}"
