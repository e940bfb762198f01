"""Who must send a PROXY header, who may relay, and when neither can be trusted.

A load balancer that stops telling the client's address makes every client look like itself: a
server that let "its own network" relay would be an open relay at that moment. So one trusted peer
without a header puts the clients' addresses in doubt for a while, and in doubt nobody relays.
"""

from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

DOUBT_S = 300.0

Networks = Sequence[IPv4Network | IPv6Network]


class ProxyTrust:
    """The networks of one listener. `clock` gives monotonic seconds; `on_missing(peer)` hears of peers seen here."""

    def __init__(
        self, networks: Networks, *, clock: Callable[[], float], on_missing: Callable[[str], None] = lambda peer: None
    ) -> None:
        self.on_missing = on_missing
        self._networks = networks
        self._clock = clock
        self._missing: tuple[str, float] | None = None  # the peer seen last, and when

    @property
    def is_used(self) -> bool:
        """Tells that there are peers that must send the header."""
        return bool(self._networks)

    def must_send_header(self, ip: str) -> bool:
        """Tell whether a peer is in the trusted networks."""
        return is_in(self._networks, ip)

    def note_missing(self, ip: str) -> None:
        """Note a trusted peer that sent no header, and tell everybody."""
        self.note_missing_elsewhere(ip)
        self.on_missing(ip)

    def note_missing_elsewhere(self, ip: str) -> None:
        """Note a trusted peer that sent no header to another worker."""
        self._missing = (ip, self._clock())

    def is_in_doubt(self) -> bool:
        """Tell whether the clients' addresses may be wrong."""
        return self._missing is not None and self._clock() - self._missing[1] < DOUBT_S

    def describe(self) -> list[str]:
        """Give what an operator should know; nothing while all is well."""
        if self._missing is None or not self.is_in_doubt():
            return []
        ip, at = self._missing
        return [
            f"{ip}, of proxy_protocol_from, sent no PROXY header {self._clock() - at:.0f} s ago;"
            f" relay_from is ignored for {DOUBT_S:.0f} s"
        ]

    def missing_peers(self) -> list[str]:
        """Give the peer that a new worker must know of."""
        return [self._missing[0]] if self._missing is not None and self.is_in_doubt() else []


def is_in(networks: Networks, ip: str) -> bool:
    """Tell whether an address lies in one of the networks; IPv4 in IPv6 dress counts as IPv4, no address as outside."""
    if not networks:
        return False
    try:
        address = ip_address(ip.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)
