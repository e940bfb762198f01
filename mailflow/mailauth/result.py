"""What the checks say: facts about a message, never decisions about it. (RFC 8601 s2.7 for the words)

Every check ends in one of these values, whatever the DNS or the sender did: temperror and permerror are results,
not exceptions. The words are those of Authentication-Results, and equal to their strings. What is accepted and what
is not is decided elsewhere, from all of them together. Texts in `reason` are ours and for people; what a sender or
his DNS wrote stands only in fields whose docstring says so, and is raw there.
"""

from dataclasses import dataclass
from enum import StrEnum


class AuthStatus(StrEnum):
    """A result word of RFC 8601; which of them a method can give is in s2.7."""

    NONE = "none"
    NEUTRAL = "neutral"
    PASS = "pass"  # noqa: S105  # a word of the RFC, no secret
    FAIL = "fail"
    SOFTFAIL = "softfail"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"
    POLICY = "policy"


class SpfIdentity(StrEnum):
    """Which of the two names a client gave was judged (RFC 7208 s2.3, s2.4)."""

    MAILFROM = "mailfrom"
    HELO = "helo"


class DmarcPolicy(StrEnum):
    """What a domain owner asks to be done with mail that fails (RFC 9989 s4.7), weakest first."""

    NONE = "none"
    QUARANTINE = "quarantine"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class SpfResult:
    """May this client send for this domain? (RFC 7208)

    `domain` is the domain judged, lower-case A-labels, raw where it is no domain name; `identity` HELO where the
    reverse path was null, so that postmaster@HELO stood for it (s2.4). `explanation` is the domain owner's own text
    (s6.2), checked for printable ASCII only, on fail alone. `term` is the mechanism that decided, as published, ""
    where none did, and `record_domain` the domain whose record it stands in (another after include or redirect).
    `lookups` counts the terms that asked the DNS (s4.6.4).
    """

    status: AuthStatus
    domain: str = ""
    identity: SpfIdentity = SpfIdentity.MAILFROM
    explanation: str | None = None
    term: str = ""
    record_domain: str = ""
    lookups: int = 0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class DkimResult:
    """Is this signature good, and whose is it? (RFC 6376)

    `domain` is d= as lower-case A-labels, `selector` s=, `auid` i= and `algorithm` a= as the signature has them, each
    "" where it could not be read: raw, a stranger wrote them. `tag_b` is the start of b= by which a reader tells
    signatures apart (RFC 6008). `is_testing` says the key's owner still tries out (t=y, s3.6.1).
    """

    status: AuthStatus
    domain: str = ""
    selector: str = ""
    algorithm: str = ""
    reason: str | None = None
    auid: str = ""
    tag_b: str = ""
    key_bits: int = 0
    is_testing: bool = False


@dataclass(frozen=True, slots=True)
class ArcSet:
    """One hop's set in a chain that was read (RFC 8617 s4): who sealed, and what it says it had found.

    `authentication_results` is the payload of its ARC-Authentication-Results behind `i=n;`, unfolded, raw.
    """

    instance: int
    domain: str
    selector: str
    authentication_results: str


@dataclass(frozen=True, slots=True)
class ArcResult:
    """Does the chain of custody hold? (RFC 8617 s5.2) A pass says who handled the message, not that it is good.

    `oldest_pass` is the lowest instance from which on every ARC-Message-Signature still verifies (s5.2 step 4), 0
    where all do or the chain is no pass. `sets` has the sets in order of their instance, empty unless it is a pass, or
    would be one if the DNS had answered (temperror).
    """

    status: AuthStatus
    oldest_pass: int = 0
    sets: tuple[ArcSet, ...] = ()
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class DmarcResult:
    """Does either of the message's authenticated domains stand for its author's domain? (RFC 9989)

    `policy` is what the record asks for this author domain (p, sp or np: `tag`), `disposition` what is left of it
    after t=y; both None without a record. `domain` is the organizational domain of the author domain. `record` is
    the record as published, at `record_domain`. `dkim_domains` are the d= that aligned.

    On temperror `aligned_spf` and `aligned_dkim` say what holds whatever the missing answer is, and `policy` is None
    where even the record is not known, else the strictest policy that the answer could bring.
    """

    status: AuthStatus
    policy: DmarcPolicy | None = None
    disposition: DmarcPolicy | None = None
    domain: str = ""
    aligned_spf: bool = False
    aligned_dkim: bool = False
    author_domain: str = ""
    record_domain: str = ""
    record: str = ""
    tag: str = ""
    dkim_domains: tuple[str, ...] = ()
    reason: str | None = None
