"""Listening sockets: bound once by the supervisor, one per listener and worker slot (SO_REUSEPORT).

Bound before anything runs, so that port 0 is resolved once and a port that is taken is told at once.
A worker inherits its slot's descriptors and so, after a crash, its predecessor's backlog. The
surprise: SO_REUSEPORT would let a second service of the same user bind the same ports and take half
the connections, so each address is first bound without it.
"""

import errno
import socket
from collections.abc import Sequence

import structlog

from mailflow.config import HostPort

NO_SUCH_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})

log = structlog.get_logger()


def bind_slots(addresses: Sequence[HostPort], slots: int) -> list[list[socket.socket]]:
    """Bind every address once per slot; give each slot's sockets, not listening yet. Raises OSError with the address.

    An address of a family that the host does not have is skipped with a warning where there are others.
    """
    bound: list[list[socket.socket]] = [[] for _slot in range(slots)]
    for address in addresses:
        try:
            sockets = _bind_address(address, slots)
        except OSError as exc:
            # A host without IPv6 must not fail on the default of listening on both families.
            if exc.errno not in NO_SUCH_FAMILY or len(addresses) == 1:
                raise
            log.warning("listener_skipped", address=str(address), reason=str(exc))
            continue
        for slot, sock in zip(bound, sockets, strict=True):
            slot.append(sock)
    return bound


def name_socket(sock: socket.socket) -> str:
    """Give the bound address as `host:port`."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind_address(address: HostPort, slots: int) -> list[socket.socket]:
    try:
        # Without SO_REUSEPORT first: fails where anybody else has the port.
        with _make_socket(address) as probe:
            probe.bind((address.host, address.port))
            port = probe.getsockname()[1]
        sockets: list[socket.socket] = []
        try:
            for _slot in range(slots):
                sock = _make_socket(address)
                sockets.append(sock)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                sock.bind((address.host, port))
                sock.setblocking(False)
        except OSError:
            for sock in sockets:
                sock.close()
            raise
    except OSError as exc:
        raise OSError(exc.errno, f"{address}: {exc.strerror}") from exc
    return sockets


def _make_socket(address: HostPort) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Its own family only: an IPv4 client is never seen as ::ffff:192.0.2.1.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    except OSError:
        sock.close()
        raise
    return sock
