"""The door: a session, or a refusal that costs next to nothing and still reaches its client."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field

import pytest

from mailflow.mail.reply import Reply
from mailflow.observe.nursery import Nursery
from mailflow.receive.backlog import Backlog, read_backlog
from mailflow.receive.door import OVERLOADED, REFUSED_AT_ONCE, Door, RefusedConnection
from mailflow.smtp.budget import ByteBudget
from mailflow.smtp.connection import MAX_REFUSED_LINGERING, SmtpService
from mailflow.smtp.server import SmtpSession
from mailflow.smtp.stream import LINGER_S
from mailflow.smtp.transaction import ProxiedPeer, SmtpOptions
from tests.scenario.client import SmtpClient

BUSY = "421 4.3.2 Too busy, try again later"
BANNER = "220 mx.test ESMTP"


@dataclass
class Site:
    """A door to a service whose admissions are noted. `reason` is what the shedder says."""

    reason: str | None = "loop_lag"
    shed: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    nursery: Nursery = field(default_factory=Nursery)

    def __post_init__(self) -> None:
        self.service = SmtpService(
            handler=object(),
            options=SmtpOptions("mx.test"),
            budget=ByteBudget(1000),
            nursery=self.nursery,
            admit=self._admit,
        )
        self.door = Door(self.service, find_refusal=lambda: self.reason, on_shed=self.shed.append)

    async def _admit(self, ip: str) -> Reply | None:
        self.asked.append(ip)
        return None

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncGenerator[int]:
        """Serve on a port."""
        server = await asyncio.get_running_loop().create_server(self.door, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            self.service.drain()
            self.door.close()
            await self.nursery.wait_empty(5)


@contextlib.contextmanager
def backlog_of(waiting: int, most: int) -> Iterator[tuple[socket.socket, list[socket.socket]]]:
    """A listening socket with clients that nobody has accepted."""
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=most))
        sock.setblocking(False)
        address = sock.getsockname()
        yield sock, [stack.enter_context(socket.create_connection(address)) for _ in range(waiting)]


async def test_refused_client_hears_why_before_any_work() -> None:
    site = Site()
    async with site.listening() as port:
        client = await SmtpClient.connect(port)
        assert (await client.rest()).decode() == f"{BUSY}\r\n"
    assert site.shed == ["loop_lag"]
    assert site.asked == [], "the limits were asked about a client that is not served"
    assert not site.service.sessions


async def test_the_next_is_served_where_the_shedder_says_so() -> None:
    site = Site()
    async with site.listening() as port:
        assert await (await SmtpClient.connect(port)).reply() == BUSY
        site.reason = None
        client = await SmtpClient.connect(port)
        assert await client.reply() == BANNER
        site.reason = "throttled"
        assert await (await SmtpClient.connect(port)).reply() == BUSY
        assert await client.command("NOOP") == "250 2.0.0 Ok", "a session that stands goes on"
    assert site.shed == ["loop_lag", "throttled"]
    assert site.asked == ["127.0.0.1"]


async def test_eager_client_hears_it_too() -> None:
    """What it said is unread: closing at once would reset the connection and destroy the reply."""
    site = Site()
    async with site.listening() as port:
        client = await SmtpClient.connect(port)
        client.send(b"EHLO client.test\r\n" * 5000)
        assert await client.reply() == BUSY
        client.send(b"x" * 100000)
        assert await client.line() == b""


class Lingering(set[RefusedConnection]):
    """Tells when a connection has left."""

    def __init__(self) -> None:
        super().__init__()
        self.left = asyncio.Event()

    def discard(self, connection: object) -> None:
        super().discard(connection)
        self.left.set()


async def test_client_that_stays_is_closed_in_time() -> None:
    loop, lingering = asyncio.get_running_loop(), Lingering()
    server = await loop.create_server(lambda: RefusedConnection(lingering), "127.0.0.1", 0)
    async with server:
        client = await SmtpClient.connect(server.sockets[0].getsockname()[1])
        assert await client.reply() == BUSY
        assert await client.line() == b"", "our side is shut down at once"
        assert len(lingering) == 1
        began = loop.time()
        async with asyncio.timeout(LINGER_S + 2):
            await lingering.left.wait()
        assert loop.time() - began == pytest.approx(LINGER_S, abs=0.5)
        client.close()
    assert not lingering


class Transport(asyncio.Transport):
    """Notes what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[object] = []

    def write(self, data: object) -> None:
        self.done.append(data)

    def write_eof(self) -> None:
        self.done.append("eof")

    def close(self) -> None:
        self.done.append("closed")


async def test_a_flood_is_closed_at_once() -> None:
    lingering: set[RefusedConnection] = set()
    transports = [Transport() for _ in range(MAX_REFUSED_LINGERING + 1)]
    refusals = [RefusedConnection(lingering) for _ in transports]
    for refusal, transport in zip(refusals, transports, strict=True):
        refusal.connection_made(transport)
    assert len(lingering) == MAX_REFUSED_LINGERING
    assert transports[0].done == [OVERLOADED.encode(), "eof"]
    assert transports[-1].done == [OVERLOADED.encode(), "closed"]
    for refusal in refusals:
        refusal.connection_lost(None)
    assert not lingering


async def test_health_checks_of_load_balancers_are_never_shed() -> None:
    site = Site()
    session = site.door(ProxiedPeer(None))
    assert isinstance(session, SmtpSession)
    assert isinstance(site.door(ProxiedPeer(("192.0.2.1", 4000))), RefusedConnection)
    assert site.shed == ["loop_lag"]


async def test_a_drain_says_what_it_always_says() -> None:
    site = Site()
    site.service.is_draining = True
    assert isinstance(site.door(), SmtpSession)
    assert site.shed == []


async def test_of_the_waiting_those_are_refused_who_are_to_be_and_the_others_wait_on() -> None:
    site = Site()
    reasons = iter(["loop_lag", None, "loop_lag"])
    door = Door(site.service, find_refusal=lambda: next(reasons), on_shed=site.shed.append)
    with backlog_of(3, 10) as (sock, clients):
        door.refuse_waiting(sock, site.nursery)
        await site.nursery.wait_empty(5)
        for client in clients[:2]:
            client.settimeout(5)
            assert await asyncio.to_thread(client.recv, 100) == OVERLOADED.encode()
        assert read_backlog(sock) == Backlog(1, 10)
        door.close()
    assert site.shed == ["loop_lag"] * 2
    assert not site.service.sessions, "letting in is for the loop, one a turn"


async def test_a_flood_of_waiting_clients_leaves_the_sessions_their_turn() -> None:
    site = Site()
    with backlog_of(REFUSED_AT_ONCE + 5, 2 * REFUSED_AT_ONCE) as (sock, _):
        site.door.refuse_waiting(sock, site.nursery)
        assert read_backlog(sock).waiting == 5
        await site.nursery.wait_empty(5)
        site.door.close()
    assert len(site.shed) == REFUSED_AT_ONCE


async def test_a_listener_that_is_closed_has_nobody_waiting() -> None:
    site = Site()
    with backlog_of(1, 10) as (sock, _):
        sock.close()
        site.door.refuse_waiting(sock, site.nursery)
        assert read_backlog(sock).share == 0
    assert not site.nursery
    assert site.shed == []


def test_how_full_the_backlog_is() -> None:
    with backlog_of(6, 8) as (sock, _):
        assert read_backlog(sock) == Backlog(6, 8)
        assert read_backlog(sock).share == 0.75
        sock.accept()[0].close()
        assert read_backlog(sock).share == 0.625
    with socket.socket(socket.AF_UNIX) as other:
        assert read_backlog(other).share == 0
