"""Clients that wear a server down: slow, silent, deaf, endless. Each is bounded, and others are served meanwhile.

The client runs on the worker's own loop, so what `assert_serves` measures is the worst a neighbour meets.
"""

import asyncio
import contextlib
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenario.client import DEADLINE_S, SmtpClient
from tests.scenario.service import RunningService, serve

ENVELOPE = b"EHLO client.test\r\nMAIL FROM:<bob@client.test>\r\nRCPT TO:<alice@example.org>\r\n"
PIECE = 65536
MAX_BUFFERED_BYTES = 1 << 20  # of all sessions: one read of the loop, a write above the high-water mark
TIMEOUT = "421 4.4.2 Timeout, closing connection"


async def assert_serves(service: RunningService) -> None:
    """Another client's NOOP is answered within half a second."""
    other = await service.greeted()
    began = time.monotonic()
    assert await other.command("NOOP") == "250 2.0.0 Ok"
    assert time.monotonic() - began < 0.5
    other.close()


@contextlib.contextmanager
def bounded_memory(limit_bytes: int) -> Iterator[None]:
    """Fail where Python objects come to more than `limit_bytes` at any time."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit_bytes, f"{peak} octets"


async def begin_data(service: RunningService) -> SmtpClient:
    """Come as far as behind 354."""
    client = await service.connect()
    client.send(ENVELOPE + b"DATA\r\n")
    while not (await client.line()).startswith(b"354"):
        pass
    return client


async def drip(client: SmtpClient, data: bytes, *, every_s: float) -> str:
    """Send `data` octet by octet, one each `every_s`, until something is answered; then the answer."""
    answer = asyncio.create_task(client.reply())
    for octet in data:
        client.send(bytes((octet,)))
        if (await asyncio.wait({answer}, timeout=every_s))[0]:
            break
    return await answer


async def test_command_that_comes_octet_by_octet_meets_the_deadline_of_the_whole_line(tmp_path: Path) -> None:
    async with serve(tmp_path, config="[mx]\ncommand_timeout_s = 0.4\n") as service:
        client = await service.connect()
        await client.reply()
        began = time.monotonic()
        assert await drip(client, b"NOOP " + b"x" * 100, every_s=0.05) == TIMEOUT
        assert 0.3 < time.monotonic() - began < 1.0
        await assert_serves(service)


async def test_silent_client_is_told_goodbye(tmp_path: Path) -> None:
    async with serve(tmp_path, config="[mx]\ncommand_timeout_s = 0.2\n") as service:
        client = await service.connect()
        assert await client.replies(2) == ["220 mx.test ESMTP", TIMEOUT]
        assert await client.rest() == b""


async def test_silence_inside_data_meets_its_deadline(tmp_path: Path) -> None:
    async with serve(tmp_path, config="[mx]\ndata_timeout_s = 0.3\n") as service:
        client = await begin_data(service)
        client.send(b"Subject: x\r\n")
        assert await client.reply() == TIMEOUT
        assert await client.rest() == b""
    assert service.all_delivered() == []


async def test_data_below_the_least_rate_is_cut(tmp_path: Path) -> None:
    config = "[mx]\ndata_timeout_s = 0.4\nmin_data_rate = 100\n"
    async with serve(tmp_path, config=config) as service:
        client = await begin_data(service)
        began = time.monotonic()
        assert await drip(client, b"x" * 100, every_s=0.05) == TIMEOUT
        assert time.monotonic() - began < 1.5
        await assert_serves(service)


async def test_chunk_below_the_least_rate_is_cut(tmp_path: Path) -> None:
    config = "[mx]\ndata_timeout_s = 0.4\nmin_data_rate = 100\n"
    async with serve(tmp_path, config=config) as service:
        client = await service.connect()
        client.send(ENVELOPE + b"BDAT 1000\r\n")
        await client.replies(4)
        assert await drip(client, b"x" * 100, every_s=0.05) == TIMEOUT


async def test_data_above_the_least_rate_is_taken_however_long_it_lasts(tmp_path: Path) -> None:
    config = "[mx]\ndata_timeout_s = 0.3\nmin_data_rate = 20\n"
    async with serve(tmp_path, config=config) as service:
        client = await begin_data(service)
        began = time.monotonic()
        assert (await drip(client, b"Subject: slow but steady\r\n.\r\n", every_s=0.03)).startswith("250 2.0.0 Ok ")
        assert time.monotonic() - began > 0.6


async def test_client_that_never_reads_is_dropped(tmp_path: Path) -> None:
    async with serve(tmp_path, config="[mx]\ncommand_timeout_s = 0.5\n") as service:
        client = await service.connect(receive_bytes=4096)
        client.read_no_more()

        async def send_for_ever() -> None:
            async with asyncio.timeout(2 * DEADLINE_S):
                while True:
                    await client.send_all(b"HELP\r\n" * 10000)
                    assert service.buffered_bytes < MAX_BUFFERED_BYTES
                    await asyncio.sleep(0)

        with pytest.raises(ConnectionError):
            await send_for_ever()
        await assert_serves(service)


async def test_replies_wait_for_a_slow_reader_that_half_closed(tmp_path: Path) -> None:
    async with serve(tmp_path) as service:
        client = await service.connect(receive_bytes=4096)
        await client.reply()
        count = 100000
        client.send(b"HELP\r\n" * count)
        client.half_close()
        received = await client.rest()
    assert received == b"214 2.0.0 See RFC 5321\r\n" * count


async def test_ten_megabytes_without_a_line_end_as_a_command(tmp_path: Path) -> None:
    async with serve(tmp_path) as service:
        client = await service.greeted()
        with bounded_memory(2 << 20):
            for _ in range(160):
                await client.send_all(b"x" * PIECE)
            await assert_serves(service)
        client.send(b"\r\nNOOP\r\n")
        assert await client.replies(2) == ["500 5.5.2 Line too long", "250 2.0.0 Ok"]


async def test_ten_megabytes_without_a_line_end_in_data(tmp_path: Path) -> None:
    async with serve(tmp_path) as service:
        client = await begin_data(service)
        with bounded_memory(2 << 20):
            for _ in range(160):
                await client.send_all(b"x" * PIECE)
            await assert_serves(service)
            assert service.held_bytes == 0
        client.send(b"\r\n.\r\nNOOP\r\n")
        assert await client.replies(2) == ["554 5.6.0 Message has a line that is too long", "250 2.0.0 Ok"]


async def test_message_far_over_the_limit_is_read_but_not_kept(tmp_path: Path) -> None:
    async with serve(tmp_path, config="[mx]\nmax_message_bytes = 100000\n") as service:
        client = await begin_data(service)
        with bounded_memory(2 << 20):
            for _ in range(160):
                await client.send_all((b"x" * 126 + b"\r\n") * 512)
            await assert_serves(service)
            assert service.held_bytes == 0
        client.send(b".\r\n")
        assert await client.reply() == "552 5.3.4 Message too large"


async def test_a_hundred_thousand_commands_are_answered_one_by_one(tmp_path: Path) -> None:
    async with serve(tmp_path) as service:
        client = await service.greeted()
        count = 100000

        async def flood() -> None:
            for _ in range(count // 1000):
                await client.send_all(b"NOOP\r\n" * 1000)

        async with asyncio.TaskGroup() as group:
            group.create_task(flood())
            for _ in range(10):
                assert await client.octets(14 * count // 10) == b"250 2.0.0 Ok\r\n" * (count // 10)
                assert service.buffered_bytes < MAX_BUFFERED_BYTES
                await assert_serves(service)
        assert await client.command("QUIT") == "221 2.0.0 mx.test closing connection"


@pytest.mark.parametrize(
    ("wrong", "reply"),
    [
        (b"NOOP\nNOOP\r\n", b"521 5.5.2 Bare CR, bare LF or NUL received, see RFC 5321 section 2.3.8\r\n"),
        (b"GET / HTTP/1.1\r\n", b"521 5.5.1 This is an SMTP server\r\n"),
        (b"FOO\r\n", b"500 5.5.1 Command not recognized\r\n421 4.7.0 Too many errors, closing connection\r\n"),
        (b"BDAT x\r\n", b"501 5.5.4 Syntax: BDAT size [LAST]\r\n"),
        (b"QUIT\r\n", b"221 2.0.0 mx.test closing connection\r\n"),
    ],
)
async def test_last_reply_is_readable_although_the_client_was_still_sending(
    wrong: bytes, reply: bytes, tmp_path: Path
) -> None:
    async with serve(tmp_path, config="[mx]\nmax_errors = 1\n" if wrong == b"FOO\r\n" else "") as service:
        client = await service.connect()
        await client.reply()
        client.send(wrong)
        for _ in range(
            200
        ):  # more than the kernel holds: an RST would end the sending, and with it most clients' reading
            await client.send_all(b"x" * PIECE)
        assert await client.rest() == reply


async def test_client_that_never_stops_sending_is_cut_after_the_goodbye(tmp_path: Path) -> None:
    async with serve(tmp_path) as service:
        client = await service.connect()
        began = time.monotonic()

        async def send_for_ever() -> None:
            async with asyncio.timeout(DEADLINE_S):
                client.send(b"GET / HTTP/1.1\r\n")
                while True:
                    await client.send_all(b"x" * PIECE)
                    await asyncio.sleep(0.01)  # the rate of a network: the loop is not what is measured

        with bounded_memory(2 << 20), pytest.raises(ConnectionError):
            await send_for_ever()
        assert 1.5 < time.monotonic() - began < 4.0
        await assert_serves(service)
