"""The circuit around the limits' server: whatever stands there, connections are counted here and not held up."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from mailflow.config.value import parse_limits_url
from mailflow.observe.nursery import Nursery
from mailflow.receive.limits import LimitCounters
from mailflow.receive.redis_counts import CountsUnavailable, RedisCounts, Request
from mailflow.receive.shared_counters import SharedCounters

SECRET = "pass-word"
DEADLINE_S = 10.0
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def read_command(reader: asyncio.StreamReader) -> list[bytes]:
    """Read one command as a Redis does."""
    count = int((await reader.readline())[1:])
    words = []
    for _ in range(count):
        length = int((await reader.readline())[1:])
        words.append((await reader.readexactly(length + 2))[:-2])
    return words


def answering(**answers: bytes) -> Script:
    """Answer each command by its name, others with OK."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            name = (await read_command(reader))[0].decode()
            writer.write(answers.get(name, b"+OK\r\n"))

    return script


async def saying_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What is no Redis at all."""
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept and go."""


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read and say nothing."""
    await reader.read()


class Server:
    """A TCP server that does what `script` says; `arrivals` are the times of its connections."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.arrivals: list[float] = []
        self.url = ""
        self._arrived = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.arrivals.append(asyncio.get_running_loop().time())
        self._arrived.set()
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
            await self.script(reader, writer)
        writer.close()

    async def wait_arrivals(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while len(self.arrivals) < count:
                self._arrived.clear()
                await self._arrived.wait()


@contextlib.asynccontextmanager
async def running(script: Script) -> AsyncIterator[Server]:
    server = Server(script)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"redis://:{SECRET}@127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()


@contextlib.asynccontextmanager
async def sharing(url: str, *, max_sessions: int = 2) -> AsyncIterator[tuple[SharedCounters, asyncio.Queue[bool]]]:
    server = parse_limits_url(url)
    assert server is not None
    changes: asyncio.Queue[bool] = asyncio.Queue()
    counters = LimitCounters(max_sessions=max_sessions, per_minute=0)
    shared = SharedCounters(counters, server, nursery=Nursery(), on_change=changes.put_nowait)
    shared.start()
    try:
        yield shared, changes
    finally:
        shared.stop()
        async with asyncio.timeout(DEADLINE_S):
            await shared.wait_stopped()


def enter(shared: SharedCounters) -> "asyncio.Future[str | None]":
    answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
    shared.enter("192.0.2", holder="0.1", reply=answer.set_result)
    return answer


async def told(changes: "asyncio.Queue[bool]") -> bool:
    async with asyncio.timeout(DEADLINE_S):
        return await changes.get()


@pytest.mark.parametrize(
    "script",
    [
        saying_http,
        closing,
        silent,
        answering(AUTH=b"-ERR unknown command `AUTH`, with args beginning with: `" + SECRET.encode() + b"`\r\n"),
        answering(EVALSHA=b"-NOSCRIPT No matching script.\r\n"),
        answering(EVALSHA=b"-" + SECRET.upper().encode() + b"\r\n"),
        answering(EVALSHA=b"*1\r\n:1\r\n"),
        answering(EVALSHA=b"$-1\r\n"),
        answering(EVALSHA=b":99999999999999999999999\r"),
        answering(EVALSHA=b"?\xff\xfe\r\n"),
    ],
)
async def test_what_is_no_well_redis_is_down_and_told_once_without_the_password(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(script) as server, sharing(server.url) as (shared, changes):
        assert await enter(shared) is None, "before anything is known"
        assert not await told(changes)
        assert [await enter(shared) for _ in range(2)] == [None, "client_connections"]
        await server.wait_arrivals(2)
        assert changes.empty()
    said = capsys.readouterr()
    assert said.out.count("limits_not_shared") == 1
    assert SECRET not in (said.out + said.err).lower()
    assert "internal_error" not in said.out


async def test_probes_come_with_growing_pauses() -> None:
    async with running(closing) as server, sharing(server.url):
        await server.wait_arrivals(4)
        gaps = [later - earlier for earlier, later in zip(server.arrivals, server.arrivals[1:], strict=False)]
        for gap, pause_s in zip(gaps, (0.25, 0.5, 1.0), strict=True):
            assert gap >= pause_s * 0.9


async def test_who_waits_when_sharing_is_stopped_is_answered() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not asked.is_set():
            writer.write(b":0\r\n" if (await read_command(reader))[0] == b"EVALSHA" else b"+OK\r\n")
        await reader.read()

    asked = asyncio.Event()
    async with running(script) as server, sharing(server.url) as (shared, changes):
        assert await told(changes)
        asked.set()
        answers = [enter(shared) for _ in range(3)]
        shared.stop()
        assert [await answer for answer in answers] == [None, None, "client_connections"]


async def test_a_session_is_admitted_as_the_server_says() -> None:
    async with running(answering(EVALSHA=b":1\r\n")) as server, sharing(server.url) as (shared, changes):
        assert await told(changes)
        assert await enter(shared) is None
    async with running(answering(EVALSHA=b":0\r\n")) as server, sharing(server.url) as (shared, changes):
        assert await told(changes)
        assert await enter(shared) == "client_connections"
    async with running(answering(EVALSHA=b":-1\r\n")) as server, sharing(server.url) as (shared, changes):
        assert await told(changes)
        assert await enter(shared) == "client_rate"


def counts_at(url: str) -> RedisCounts:
    server = parse_limits_url(url)
    assert server is not None
    return RedisCounts(server, pod="a", lease_s=1.0)


async def test_nothing_listens() -> None:
    counts = counts_at("redis://127.0.0.1:1")
    with pytest.raises(CountsUnavailable, match="no connection"):
        await counts.connect()
    await counts.close()


@pytest.mark.parametrize("network", ["", "192.0.2", "20010db800000000", "é\ud800", "}{:*\r\n"])
async def test_no_name_of_a_network_breaks_the_exchange(network: str) -> None:
    async with running(answering(EVALSHA=b":0\r\n")) as server:
        counts = counts_at(server.url)
        await counts.connect()
        answers = await counts.exchange([Request(network, 0, 1)], max_sessions=1, per_minute=0)
        assert [tuple(answer) for answer in answers] == [(0, False)]
        await counts.close()
