"""The run behind `mailflow auth check`: read the arguments, authenticate, decide, report.

Each check has a resolver that remembers what it asked, all of them within the budget one message has.
"""

import asyncio
import os
import re
import time
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from mailflow.app import mail_policy
from mailflow.cli.auth_report import Report, print_json, print_text
from mailflow.cli.usage import UsageFault, open_resolver, read_nameserver
from mailflow.config import ConfigFaults, Settings, load_settings
from mailflow.dns import RecordingResolver, Resolver
from mailflow.mail.address import Address, AddressSyntaxError, parse_mailbox
from mailflow.mailauth.signed_message import SignedMessage
from mailflow.receive.authenticate import Arrival, Method, authenticate, share_budget
from mailflow.receive.checks import verify_client_name
from mailflow.receive.proxy_trust import is_in
from mailflow.receive.verdict import Action, Policy, decide


def run_check(
    file: Path,
    *,
    ip: str,
    helo: str,
    mail_from: str,
    config: Path | None,
    nameserver: str | None,
    at: str | None,
    as_json: bool,
) -> int:
    """Check one message; give the exit code. Raises UsageFault."""
    settings = _load(config) if config else None
    client_ip = _parse_ip(ip)
    reverse_path = _parse_mail_from(mail_from)
    now = _parse_time(at) if at is not None else time.time()
    content = _read_message(file)
    nameservers = _nameservers(settings) if nameserver is None else [read_nameserver(nameserver)]
    policy = mail_policy(settings) if settings else Policy()
    receiver = settings.hostname if settings else "unknown"
    may_relay = settings is not None and is_in(settings.mx.relay_from, client_ip)

    async def check() -> Report:
        async with open_resolver(nameservers) as resolver:
            return await check_message(
                content,
                client_ip,
                helo,
                reverse_path,
                resolver,
                policy=policy,
                may_relay=may_relay,
                now=now,
                receiver=receiver,
            )

    report = asyncio.run(check())
    (print_json if as_json else print_text)(report)
    return 0 if report.verdict.action in (Action.ACCEPT, Action.QUARANTINE) else 1


async def check_message(
    content: bytes,
    client_ip: str,
    helo: str,
    reverse_path: Address | None,
    resolver: Resolver,
    *,
    policy: Policy,
    now: float,
    receiver: str,
    may_relay: bool = False,
) -> Report:
    """Authenticate one message, decide, and keep what each check read from the DNS."""
    budget = share_budget(resolver)
    recorders = {method: RecordingResolver(budget(method)) for method in Method}
    iprev = RecordingResolver(resolver)
    reverse_name = await verify_client_name(iprev, client_ip)
    evidence = await authenticate(
        SignedMessage(content),
        Arrival(client_ip, helo, reverse_name, reverse_path, may_relay),
        resolver_for=recorders.__getitem__,
        now=now,
        receiver=receiver,
    )
    seen = {"iprev": iprev.seen, **{method.value: recorder.seen for method, recorder in recorders.items()}}
    return Report(evidence, decide(evidence, policy), seen)


def _load(config: Path) -> Settings:
    try:
        return load_settings(config, os.environ)
    except ConfigFaults as faults:
        raise UsageFault(f"the configuration cannot be used\n{faults}") from None


def _nameservers(settings: Settings | None) -> list[str]:
    return [str(server) for server in settings.dns.nameservers] if settings else []


def _parse_ip(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError as exc:
        raise UsageFault(f"--ip {text!r}: allowed is an IPv4 or IPv6 address") from exc


def _parse_mail_from(text: str) -> Address | None:
    bare = text.removeprefix("<").removesuffix(">") if text.startswith("<") and text.endswith(">") else text
    if not bare:
        return None
    try:
        return parse_mailbox(bare)
    except AddressSyntaxError as exc:
        raise UsageFault(f'--mail-from {text!r}: allowed is an address, "" or "<>" ({exc})') from exc


def _parse_time(text: str) -> float:
    if re.fullmatch(r"[0-9]{1,12}", text):  # 30,000 years
        return float(text)
    try:
        at = datetime.fromisoformat(text)
    except ValueError as exc:
        raise UsageFault(f"--at {text!r}: allowed is a Unix time or ISO 8601 such as 2026-10-01T12:00:00Z") from exc
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _read_message(file: Path) -> bytes:
    try:
        content = file.read_bytes()
    except OSError as exc:
        raise UsageFault(f"{file}: {exc.strerror or 'cannot be read'}") from exc
    return re.sub(rb"(?<!\r)\n", b"\r\n", content)
