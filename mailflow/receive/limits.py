"""How many connections a worker holds, in all and from one network.

A client is its network, /24 or /64: who has one address there has them all. Refusing costs a sender
a retry (421), so nothing here is remembered once a connection has ended.
"""

from collections import Counter
from collections.abc import Callable
from ipaddress import IPv6Address

from mailflow.mail.reply import Reply

TOO_MANY = Reply(421, "4.3.2", "Too many connections, try again later")
TOO_MANY_FROM_CLIENT = Reply(421, "4.7.0", "Too many connections from your network, try again later")


class ConnectionLimits:
    """Counts open connections; `on_shed` hears the reason of each refusal."""

    def __init__(self, *, max_connections: int, max_per_client: int, on_shed: Callable[[str], None]) -> None:
        self._max_connections = max_connections
        self._max_per_client = max_per_client
        self._on_shed = on_shed
        self._open = 0
        self._open_by_network: Counter[str] = Counter()

    def admit(self, ip: str) -> Reply | None:
        """Count a connection from `ip` in, or give the reply that refuses it."""
        network = client_network(ip)
        if self._open >= self._max_connections:
            self._on_shed("connections")
            return TOO_MANY
        if self._open_by_network[network] >= self._max_per_client:
            self._on_shed("client_connections")
            return TOO_MANY_FROM_CLIENT
        self._open += 1
        self._open_by_network[network] += 1
        return None

    def leave(self, ip: str) -> None:
        """Count an admitted connection out."""
        network = client_network(ip)
        self._open -= 1
        self._open_by_network[network] -= 1
        if not self._open_by_network[network]:
            del self._open_by_network[network]


def client_network(ip: str) -> str:
    """Give the network a client is counted by: /24 of IPv4, /64 of IPv6."""
    if ":" in ip:
        address = IPv6Address(ip.partition("%")[0])
        if address.ipv4_mapped is None:
            return address.packed[:8].hex()
        ip = str(address.ipv4_mapped)  # else all of IPv4 would be one network
    return ip.rpartition(".")[0]
