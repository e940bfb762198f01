"""Clients whom nobody accepted are told so, and hear it."""

import socket

from mailflow.receive.backlog import ANSWERED_AT_ONCE, answer_backlog

SHUTTING_DOWN = b"421 4.3.2 Service shutting down, try again later\r\n"
HEADER = b"PROXY TCP4 192.0.2.7 198.51.100.1 4567 25\r\n"


def test_a_client_whose_header_nobody_read_hears_it_without_a_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.setblocking(False)
        with socket.create_connection(sock.getsockname(), 5) as client:
            client.sendall(HEADER)
            answer_backlog(sock)
            assert client.recv(100) == SHUTTING_DOWN
            assert client.recv(100) == b""
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


class Flooded(socket.socket):
    """A listening socket whose backlog is never empty."""

    accepted = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.accepted += 1
        ours, theirs = socket.socketpair()
        theirs.close()
        return ours, None


def test_a_flood_does_not_hold_up_who_answers_it() -> None:
    with Flooded() as sock:
        answer_backlog(sock)
        assert sock.accepted == ANSWERED_AT_ONCE
