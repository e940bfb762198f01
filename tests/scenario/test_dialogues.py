"""Runs every *.smtp file of this folder in each of its modes; dialogue.py has the format."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mailflow.smtp.server import SmtpSession
from mailflow.store import Unhealthy
from mailflow.testing import MemoryStore, ZoneResolver
from tests.scenario.client import DEADLINE_S, SmtpClient
from tests.scenario.dialogue import Act, Expect, Scenario, Send, parse_scenario, split_trace
from tests.scenario.memory import MemoryClient
from tests.scenario.service import MAILBOXES, BrokenResolver, Certificate, RunningService, serve

STORE_FAULTS = {"works": None, "full": Unhealthy("no room", is_full=True), "down": Unhealthy("no answer")}
FOLDER = Path(__file__).parent
SCENARIOS = [parse_scenario(path) for path in sorted(FOLDER.glob("*.smtp"))]
RUNS = [pytest.param(s, mode, id=f"{s.path.stem}-{mode}") for s in SCENARIOS for mode in s.modes]


Client = MemoryClient | SmtpClient


@pytest.mark.parametrize(("scenario", "mode"), RUNS)
async def test_dialogue(scenario: Scenario, mode: str, tmp_path: Path, certificate: Certificate) -> None:
    setup = scenario.setup
    is_dns_broken = setup.get("is_dns_broken", False)
    async with serve(
        tmp_path,
        config=scenario.config,
        mailboxes=setup.get("mailboxes", MAILBOXES),
        resolver=BrokenResolver({}) if is_dns_broken else ZoneResolver(scenario.zone),
        store=MemoryStore(clock=time.monotonic) if "store" in setup else None,
        store_fault=STORE_FAULTS[setup.get("store", "works")],
        certificate=certificate if mode == "tls" or setup.get("certificate") else None,
        expects_faults=is_dns_broken,
    ) as service:
        client: Client
        client = MemoryClient(SmtpSession(service.worker._mx)) if mode == "bytes" else await service.connect()
        steps = list(scenario.steps)
        if mode == "tls":
            await run_step(client, steps.pop(0), service, certificate)
            await enter_tls(client, certificate)
        for step in steps:
            await run_step(client, step, service, certificate)
        client.close()
    delivered: Counter[Any] = Counter()
    for file in service.mail.glob("*/*/new/*"):
        mailbox = f"{file.parts[-3]}@{file.parts[-4]}"
        delivered[mailbox, *split_trace(file.read_bytes(), mailbox)] += 1
    assert delivered == scenario.mail


async def run_step(
    client: Client, step: Send | Expect | Act, service: RunningService, certificate: Certificate
) -> None:
    match step:
        case Send(data):
            await client.send_all(data)
        case Expect():
            await check(client, step)
        case Act("EOF"):
            assert await client.rest() == b"", f"line {step.line_number}: more was said than expected"
        case Act("HALF-CLOSE"):
            client.half_close()
        case Act("RESET"):
            client.reset()
        case Act("DISCONNECT"):
            client.close()
        case Act("TLS"):
            await client.start_tls(certificate.chain)
        case Act("DRAIN"):
            service.begin_drain()


async def check(client: Client, expected: Expect) -> None:
    try:
        line = (await client.line()).decode()
        while expected.ends_reply and line[3:4] == "-":
            line = (await client.line()).decode()
    except TimeoutError:
        pytest.fail(f"line {expected.line_number}: {expected.pattern!r} did not come within {DEADLINE_S:g} s")
    assert expected.matches(line), f"line {expected.line_number}: expected {expected.pattern!r}, came {line!r}"


async def enter_tls(client: Client, certificate: Certificate) -> None:
    assert isinstance(client, SmtpClient)
    assert "STARTTLS" in await client.command("EHLO client.test")
    assert await client.command("STARTTLS") == "220 2.0.0 Ready to start TLS"
    await client.start_tls(certificate.chain)


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) > 50
