"""DMARC policy records as values. (RFC 9989 s4.7, s4.8)

A text is a DMARC record by its first tag alone, `v=DMARC1`, of which only the value is case-sensitive. Behind it a
syntax error costs no more than its tag (s4.8), of a tag given twice the first counts, and unknown tags and those that
RFC 9989 removed say nothing. The surprise is in p, sp and np (s4.10.1): a p that is missing is p=none, one of the three
that is invalid makes the whole record p=none, and either holds only where rua names somebody to tell; else the record
stands, stops a walk and counts for its name, but asks for nothing (`policy_for` gives None).
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final, TypeVar

from mailflow.mailauth.result import DmarcPolicy

MAX_RECORD_OCTETS: Final = 8192  # that are read of a record; tags behind them say nothing
MAX_PROBLEMS: Final = 20
MAX_URIS: Final = 20  # of one tag; RFC 9990 asks to support two
_MAX_CACHED_OCTETS: Final = 1024

_VERSION: Final = re.compile(rb"[vV][ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
_TAG: Final = re.compile(r"([A-Za-z]+)[ \t]*=[ \t]*([\x20-\x3a\x3c-\x7e]*)")
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:(?:[A-Za-z0-9\-._~:/?#\[\]@$&'()*+=]|%[0-9A-Fa-f]{2})+")
_REPORT_SIZE: Final = re.compile(r"![0-9]+[kmgtKMGT]?\Z")
_FAILURE_OPTIONS: Final = re.compile(r"[01ds](?::[01ds]){0,3}")
_REMOVED: Final = {"pct": "t", "rf": "", "ri": ""}  # by RFC 9989, with what took their place
_POLICY_TAGS: Final = ("p", "sp", "np")
_KNOWN: Final = {*_POLICY_TAGS, "psd", "t", "adkim", "aspf", "rua", "ruf", "fo"}

_Word = TypeVar("_Word", bound=StrEnum)


class Psd(StrEnum):
    """What a record says of its name: a public suffix (y), an organizational domain (n), or nothing (u)."""

    YES = "y"
    NO = "n"
    UNKNOWN = "u"


@dataclass(frozen=True, slots=True)
class DmarcRecord:
    """One record. `p`, `sp` and `np` are None where absent or invalid; `is_testing` is t=y.

    `rua` and `ruf` are the syntactically valid URIs of each, at most MAX_URIS, without the size that older records
    append. `fo` holds the failure report options, ("0",) where ruf is absent. `text` is the record as published, octets
    outside ASCII escaped. `problems` are plain sentences for its owner, at most MAX_PROBLEMS.
    """

    text: str
    p: DmarcPolicy | None = None
    sp: DmarcPolicy | None = None
    np: DmarcPolicy | None = None
    psd: Psd = Psd.UNKNOWN
    is_testing: bool = False
    is_dkim_strict: bool = False
    is_spf_strict: bool = False
    rua: tuple[str, ...] = ()
    ruf: tuple[str, ...] = ()
    fo: tuple[str, ...] = ("0",)
    has_invalid_policy: bool = False
    problems: tuple[str, ...] = ()

    def policy_for(self, *, is_subdomain: bool, exists: bool = True) -> tuple[DmarcPolicy, str] | None:
        """Give the policy for the record's own name or a name below it, and the tag it came from (s4.10.1).

        None where the record asks for nothing: no valid p, or an invalid sp or np, and no valid rua.
        """
        if (self.p is None or self.has_invalid_policy) and not self.rua:
            return None
        if self.has_invalid_policy:
            return DmarcPolicy.NONE, "p"
        if is_subdomain and not exists and self.np is not None:
            return self.np, "np"
        if is_subdomain and self.sp is not None:
            return self.sp, "sp"
        return self.p or DmarcPolicy.NONE, "p"

    def disposition_of(self, policy: DmarcPolicy) -> DmarcPolicy:
        """Give what is left of a policy where its owner still tests it: one step less (s4.7, t)."""
        if not self.is_testing:
            return policy
        return DmarcPolicy.QUARANTINE if policy is DmarcPolicy.REJECT else DmarcPolicy.NONE


def is_dmarc_record(data: bytes) -> bool:
    """Tell whether a TXT record is a DMARC record; what is not is as if it were not there (s4.10)."""
    return _VERSION.match(data) is not None


def select_records(records: Iterable[bytes]) -> list[bytes]:
    """Give those TXT records of a name that are DMARC records. Where they are several, none of them counts (s4.10)."""
    return [data for data in records if is_dmarc_record(data)]


def parse_dmarc_record(data: bytes) -> DmarcRecord | None:
    """Parse one TXT record, its strings joined; None where it is no DMARC record. Linear, and never raises."""
    return _parse_cached(data) if len(data) <= _MAX_CACHED_OCTETS else _parse(data)


def _parse(data: bytes) -> DmarcRecord | None:
    version = _VERSION.match(data)
    if version is None:
        return None
    problems: list[str] = []
    text = data[version.end() :].decode("latin-1")
    if len(data) > MAX_RECORD_OCTETS:
        text = text[:MAX_RECORD_OCTETS].rpartition(";")[0]
        problems.append(f"what stands behind the first {MAX_RECORD_OCTETS} octets is ignored")
    tags = _read_tags(text, problems)
    policies = {name: _read_word(tags, name, DmarcPolicy, problems) for name in _POLICY_TAGS}
    has_invalid_policy = any(name in tags and policy is None for name, policy in policies.items())
    rua = _read_uris(tags, "rua", problems)
    ruf = _read_uris(tags, "ruf", problems)
    if policies["p"] is None or has_invalid_policy:
        what = "an invalid policy" if has_invalid_policy else "no p="
        counts = "counts as p=none" if rua else "does nothing, as it has no valid rua= either"
        problems.append(f"the record has {what} and {counts}")
    psd = _read_word(tags, "psd", Psd, problems)
    is_testing = _read_flag(tags, "t", "y", "n", problems)
    is_dkim_strict = _read_flag(tags, "adkim", "s", "r", problems)
    is_spf_strict = _read_flag(tags, "aspf", "s", "r", problems)
    return DmarcRecord(
        text=data.decode("ascii", "backslashreplace"),
        p=policies["p"],
        sp=policies["sp"],
        np=policies["np"],
        psd=psd or Psd.UNKNOWN,
        is_testing=is_testing,
        is_dkim_strict=is_dkim_strict,
        is_spf_strict=is_spf_strict,
        rua=rua,
        ruf=ruf,
        fo=_read_failure_options(tags, problems),
        has_invalid_policy=has_invalid_policy,
        problems=tuple(problems[:MAX_PROBLEMS]),
    )


_parse_cached: Callable[[bytes], DmarcRecord | None] = lru_cache(maxsize=1024)(_parse)


def _read_tags(text: str, problems: list[str]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for part in text.split(";"):
        part = part.strip(" \t")
        if not part:
            continue
        match = _TAG.match(part)
        if match is None:
            problems.append(f"not a tag: {_show(part)}")
            continue
        name = match[1].lower()
        if name in tags or name == "v":
            problems.append(f"{name}= is there more than once, and only the first counts")
            continue
        # A value with an octet no value may have is kept as one that nothing accepts.
        tags[name] = match[2] if match.end() == len(part) else ""
        if name in _REMOVED:
            instead = f", {_REMOVED[name]}= took its place" if _REMOVED[name] else ""
            problems.append(f"{name}= was removed by RFC 9989 and is ignored{instead}")
        elif name not in _KNOWN:
            problems.append(f"unknown tag, ignored: {_show(name)}")
    return tags


def _read_word(tags: dict[str, str], name: str, kind: type[_Word], problems: list[str]) -> _Word | None:
    value = tags.get(name)
    if value is None:
        return None
    try:
        return kind(value.lower())
    except ValueError:
        problems.append(f"{name}= must be one of {', '.join(kind)}")
        return None


def _read_flag(tags: dict[str, str], name: str, on: str, off: str, problems: list[str]) -> bool:
    value = tags.get(name, off).lower()
    if value not in {on, off}:
        problems.append(f"{name}= must be {on} or {off}, and counts as {off}")
    return value == on


def _read_uris(tags: dict[str, str], name: str, problems: list[str]) -> tuple[str, ...]:
    if name not in tags:
        return ()
    uris: list[str] = []
    for part in tags[name].split(","):
        written = part.strip(" \t")
        uri = _REPORT_SIZE.sub("", written)
        if uri != written:
            problems.append(f"{name}= has a size limit, which RFC 9989 made obsolete")
        if not _is_uri(uri):
            problems.append(f"{name}= has what is no URI: {_show(written)}")
        elif len(uris) < MAX_URIS:
            uris.append(uri)
    return tuple(uris)


def _is_uri(text: str) -> bool:
    if not _URI.fullmatch(text):
        return False
    scheme, _, rest = text.partition(":")
    if scheme.lower() != "mailto":
        return True
    local, _, domain = rest.partition("?")[0].rpartition("@")
    return bool(local and domain)


def _read_failure_options(tags: dict[str, str], problems: list[str]) -> tuple[str, ...]:
    value = tags.get("fo", "0").lower().replace(" ", "")
    options = tuple(value.split(":"))
    is_valid = (
        _FAILURE_OPTIONS.fullmatch(value) and len(set(options)) == len(options) and not {"0", "1"} <= set(options)
    )
    if not is_valid:
        problems.append("fo= must be 0 or 1, d and s, each once, with colons between, and counts as 0")
    elif "fo" in tags and "ruf" not in tags:
        problems.append("fo= says nothing without ruf=")
    return options if is_valid and "ruf" in tags else ("0",)


def _show(text: str) -> str:
    return ascii(text[:40])[1:-1]
