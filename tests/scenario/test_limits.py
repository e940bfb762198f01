"""Limits that one client's conduct must not turn against another: connections, bytes in flight."""

import asyncio
from pathlib import Path

from mailflow.smtp.connection import MAX_REFUSED_LINGERING
from mailflow.smtp.stream import LINGER_S
from tests.scenario.client import DEADLINE_S, SmtpClient
from tests.scenario.service import RunningService, serve

TOO_MANY_IN_FLIGHT = "452 4.3.1 Too many messages in flight, try again later"


async def begin(service: RunningService) -> SmtpClient:
    """Come as far as behind RCPT."""
    client = await service.greeted()
    assert (await client.command("MAIL FROM:<bob@client.test>")).startswith("250")
    assert (await client.command("RCPT TO:<alice@example.org>")).startswith("250")
    return client


async def bdat(client: SmtpClient, content: bytes, *, is_last: bool = True) -> str:
    client.send(b"BDAT %d%s\r\n" % (len(content), b" LAST" if is_last else b"") + content)
    return await client.reply()


def lines(size_bytes: int) -> bytes:
    return (b"x" * 98 + b"\r\n") * (size_bytes // 100)


async def test_bytes_in_flight_beyond_the_limit_are_452_while_small_messages_pass(tmp_path: Path) -> None:
    config = "[mx]\nmax_message_bytes = 100000\n[limits]\nbytes_in_flight = 100000\n"
    async with serve(tmp_path, config=config) as service:
        holder, large, small = [await begin(service) for _ in range(3)]
        assert await bdat(holder, lines(60000), is_last=False) == "250 2.0.0 60000 octets received"
        assert service.held_bytes == 60000

        assert await bdat(large, lines(50000)) == TOO_MANY_IN_FLIGHT
        assert service.held_bytes == 60000  # nothing is held by who was refused
        assert (await bdat(small, lines(30000))).startswith("250 2.0.0 Ok")

        assert (await bdat(holder, lines(100))).startswith("250 2.0.0 Ok")
        assert service.held_bytes == 0
        assert (await large.command("MAIL FROM:<bob@client.test> SIZE=50000")).startswith("250")
        assert service.held_bytes == 50000


async def test_data_beyond_the_bytes_in_flight_is_swallowed_to_its_dot(tmp_path: Path) -> None:
    config = "[mx]\nmax_message_bytes = 100000\n[limits]\nbytes_in_flight = 100000\n"
    async with serve(tmp_path, config=config) as service:
        holder, large = [await begin(service) for _ in range(2)]
        await bdat(holder, lines(60000), is_last=False)
        assert (await large.command("DATA")).startswith("354")
        large.send(lines(90000) + b".\r\nNOOP\r\n")
        assert await large.reply() == TOO_MANY_IN_FLIGHT
        assert await large.reply() == "250 2.0.0 Ok"


async def test_data_is_refused_before_354_where_no_byte_is_left(tmp_path: Path) -> None:
    config = "[mx]\nmax_message_bytes = 10000\n[limits]\nbytes_in_flight = 10000\n"
    async with serve(tmp_path, config=config) as service:
        holder, late = [await begin(service) for _ in range(2)]
        await bdat(holder, lines(10000), is_last=False)
        assert await late.command("DATA") == TOO_MANY_IN_FLIGHT
        assert await holder.command("RSET") == "250 2.0.0 Ok"
        assert (await late.command("DATA")).startswith("354")


async def test_a_refused_message_holds_no_bytes_while_the_rest_of_it_comes(tmp_path: Path) -> None:
    async with serve(tmp_path, config="[mx]\nmax_message_bytes = 10000\n") as service:
        client = await begin(service)
        assert (await bdat(client, lines(9000), is_last=False)).startswith("250")
        assert await bdat(client, lines(2000), is_last=False) == "552 5.3.4 Message too large"
        assert service.held_bytes == 0


async def test_connections_beyond_the_limit_are_421_until_one_has_left(tmp_path: Path) -> None:
    async with serve(tmp_path, config="[mx]\nmax_connections = 2\n") as service:
        first, _second = [await service.greeted() for _ in range(2)]
        third = await service.connect()
        assert await third.rest() == b"421 4.3.2 Too many connections, try again later\r\n"
        assert service.count("mailflow_shed_total", reason="connections") == 1

        assert (await first.command("QUIT")).startswith("221")
        first.close()
        await until_admitted(service)


async def test_connections_of_one_network_are_limited_and_another_is_served(tmp_path: Path) -> None:
    async with serve(tmp_path, config="[mx]\nmax_connections_per_client = 2\n") as service:
        await service.greeted()
        neighbour = await service.connect(address="127.0.0.99")
        assert (await neighbour.reply()).startswith("220")
        third = await service.connect()
        assert await third.rest() == b"421 4.7.0 Too many connections from your network, try again later\r\n"
        stranger = await service.connect(address="127.0.1.1")
        assert (await stranger.reply()).startswith("220")

        neighbour.reset()
        await until_admitted(service)


async def test_refused_connections_do_not_count(tmp_path: Path) -> None:
    async with serve(tmp_path, config="[mx]\nmax_connections = 1\n") as service:
        first = await service.greeted()
        for _ in range(20):
            refused = await service.connect()
            assert (await refused.rest()).startswith(b"421")
            refused.close()
        first.close()
        await until_admitted(service)


async def until_admitted(service: RunningService) -> None:
    """Connect until it is let in: the server learns of a client's going in its own time."""
    async with asyncio.timeout(DEADLINE_S):
        while not (await (client := await service.connect()).reply()).startswith("220"):
            client.close()


async def test_refused_connections_beyond_a_number_are_not_waited_for(tmp_path: Path) -> None:
    async with serve(tmp_path, config="[mx]\nmax_connections = 1\n") as service:
        await service.greeted()
        refused = [await SmtpClient.connect(service.port) for _ in range(MAX_REFUSED_LINGERING + 20)]
        assert {await client.reply() for client in refused} == {"421 4.3.2 Too many connections, try again later"}
        async with asyncio.timeout(LINGER_S / 2):
            for client in refused[-10:]:
                assert await client.rest() == b""
        for client in refused:
            client.close()
