"""The run behind `mailflow demo`: start the service, send the samples, compare, serve on, drain.

The service is the one `mailflow serve` runs, from a configuration file; only DNS is a zone of its
own (mailflow.testing.ZoneResolver), so that the outcomes are the same on every machine.
"""

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import uvloop

from mailflow.app import mail_policy
from mailflow.cli.auth_check import check_message
from mailflow.cli.demo_client import Dialogue, send_sample
from mailflow.cli.demo_messages import CLIENT_NAME, HOSTNAME, SAMPLES, Sample
from mailflow.cli.demo_outcome import Outcome, compare
from mailflow.cli.demo_report import JsonReport, TextReport
from mailflow.cli.demo_senders import make_senders
from mailflow.cli.demo_service import DemoService
from mailflow.cli.demo_site import Site, make_site
from mailflow.config import load_settings
from mailflow.dns import Resolver
from mailflow.mail.address import parse_mailbox
from mailflow.observe.log import open_log
from mailflow.receive.explanation import explain_message
from mailflow.receive.verdict import Policy
from mailflow.testing import ZoneResolver


def run_demo(*, once: bool, as_json: bool) -> int:
    """Run the demo in a fresh folder; give the exit code. Blocks until a signal unless `once`."""
    try:
        site = make_site(Path(tempfile.mkdtemp(prefix="mailflow-demo-")))
        log_fd = os.open(site.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as exc:
        return _fail(f"cannot make its folder: {exc}")
    report = JsonReport(site) if as_json else TextReport(site)
    writer = open_log(fd=log_fd)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            is_fine = runner.run(_run(site, report, once=once))
    except OSError as exc:
        return _fail(f"cannot start: {exc}")
    finally:
        writer.close()
        os.close(log_fd)
    return 0 if is_fine else 1


async def _run(site: Site, report: JsonReport | TextReport, *, once: bool) -> bool:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # The environment is left out: it configures the service, and a demo has the same outcomes everywhere.
    senders, zone = await make_senders()
    settings, resolver = load_settings(site.config, {}), ZoneResolver(zone)
    service = DemoService(settings, resolver)
    await service.start()
    try:
        is_fine = await send_samples(
            service.listeners["mx"][0],
            site,
            report,
            samples=(*SAMPLES, *senders),
            stop=stop,
            explain=partial(explain_sample, resolver, mail_policy(settings)),
        )
        if not once and not stop.is_set():
            report.show_serving(service.listeners)
            await stop.wait()
    finally:
        await service.drain()
    return is_fine


async def send_samples(
    address: str,
    site: Site,
    report: JsonReport | TextReport,
    *,
    samples: Sequence[Sample] = SAMPLES,
    stop: asyncio.Event | None = None,
    explain: Callable[[Sample], Awaitable[list[str]]] | None = None,
) -> bool:
    """Send each sample to `address` and show what came of it; tell whether each got what it must.

    False too where `stop` was set before all were sent. `explain` gives sentences about samples that are explained.
    """
    tls = site.client_tls()
    outcomes = []
    for sample in samples:
        if stop and stop.is_set():
            _fail("stopped before all samples were sent")
            return False
        before = site.delivered()
        greeting, dialogue = await send_sample(address, tls, sample)
        outcome = _compare(sample, dialogue, site, sorted(site.delivered() - before))
        outcomes.append(outcome)
        sentences = await explain(sample) if explain and sample.is_explained else []
        report.show_outcome(outcome, greeting, sentences)
        for difference in outcome.differences:
            _fail(f"{sample.name}: {difference}")
    report.show_end(outcomes)
    return not any(outcome.differences for outcome in outcomes)


async def explain_sample(resolver: Resolver, policy: Policy, sample: Sample) -> list[str]:
    """Give the sentences of `mailflow auth check` about a sample as the demo's client sends it."""
    sender = parse_mailbox(sample.sender) if sample.sender else None
    report = await check_message(
        sample.content, "127.0.0.1", CLIENT_NAME, sender, resolver, policy=policy, now=time.time(), receiver=HOSTNAME
    )
    return explain_message(report.evidence, report.verdict)


def _compare(sample: Sample, dialogue: Dialogue, site: Site, delivered: list[Path]) -> Outcome:
    return compare(sample, dialogue, delivered, site.mailbox(sample.mailbox) if sample.mailbox else None)


def _fail(message: str) -> int:
    print(f"mailflow demo: {message}", file=sys.stderr)
    return 1
