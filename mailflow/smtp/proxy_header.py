r"""The PROXY protocol header, v1 and v2: whose connection a load balancer passes on.

Sans-IO and strict (haproxy.org's proxy-protocol.txt): whatever is not exactly a header is a fault,
as the address it tells decides who may relay. LOCAL (a health check) and UNKNOWN tell no client.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1_START = b"PROXY "
MAX_V1_OCTETS = 107  # with its CRLF
V2_FIXED_OCTETS = 16
MAX_V2_OCTETS = V2_FIXED_OCTETS + 4096  # addresses and TLVs; those in use have a few hundred octets

_V2_ADDRESSES = {0x1: 12, 0x2: 36, 0x3: 216}  # octets of both addresses and ports: IPv4, IPv6, unix


class BadProxyHeader(Exception):
    """What came is no PROXY header."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A whole header of `size_bytes` octets. `source` is the client's address and port, None for LOCAL and UNKNOWN."""

    size_bytes: int
    source: tuple[str, int] | None


def parse_proxy_header(data: bytes) -> ProxyHeader | None:
    """Parse the header that `data` begins with; None where more octets are needed. Raises BadProxyHeader."""
    if data.startswith(SIGNATURE[: len(data)]):
        return _parse_v2(data)
    if data.startswith(V1_START[: len(data)]):
        return _parse_v1(data)
    raise BadProxyHeader("neither v1 nor v2")


def count_header_octets(data: bytes) -> int:
    """Tell how many octets of `data`, the beginning of a header that is not whole, surely belong to it."""
    if data.startswith(SIGNATURE[: len(data)]):
        return len(data)
    return len(data) if b"\n" not in data else data.index(b"\n") + 1


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\n")
    if end < 0:
        if len(data) >= MAX_V1_OCTETS:
            raise BadProxyHeader("v1 header too long")
        return None
    if end >= MAX_V1_OCTETS or data[end - 1 : end] != b"\r":
        raise BadProxyHeader("v1 header too long or without CRLF")
    words = data[: end - 1].split(b" ")
    if words[1] == b"UNKNOWN":
        return ProxyHeader(end + 1, None)
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise BadProxyHeader("v1 header with other words")
    kind = IPv4Address if words[1] == b"TCP4" else IPv6Address
    source, _destination = (_parse_ip(word, kind) for word in words[2:4])
    port, _port = (_parse_port(word) for word in words[4:])
    return ProxyHeader(end + 1, (source, port))


def _parse_ip(word: bytes, kind: type[IPv4Address] | type[IPv6Address]) -> str:
    try:
        if b"%" in word:
            raise ValueError
        return _plain_ip(kind(word.decode("ascii")))
    except ValueError as exc:
        raise BadProxyHeader("v1 header with a bad address") from exc


def _parse_port(word: bytes) -> int:
    if not word.isdigit() or len(word) > 5 or int(word) > 65535 or (word[:1] == b"0" and word != b"0"):
        raise BadProxyHeader("v1 header with a bad port")
    return int(word)


def _parse_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < V2_FIXED_OCTETS:
        return None
    version, command = data[12] >> 4, data[12] & 0xF
    family, transport = data[13] >> 4, data[13] & 0xF
    size_bytes = V2_FIXED_OCTETS + int.from_bytes(data[14:16], "big")
    if version != 2 or command > 1 or family > 3 or transport > 2:
        raise BadProxyHeader("v2 header with unknown version, command or family")
    if size_bytes > MAX_V2_OCTETS:
        raise BadProxyHeader("v2 header too long")
    if len(data) < size_bytes:
        return None
    if command == 0 or family in (0, 3):  # LOCAL; UNSPEC; a unix socket has no client address either
        return ProxyHeader(size_bytes, None)
    if transport != 1:
        raise BadProxyHeader("v2 header of something that is no TCP connection")
    if size_bytes < V2_FIXED_OCTETS + _V2_ADDRESSES[family]:
        raise BadProxyHeader("v2 header too short for its addresses")
    octets, ports_at = (4, 24) if family == 1 else (16, 48)
    source = ip_address(data[16 : 16 + octets])
    return ProxyHeader(size_bytes, (_plain_ip(source), int.from_bytes(data[ports_at : ports_at + 2], "big")))


def _plain_ip(address: IPv4Address | IPv6Address) -> str:
    """Give the address as text, an IPv4 address in IPv6 dress as the IPv4 address it is."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
