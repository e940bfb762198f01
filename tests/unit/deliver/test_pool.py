import asyncio

import pytest

from mailflow.deliver.pool import LmtpPool
from mailflow.smtp.lmtp import LmtpConnection
from mailflow.smtp.lmtp_connect import connect_lmtp, parse_server
from mailflow.smtp.lmtp_errors import LmtpTimeout, LmtpUnreachable
from tests.lmtp_server import LmtpTestServer


def soon(seconds: float = 5) -> float:
    return asyncio.get_running_loop().time() + seconds


def make_pool(server: LmtpTestServer, *, connections: int = 2, idle_s: float = 60) -> LmtpPool:
    async def dial(deadline: float) -> LmtpConnection:
        return await connect_lmtp(parse_server(str(server)), hostname="mx.example.org", deadline=deadline)

    return LmtpPool(dial, connections=connections, idle_s=idle_s)


async def test_the_connection_used_last_is_used_next() -> None:
    async with LmtpTestServer() as server:
        pool = make_pool(server)
        first, second = await pool.lease(soon()), await pool.lease(soon())
        used_last = second.connection
        first.release()
        second.release()
        assert (await pool.lease(soon())).connection is used_last


async def test_idle_connections_are_closed_after_a_while() -> None:
    async with LmtpTestServer() as server:
        pool = make_pool(server, idle_s=0.05)
        leases = [await pool.lease(soon()), await pool.lease(soon())]
        for lease in leases:
            lease.release()
        await server.reached("QUIT", 2)
        (await pool.lease(soon())).release()
        assert server.sessions == 3
        await server.reached("QUIT", 3)


async def test_a_lease_released_twice_frees_one_slot() -> None:
    async with LmtpTestServer() as server:
        pool = make_pool(server, connections=1)
        lease = await pool.lease(soon())
        lease.release()
        lease.release()
        await pool.lease(soon())
        with pytest.raises(LmtpTimeout):
            await pool.lease(soon(0.05))


async def test_a_failed_connection_attempt_frees_its_slot() -> None:
    async with LmtpTestServer() as server:
        pool = make_pool(server, connections=1)
        await server.stop()
        for _ in range(3):
            with pytest.raises(LmtpUnreachable):
                await pool.lease(soon())


async def test_a_closed_pool_closes_what_comes_back() -> None:
    async with LmtpTestServer() as server:
        pool = make_pool(server)
        idle, leased = await pool.lease(soon()), await pool.lease(soon())
        idle.release()
        pool.close()
        await server.reached("QUIT")
        leased.release()
        await server.reached("QUIT", 2)
