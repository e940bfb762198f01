"""`mailflow serve` as a real child process on fixed loopback ports: its log, its probes, its end.

    async with MailflowProcess(tmp_path, config=route("example.org", maildir="mail", create=True)) as mailflow:
        ... talk to 127.0.0.1:mailflow.mx_port ...
        event = await mailflow.wait_event("message", action="accept")
        assert await mailflow.terminate() == 0

`start()` after `terminate()` or `kill()` serves again on the same ports. The log gathers over all runs. DNS answers
NXDOMAIN to everything, at once, unless name servers are given. Nothing here blocks the event loop: servers and clients
of the test may share it.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rrset
from prometheus_client.parser import text_string_to_metric_families

from tests.servers import free_port

ROOT = Path(__file__).parents[2]
START_S = 20.0
END_S = 30.0
HEAD = """\
hostname = "mx.example.org"
workers = {workers}

[mx]
listen = ["127.0.0.1:{mx_port}"]
{mx}
[admin]
listen = "127.0.0.1:{admin_port}"
{admin}

[dns]
nameservers = {nameservers}

"""

Event = dict[str, Any]


def route(domain: str, **keys: object) -> str:
    """TOML of a backend with these keys, named as the domain, and of the route of the domain to it."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"name": domain, **keys}.items()]
    return "\n".join(
        ["[[backend]]", *lines, "", "[[route]]", f'domains = ["{domain}"]', f'backend = "{domain}"', "", ""]
    )


class NobodyKnows(asyncio.DatagramProtocol):
    """A DNS server for which no name exists."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        try:
            reply = dns.message.make_response(dns.message.from_wire(data), recursion_available=True)
        except dns.exception.DNSException:
            return
        reply.set_rcode(dns.rcode.NXDOMAIN)
        reply.authority.append(dns.rrset.from_text(".", 3600, "IN", "SOA", ". . 1 3600 600 86400 3600"))
        self._transport.sendto(reply.to_wire(), addr)


class MailflowProcess:
    """One service; `config` is TOML without `hostname`, `[mx]`, `[admin]` and `[dns]`, `mx` and `admin` further keys of
    these tables.

    One worker process unless `workers` says otherwise; the supervisor is `pid`. With `reads_log` False nobody reads
    its log behind the ready event, as if the collector hung. `nameservers` are HOST:PORT.
    """

    def __init__(
        self,
        folder: Path,
        *,
        config: str,
        mx: str = "",
        admin: str = "",
        workers: int = 1,
        reads_log: bool = True,
        nameservers: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.mx_port = free_port()
        self.admin_port = free_port()
        self.events: list[Event] = []
        self.has_ended = True  # its log is closed: the process is gone, or going
        self._file = folder / "mailflow.toml"
        self._config = config
        self._mx = mx
        self._admin = admin
        self._workers = workers
        self._reads_log = reads_log
        self._nameservers = list(nameservers)
        self._changed = asyncio.Event()  # a new one after every event of the log
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._dns: asyncio.DatagramTransport | None = None

    @property
    def pid(self) -> int:
        """The process that serves, or served last."""
        assert self._process is not None
        return self._process.pid

    @property
    def stderr(self) -> str:
        """What all runs wrote to stderr: nothing, when all is well."""
        return (self.folder / "mailflow.stderr").read_text()

    async def __aenter__(self) -> Self:
        if not self._nameservers:
            await self._start_dns()
        self._write_config()
        try:
            await self.start()
        except BaseException:
            await self._stop_all()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop_all()

    async def start(self) -> None:
        """Serve; return at the ready event. Fails with its stderr where it ends before."""
        runs = len(self.named("ready"))
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MAILFLOW_")}
        with (self.folder / "mailflow.stderr").open("ab") as stderr:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "mailflow", "serve", "-c", str(self._file),
                cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr,
            )  # fmt: skip
        self.has_ended = False
        self._reading = asyncio.create_task(self._read_events(self._process))
        async with asyncio.timeout(START_S):
            await self._wait(lambda: len(self.named("ready")) > runs)
        assert len(self.named("ready")) > runs, f"mailflow did not start: {self.stderr}"

    def send_signal(self, number: signal.Signals) -> None:
        """Send it and return."""
        assert self._process is not None
        self._process.send_signal(number)

    async def terminate(self) -> int:
        """Send SIGTERM; give the exit code of the drain."""
        self.send_signal(signal.SIGTERM)
        return await self.wait_end()

    @property
    def worker_pids(self) -> list[int]:
        """The worker processes that live now, those whose supervisor ended not among them."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii")
        return [int(pid) for pid in children.split()]

    async def kill(self) -> None:
        """Send SIGKILL to every process of the service, as a machine that dies does, and wait until all are gone."""
        self._kill_all()
        assert await self.wait_end() == -signal.SIGKILL

    def _kill_all(self) -> None:
        self.send_signal(signal.SIGSTOP)  # or the supervisor would replace a worker meanwhile
        for pid in self.worker_pids:
            os.kill(pid, signal.SIGKILL)
        self.send_signal(signal.SIGKILL)

    async def wait_end(self) -> int:
        """Give the exit code once the process has ended and its whole log was read."""
        assert self._process is not None
        assert self._reading is not None
        if not self._reads_log and self._reading.done():  # the pipe must be empty before the process counts as ended
            self._reading = asyncio.create_task(self._read_events(self._process, to_the_end=True))
        async with asyncio.timeout(END_S):
            code = await self._process.wait()
            await self._reading
        return code

    def named(self, event: str, **fields: object) -> list[Event]:
        """The log's events of this name so far whose fields have these values."""
        return [e for e in self.events if e["event"] == event and all(e.get(k) == v for k, v in fields.items())]

    async def wait_event(self, event: str, count: int = 1, **fields: object) -> Event:
        """Give the `count`th event of this name and these fields, as soon as it is logged."""
        async with asyncio.timeout(END_S):
            await self._wait(lambda: len(self.named(event, **fields)) >= count)
        found = self.named(event, **fields)
        assert len(found) >= count, f"mailflow ended without {count} {event} {fields}"
        return found[count - 1]

    async def get(self, path: str, **fields: str) -> tuple[int, bytes]:
        """GET from the admin listener, with header fields: status and body. ConnectionError where it is closed."""
        return await self.request("GET", path, b"", fields)

    async def request(self, method: str, path: str, body: bytes, fields: Mapping[str, str]) -> tuple[int, bytes]:
        """Send a request to the admin listener; see `get`."""
        header = {"Host": "localhost", "Connection": "close", "Content-Length": str(len(body)), **fields}
        head = "".join(f"{name}: {value}\r\n" for name, value in header.items())
        reader, writer = await asyncio.open_connection("127.0.0.1", self.admin_port)
        try:
            writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("ascii") + body)
            async with asyncio.timeout(END_S):
                status, _, content = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        return int(status.split(b" ", 2)[1]), content

    async def metrics(self) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
        """Every sample of /metrics: `metrics["mailflow_messages_total"][frozenset({("listener", "mx"), …})]`."""
        status, body = await self.get("/metrics")
        assert status == 200
        samples: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                samples.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
        return samples

    async def metric(self, name: str, **labels: str) -> float:
        """One sample, or the sum of those that have these labels; 0 where there is none."""
        samples = (await self.metrics()).get(name, {})
        return sum(value for found, value in samples.items() if labels.items() <= set(found))

    async def _start_dns(self) -> None:
        loop = asyncio.get_running_loop()
        self._dns, _ = await loop.create_datagram_endpoint(NobodyKnows, local_addr=("127.0.0.1", 0))
        self._nameservers = [f"127.0.0.1:{self._dns.get_extra_info('sockname')[1]}"]

    def _write_config(self) -> None:
        head = HEAD.format(
            workers=self._workers,
            mx_port=self.mx_port,
            mx=self._mx,
            admin_port=self.admin_port,
            admin=self._admin,
            nameservers=json.dumps(self._nameservers),
        )
        self._file.write_text(head + self._config)

    async def _read_events(self, process: asyncio.subprocess.Process, *, to_the_end: bool = False) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.events.append(json.loads(line))
            self._tell()
            if not (self._reads_log or to_the_end) and self.events[-1]["event"] == "ready":
                return
        self.has_ended = True
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait(self, is_true: Callable[[], bool]) -> None:
        while not is_true() and not self.has_ended:
            await self._changed.wait()

    async def _stop_all(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._kill_all()
            await self.wait_end()
        if self._dns is not None:
            self._dns.close()
