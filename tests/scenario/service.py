"""A whole worker on a loopback port: settings from a TOML file, mailboxes in a folder, DNS from a zone.

    async with serve(tmp_path, config="[mx]\nmax_errors = 3\n") as service:
        client = await service.greeted()

Leaving drains the worker and asserts what holds after every scenario, whatever the client did: every session ended,
every byte of the budget given back, no exception of ours on the way.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mailflow.app import Worker
from mailflow.config import load_settings
from mailflow.dns import Answer, RdType, Record, Resolver
from mailflow.observe.metrics import Metrics
from mailflow.store import Unhealthy
from mailflow.testing import MemoryStore, ZoneResolver
from tests.scenario.client import SmtpClient

DRAIN_S = 5.0
MAILBOXES = ("alice@example.org", "postmaster@example.org")
HEAD = 'hostname = "mx.test"\nroles = ["mx"]\n'
# Most scenarios are about the transport, and their mail has no author; those about authentication say what they want.
MAILAUTH = '[mailauth]\ndmarc = "monitor"\n'
MAILDIR = """
[[backend]]
name = "mailboxes"
maildir = "mail"
"""
ROUTE = """
[[route]]
domains = ["example.org"]
backend = "mailboxes"
"""


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files."""

    chain: Path
    key: Path


class BrokenResolver(ZoneResolver):
    """A resolver with a fault of ours inside: what it raises is no fact about DNS."""

    async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
        """Raise what nobody expects, with words that no peer may read."""
        raise RuntimeError("SecretClass at /etc/mailflow/secret.py")


@dataclass(slots=True)
class RunningService:
    """A worker that serves. `mail` is the folder of the mailboxes."""

    worker: Worker
    metrics: Metrics
    port: int
    mail: Path
    clients: list[SmtpClient] = field(default_factory=list)
    draining: "asyncio.Task[bool] | None" = None

    async def connect(self, *, address: str = "127.0.0.1", receive_bytes: int = 0) -> SmtpClient:
        """Connect a client that goes when the service does."""
        client = await SmtpClient.connect(self.port, address=address, receive_bytes=receive_bytes)
        self.clients.append(client)
        return client

    async def greeted(self, greeting: str = "EHLO client.test") -> SmtpClient:
        """Connect, read the banner, greet."""
        client = await self.connect()
        assert await client.reply() == "220 mx.test ESMTP"
        assert (await client.command(greeting)).startswith("250")
        return client

    def begin_drain(self) -> None:
        """Begin what SIGTERM begins."""
        self.draining = self.draining or asyncio.create_task(self.worker.drain(DRAIN_S))

    @property
    def held_bytes(self) -> int:
        """What the sessions hold of the budget."""
        return self.worker._budget.reserved_bytes

    @property
    def buffered_bytes(self) -> int:
        """What waits to be read or written in the buffers of all sessions."""
        streams = [session.stream for session in self.worker._mx.sessions]
        written = sum(s._transport.get_write_buffer_size() for s in streams if s._transport and not s.is_lost)
        return written + sum(len(s._input) + sum(map(len, s._output)) for s in streams)

    @property
    def open_sessions(self) -> int:
        """Sessions that have not ended, those that linger included."""
        return len(self.worker._mx.sessions)

    def count(self, name: str, **labels: str) -> float:
        """Read one metric."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def delivered(self, mailbox: str = "alice@example.org") -> list[bytes]:
        """Read a mailbox, in no particular order: whole messages as delivered."""
        local, _, domain = mailbox.rpartition("@")
        return [file.read_bytes() for file in sorted((self.mail / domain / local / "new").glob("*"))]

    def all_delivered(self) -> list[bytes]:
        """Read every message of every mailbox."""
        return [file.read_bytes() for file in sorted(self.mail.glob("*/*/new/*"))]


@contextlib.asynccontextmanager
async def serve(
    folder: Path,
    *,
    config: str = "",
    backend: str = MAILDIR,
    mailboxes: Sequence[str] = MAILBOXES,
    zone: Mapping[str, Any] | None = None,
    resolver: Resolver | None = None,
    certificate: Certificate | None = None,
    store: MemoryStore | None = None,
    store_fault: Unhealthy | None = None,
    expects_faults: bool = False,
) -> AsyncGenerator[RunningService]:
    """Run a worker in `folder`; `config` is TOML without `hostname`, `roles`, `[tls]`, `[[backend]]`, `[[route]]`.

    There is a store where one is given, which has the fault, if any, once it is open.
    """
    tls = f'\n[tls]\ncertificate = "{certificate.chain}"\nkey = "{certificate.key}"\n' if certificate else ""
    file = folder / "mailflow.toml"
    mailauth = "" if "[mailauth]" in config else MAILAUTH
    file.write_text(HEAD + config + mailauth + tls + backend + ROUTE)
    mail = folder / "mail"
    for mailbox in mailboxes:
        make_mailbox(mail, mailbox)
    metrics = Metrics()
    worker = Worker(load_settings(file, {}), metrics, resolver=resolver or ZoneResolver(zone or {}), store=store)
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    service = RunningService(worker, metrics, sock.getsockname()[1], mail)
    await worker.start([sock])
    if store is not None and store_fault is not None:
        store.break_down(store_fault)
    try:
        yield service
    finally:
        for client in service.clients:
            client.close()
        service.begin_drain()
        assert service.draining
        is_clean = await service.draining
    assert is_clean, "a session or a hand-off did not end"
    assert service.held_bytes == 0
    assert service.open_sessions == 0
    assert (service.count("mailflow_internal_errors_total") > 0) is expects_faults


def make_mailbox(mail: Path, mailbox: str) -> None:
    """Make the Maildir of an address of plain characters."""
    local, _, domain = mailbox.rpartition("@")
    for name in ("tmp", "new", "cur"):
        (mail / domain / local / name).mkdir(parents=True, exist_ok=True)
