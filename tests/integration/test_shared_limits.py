"""Limits per client network over several Pods, counted in a real Redis, whatever becomes of it."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mailflow.config.value import parse_limits_url
from mailflow.observe.nursery import Nursery
from mailflow.receive.limits import LimitCounters
from mailflow.receive.shared_counters import SharedCounters
from tests.certificates import write_pair
from tests.integration.mail_client import MailClient
from tests.integration.mailflow_process import ROOT, MailflowProcess, route
from tests.integration.redis_server import PASSWORD, RedisProcess
from tests.servers import free_port

ALICE = "alice@example.org"
DELIVERED = "250 2.0.0 Ok "
DEADLINE_S = 20.0
RIGHTS = (  # as the README names them
    *("~mailflow:limits:*", "+select", "+ping", "+script|load", "+evalsha", "+time"),
    *("+hgetall", "+hmget", "+hset", "+hdel", "+pexpire"),
)
UP = "mailflow_limits_backend_up"


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisProcess]:
    folder = tmp_path / "redis"
    folder.mkdir()
    with RedisProcess(folder) as server:
        yield server


class Pod:
    """The counters of one supervisor, as its workers ask them."""

    def __init__(self, url: str, *, max_sessions: int = 2, per_minute: int = 0, lease_s: float = 60.0) -> None:
        server = parse_limits_url(url)
        assert server is not None
        self.counters = LimitCounters(max_sessions=max_sessions, per_minute=per_minute)
        self.changes: asyncio.Queue[bool] = asyncio.Queue()
        self.shared = SharedCounters(
            self.counters, server, nursery=Nursery(), on_change=self.changes.put_nowait, lease_s=lease_s
        )

    async def enter(self, network: str = "192.0.2", *, holder: str = "0.1") -> str | None:
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self.shared.enter(network, holder=holder, reply=answer.set_result)
        async with asyncio.timeout(1.0):
            return await answer

    def leave(self, network: str = "192.0.2", *, holder: str = "0.1") -> None:
        self.shared.leave(network, holder=holder)

    async def changed(self) -> bool:
        """Wait for the next time that sharing begins or ends."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.changes.get()

    async def admitted(self, network: str = "192.0.2") -> None:
        """Enter as soon as there is room: what others count out takes its way."""
        async with asyncio.timeout(DEADLINE_S):
            while await self.enter(network) is not None:  # noqa: ASYNC110 - the others are other processes
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def pods(count: int, url: str, *, max_sessions: int = 2, **limits: float) -> AsyncIterator[list[Pod]]:
    """Start Pods that share; end them in order."""
    running = [Pod(url, max_sessions=max_sessions, **limits) for _ in range(count)]  # type: ignore[arg-type]
    for pod in running:
        pod.shared.start()
        assert await pod.changed()
    try:
        yield running
    finally:
        for pod in running:
            pod.shared.stop()
            await pod.shared.wait_stopped()


async def test_sessions_of_a_network_are_counted_over_all_pods(redis_server: RedisProcess) -> None:
    async with pods(2, redis_server.url) as (one, other):
        assert [await pod.enter() for pod in (one, other, one, other)] == [None, None, *["client_connections"] * 2]
        assert await other.enter("192.0.3") is None
        one.leave()
        await other.admitted()
        assert await one.enter() == "client_connections"
        assert redis_server.sessions() == {
            "mailflow:limits:{192.0.2}:sessions": 2,
            "mailflow:limits:{192.0.3}:sessions": 1,
        }
    assert list(redis_server.client().scan_iter()) == [], "who ends in order leaves nothing behind"


async def test_new_connections_are_counted_by_the_minute_over_all_pods(redis_server: RedisProcess) -> None:
    async with pods(2, redis_server.url, max_sessions=50, per_minute=4) as (one, other):
        for pod in (one, other, one, other):
            assert await pod.enter() is None
            pod.leave()
        assert [await pod.enter() for pod in (one, other)] == ["client_rate"] * 2
        assert await one.enter("192.0.3") is None
    client = redis_server.client()
    keys = set(client.scan_iter())
    assert keys == {"mailflow:limits:{192.0.2}:rate", "mailflow:limits:{192.0.3}:rate"}
    assert all(0 < client.pttl(key) <= 120_000 for key in keys), "and is forgotten two minutes later"


@pytest.mark.parametrize("minutes_ago", [0, 1, 2])
async def test_the_minute_before_counts_by_what_the_window_still_has_of_it(
    redis_server: RedisProcess, minutes_ago: int
) -> None:
    client, key = redis_server.client(), "mailflow:limits:{192.0.2}:rate"

    def seconds() -> tuple[int, float]:
        whole, micro = client.time()
        return whole // 60, whole % 60 + micro / 1e6

    before = after = (-1, 0.0)
    reasons: list[str | None] = []
    while before[0] != after[0] or not reasons:  # once more where a minute ended meanwhile
        async with pods(1, redis_server.url, max_sessions=1000, per_minute=600) as (pod,):
            before = seconds()
            client.hset(key, mapping={"minute": before[0] - minutes_ago, "current": 500, "previous": 0})
            reasons = await asyncio.gather(*(pod.enter() for _ in range(650)))
            after = seconds()
    admitted = reasons.count(None)
    if minutes_ago == 1:
        assert 100 + before[1] / 60 * 500 - 1 <= admitted <= 100 + after[1] / 60 * 500 + 1
    else:
        assert admitted == (100 if minutes_ago == 0 else 600)
    assert set(reasons) == {None, "client_rate"}


async def test_a_burst_of_one_network_is_admitted_to_the_limit_exactly(redis_server: RedisProcess) -> None:
    async with pods(3, redis_server.url, max_sessions=100) as running:
        reasons = await asyncio.gather(*(pod.enter() for _ in range(70) for pod in running))
        assert (reasons.count(None), reasons.count("client_connections")) == (100, 110)
        assert sum(pod.counters.count("192.0.2") for pod in running) == 100


async def test_a_worker_that_ends_frees_what_it_held_for_all_pods(redis_server: RedisProcess) -> None:
    async with pods(2, redis_server.url) as (one, other):
        assert [await one.enter(holder=worker) for worker in ("0.1", "0.1")] == [None, None]
        assert await other.enter() == "client_connections"
        one.shared.release_holder("0.1")
        await other.admitted()


async def test_a_session_whose_worker_died_before_its_answer_is_not_counted(redis_server: RedisProcess) -> None:
    async with pods(2, redis_server.url) as (one, other):
        for _ in range(2):
            one.shared.enter("192.0.2", holder="0.1", reply=lambda reason: pytest.fail("nobody asks any more"))
        one.shared.release_holder("0.1")
        await other.admitted()
        await other.admitted()
        assert one.counters.count("192.0.2") == 0


HOLDER = """
import asyncio, sys
from tests.integration.test_shared_limits import pods

async def main():
    async with pods(1, sys.argv[1], lease_s=float(sys.argv[2])) as (pod,):
        print(await pod.enter(), await pod.enter(), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_sessions_of_a_pod_killed_are_free_after_its_lease_and_not_before(redis_server: RedisProcess) -> None:
    holder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLDER, redis_server.url, "1.0"),
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    try:
        async for line in holder.stdout:
            if line == b"None None\n":
                break
        async with pods(1, redis_server.url, lease_s=1.0) as (pod,):
            client, key = redis_server.client(), "mailflow:limits:{192.0.2}:sessions"
            first = client.hvals(key)
            async with asyncio.timeout(DEADLINE_S):
                while client.hvals(key) == first:  # noqa: ASYNC110 - another process renews
                    await asyncio.sleep(0.02)
            assert await pod.enter() == "client_connections", "a living Pod's lease is renewed"
            holder.send_signal(signal.SIGKILL)
            await holder.wait()
            assert await pod.enter() == "client_connections", "nobody knows yet"
            await pod.admitted()
            await pod.admitted()
            assert await pod.enter() == "client_connections"
    finally:
        with contextlib.suppress(ProcessLookupError):
            holder.kill()
        await holder.wait()
    assert list(redis_server.client().scan_iter()) == []


async def test_a_redis_that_is_killed_costs_the_shared_limit_and_no_session(redis_server: RedisProcess) -> None:
    async with pods(2, redis_server.url) as (one, other):
        assert await one.enter() is None
        redis_server.kill()
        assert await one.enter() is None, "the question that finds out is answered too"
        assert not await one.changed()
        assert await one.enter() == "client_connections", "this Pod's own sessions count on"
        assert await other.enter() is None
        assert not await other.changed()

        redis_server.start()  # empty
        assert await one.changed()
        assert await other.changed()
        assert redis_server.sessions() == {"mailflow:limits:{192.0.2}:sessions": 3}, "what lives is registered again"
        one.leave()
        one.leave()
        await one.admitted()
        assert await other.enter() == "client_connections"


async def test_a_frozen_redis_holds_no_connection_up_and_is_found_again(redis_server: RedisProcess) -> None:
    loop = asyncio.get_running_loop()
    async with pods(2, redis_server.url, max_sessions=200) as (one, other):
        assert await one.enter() is None
        redis_server.freeze()
        began, waits = loop.time(), []
        for _ in range(100):
            asked = loop.time()
            assert await one.enter() is None
            waits.append(loop.time() - asked)
        assert not one.shared.is_shared
        assert loop.time() - began < 0.5, "one answer is waited for, not a hundred"
        assert max(waits) < 0.2
        assert not await one.changed()
        for _ in range(51):
            one.leave()

        redis_server.thaw()
        assert await one.changed()
        assert await other.enter() is None
        assert redis_server.sessions() == {"mailflow:limits:{192.0.2}:sessions": 51}


async def test_a_pause_of_our_own_is_no_silence_of_the_server(redis_server: RedisProcess) -> None:
    async with pods(1, redis_server.url) as (pod,):
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        pod.shared.enter("192.0.2", holder="0.1", reply=answer.set_result)
        for _ in range(20):
            if pod.shared._asked:  # sent
                break
            await asyncio.sleep(0)
        time.sleep(0.3)  # noqa: ASYNC251 - a process that gets no CPU
        assert await answer is None
        assert pod.shared.is_shared
        assert redis_server.sessions() == {"mailflow:limits:{192.0.2}:sessions": 1}


async def test_tls_and_a_user_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = write_pair(tmp_path, host="localhost")
    tls_port = free_port()
    options = (
        *("--tls-port", str(tls_port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)),
        *(
            "--tls-auth-clients",
            "no",
            "--user",
            *("mailflow", "on", ">other%secret", *RIGHTS),
        ),
    )
    with RedisProcess(tmp_path, *options):
        pod = Pod(f"rediss://mailflow:other%25secret@localhost:{tls_port}/1")
        pod.shared.start()
        assert not await pod.changed(), "its certificate is verified"
        pod.shared.stop()
        await pod.shared.wait_stopped()

        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with pods(1, f"rediss://mailflow:other%25secret@localhost:{tls_port}/1") as (other,):
            assert [await other.enter() for _ in range(3)] == [None, None, "client_connections"]
        assert other.changes.empty()


async def test_a_redis_that_refuses_to_write_is_taken_for_down(redis_server: RedisProcess) -> None:
    async with pods(1, redis_server.url) as (pod,):
        client = redis_server.client()
        client.config_set("maxmemory", "1")
        assert [await pod.enter() for _ in range(3)] == [None, None, "client_connections"]
        assert not await pod.changed()
        client.config_set("maxmemory", "0")
        assert await pod.changed()
        client.script_flush()
        pod.leave()
        assert not await pod.changed()
        assert await pod.changed(), "a script that was flushed is loaded again"


async def test_a_wrong_password_counts_here_and_says_so_without_it(
    redis_server: RedisProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = redis_server.url.replace(PASSWORD, "wrong-secret")
    for url in (wrong, redis_server.url.replace(f":{PASSWORD}@", "")):
        pod = Pod(url)
        pod.shared.start()
        assert not await pod.changed()
        assert [await pod.enter() for _ in range(3)] == [None, None, "client_connections"]
        pod.shared.stop()
        await pod.shared.wait_stopped()
    said = capsys.readouterr()
    assert "limits_not_shared" in said.out
    assert "wrong-secret" not in said.out + said.err


def serve(folder: Path, url: str, *, mx: str = "max_connections_per_client = 3", limits: str = "") -> MailflowProcess:
    folder.mkdir()
    config = f'[limits]\nurl = "{url}"\n{limits}\n\n' + route("example.org", maildir="mail", create=True)
    return MailflowProcess(folder, config=config, mx=mx, workers=2)


async def shared(mailflow: MailflowProcess, *, is_up: bool = True) -> None:
    """Wait until the metric says so."""
    async with asyncio.timeout(DEADLINE_S):
        while await mailflow.metric(UP) != is_up:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.05)


async def first_words(mailflow: MailflowProcess) -> tuple[MailClient, str]:
    client = await MailClient.connect(mailflow.mx_port)
    return client, (await client.reply())[:9]


async def let_in(mailflow: MailflowProcess) -> MailClient:
    """Connect until there is room: a server learns of a client's going in its own time."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            client, words = await first_words(mailflow)
            if words.startswith("220"):
                assert (await client.command("EHLO client.example")).startswith("250")
                return client
            client.close()


async def test_two_services_share_their_limits_and_survive_their_redis(
    tmp_path: Path, redis_server: RedisProcess
) -> None:
    async with serve(tmp_path / "a", redis_server.url) as a, serve(tmp_path / "b", redis_server.url) as b:
        await shared(a)
        await shared(b)
        clients = [await MailClient.greeted(pod.mx_port) for pod in (a, b, a)]
        for pod in (a, b):
            assert (await first_words(pod))[1] == "421 4.7.0"
        assert (await clients[1].deliver(ALICE, "m1")).startswith(DELIVERED)

        redis_server.freeze()
        clients.append(await let_in(b))
        assert (await clients[-1].deliver(ALICE, "frozen")).startswith(DELIVERED)
        await shared(b, is_up=False)
        clients.append(await let_in(b))
        assert (await first_words(b))[1] == "421 4.7.0", "three in this Pod"
        detail = json.loads((await b.get("/readyz"))[1])["detail"]
        assert any("redis" in line for line in detail)
        assert (await b.get("/readyz"))[0] == 200

        redis_server.kill()
        await shared(a, is_up=False)
        clients.append(await let_in(a))
        assert (await clients[-1].deliver(ALICE, "killed")).startswith(DELIVERED)
        assert (await first_words(a))[1] == "421 4.7.0"

        redis_server.start()
        await shared(a)
        await shared(b)
        assert sum(redis_server.sessions().values()) == 6
        for client in clients[:4]:
            assert (await client.command("QUIT")).startswith("221")
        clients = [*clients[4:], await let_in(a)]
        for pod in (a, b):
            assert (await first_words(pod))[1] == "421 4.7.0"

        for pod in (a, b):
            assert len(pod.named("limits_not_shared")) == 1, "told once, not by connection"
            assert len(pod.named("limits_shared")) == 2
            assert await pod.terminate() == 0
            assert pod.stderr == ""
            assert PASSWORD not in json.dumps(pod.events)
    assert list(redis_server.client().scan_iter()) == []


async def test_two_services_share_connections_by_the_minute(tmp_path: Path, redis_server: RedisProcess) -> None:
    limits = "connections_per_minute_per_client = 4"
    mx = "max_connections_per_client = 50"
    async with (
        serve(tmp_path / "a", redis_server.url, mx=mx, limits=limits) as a,
        serve(tmp_path / "b", redis_server.url, mx=mx, limits=limits) as b,
    ):
        await shared(a)
        await shared(b)
        words = [(await first_words(pod))[1] for pod in (a, b, a, b, a, b)]
        assert words == ["220 mx.ex"] * 4 + ["421 4.7.0"] * 2
        assert await a.metric("mailflow_shed_total", reason="client_rate") == 1
        assert PASSWORD.encode() not in (await a.get("/metrics"))[1]


async def test_a_service_killed_leaves_nothing_that_does_not_expire(tmp_path: Path, redis_server: RedisProcess) -> None:
    async with serve(tmp_path / "a", redis_server.url) as a:
        await shared(a)
        await MailClient.greeted(a.mx_port)
        await a.kill()
    client = redis_server.client()
    (key,) = client.scan_iter()
    assert 0 < client.pttl(key) <= 60_000


async def test_a_service_drains_while_its_redis_is_frozen(tmp_path: Path, redis_server: RedisProcess) -> None:
    async with serve(tmp_path / "a", redis_server.url) as a:
        await shared(a)
        client = await MailClient.greeted(a.mx_port)
        redis_server.freeze()
        assert (await client.deliver(ALICE, "m1")).startswith(DELIVERED)
        began = time.monotonic()
        assert await a.terminate() == 0
        assert time.monotonic() - began < 5


async def test_a_reload_takes_up_another_redis_and_memory_again(tmp_path: Path, redis_server: RedisProcess) -> None:
    async with serve(tmp_path / "a", "memory://") as a:
        assert await a.metric(UP) == 1
        client = await MailClient.greeted(a.mx_port)
        file = a.folder / "mailflow.toml"
        memory = file.read_text()
        file.write_text(memory.replace("memory://", redis_server.url))
        a.send_signal(signal.SIGHUP)
        await a.wait_event("limits_shared")
        assert sum(redis_server.sessions().values()) == 1, "what lives is registered"
        file.write_text(memory)
        a.send_signal(signal.SIGHUP)
        await a.wait_event("reload", 2)
        async with asyncio.timeout(DEADLINE_S):
            while redis_server.sessions():  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.02)
        assert await a.metric(UP) == 1
        assert (await client.deliver(ALICE, "m1")).startswith(DELIVERED)
        assert await a.terminate() == 0
