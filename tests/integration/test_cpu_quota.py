"""Under a real CPU quota: a flood is told to come again, who is in stays in, probes stay well, and it ends."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mailflow.observe.cgroup import find_cpu_cgroups
from tests.integration.mail_client import MailClient
from tests.integration.mailflow_process import MailflowProcess, route
from tests.servers import leave_out, require_root

ALICE = "alice@example.org"
MX = "max_connections_per_client = 5000"
PERIOD_US = 100_000
QUOTA_US = 15_000
CLIENTS = 600  # the backlog is 1024; a quarter of it is the level where the quota is used up
SHEDS_IN_S = 25.0  # five seconds of grace, a few to be sure, and all of it at a seventh of the CPU
RECOVERS_IN_S = 40.0


@contextlib.contextmanager
def cpu_quota(name: str) -> Iterator[Path]:
    """A cgroup with a quota, v1 or v2, into whose cgroup.procs processes may be written. Only root may make one."""
    require_root()
    with contextlib.ExitStack() as stack:
        for above in find_cpu_cgroups():
            folder = above / name
            with contextlib.suppress(OSError):
                folder.mkdir()
                stack.callback(folder.rmdir)
                if (folder / "cpu.cfs_quota_us").exists():
                    (folder / "cpu.cfs_quota_us").write_text(str(QUOTA_US))
                    break
                if (folder / "cpu.max").exists():
                    (folder / "cpu.max").write_text(f"{QUOTA_US} {PERIOD_US}")
                    break
        else:
            leave_out("no cgroup with a CPU quota can be made here")
        yield folder


class Flood:
    """Clients that connect again as soon as they were served or refused; `heard` counts what they were greeted with."""

    def __init__(self, port: int) -> None:
        self.heard: Counter[str] = Counter()
        self._port = port
        self._is_over = False

    async def run(self) -> None:
        """Run all of them until `stop`."""
        await asyncio.gather(*(self._come_again() for _ in range(CLIENTS)))

    def stop(self) -> None:
        """Let each end what it began."""
        self._is_over = True

    async def _come_again(self) -> None:
        while not self._is_over:
            client = await MailClient.connect(self._port)
            with contextlib.suppress(ConnectionError):
                reply = await client.reply()
                self.heard[reply[:9]] += 1
                if reply.startswith("220"):
                    client.send(b"EHLO client.example\r\nQUIT\r\n")
                    await client.rest()
            client.close()


async def details(mailflow: MailflowProcess, *, is_telling: bool) -> list[str]:
    """What /readyz tells besides being ready, once it tells anything, or nothing: a worker says it each second."""
    while True:
        status, body = await mailflow.get("/readyz")
        assert status == 200, "all Pods would go at once"
        found: list[str] = json.loads(body).get("detail", [])
        if bool(found) is is_telling:
            return found
        await asyncio.sleep(0.1)


async def test_a_flood_under_a_quota_is_shed_and_the_worker_recovers(tmp_path: Path) -> None:
    config = route("example.org", maildir="mail", create=True)
    with cpu_quota(f"mailflow-test-{os.getpid()}") as cgroup:
        async with MailflowProcess(tmp_path, config=config, mx=MX) as mailflow:
            for pid in (mailflow.pid, *mailflow.worker_pids):
                (cgroup / "cgroup.procs").write_text(str(pid))
            standing = await MailClient.greeted(mailflow.mx_port)

            flood = Flood(mailflow.mx_port)
            flooding = asyncio.create_task(flood.run())
            async with asyncio.timeout(SHEDS_IN_S):
                begins = await mailflow.wait_event("shedding_begins")
                told = await details(mailflow, is_telling=True)
            assert (await standing.deliver(ALICE, "meanwhile")).startswith("250 2.0.0 ")
            assert begins["reason"] == "throttled"
            assert begins["throttled"] >= 0.5
            assert told[0].startswith("worker 0 sheds new connections: the event loop is ")
            assert await mailflow.metric("mailflow_shedding") == 1
            assert await mailflow.metric("mailflow_cpu_throttled_ratio") >= 0.25
            flood.stop()
            await flooding

            assert set(flood.heard) == {"220 mx.ex", "421 4.3.2"}
            shed = await mailflow.metric("mailflow_shed_total", reason="throttled")
            assert shed == flood.heard["421 4.3.2"] > 0

            async with asyncio.timeout(RECOVERS_IN_S):
                ends = await mailflow.wait_event("shedding_ends")
                await details(mailflow, is_telling=False)
            assert ends["refused"] == shed
            fresh = await MailClient.greeted(mailflow.mx_port)
            assert (await fresh.deliver(ALICE, "afterwards")).startswith("250 2.0.0 ")
            assert await mailflow.metric("mailflow_shedding") == 0
            assert len(mailflow.named("shedding_begins")) == 1
            assert not mailflow.named("worker_silent")
            assert await mailflow.terminate() == 0
    assert mailflow.stderr == ""


def test_the_quota_of_a_cgroup_is_found() -> None:
    """What the test above rests on: this machine's cgroup files are where we look."""
    program = (
        "import os, sys\n"
        "from mailflow.observe.cgroup import read_cpu_quota\n"
        "open(sys.argv[1], 'w').write(str(os.getpid()))\n"
        "print(read_cpu_quota())\n"
    )
    with cpu_quota(f"mailflow-test-{os.getpid()}-quota") as cgroup:
        command = [sys.executable, "-c", program, str(cgroup / "cgroup.procs")]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(ran.stdout) == QUOTA_US / PERIOD_US
