"""The keys: every one with its default, unit, range and meaning. This is the only list of them.

Attribute names are the names in the file. Defaults are written as the file would write them and
pass the same checks. `mailflow config-reference`, docs/configuration.md and the text of faults are
made from this module, so a key that is not here does not exist, and a key that is here works.
Checks that span tables are in contradiction.py.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, PrivateAttr, Tag, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

import mailflow.config.value as v
from mailflow.mail.address_map import AddressMap

MAX_DURATION_S = 86400
MAX_BYTES = 1 << 40


def declare(
    default: Any,
    description: str,
    *,
    allowed: str = "",
    unit: str = "",
    at_least: float | None = None,
    at_most: float | None = None,
    example: Any = None,
    is_secret: bool = False,
    **constraints: Any,
) -> Any:
    """Declare a key. `allowed` is derived from the bounds where they say it all; `...` as default means required.

    No text ever shows the value of one that `is_secret`.
    """
    if at_least is not None:
        # TOML's 5 and 5.0, true and "5" are different things: no guessing.
        constraints |= {"ge": at_least, "le": at_most, "strict": True}
        allowed = allowed or f"{at_least} to {at_most}"
    extra = {
        "unit": unit,
        "allowed": allowed,
        "example": default if example is None else example,
        "is_secret": is_secret,
    }
    return Field(default, description=description, json_schema_extra=extra, **constraints)


def declare_duration(default: float, description: str, *, at_least: float = 0.01) -> Any:
    """Declare a key in seconds; fractions are allowed."""
    return declare(default, description, unit="seconds", at_least=at_least, at_most=MAX_DURATION_S)


def describe_allowed(info: FieldInfo) -> str:
    """Tell in words what a key may hold; reference and faults say the same."""
    extra = info.json_schema_extra
    if isinstance(extra, dict) and extra["allowed"]:
        kind = "a whole number, " if info.annotation is int else "a number, " if info.annotation is float else ""
        return f"{kind}{extra['allowed']}"
    choices = get_args(info.annotation)
    return "one of " + ", ".join(f'"{choice}"' for choice in choices) if choices else "true or false"


class Table(BaseModel):
    """A table of the file: frozen, and an unknown key is a fault."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class MxTable(Table):
    """Port 25: what is taken from other mail servers, and its limits."""

    listen: tuple[v.ListenAddress, ...] = declare(
        ["0.0.0.0:25", "[::]:25"], "Where to listen for mail.", allowed=f"a list, each item {v.LISTEN}", min_length=1
    )
    proxy_protocol_from: tuple[v.Network, ...] = declare(
        [],
        "Networks whose connections must begin with a PROXY v1 or v2 header with the true client; nobody else's may.",
        allowed=f"a list, each item {v.NETWORK}",
    )
    relay_from: tuple[v.Network, ...] = declare(
        [],
        'Networks whose clients may send to any domain, by the route "*". Ignored while the true client is in doubt.',
        allowed=f"a list, each item {v.NETWORK}",
    )
    max_message_bytes: int = declare(
        52428800, "Largest message taken, announced by SIZE (RFC 1870).", unit="bytes", at_least=1, at_most=2147483647
    )
    max_recipients: int = declare(1000, "Most recipients of one transaction.", at_least=1, at_most=100000)
    max_connections: int = declare(5000, "Most sessions at once, per worker.", at_least=1, at_most=1000000)
    max_connections_per_client: int = declare(
        50,
        "Most sessions at once of one client network (IPv4 /24, IPv6 /64), per installation.",
        at_least=1,
        at_most=1000000,
    )
    max_errors: int = declare(
        20, "Commands refused with 5xx in one session before it ends with 421.", at_least=1, at_most=10000
    )
    max_line_octets: int = declare(
        2048, "Longest line taken, with its CRLF.", unit="octets", at_least=512, at_most=1048576
    )
    max_header_bytes: int = declare(
        262144, "Largest header of a message.", unit="bytes", at_least=512, at_most=67108864
    )
    command_timeout_s: float = declare_duration(300, "How long a silent client is waited for between commands.")
    data_timeout_s: float = declare_duration(180, "How long a client may make no progress inside a message.")
    min_data_rate: int = declare(
        100,
        "Slowest rate of a message, measured over data_timeout_s; 0: none is asked for.",
        unit="octets per second",
        at_least=0,
        at_most=1000000000,
    )
    bare_newline: Literal["reject", "normalize"] = declare(
        "reject", 'A bare CR or LF in a message: refuse it, or make it CRLF. "\\n.\\n" never ends a message either way.'
    )
    postmaster: v.Mailbox = declare(
        "",
        "Who gets mail for <postmaster> without a domain. Empty: postmaster@ the first exact domain of the routes.",
        allowed=f'{v.MAILBOX} in a domain of the routes, or ""',
    )


class TlsTable(Table):
    """STARTTLS on the listeners. Both keys or neither; without them STARTTLS is not offered."""

    certificate: v.ReadableFile = declare("", "Certificate chain in PEM, our own first.", allowed='a file, or ""')
    key: v.ReadableFile = declare(
        "", "The certificate's private key in PEM, without a password.", allowed='a file, or ""'
    )

    @model_validator(mode="after")
    def _check_pair(self) -> Self:
        if bool(self.certificate) != bool(self.key):
            missing = "key" if self.certificate else "certificate"
            raise _contradiction(missing, "a file, since the other of certificate and key is set")
        if self.certificate and self.key:
            _load_pair(self.certificate, self.key)
        return self


class DnsTable(Table):
    """DNS."""

    nameservers: tuple[v.Nameserver, ...] = declare(
        [], "Recursive resolvers to ask. Empty: the system's.", allowed=f"a list, each item {v.NAMESERVER}"
    )


class MailauthTable(Table):
    """Who sent a message, and what is done with one that its author's domain does not stand for (RFC 9989)."""

    authserv_id: v.OptionalHostName = declare(
        "",
        "Our name in Authentication-Results, the same for every Pod (RFC 8601). Empty: hostname. Fields of others that "
        "bear it are removed.",
        allowed=f'{v.HOST_NAME}, or ""',
    )
    dmarc: Literal["enforce", "monitor"] = declare(
        "enforce",
        "Refuse or quarantine what authentication says to, or judge everything and only write down what would be done.",
    )
    on_temperror: Literal["defer", "accept"] = declare(
        "defer", "A message whose fate hangs on a DNS answer that does not come: 451, or taken."
    )
    trusted_arc_sealers: tuple[v.HostName, ...] = declare(
        [],
        "Domains whose ARC seal is believed where it says that a message passed before it was changed (RFC 8617).",
        allowed=f"a list, each item {v.HOST_NAME}",
    )
    allow: tuple[v.Allowed, ...] = declare(
        [],
        "Mail that DMARC neither refuses nor puts in quarantine, by its author's domain and where it comes from.",
        allowed=f"a list, each item {v.ALLOWANCE}",
    )
    received_spf: bool = declare(False, "Write a Received-SPF field as well (RFC 7208 s9.1).", strict=True)


class LmtpBackend(Table):
    """A mailbox server that speaks LMTP (RFC 2033)."""

    name: v.BackendName = declare(..., "The name routes use.", example="mailbox", allowed="a name")
    lmtp: tuple[v.LmtpServer, ...] = declare(
        ...,
        "The servers. Each user has one of them, always the same; the next one only while his is down.",
        allowed=f"a list, each item {v.LMTP_SERVER}",
        example=["dovecot-0.dovecot:24", "dovecot-1.dovecot:24"],
        min_length=1,
    )
    tls: Literal["off", "starttls", "tls"] = declare(
        "off", "TLS to the server, its certificate verified: none, by STARTTLS, or from the first byte. Not with unix:."
    )
    tls_ca: v.CaFile = declare(
        "", "CA certificates that vouch for the server, in PEM. Empty: the system's.", allowed='a file, or ""'
    )
    connections: int = declare(20, "Most connections to each server, shared by the workers.", at_least=1, at_most=10000)
    connect_timeout_s: float = declare_duration(10, "How long a connection may take to stand, TLS included.")
    reply_timeout_s: float = declare_duration(
        600, "How long the server may take to answer after the final dot (RFC 1047, RFC 5321 s4.5.3.2.6)."
    )
    handoff_deadline_s: float = declare_duration(20, "How long a hand-off may take until our final dot.")
    when_unverifiable: Literal["defer", "accept"] = declare(
        "defer", "A recipient that cannot be verified because the server does not answer: 451, or taken on trust."
    )
    quarantine: v.Quarantine = declare(
        "header",
        "Mail in quarantine: delivered with the field X-Spam-Flag: YES, or with it to a subaddress.",
        allowed=v.QUARANTINE,
    )

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if self.tls != "off" and any(isinstance(server, v.UnixPath) for server in self.lmtp):
            raise _contradiction("tls", '"off" with a unix socket')
        if self.tls == "off" and self.tls_ca is not None:
            raise _contradiction("tls_ca", '"" while tls is "off"')
        return self


class MaildirBackend(Table):
    """Mailboxes on this machine's disk: <maildir>/<domain>/<local part>/{tmp,new,cur}."""

    name: v.BackendName = declare(..., "The name routes use.", example="embedded", allowed="a name")
    maildir: v.Folder = declare(..., "The folder of the mailboxes.", example="var/mail", allowed="the path of a folder")
    create: bool = declare(
        False,
        "Take mail for everybody and make the folders. Otherwise a recipient exists if and only if its folder does.",
        strict=True,
    )
    quarantine: v.Quarantine = declare(
        "header",
        "Mail in quarantine: delivered with the field X-Spam-Flag: YES, or with it to a subaddress.",
        allowed=v.QUARANTINE,
    )


def _backend_kind(table: Any) -> str:
    """Tell the kind of a [[backend]] table; one with both keys is read as LMTP, where `maildir` is then the fault."""
    if isinstance(table, MaildirBackend):
        return "maildir"
    return "maildir" if isinstance(table, dict) and "maildir" in table and "lmtp" not in table else "lmtp"


Backend = Annotated[
    Annotated[LmtpBackend, Tag("lmtp")] | Annotated[MaildirBackend, Tag("maildir")], Discriminator(_backend_kind)
]


class RouteTable(Table):
    """Domains of ours and the backend that has their mailboxes."""

    domains: tuple[v.RouteDomain, ...] = declare(
        ...,
        "Domains we take mail for.",
        allowed=f"a list, each item {v.ROUTE_DOMAIN}",
        example=["example.org"],
        min_length=1,
    )
    backend: str = declare(
        ..., "The name of the backend.", example="mailbox", allowed="the name of a backend", strict=True
    )
    aliases: v.AddressFile = declare(
        "",
        'A TOML file of aliases, "info@example.org" = "alice@example.org": one target, in a domain of the routes. Read'
        " again when it changes, as is map.",
        allowed='a file, or ""',
    )
    catch_all: v.Mailbox = declare(
        "",
        "Who gets the mail of users that the backend does not know. Empty: they are refused.",
        allowed=f'{v.MAILBOX} in a domain of the routes, or ""',
    )
    subaddress: v.Subaddress = declare(
        "+",
        "What separates the user from the detail in an address, alice+lists@example.org. Empty: nothing does.",
        allowed=v.SUBADDRESS,
    )
    map: v.AddressFile = declare(
        "",
        'A TOML file of users whose backend is another, "alice@example.org" = "mailbox".',
        allowed='a file, or ""',
    )


class StoreTable(Table):
    """Where a message is kept, durably, that was answered 250 and is not in its mailbox yet.

    Without a store each message goes to one mailbox within its SMTP session, and what cannot be delivered now is 451.
    """

    url: v.StoreUrl = declare(
        "",
        "SQLite on this machine's disk, a file for each worker (PATH, PATH.1, PATH.2, …), or a PostgreSQL that all "
        "Pods share. A path after sqlite:// that does not begin with a slash is from the file's folder.",
        allowed=v.STORE_URL,
        example="sqlite:///var/lib/mailflow/queue.db",
        is_secret=True,
    )
    lease_s: float = declare_duration(
        60, "After how long without a heartbeat of its worker a message goes to another.", at_least=5
    )
    first_retry_s: float = declare_duration(
        300, "How long a message that could not be delivered waits; later tries are further apart.", at_least=1
    )
    expire_s: float = declare(
        432000,
        "How long delivery is tried before the message is returned.",
        unit="seconds",
        at_least=1,
        at_most=2592000,
    )
    min_free_bytes: int = declare(
        0,
        "Room that the disk of an SQLite store must have: below it mail is 452, while the queue is emptied further. 0:"
        " twice max_message_bytes.",
        unit="bytes",
        at_least=0,
        at_most=MAX_BYTES,
    )


class LimitsTable(Table):
    """Limits beyond a single session."""

    url: v.LimitsUrl = declare(
        "memory://",
        "Where limits per client network are counted: in this Pod alone, or in a Redis or Valkey that all Pods share; "
        "while that is down, in each Pod alone.",
        allowed=v.LIMITS_URL,
        is_secret=True,
    )

    bytes_in_flight: int = declare(
        536870912,
        "Messages held in memory by all sessions of a worker.",
        unit="bytes",
        at_least=1024,
        at_most=MAX_BYTES,
    )
    connections_per_minute_per_client: int = declare(
        0,
        "Most new connections a minute from one client network (IPv4 /24, IPv6 /64), per installation; 0: no limit.",
        at_least=0,
        at_most=1000000,
    )


class DrainTable(Table):
    """What happens on SIGTERM."""

    delay_s: float = declare_duration(0, "Go on as before for this long, while the endpoint is withdrawn.", at_least=0)
    timeout_s: float = declare_duration(60, "After the delay, how long transactions may take to finish.", at_least=0)


class LogTable(Table):
    """The log: one JSON line per event on stdout."""

    level: Literal["debug", "info", "warning", "error"] = declare(
        "info", "The least severe events written. Decisions about mail are always written."
    )
    buffer_bytes: int = declare(
        8388608,
        "Lines held while the reader stalls; beyond it they are dropped.",
        unit="bytes",
        at_least=16384,
        at_most=1 << 30,
    )


class AdminTable(Table):
    """Probes, metrics, and the queue over HTTP."""

    listen: v.ListenAddress = declare(
        "127.0.0.1:8080", "Where /livez, /readyz, /startupz, /metrics and /api are served.", allowed=v.LISTEN
    )
    token_file: v.ReadableFile = declare(
        "",
        "A file with the token that /api asks for, as a Bearer token. Without one /api is answered on loopback alone.",
        allowed='a file, or ""',
    )


class Settings(Table):
    """The whole configuration, checked."""

    hostname: v.HostName = declare(
        ...,
        "The service's name in EHLO and Received, not the Pod's.",
        allowed=v.HOST_NAME,
        example="mx1.example.org",
    )
    roles: tuple[Literal["mx", "delivery", "admin"], ...] = declare(
        ["mx", "delivery", "admin"],
        "What this process runs. An SQLite store is delivered from by its own workers, whatever stands here.",
        allowed='a list, each item "mx", "delivery" or "admin"',
        min_length=1,
    )
    workers: int = declare(
        0,
        "Worker processes; 0: as many as the CPU quota has whole CPUs, at least one.",
        at_least=0,
        at_most=256,
    )
    mx: MxTable = Field(default_factory=MxTable)
    tls: TlsTable = Field(default_factory=TlsTable)
    dns: DnsTable = Field(default_factory=DnsTable)
    mailauth: MailauthTable = Field(default_factory=MailauthTable)
    backend: tuple[Backend, ...] = Field((), description="Mailbox servers, one table each.")
    route: tuple[RouteTable, ...] = Field((), description="Which domains go to which backend, one table each.")
    store: StoreTable = Field(default_factory=StoreTable)
    limits: LimitsTable = Field(default_factory=LimitsTable)
    drain: DrainTable = Field(default_factory=DrainTable)
    log: LogTable = Field(default_factory=LogTable)
    admin: AdminTable = Field(default_factory=AdminTable)
    # Not keys: what the files of addresses held when they were checked. A worker that starts later needs no file.
    _address_maps: dict[Path, AddressMap] = PrivateAttr(default_factory=dict)

    @property
    def address_maps(self) -> Mapping[Path, AddressMap]:
        """The contents of the routes' files, by path, as they were when the configuration was loaded."""
        return self._address_maps

    def keep_address_maps(self, maps: Mapping[Path, AddressMap]) -> None:
        """Take along the contents of the routes' files; only loading does this, before anybody has the settings."""
        self._address_maps = dict(maps)

    @property
    def postmaster(self) -> str:
        """The address that gets mail for <postmaster>: `mx.postmaster`, or one of the routes; "" without any."""
        exact = (domain for route in self.route for domain in route.domains if domain[0] not in ".*")
        first = next(exact, "")
        return self.mx.postmaster or (f"postmaster@{first}" if first else "")


def _contradiction(field: str, allowed: str) -> PydanticCustomError:
    """Blame one key of a table for what only the whole table shows."""
    return PydanticCustomError("contradiction", "{allowed}", {"field": field, "allowed": allowed})


def _load_pair(certificate: Path, key_file: Path) -> None:
    def refuse_password() -> str:
        # Without this OpenSSL asks on the terminal, and a Pod has none.
        raise _contradiction("key", "a private key without a password")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key_file, password=refuse_password)
    except ssl.SSLError as exc:
        if "MISMATCH" in (exc.reason or ""):
            raise _contradiction("key", "the private key of the certificate") from exc
        raise _contradiction("certificate", "a certificate chain in PEM with its private key in PEM") from exc
    except OSError as exc:
        raise _contradiction("certificate", f"a file that can be read ({exc.strerror})") from exc
