"""The demo's senders and an unbound that knows them; `mailflow auth check` as a process on the same mail.

The service's own domain is example.org, whose mailboxes a Maildir keeps; the client is 127.0.0.1.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mailflow.cli.demo_messages import CLIENT_NAME, Sample, compose
from mailflow.cli.demo_senders import make_senders
from mailflow.dns.names import reverse_name
from tests.integration.mail_client import MailClient
from tests.integration.mailflow_process import ROOT, Event, MailflowProcess, route
from tests.unbound_server import run_unbound

ALICE = "alice@example.org"
TRUSTED = '[mailauth]\ntrusted_arc_sealers = ["lists.example"]\n'
MAX_STRING_OCTETS = 255  # of one string of a TXT record (RFC 1035 s3.3)
OUTAGE = "outage.example"  # whose DMARC record nobody can be asked for
CHECK_S = 60.0


@dataclass(frozen=True, slots=True)
class Site:
    """What the senders sent, by name, and where their DNS is asked."""

    samples: Mapping[str, Sample]
    nameserver: str


@contextlib.contextmanager
def run_site(folder: Path) -> Iterator[Site]:
    """Sign the mail and serve the zone until the block ends."""
    samples, senders = asyncio.run(make_senders())
    zone: dict[str, Sequence[Any]] = {**senders, f"_dmarc.{OUTAGE}": ["SERVFAIL"], OUTAGE: [{"TXT": "v=spf1 -all"}]}
    outage = replace(
        next(sample for sample in samples if sample.name == "spoof"),
        name="outage",
        content=compose("Later", "Is anybody there?", sender=f"a@{OUTAGE}"),
    )
    with run_unbound(folder, _served(zone), apexes=["example", "127.in-addr.arpa"], ttl_s=60) as nameserver:
        yield Site({sample.name: sample for sample in (*samples, outage)}, nameserver)


def _served(zone: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """Give a zone as unbound takes it: reverse names spelled out, long texts in several strings."""
    return {_spelled(name): [_cut(row) for row in rows] for name, rows in zone.items()}


def _spelled(name: str) -> str:
    with contextlib.suppress(ValueError):
        return reverse_name(name).rstrip(".")
    return name


def _cut(row: Any) -> Any:
    text = row.get("TXT") if isinstance(row, dict) else None
    if not isinstance(text, str):
        return row
    return {"TXT": [text[at : at + MAX_STRING_OCTETS] for at in range(0, len(text), MAX_STRING_OCTETS)]}


@contextlib.asynccontextmanager
async def run_mailflow(folder: Path, site: Site, mailauth: str = TRUSTED) -> AsyncIterator[MailflowProcess]:
    """Serve example.org with a mailbox for Alice; it stays silent on stderr."""
    config = mailauth + route("example.org", maildir="mail")
    for name in ("tmp", "new", "cur"):
        (folder / "mail/example.org/alice" / name).mkdir(parents=True)
    async with MailflowProcess(folder, config=config, nameservers=[site.nameserver]) as mailflow:
        yield mailflow
        assert mailflow.stderr == ""


async def send(mailflow: MailflowProcess, sample: Sample, recipient: str = ALICE) -> str:
    """Bring one message in a connection of its own; the reply to its content."""
    client = await MailClient.greeted(mailflow.mx_port, f"EHLO {CLIENT_NAME}")
    assert (await client.command(f"MAIL FROM:<{sample.sender}>")).startswith("250 ")
    assert (await client.command(f"RCPT TO:<{recipient}>")).startswith("250 ")
    assert (await client.command("DATA")).startswith("354 ")
    client.send(sample.content.replace(b"\r\n.", b"\r\n..") + b".\r\n")
    reply = await client.reply()
    client.close()
    return reply


def read_mailbox(mailflow: MailflowProcess) -> list[bytes]:
    """What lies in Alice's mailbox."""
    new = mailflow.folder / "mail/example.org/alice/new"
    return [file.read_bytes() for file in new.iterdir()]


def delivered(mailflow: MailflowProcess, sample: Sample) -> bytes | None:
    """The sample as Alice got it, None where she did not."""
    found = [mail for mail in read_mailbox(mailflow) if mail.endswith(b"\r\n" + sample.content)]
    assert len(found) <= 1, "delivered twice"
    return found[0] if found else None


async def decision(mailflow: MailflowProcess, sample: Sample) -> Event:
    """The one event that tells what became of a sample, known by its senders."""
    author = sample.content.partition(b"\r\nFrom: ")[2] or sample.content.partition(b"From: ")[2]
    address = author.partition(b"<")[2].partition(b">")[0].decode()
    event = await mailflow.wait_event("message", mail_from=sample.sender, header_from=address)
    assert len(mailflow.named("message", mail_from=sample.sender, header_from=address)) == 1
    return event


def save(folder: Path, sample: Sample) -> str:
    """Write a sample into a file; its path."""
    file = folder / f"{sample.name}.eml"
    file.write_bytes(sample.content)
    return str(file)


async def check(folder: Path, sample: Sample, *options: str) -> tuple[int, dict[str, Any]]:
    """Run `mailflow auth check --json` on a sample as its client brings it; the exit code and the document."""
    file = save(folder, sample)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAILFLOW_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mailflow", "auth", "check", file, "--ip", "127.0.0.1", "--helo", CLIENT_NAME),
        *("--mail-from", sample.sender, "--json", *options),
        cwd=ROOT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(CHECK_S):
        stdout, stderr = await process.communicate()
    assert stderr == b"", stderr
    assert process.returncode is not None
    return process.returncode, json.loads(stdout)
