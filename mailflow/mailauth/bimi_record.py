"""BIMI records: which logo a domain wants beside its mail. (draft-brand-indicators-for-message-identification)

Pure, and only for telling a domain owner what the world sees: no mail is judged by it. Records stand as TXT at
`<selector>._bimi.<domain>`, the selector most use is `default`. Both locations empty is no error but a word: no logo
(s4.4.1). Neither document is fetched.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

MAX_PROBLEMS = 20

_VERSION = re.compile(rb"v[ \t]*=[ \t]*BIMI1[ \t]*(?:;|\Z)")
_TAG = re.compile(r"([A-Za-z][A-Za-z0-9_]*)[ \t]*=([\x20-\x3a\x3c-\x7e\t]*)")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
# An FQDN, so no literal address and no user; RFC 3986 s3.3-3.5 for the rest. A comma must be written %2C.
_HTTPS = re.compile(
    rf"(?i:https)://{_LABEL}(?:\.{_LABEL})+(?::[0-9]{{1,5}})?(?P<path>/(?:[A-Za-z0-9._~!$&'()*+;=:@/-]|%[0-9A-Fa-f]{{2}})*)?"
    r"(?:\?(?:[A-Za-z0-9._~!$&'()*+;=:@/?-]|%[0-9A-Fa-f]{2})*)?"
)
_PREFERENCES = ("brand", "personal")


@dataclass(frozen=True, slots=True)
class BimiRecord:
    """What the TXT records of one name say. `logo_uri` is l= (SVG), `evidence_uri` a= (a mark certificate); "" if none.

    `problems` are plain sentences for the owner; what he wrote stands in them as Python text, escaped. A record with
    problems shows no logo everywhere, if anywhere.
    """

    is_present: bool
    logo_uri: str = ""
    evidence_uri: str = ""
    problems: tuple[str, ...] = ()

    @property
    def is_valid(self) -> bool:
        """Tells whether there is one record without a fault."""
        return self.is_present and not self.problems

    @property
    def is_declined(self) -> bool:
        """Tells whether the owner says that there shall be no logo."""
        return self.is_valid and not self.logo_uri


def read_bimi_records(texts: Iterable[bytes]) -> BimiRecord:
    """Read the TXT records of a name; those that do not begin with v=BIMI1 are others' and count for nothing."""
    records = [text for text in texts if _VERSION.match(text)]
    if not records:
        return BimiRecord(is_present=False)
    if len(records) > 1:
        return BimiRecord(is_present=True, problems=(f"there are {len(records)} BIMI records, so that none counts",))
    return _parse(records[0].decode("latin-1"))


def _parse(text: str) -> BimiRecord:
    tags: dict[str, str] = {}
    problems = []
    for part in (part.strip(" \t") for part in text.split(";")):
        match = _TAG.fullmatch(part)
        if match and match[1].lower() not in tags:
            tags[match[1].lower()] = match[2].strip(" \t")
        elif match:
            problems.append(f"{match[1].lower()}= stands there twice")
        elif part:
            problems.append(f"{_shorten(part)} is no tag")
    logo, evidence = tags.get("l"), tags.get("a", "")
    if logo is None:
        problems.append("l= is missing: it names the logo, or is empty to say that there is none")
    elif not logo and evidence:
        problems.append("a= names evidence for a logo, but l= names none")
    problems += [
        f"l={_shorten(logo)}: {fault}" for fault in _find_faults(logo or "", (".svg", ".svgz", ".svg.gz")) if logo
    ]
    problems += [f"a={_shorten(evidence)}: {fault}" for fault in _find_faults(evidence, (".pem",))]
    if tags.get("avp", "brand").lower() not in _PREFERENCES:
        problems.append(f"avp={_shorten(tags['avp'])}: allowed is brand or personal")
    return BimiRecord(True, logo or "", evidence, tuple(problems[:MAX_PROBLEMS]))


def _find_faults(uri: str, suffixes: tuple[str, ...]) -> list[str]:
    if not uri:
        return []
    match = _HTTPS.fullmatch(uri)
    if not match:
        return ["must be one https URI with a host name"]
    return [] if (match["path"] or "").lower().endswith(suffixes) else [f"its path does not end in {suffixes[0]}"]


def _shorten(text: str | None) -> str:
    text = text or ""
    return ascii(text if len(text) <= 80 else text[:80] + "...")
