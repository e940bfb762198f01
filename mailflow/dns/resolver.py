"""What a resolver is: one question in, one Answer out, or DnsTemporary. (RFC 1034, 2308)

FOUND, NODATA and NXDOMAIN are facts about the DNS and therefore results; a server failure, a timeout or a refusal says
nothing about the name and is raised, because taking it for "no record" would let mail pass or bounce for want of an
answer. Names go in as raw text (a backslash is itself, never an escape) and are always absolute: no search list is ever
applied. The surprise: text that cannot be a DNS name at all is NXDOMAIN, answered without a query (RFC 7208 s4.3).
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import ClassVar, Generic, Protocol, TypeAlias, TypeVar

Clock: TypeAlias = Callable[[], float]
IpAddress: TypeAlias = IPv4Address | IPv6Address


class RdType(StrEnum):
    """The record types mail asks for; each is equal to its mnemonic (RdType.TXT == "TXT")."""

    A = "A"
    AAAA = "AAAA"
    CNAME = "CNAME"
    MX = "MX"
    NS = "NS"
    PTR = "PTR"
    TLSA = "TLSA"
    TXT = "TXT"


class AnswerStatus(Enum):
    """What the DNS said about a name and type."""

    FOUND = "found"
    NODATA = "nodata"
    """The name exists (perhaps only as an ancestor of others), but has no record of this type."""
    NXDOMAIN = "nxdomain"
    """Neither the name nor anything below it exists, or the text cannot be a DNS name."""


class DnsFailure(Enum):
    """Why there is no answer."""

    TIMEOUT = "timeout"
    SERVFAIL = "servfail"
    REFUSED = "refused"
    MALFORMED = "malformed"
    """Replies came that are no DNS messages, contradict themselves or loop."""
    UNREACHABLE = "unreachable"
    """The operating system could not carry the question to the server."""
    OTHER = "other"
    """An error code that is none of these (FORMERR, NOTIMP, NOTAUTH…)."""
    BUDGET = "budget"
    """This message has asked enough."""


@dataclass(frozen=True, slots=True)
class MxRecord:
    """A mail exchanger (RFC 5321 s5.1): lower preference first."""

    preference: int
    exchange: str

    @property
    def is_null(self) -> bool:
        """True for the null MX, which says the domain takes no mail (RFC 7505)."""
        return self.exchange == "."


@dataclass(frozen=True, slots=True)
class TlsaRecord:
    """A certificate association (RFC 6698 s2.1); `data` is the raw digest or certificate."""

    usage: int
    selector: int
    matching_type: int
    data: bytes


Record: TypeAlias = IPv4Address | IPv6Address | MxRecord | TlsaRecord | bytes | str
R_co = TypeVar("R_co", bound=Record, covariant=True)


@dataclass(frozen=True, slots=True)
class Answer(Generic[R_co]):
    """What the DNS says about one name and type.

    `records` holds A and AAAA as addresses, MX and TLSA as values, TXT as the bytes of one record (its strings joined
    without separator), PTR, CNAME and NS as lower-case absolute names without trailing dot; the root alone is ".". An
    octet that would confuse a reader of names (a dot inside a label, a backslash, anything outside printable ASCII) is
    written \\DDD. `ttl_s` is the life of the answer as received, not what is left of it. `canonical_name` ends the
    CNAME chain. `is_authenticated` is the AD bit: worth as much as the server and the way to it (RFC 6840 s5.8).
    """

    status: AnswerStatus
    records: tuple[R_co, ...] = ()
    ttl_s: int = 0
    canonical_name: str = ""
    is_authenticated: bool = False


class DnsTemporary(Exception):
    """The DNS gave no answer; asking again later may help."""

    retry_helps: ClassVar[bool] = True

    def __init__(self, kind: DnsFailure, name: str = "", rdtype: str = "") -> None:
        super().__init__(f"{name or 'DNS'} {rdtype}: {kind.value}" if rdtype else kind.value)
        self.kind = kind
        self.name = name
        self.rdtype = rdtype


class Resolver(Protocol):
    """Anything that answers DNS questions."""

    async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
        """Answer one question, following CNAMEs.

        `name` may hold U-labels and one trailing dot; it is absolute either way.
        Raises DnsTemporary where the DNS gave no answer, ValueError for a type not in RdType.
        """
        ...
