"""The clients in a listening socket's backlog, whom nobody serves yet, or is going to serve."""

import contextlib
import socket
import struct

from mailflow.smtp.server import SHUTTING_DOWN

# struct tcp_info of a listening socket: tcpi_unacked is how many connections wait, tcpi_sacked how many may.
TCP_INFO_OCTETS = 104
TCP_INFO_QUEUE = struct.Struct("=24xII")


def find_backlog_share(sock: socket.socket) -> float:
    """Tell how full the backlog is, 0 to 1; 0 where the kernel does not tell."""
    try:
        waiting, most = TCP_INFO_QUEUE.unpack_from(
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_OCTETS)
        )
    except (OSError, struct.error):
        return 0.0
    return min(1.0, waiting / most) if most else 0.0


def answer_backlog(sock: socket.socket) -> None:
    """Tell clients that were not accepted yet to come again.

    Closing the socket, or leaving them waiting, would end in a reset or a timeout without a word.
    """
    while True:
        try:
            client, _ = sock.accept()
        except OSError:  # none is left, or no descriptor is
            return
        with contextlib.suppress(OSError), client:
            client.setblocking(False)
            client.send(SHUTTING_DOWN.encode())
            client.shutdown(socket.SHUT_WR)
