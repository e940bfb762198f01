"""The campaign: a service under load is killed again and again, in the ways a machine has; then the books are balanced.

    python -m tests.crash.campaign --kills 300 [--postgres] [--seed N]

Senders send all the time (load.py), the mailboxes are a program that no kill touches (sink.py), each end is a SIGKILL:
of the whole service at a random moment, at a system call that makes something durable, or of PostgreSQL and all its
processes. At the end every message that was answered 250 has been delivered, or returned to its sender (ledger.py).
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from benchmarks.nameserver import run_nameserver
from tests.crash.ledger import Ledger
from tests.crash.load import Senders
from tests.crash.strike import SYSCALLS, strike
from tests.integration.mailflow_process import ROOT, MailflowProcess
from tests.postgres_server import PostgresServer

SESSIONS = 12
LONGEST_LIFE_S = 1.5  # from ready to the next kill
SETTLED_S = 40.0  # from the last kill until nothing may be missing any more
ZONE = 'two.example. TXT "v=spf1 ip4:127.0.0.0/8 -all"\n'
CONFIG = """\
[store]
url = "{url}"
first_retry_s = 1
lease_s = 5

[[backend]]
name = "sink"
lmtp = ["127.0.0.1:{port}"]

[[route]]
domains = ["one.example", "two.example"]
backend = "sink"
"""


@contextlib.asynccontextmanager
async def run_sink(ledger: Ledger) -> AsyncIterator[int]:
    """Serve the mailboxes until the block ends; give their port."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.crash.sink", cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    port = int((await process.stdout.readline()).split()[1])

    async def record(lines: asyncio.StreamReader) -> None:
        async for line in lines:
            ledger.note_line(line.decode())

    recording = asyncio.create_task(record(process.stdout))
    try:
        yield port
    finally:
        process.kill()
        await process.wait()
        await recording


class Campaign:
    """One campaign of so many kills against a service with this store."""

    def __init__(self, folder: Path, *, kills: int, seed: int, postgres: PostgresServer | None = None) -> None:
        self.ledger = Ledger()
        self._folder = folder
        self._kills = kills
        self._rng = random.Random(seed)
        self._postgres = postgres
        self._url = postgres.new_database() if postgres else f"sqlite://{folder}/queue.db"

    async def run(self) -> Ledger:
        """Kill, start again, and so on; give the books once all that was promised was kept, or never will be."""
        zone = self._folder / "zone"
        zone.write_text(ZONE, encoding="ascii")
        with run_nameserver(zone) as nameserver:
            async with run_sink(self.ledger) as port:
                config = CONFIG.format(url=self._url, port=port)
                nameservers = [f"127.0.0.1:{nameserver.port}"]
                async with MailflowProcess(self._folder, config=config, workers=2, nameservers=nameservers) as service:
                    await self._kill_under_load(service)
                    await self._settle(service)
                    assert await service.terminate() == 0
        return self.ledger

    async def _kill_under_load(self, service: MailflowProcess) -> None:
        senders = Senders(service.mx_port, self.ledger, sessions=SESSIONS, rng=self._rng)
        senders.start()
        for number in range(self._kills):
            await self._kill(service, number)
            await service.start()
        await senders.stop()

    async def _kill(self, service: MailflowProcess, number: int) -> None:
        """End it: by turns at a random moment, at a durable step, and with its database."""
        ways = ["moment", "step", *(["database"] if self._postgres else [])]
        way = ways[number % len(ways)]
        if way == "step":
            syscall = SYSCALLS[number // len(ways) % len(SYSCALLS)]
            await strike(self._rng.choice(service.worker_pids), syscall, nth=self._rng.randint(1, 20))
        else:
            await asyncio.sleep(self._rng.uniform(0, LONGEST_LIFE_S))
        if way == "database" and self._postgres:
            self.ledger.kills.append(time.time())
            self._postgres.kill()
            await asyncio.sleep(self._rng.uniform(0, LONGEST_LIFE_S))
            self._postgres.start()  # here: it ends with the thread that starts it
            await asyncio.sleep(self._rng.uniform(0, LONGEST_LIFE_S))
        self.ledger.kills.append(time.time())
        await service.kill()

    async def _settle(self, service: MailflowProcess) -> None:
        """Wait until nothing is missing. What was hit by three kills is set aside: then the operator frees it."""
        await self._wait_complete(service)
        if self.ledger.missing():
            _, answer = await service.get("/api/queue?limit=1000")
            entries = json.loads(answer)["entries"]
            self.ledger.set_aside = sum(entry["state"] == "set_aside" for entry in entries)
            change = json.dumps({"ids": [entry["id"] for entry in entries], "change": "retry"}).encode()
            await service.request("POST", "/api/queue/change", change, {"Content-Type": "application/json"})
            await self._wait_complete(service)
        await asyncio.sleep(2)  # for copies that should not come

    async def _wait_complete(self, service: MailflowProcess) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLED_S):
                while self.ledger.missing():
                    await self.ledger.wait_line()
        for event in service.named("not_reported"):
            self.ledger.note_withheld(event["rcpt_to"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one campaign; exit 1 where a promise was broken."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--postgres", action="store_true")
    given = parser.parse_args(arguments)
    print(f"{given.kills} kills on {'PostgreSQL' if given.postgres else 'SQLite'}, seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer()) if given.postgres else None
        ledger = asyncio.run(Campaign(Path(folder), kills=given.kills, seed=given.seed, postgres=postgres).run())
    print(ledger.summary())
    for pair in ledger.missing():
        print("lost:", *pair)
    for pair, times in ledger.unexcused().items():
        print("doubled without a reason:", *pair, *times)
    return 1 if ledger.missing() or ledger.unexcused() or ledger.damaged else 0


if __name__ == "__main__":
    sys.exit(main())
