"""Listening sockets: one per slot on one port, and no port that anybody else has."""

import errno

import pytest

from mailflow.config import HostPort
from mailflow.supervisor.sockets import bind_slots, name_socket

ANY = HostPort("127.0.0.1", 0)


def test_every_slot_has_a_socket_of_its_own_on_the_same_port() -> None:
    slots = bind_slots([ANY, ANY], 3)
    assert len({name_socket(slot[0]) for slot in slots}) == 1
    assert name_socket(slots[0][0]) != name_socket(slots[0][1])
    assert len({sock.fileno() for slot in slots for sock in slot}) == 6
    for slot in slots:
        for sock in slot:
            sock.listen()
            sock.close()


def test_a_port_that_another_service_of_ours_has_is_told() -> None:
    """SO_REUSEPORT alone would let both have it, and each get half of the connections."""
    ((taken,),) = bind_slots([ANY], 1)
    taken.listen()
    host, port = taken.getsockname()
    with taken, pytest.raises(OSError, match=f"127.0.0.1:{port}") as caught:
        bind_slots([HostPort(host, port)], 2)
    assert caught.value.errno == errno.EADDRINUSE
