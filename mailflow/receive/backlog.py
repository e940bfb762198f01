"""The clients in a listening socket's backlog that nobody is going to serve."""

import contextlib
import socket

from mailflow.smtp.server import SHUTTING_DOWN


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
