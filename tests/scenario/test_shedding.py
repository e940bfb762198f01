"""A loop that is truly late: new clients are told to come again, standing sessions go on, and then all is as before.

The clients are threads with blocking sockets: in the loop that is late they would be as late themselves.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.scenario.service import RunningService, serve
from tests.scenario.test_proxy import LB

BUSY = "421 4.3.2 Too busy, try again later"
BANNER = "220 mx.test ESMTP"
HEADER = b"PROXY TCP4 192.0.2.7 198.51.100.1 4567 25\r\n"
PROXY = f'[mx]\nproxy_protocol_from = ["{LB}"]\n'
TURN_S = 0.5  # what one turn of the loop takes: its probes are 0.37 s late, and shedding begins
LIGHT_TURN_S = 0.25  # 0.12 s late: too little to begin at, too much to end
SHEDS_IN_S = 10.0
RECOVERS_IN_S = 10.0
DEADLINE_S = 15.0  # of one reply


class Peer:
    """A client on a blocking socket."""

    def __init__(self, port: int, *, address: str = "127.0.0.1", header: bytes = b"") -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), DEADLINE_S, source_address=(address, 0))
        self._file = self._sock.makefile("rb")
        self._sock.sendall(header)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._sock.close()

    def reply(self) -> str:
        """Read one reply, its last line."""
        while (line := self._file.readline().decode())[3:4] == "-":
            pass
        return line.removesuffix("\r\n")

    def say(self, text: str) -> str:
        """Say a line, read the reply."""
        self._sock.sendall(f"{text}\r\n".encode())
        return self.reply()

    def deliver(self) -> str:
        """The reply to a whole message."""
        for line in ("MAIL FROM:<a@sender.example>", "RCPT TO:<alice@example.org>", "DATA"):
            assert self.say(line)[0] in "23"
        return self.say("From: a@sender.example\r\n\r\nhello\r\n.")


def greeting(port: int, *, address: str = "127.0.0.1", header: bytes = b"") -> str:
    with Peer(port, address=address, header=header) as peer:
        return peer.reply()


def come_until(wanted: str, port: int, *, within_s: float, address: str = "127.0.0.1", header: bytes = b"") -> None:
    """Connect again and again until this is the greeting."""
    deadline = time.monotonic() + within_s
    while (heard := greeting(port, address=address, header=header)) != wanted:
        assert heard in {BUSY, BANNER}
        assert time.monotonic() < deadline, f"still {heard!r}"
        time.sleep(0.05)


@dataclass(slots=True)
class Load:
    """Work that leaves the loop no time: callback after callback, each as long as `turn_s`."""

    turn_s: float = TURN_S
    is_over: bool = False

    async def work(self) -> None:
        while not self.is_over:
            time.sleep(self.turn_s)  # noqa: ASYNC251 - the point
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def overloaded() -> AsyncGenerator[Load]:
    """Overload the loop of this thread."""
    load = Load()
    working = asyncio.create_task(load.work())
    try:
        yield load
    finally:
        load.is_over = True
        await working


def past_the_start(service: RunningService) -> None:
    """Skip the grace of the start, and shed whomever may be shed: the share is not what is tested here."""
    service.worker.pressure.counts_from_s = 0.0
    service.worker.mx_shedder.draw = lambda: 0.0


def shed(service: RunningService) -> float:
    return service.count("mailflow_shed_total", reason="loop_lag")


async def test_overload_sheds_new_clients_and_no_session_and_ends_by_itself(tmp_path: Path) -> None:
    async with serve(tmp_path) as service:
        past_the_start(service)
        with await asyncio.to_thread(Peer, service.port) as standing:
            assert await asyncio.to_thread(standing.reply) == BANNER
            assert (await asyncio.to_thread(standing.say, "EHLO client.test")).startswith("250 ")
            async with overloaded() as load:
                await asyncio.to_thread(come_until, BUSY, service.port, within_s=SHEDS_IN_S)
                load.turn_s = LIGHT_TURN_S
                assert service.worker.describe_shedding() is not None
                assert (await asyncio.to_thread(standing.deliver)).startswith("250 2.0.0 Ok")
                assert await asyncio.to_thread(greeting, service.port) == BUSY
            assert len(service.delivered()) == 1

            await asyncio.to_thread(come_until, BANNER, service.port, within_s=RECOVERS_IN_S)
            refused = shed(service)
            assert refused >= 2
            assert await asyncio.to_thread(greeting, service.port) == BANNER
            assert (await asyncio.to_thread(standing.deliver)).startswith("250 2.0.0 Ok")
            assert shed(service) == refused


async def test_clients_that_wait_in_the_backlog_are_told_together(tmp_path: Path) -> None:
    """The loop accepts one connection a turn: thirty would wait for thirty turns."""
    async with serve(tmp_path) as service:
        past_the_start(service)

        def wait_together() -> float:
            began = time.monotonic()
            with contextlib.ExitStack() as stack:
                peers = [stack.enter_context(Peer(service.port)) for _ in range(30)]
                assert {peer.reply() for peer in peers} == {BUSY}
            return time.monotonic() - began

        async with overloaded() as load:
            await asyncio.to_thread(come_until, BUSY, service.port, within_s=SHEDS_IN_S)
            load.turn_s = LIGHT_TURN_S
            assert await asyncio.to_thread(wait_together) < 10 * LIGHT_TURN_S


async def test_health_checks_of_a_load_balancer_are_greeted_meanwhile(tmp_path: Path) -> None:
    async with serve(tmp_path, config=PROXY) as service:
        past_the_start(service)
        async with overloaded() as load:
            await asyncio.to_thread(
                come_until, BUSY, service.port, within_s=SHEDS_IN_S + DEADLINE_S, address=LB, header=HEADER
            )
            load.turn_s = LIGHT_TURN_S
            check = await asyncio.to_thread(greeting, service.port, address=LB, header=b"PROXY UNKNOWN\r\n")
            assert check == BANNER


async def test_a_short_overload_sheds_nobody(tmp_path: Path) -> None:
    async with serve(tmp_path) as service:
        past_the_start(service)
        async with overloaded():
            assert await asyncio.to_thread(greeting, service.port) == BANNER
        assert await asyncio.to_thread(greeting, service.port) == BANNER
        assert shed(service) == 0
