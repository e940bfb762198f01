"""The clients in a listening socket's backlog, whom nobody serves yet, or is going to serve."""

import contextlib
import socket
import struct
from dataclasses import dataclass

from mailflow.smtp.connection import SHUTTING_DOWN

# struct tcp_info of a listening socket: tcpi_unacked is how many connections wait, tcpi_sacked how many may.
TCP_INFO_OCTETS = 104
TCP_INFO_QUEUE = struct.Struct("=24xII")
ANSWERED_AT_ONCE = 4096  # more than a backlog holds; a flood comes as fast as it is answered
UNREAD_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many connections wait to be accepted, and how many may."""

    waiting: int = 0
    most: int = 0

    @property
    def share(self) -> float:
        """How full it is, 0 to 1."""
        return min(1.0, self.waiting / self.most) if self.most else 0.0


def read_backlog(sock: socket.socket) -> Backlog:
    """Read the backlog of a listening socket; empty where the kernel does not tell."""
    try:
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_OCTETS)
        return Backlog(*TCP_INFO_QUEUE.unpack_from(told))
    except (OSError, struct.error):
        return Backlog()


def answer_backlog(sock: socket.socket) -> None:
    """Tell clients that were not accepted yet to come again.

    Closing the socket, or leaving them waiting, would end in a reset or a timeout without a word. So would closing
    with a PROXY header unread.
    """
    for _ in range(ANSWERED_AT_ONCE):
        try:
            client, _ = sock.accept()
        except OSError:  # none is left, or no descriptor is
            return
        with contextlib.suppress(OSError), client:
            client.setblocking(False)
            client.send(SHUTTING_DOWN.encode())
            client.shutdown(socket.SHUT_WR)
            client.recv(UNREAD_BYTES)
