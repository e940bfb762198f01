"""Values of keys: the text of an address, a domain, a path becomes the thing it names.

Every function takes what the file or the environment gave and returns the value or raises
ValueError, whose message completes the sentence "allowed is ...". Relative paths are from the
configuration file's folder, which travels as pydantic's validation context. Host names are looked
up by nobody here: listeners and name servers are IP addresses, since no DNS is there yet.
"""

import re
import ssl
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote

import idna
from pydantic import PlainValidator, ValidationInfo

from mailflow.observe.file_stamp import read_bounded

LISTEN = '"IPv4:PORT" or "[IPv6]:PORT", PORT 0 to 65535, 0: any free port'
NAMESERVER = '"IPv4", "IPv4:PORT", "[IPv6]" or "[IPv6]:PORT"'
LMTP_SERVER = '"HOST:PORT", "[IPv6]:PORT" or "unix:/path"'
HOST_NAME = 'a host name such as "mx1.example.org"'
ROUTE_DOMAIN = 'a domain ("example.org"), with a leading dot every name below it (".example.org"), or "*"'
NETWORK = 'a network such as "10.0.0.0/8", "2001:db8::/32" or one address'
ALLOWANCE = (
    'an author domain ("example.org", ".example.org", or "*" for all), a blank and a network, such as '
    '"example.org 192.0.2.0/24"'
)
QUARANTINE = '"header", or a subaddress such as "+Junk"'
MAILBOX = 'an address such as "postmaster@example.org"'
LIMITS_URL = '"memory://" or "redis://[[user]:password@]host[:port][/database]", "rediss://" for TLS'
STORE_URL = '"sqlite:///path" or "postgresql://user@host/database", or "" for no store'
SUBADDRESS = 'one of "+", "-", "_", "=", "#", "~", or "" for no subaddresses'

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_LOCAL_PART = re.compile(r"[^\x00-\x20\x7f()<>\[\]:;@\\,.\"]+(?:\.[^\x00-\x20\x7f()<>\[\]:;@\\,.\"]+)*")
_REDIS_URL = re.compile(
    r"redis(?P<tls>s?)://"
    r"(?:(?P<user>[^:@/?#\s]*):(?P<password>[^:@/?#\s]+)@)?"
    r"(?P<address>[^@/?#\s]+)"
    r"(?:/(?P<database>[0-9]{1,9})?)?"
)
# user[:password]@host[:port],…/database?parameters; a unix socket's folder is the parameter host.
_POSTGRES_REST = re.compile(r"(?:[^@/?#]+@)?[^@/?#]*/[^/?#]+(?:\?[^#]*)?")
_PASSWORD = re.compile(r":[^:@/]*(?=@)")
_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SUBADDRESS_DETAIL = re.compile(r"[-+_=#~][A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_BACKEND_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_DOMAIN_OCTETS = 255  # RFC 5321 s4.5.3.1.2
_MAX_LOCAL_OCTETS = 64  # s4.5.3.1.1
_MAX_UNIX_PATH_OCTETS = 107  # sun_path of Linux, less its NUL


@dataclass(frozen=True, slots=True)
class HostPort:
    """A TCP or UDP endpoint; `str()` gives it as the configuration writes it."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixPath:
    """A unix socket; `path` is absolute."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A Redis or Valkey; its password is in no text made of it."""

    address: HostPort
    database: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    is_tls: bool = False

    def __str__(self) -> str:
        return f"redis{'s' if self.is_tls else ''}://{self.address}/{self.database}"


@dataclass(frozen=True, slots=True)
class SqliteFile:
    """The embedded store; `path` is absolute, the file of the first worker's slot."""

    path: Path

    def __str__(self) -> str:
        return f"sqlite://{self.path}"


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """The shared store. `url` is what libpq reads too; the password in it is in no text made of this."""

    url: str = field(repr=False)

    def __str__(self) -> str:
        return _PASSWORD.sub("", self.url.partition("?")[0])


@dataclass(frozen=True, slots=True)
class Allowance:
    """Mail whose author is of `domain` (a leading dot: below it; "*": anybody) and that comes from `network`."""

    domain: str
    network: IPv4Network | IPv6Network

    def __str__(self) -> str:
        return f"{self.domain} {self.network}"


def parse_listen(value: object) -> HostPort:
    """Parse an address to bind: an IP address and a port, 0 included."""
    host, port = _split_host_port(_text(value, LISTEN), LISTEN)
    if port is None or not _is_ip(host):
        raise ValueError(LISTEN)
    return HostPort(host, port)


def parse_nameserver(value: object) -> HostPort:
    """Parse a DNS server: an IP address, port 53 where none is given."""
    host, port = _split_host_port(_text(value, NAMESERVER), NAMESERVER)
    if port == 0 or not _is_ip(host):
        raise ValueError(NAMESERVER)
    return HostPort(host, 53 if port is None else port)


def parse_lmtp_server(value: object, info: ValidationInfo) -> HostPort | UnixPath:
    """Parse an LMTP server: TCP with a port of its own (LMTP has no default port, and 25 is forbidden: RFC 2033 s5)."""
    text = _text(value, LMTP_SERVER)
    if text.startswith("unix:"):
        if text == "unix:":
            raise ValueError(LMTP_SERVER)
        path = _resolve(text.removeprefix("unix:"), info)
        if len(bytes(path)) > _MAX_UNIX_PATH_OCTETS:
            raise ValueError(f"a unix socket whose path has at most {_MAX_UNIX_PATH_OCTETS} octets")
        return UnixPath(path)
    host, port = _split_host_port(text, LMTP_SERVER)
    if not port:
        raise ValueError(LMTP_SERVER)
    return HostPort(host if _is_ip(host) else _ascii_domain(host, LMTP_SERVER), port)


def parse_host_name(value: object) -> str:
    """Parse a host name into lower-case A-labels."""
    return _ascii_domain(_text(value, HOST_NAME), HOST_NAME)


def parse_route_domain(value: object) -> str:
    """Parse a route's domain into lower-case A-labels; a leading dot stays and means any subdomain, "*" the rest."""
    text = _text(value, ROUTE_DOMAIN)
    if text == "*":
        return text
    dot = "." if text.startswith(".") else ""
    return dot + _ascii_domain(text.removeprefix("."), ROUTE_DOMAIN)


def parse_mailbox(value: object) -> str:
    """Parse an address with an unquoted local part, its domain into lower-case A-labels; "" stays empty."""
    text = _text(value, MAILBOX)
    if not text:
        return text
    local, at, domain = text.rpartition("@")
    if not at or not _LOCAL_PART.fullmatch(local) or len(_utf8(local, MAILBOX)) > _MAX_LOCAL_OCTETS:
        raise ValueError(MAILBOX)
    return f"{local}@{_ascii_domain(domain, MAILBOX)}"


def parse_subaddress(value: object) -> str:
    """Parse the separator of subaddresses: one that needs no quotes and, unlike a dot, may stand at the end."""
    text = _text(value, SUBADDRESS)
    if text not in ("", *"+-_=#~"):
        raise ValueError(SUBADDRESS)
    return text


def parse_network(value: object) -> IPv4Network | IPv6Network:
    """Parse a network; bits below its prefix are a fault, as they may be a slip of the prefix."""
    try:
        return ip_network(_text(value, NETWORK))
    except ValueError as exc:
        raise ValueError(NETWORK) from exc


def parse_allowance(value: object) -> Allowance:
    """Parse an entry of the list of mail that DMARC does not refuse."""
    domain, _, network = _text(value, ALLOWANCE).partition(" ")
    try:
        return Allowance(parse_route_domain(domain), parse_network(network.strip()))
    except ValueError as exc:
        raise ValueError(ALLOWANCE) from exc


def parse_optional_host_name(value: object) -> str:
    """Parse a host name into lower-case A-labels; "" stays empty."""
    return parse_host_name(value) if _text(value, HOST_NAME) else ""


def parse_quarantine(value: object) -> str:
    """Parse how mail in quarantine is told apart; "" is by its header alone, else the detail with its separator."""
    text = _text(value, QUARANTINE)
    if text == "header":
        return ""
    if not _SUBADDRESS_DETAIL.fullmatch(text):
        raise ValueError(QUARANTINE)
    return text


def parse_limits_url(value: object) -> RedisServer | None:
    """Parse where limits are counted; None is in memory. User and password may have %-escapes (RFC 3986 s2.1)."""
    text = _text(value, LIMITS_URL)
    if text == "memory://":
        return None
    match = _REDIS_URL.fullmatch(text)
    if not match:
        raise ValueError(LIMITS_URL)
    host, port = _split_host_port(match["address"], LIMITS_URL)
    if port == 0:
        raise ValueError(LIMITS_URL)
    return RedisServer(
        HostPort(host if _is_ip(host) else _ascii_domain(host, LIMITS_URL), port or 6379),
        database=int(match["database"] or 0),
        user=_unquote(match["user"] or "", LIMITS_URL),
        password=_unquote(match["password"] or "", LIMITS_URL),
        is_tls=bool(match["tls"]),
    )


def parse_store_url(value: object, info: ValidationInfo) -> SqliteFile | PostgresServer | None:
    """Parse where messages are stored; "" is None. A path without a slash in front is from the file's folder."""
    text = _text(value, STORE_URL)
    if not text:
        return None
    scheme, separator, rest = text.partition("://")
    if not separator or not rest or re.search(r"\s", text):
        raise ValueError(STORE_URL)
    if scheme == "sqlite" and not rest.endswith("/"):
        return SqliteFile(_resolve(rest, info))
    if scheme in ("postgresql", "postgres") and _POSTGRES_REST.fullmatch(rest):
        return PostgresServer(f"postgresql://{rest}")
    raise ValueError(STORE_URL)


def parse_backend_name(value: object) -> str:
    """Parse a backend's name: it becomes a metric's label and a word in logs."""
    allowed = "1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit"
    text = _text(value, allowed)
    if not _BACKEND_NAME.fullmatch(text):
        raise ValueError(allowed)
    return text


def parse_file(value: object, info: ValidationInfo) -> Path | None:
    """Parse the path of a file that can be read now; "" is None."""
    text = _text(value, "a path")
    if not text:
        return None
    path = _resolve(text, info)
    try:
        read_bounded(path, 0)
    except OSError as exc:
        raise ValueError(f"a file that can be read ({exc.strerror or 'unreadable'})") from exc
    return path


def parse_address_file(value: object, info: ValidationInfo) -> Path | None:
    """Parse the path of a file of addresses, which address_files.py reads; "" is None."""
    text = _text(value, "a path")
    return _resolve(text, info) if text else None


def parse_ca_file(value: object, info: ValidationInfo) -> Path | None:
    """Parse the path of a PEM file of CA certificates; "" is None."""
    path = parse_file(value, info)
    if path is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except (ssl.SSLError, OSError) as exc:
            raise ValueError("a file of CA certificates in PEM") from exc
    return path


def parse_folder(value: object, info: ValidationInfo) -> Path:
    """Parse the path of a folder; it may come to be later, but nothing else may stand there."""
    text = _text(value, "the path of a folder")
    if not text:
        raise ValueError("the path of a folder")
    path = _resolve(text, info)
    try:
        is_taken = path.exists() and not path.is_dir()
    except OSError as exc:
        raise ValueError(f"the path of a folder ({exc.strerror})") from exc
    if is_taken:
        raise ValueError("the path of a folder (something else stands there)")
    return path


ListenAddress = Annotated[HostPort, PlainValidator(parse_listen)]
Nameserver = Annotated[HostPort, PlainValidator(parse_nameserver)]
LmtpServer = Annotated[HostPort | UnixPath, PlainValidator(parse_lmtp_server)]
HostName = Annotated[str, PlainValidator(parse_host_name)]
RouteDomain = Annotated[str, PlainValidator(parse_route_domain)]
Subaddress = Annotated[str, PlainValidator(parse_subaddress)]
Mailbox = Annotated[str, PlainValidator(parse_mailbox)]
Network = Annotated[IPv4Network | IPv6Network, PlainValidator(parse_network)]
Allowed = Annotated[Allowance, PlainValidator(parse_allowance)]
OptionalHostName = Annotated[str, PlainValidator(parse_optional_host_name)]
Quarantine = Annotated[str, PlainValidator(parse_quarantine)]
BackendName = Annotated[str, PlainValidator(parse_backend_name)]
ReadableFile = Annotated[Path | None, PlainValidator(parse_file)]
AddressFile = Annotated[Path | None, PlainValidator(parse_address_file)]
CaFile = Annotated[Path | None, PlainValidator(parse_ca_file)]
StoreUrl = Annotated[SqliteFile | PostgresServer | None, PlainValidator(parse_store_url)]
LimitsUrl = Annotated[RedisServer | None, PlainValidator(parse_limits_url)]
Folder = Annotated[Path, PlainValidator(parse_folder)]


def _text(value: object, allowed: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(allowed)
    return value


def _utf8(text: str, allowed: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as exc:  # the environment may hold any bytes
        raise ValueError(allowed) from exc


def _unquote(text: str, allowed: str) -> str:
    """Undo %-escapes; what they make must be UTF-8."""
    if _PERCENT.search(text):
        raise ValueError(allowed)
    try:
        plain = unquote(text, errors="strict")
    except UnicodeDecodeError as exc:
        raise ValueError(allowed) from exc
    _utf8(plain, allowed)
    return plain


def _split_host_port(text: str, allowed: str) -> tuple[str, int | None]:
    """Split `host:port`, `[v6]:port`, `host` or `[v6]`; the port is None where absent."""
    match = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^\[\]:]+))(?::([0-9]{1,5}))?", text)
    if not match or (match[1] and ":" not in match[1]):
        raise ValueError(allowed)
    port = None if match[3] is None else int(match[3])
    if port is not None and port > 65535:
        raise ValueError(allowed)
    return match[1] or match[2], port


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _ascii_domain(text: str, allowed: str) -> str:
    """Give `text` as RFC 5321 s4.1.2 `Domain` in A-labels, the same as envelope addresses are compared by."""
    if not text.isascii():
        try:
            text = idna.encode(text, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError) as exc:
            raise ValueError(allowed) from exc
    text = text.lower()
    if len(text) > _MAX_DOMAIN_OCTETS or not all(_LABEL.fullmatch(label) for label in text.split(".")):
        raise ValueError(allowed)
    return text


def _resolve(text: str, info: ValidationInfo) -> Path:
    """Make the path absolute from the configuration file's folder; symbolic links stay, they may be swapped later."""
    folder = info.context if isinstance(info.context, Path) else Path.cwd()
    return folder / text
