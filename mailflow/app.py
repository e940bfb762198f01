"""The composition root of a worker: the only place that names concrete classes.

Made from the whole configuration; every room below gets plain arguments. A worker serves sockets
that were bound before it, and drains: SIGTERM ends in `drain`, never in the middle of a message.
"""

import asyncio
import os
import random
import secrets
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from mailflow import config
from mailflow.deliver.bounce import Judge, Judgement
from mailflow.deliver.depot import Depot
from mailflow.deliver.mailbox import LmtpBackend
from mailflow.deliver.maildir import MaildirBackend
from mailflow.deliver.route import Backend, Route, Router
from mailflow.deliver.schedule import Schedule
from mailflow.dns import Resolver, StubResolver
from mailflow.mail.address import Address, parse_mailbox
from mailflow.mail.address_book import AddressBook, AddressRules
from mailflow.mail.domain_table import DomainTable
from mailflow.mail.handoff import Handoff, Outcome
from mailflow.mail.message_id import RANDOM_OCTETS, make_message_id
from mailflow.mail.reply import Reply
from mailflow.observe.cpu_strain import CpuStrainReader
from mailflow.observe.metrics import Metrics
from mailflow.observe.nursery import Nursery
from mailflow.observe.pressure import MX_LEVELS, Pressure, PressureWatch, Shedder
from mailflow.receive.backlog import answer_backlog, read_backlog
from mailflow.receive.door import Door
from mailflow.receive.inbound import Inbound
from mailflow.receive.limits import ConnectionLimits, LimitCounters, OwnLimits, SharedLimits
from mailflow.receive.listener import ProxyListener
from mailflow.receive.proxy_trust import ProxyTrust, is_in
from mailflow.receive.verdict import Policy
from mailflow.smtp.budget import ByteBudget
from mailflow.smtp.connection import SmtpService
from mailflow.smtp.lmtp_connect import parse_server
from mailflow.smtp.tls import PemPair, ServerTls
from mailflow.smtp.transaction import SmtpOptions
from mailflow.store import Entry, MessageStore, Statistics
from mailflow.store.choose import make_store

ACCEPT_BACKLOG = 1024
DELIVERIES_AT_ONCE = 10  # of stored messages to a destination that does not say what it takes

log = structlog.get_logger()

BackendTable = config.LmtpBackend | config.MaildirBackend
Backends = dict[str, tuple[BackendTable, Backend]]  # by name, with the table each was made from


class Worker:
    """One worker of `workers`: the MX listener, its hand-off to the backends, its reload and its drain.

    `resolver` replaces the real one in the demo, which has a zone of its own; `shared_limits` count for all workers,
    by default for this one alone; `fallback` is the certificate shown where the configured one is unusable; `store` is
    what the settings ask for where it is not given, for worker `slot` of `workers`. Raises OSError or ssl.SSLError
    where a certificate is missing altogether, or a mailbox folder cannot be used.
    """

    def __init__(
        self,
        settings: config.Settings,
        metrics: Metrics,
        *,
        workers: int = 1,
        slot: int = 0,
        resolver: Resolver | None = None,
        shared_limits: SharedLimits | None = None,
        fallback: PemPair | None = None,
        store: MessageStore | None = None,
    ) -> None:
        self._metrics = metrics
        self._fallback = fallback
        self._workers = workers
        self._sessions = Nursery(on_failure=metrics.internal_errors_total.inc)
        self._background = Nursery(on_failure=metrics.internal_errors_total.inc)
        self._deliveries = Nursery(on_failure=metrics.internal_errors_total.inc)
        self._budget = ByteBudget(settings.limits.bytes_in_flight)
        self._resolver: Resolver = resolver or StubResolver([str(server) for server in settings.dns.nameservers])
        self.proxy_trust = ProxyTrust(settings.mx.proxy_protocol_from, clock=time.monotonic)
        self._limits = ConnectionLimits(
            max_connections=settings.mx.max_connections,
            shared=shared_limits or _own_limits(settings),
            on_shed=self._count_shed,
        )
        self._rules = _rules(settings)
        self._reloading = asyncio.Lock()
        store = store or _make_store(settings, slot=slot, workers=workers)
        self._depot = self._make_depot(settings, store, slot) if store else None
        self._plan = self._make_plan(settings, {})
        self._mx = self._make_mx_service(self._plan)
        self.pressure = Pressure(read_strain=CpuStrainReader().read, read_backlog=self._read_backlog)
        self.mx_shedder = Shedder("mx", self.pressure, MX_LEVELS, draw=random.random)
        self._pressure_watch = PressureWatch(self.pressure, [self.mx_shedder], on_probe=self._refuse_waiting)
        self._mx_door = Door(self._mx, find_refusal=self.mx_shedder.find_refusal, on_shed=self._count_refused)
        self._servers: list[tuple[socket.socket, asyncio.Server | ProxyListener]] = []

    @property
    def drain_timeout_s(self) -> float:
        """How long a drain may take where nobody says otherwise."""
        return self._plan.settings.drain.timeout_s

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Serve the MX on bound sockets."""
        loop = asyncio.get_running_loop()
        await self._open(self._plan, {})
        if self._depot is not None:
            await self._depot.start()
        for sock in sockets:
            if self.proxy_trust.is_used:
                self._servers.append((sock, self._start_proxy_listener(sock)))
            else:
                server = await loop.create_server(self._mx_door, sock=sock, backlog=ACCEPT_BACKLOG)
                self._servers.append((sock, server))
        self._pressure_watch.start()

    async def reload(self, settings: config.Settings, *, fallback: PemPair | None = None) -> None:
        """Take up another configuration between transactions: no session ends, nothing under way is disturbed.

        Backends whose table is the same stay, with their connections and what they know. Raises OSError or
        ssl.SSLError; then all is as before. Of two at once the later holds.
        """
        async with self._reloading:
            old = self._plan
            self._fallback = fallback
            plan = self._make_plan(settings, old.backends)
            old_rules, self._rules = self._rules, _rules(settings)  # the postmaster's mailbox is made by the new ones
            try:
                await self._open(plan, old.backends)
            except BaseException:
                self._rules = old_rules
                raise
            self._plan = plan
            self._mx.reconfigure(handler=plan.inbound, options=plan.options, tls=plan.tls)
            self._limits.max_connections = settings.mx.max_connections
            self._budget.limit_bytes = settings.limits.bytes_in_flight
            kept = {id(backend) for _, backend in plan.backends.values()}
            for _, backend in old.backends.values():
                if id(backend) not in kept:
                    await backend.close()

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new sessions, let transactions finish for `timeout_s` seconds, stop. False where something was cut."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + timeout_s
        self._mx.drain()
        if self._depot is not None:
            await self._depot.stop_claiming()
        for sock, server in self._servers:
            answer_backlog(sock)
            server.close()
        is_clean = await self._sessions.wait_empty(timeout_s)
        if not is_clean:
            log.warning("drain_cut", sessions=len(self._mx.sessions))
        await self._sessions.cancel_all()
        is_clean &= await self._deliveries.wait_empty(max(0.0, ends_at - loop.time()))
        await self._deliveries.cancel_all()
        if self._depot is not None:
            await self._depot.stop()
        self._pressure_watch.stop()
        self._mx_door.close()
        # What is left has nobody who waits for it: its session was cut, it refreshes a memory, or asks for a name.
        await self._background.cancel_all()
        for _, backend in self._plan.backends.values():
            await backend.close()
        if isinstance(self._resolver, StubResolver):
            await self._resolver.aclose()
        return is_clean

    def _start_proxy_listener(self, sock: socket.socket) -> ProxyListener:
        listener = ProxyListener(
            self._mx_door,
            sock,
            trust=self.proxy_trust,
            nursery=self._sessions,
            on_missing=self._metrics.proxy_missing_total.inc,
        )
        listener.start(ACCEPT_BACKLOG)
        return listener

    def refresh_metrics(self) -> None:
        """Read the gauges."""
        self._metrics.sessions.set(len(self._mx.sessions))
        self._metrics.bytes_in_flight.set(self._budget.reserved_bytes)
        self._metrics.shedding.set(self.mx_shedder.is_shedding)
        self._metrics.loop_lag_seconds.set(self.pressure.lag_s)
        self._metrics.backlog_ratio.set(self.pressure.backlog)
        self._metrics.cpu_throttled_ratio.set(self.pressure.strain.throttled or 0)
        self._metrics.cpu_waiting_ratio.set(self.pressure.strain.waiting or 0)

    async def answer_queue(self, question: dict[str, Any]) -> dict[str, Any]:
        """Answer what an operator asks of the store (store.desk)."""
        return await self._depot.answer(question) if self._depot else {"error": "no store is configured"}

    def unready_reason(self) -> str | None:
        """Give in words why no traffic should come, None where it should."""
        return self._depot.tenure.unready_reason() if self._depot else None

    def describe_shedding(self) -> str | None:
        """Give in words why new connections are shed, None where they are not."""
        return f"sheds new connections: {self.pressure.describe()}" if self.mx_shedder.is_shedding else None

    def _make_plan(self, settings: config.Settings, running: Backends) -> "Plan":
        """Make what the settings ask for; of the `running` backends those that did not change are taken over."""
        backends: Backends = {}
        for table in settings.backend:
            before, backend = running.get(table.name, (None, None))
            is_same = backend is not None and table == before and not _has_ca(table)  # the CA's file may have changed
            backends[table.name] = (table, backend if is_same and backend else self._make_backend(settings, table))
        postmaster = parse_mailbox(settings.postmaster)
        router = Router(
            [_route(table) for table in settings.route],
            {name: backend for name, (_, backend) in backends.items()},
            postmaster=postmaster,
            quarantine={table.name: table.quarantine for table in settings.backend},
            maps=settings.address_maps,
            nursery=self._background,
        )
        handoff: Handoff = router
        if self._depot is not None:
            handoff = self._depot.make_handoff(router, max_recipients=settings.mx.max_recipients)
        inbound = Inbound(
            hostname=settings.hostname,
            authserv_id=settings.mailauth.authserv_id or settings.hostname,
            policy=mail_policy(settings),
            handoff=handoff,
            postmaster=postmaster,
            resolver=self._resolver,
            metrics=self._metrics,
            nursery=self._background,
            max_header_bytes=settings.mx.max_header_bytes,
            writes_received_spf=settings.mailauth.received_spf,
            find_refusal=self._find_refusal,
            may_relay=lambda ip: is_in(settings.mx.relay_from, ip) and not self.proxy_trust.is_in_doubt(),
        )
        return Plan(
            settings,
            backends,
            router,
            postmaster,
            inbound,
            _smtp_options(settings, handoff, has_store=self._depot is not None),
            _server_tls(settings, self._fallback),
        )

    async def _open(self, plan: "Plan", running: Backends) -> None:
        """Make new backends ready, read the routes' files, give the postmaster a mailbox where we keep the mailboxes.

        Mail to the postmaster is never refused (RFC 5321 s4.5.1).
        """
        for name, (_, backend) in plan.backends.items():
            if name not in running or running[name][1] is not backend:
                await backend.open()
        await plan.router.read_files()
        postmaster = plan.router.find_mailbox(plan.postmaster)
        home = plan.router.find_backend(postmaster)
        if isinstance(home, MaildirBackend):
            await home.create_mailbox(postmaster)

    def _find_refusal(self) -> Reply | None:
        return self._depot.find_refusal() if self._depot else None

    def _make_depot(self, settings: config.Settings, store: MessageStore, slot: int) -> Depot:
        is_shared = isinstance(settings.store.url, config.PostgresServer)
        metrics = self._metrics

        def note(statistics: Statistics) -> None:
            for state, messages in statistics.messages.items():
                metrics.queue_messages.labels(state.value).set(messages)
            metrics.queue_oldest_seconds.set(statistics.oldest_s)

        return Depot(
            store,
            f"{socket.gethostname()} {os.getpid()}",
            lease_s=settings.store.lease_s,
            find_router=lambda: self._plan.router,
            find_room=self._find_room,
            find_first_retry_s=lambda: self._plan.settings.store.first_retry_s,
            judge=self._judge,
            on_report=lambda result: metrics.reports_total.labels(result).inc(),
            delivers="delivery" in settings.roles or not is_shared,
            nursery=self._deliveries,
            background=self._background,
            on_count=note if slot == 0 or not is_shared else None,
        )

    def _judge(self, entry: Entry, body: Sequence[bytes], outcomes: Sequence[Outcome]) -> Judgement:
        """Settle an attempt as the configuration that holds now has it."""
        settings = self._plan.settings
        judge = Judge(
            hostname=settings.hostname,
            schedule=Schedule(settings.store.first_retry_s, settings.store.expire_s),
            find_recipient=self._plan.router.find_recipient,
            new_id=lambda: make_message_id(time.time(), secrets.token_bytes(RANDOM_OCTETS)),
            now=time.time,
            draw=random.random,
        )
        return judge.judge(entry, body, outcomes)

    def _find_room(self, destination: str) -> int:
        """Give how many stored messages at once a destination takes: half of what a backend takes is for new mail."""
        table, _ = self._plan.backends.get(destination, (None, None))
        if not isinstance(table, config.LmtpBackend):
            return DELIVERIES_AT_ONCE
        return max(1, table.connections // self._workers // 2) * len(table.lmtp)

    def _make_mx_service(self, plan: "Plan") -> SmtpService:
        metrics = self._metrics
        return SmtpService(
            handler=plan.inbound,
            options=plan.options,
            budget=self._budget,
            nursery=self._sessions,
            tls=plan.tls,
            admit=self._limits.admit,
            leave=self._limits.leave,
            on_internal_error=metrics.internal_errors_total.inc,
            on_tls_handshake=lambda result: metrics.tls_handshakes_total.labels(result).inc(),
        )

    def _make_backend(self, settings: config.Settings, table: BackendTable) -> Backend:
        hostname, handoffs = settings.hostname, self._metrics.handoffs

        def on_handoff(backend: str, outcome: str, seconds: float) -> None:
            handoffs[backend, outcome].observe(seconds)

        def user_of(address: Address) -> Address:
            return self._rules.strip_detail(address)  # as they are then: the backend outlives a change of routes

        if isinstance(table, config.MaildirBackend):
            return MaildirBackend(
                table.name,
                table.maildir,
                create=table.create,
                hostname=hostname,
                user_of=user_of,
                on_handoff=on_handoff,
            )
        return LmtpBackend(
            table.name,
            [parse_server(str(server)) for server in table.lmtp],
            hostname=hostname,
            nursery=self._background,
            connections=max(1, table.connections // self._workers),
            connect_timeout_s=table.connect_timeout_s,
            reply_timeout_s=table.reply_timeout_s,
            handoff_deadline_s=table.handoff_deadline_s,
            when_unverifiable=table.when_unverifiable,
            tls=table.tls,
            tls_context=_client_tls(table.tls_ca) if table.tls != "off" else None,
            user_of=user_of,
            on_handoff=on_handoff,
            on_failure=lambda backend, server: self._metrics.backend_failures_total.labels(backend, server).inc(),
            on_circuit=lambda backend, server, is_open: self._metrics.backend_circuit_open.labels(backend, server).set(
                is_open
            ),
        )

    def _read_backlog(self) -> float:
        return max((read_backlog(sock).share for sock, _ in self._servers), default=0.0)

    def _refuse_waiting(self) -> None:
        if self.mx_shedder.share and not self._mx.is_draining:
            for sock, server in self._servers:
                if not isinstance(server, ProxyListener):  # that accepts many a turn, and has to read who it is first
                    self._mx_door.refuse_waiting(sock, self._sessions)

    def _count_refused(self, reason: str) -> None:
        self.mx_shedder.refused += 1
        self._count_shed(reason)

    def _count_shed(self, reason: str) -> None:
        self._metrics.shed_total.labels(reason).inc()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a configuration makes of a worker; a reload makes another."""

    settings: config.Settings
    backends: Backends
    router: Router
    postmaster: Address
    inbound: Inbound
    options: SmtpOptions
    tls: ServerTls | None


def _make_store(settings: config.Settings, *, slot: int, workers: int) -> MessageStore | None:
    """Make the store that the settings ask for, as worker `slot` of `workers` has it; None where they ask for none."""
    if settings.store.url is None:
        return None
    return make_store(
        settings.store.url,
        lease_s=settings.store.lease_s,
        min_free_bytes=settings.store.min_free_bytes or 2 * settings.mx.max_message_bytes,
        slot=slot,
        slots=workers,
    )


def mail_policy(settings: config.Settings) -> Policy:
    """Give what the operator wants done with mail by its authentication."""
    mailauth = settings.mailauth
    return Policy(
        is_enforced=mailauth.dmarc == "enforce",
        defers_unanswered=mailauth.on_temperror == "defer",
        trusted_arc_sealers=frozenset(mailauth.trusted_arc_sealers),
        allow=mailauth.allow,
    )


def _route(table: config.RouteTable) -> Route:
    rules = AddressRules(table.aliases, table.map, table.subaddress)
    catch_all = parse_mailbox(table.catch_all) if table.catch_all else None
    return Route(table.domains, table.backend, rules, catch_all)


def _rules(settings: config.Settings) -> AddressBook:
    """Give what a backend has to know of the routes: how addresses of each domain are read."""
    return AddressBook(
        DomainTable((domain, _route(table).rules) for table in settings.route for domain in table.domains)
    )


def _smtp_options(settings: config.Settings, handoff: Handoff, *, has_store: bool) -> SmtpOptions:
    mx = settings.mx
    return SmtpOptions(
        hostname=settings.hostname,
        max_message_bytes=mx.max_message_bytes,
        max_recipients=min(mx.max_recipients, handoff.max_recipients),
        max_errors=mx.max_errors,
        max_line_octets=mx.max_line_octets,
        command_timeout_s=mx.command_timeout_s,
        data_timeout_s=mx.data_timeout_s,
        min_data_rate=mx.min_data_rate,
        normalizes_newlines=mx.bare_newline == "normalize",
        has_dsn=has_store,
    )


def _server_tls(settings: config.Settings, fallback: PemPair | None) -> ServerTls | None:
    tls = settings.tls
    if not tls.certificate or not tls.key:
        return None
    return ServerTls(tls.certificate, tls.key, fallback=fallback, on_reload=_log_reload)


def _own_limits(settings: config.Settings) -> OwnLimits:
    per_minute = settings.limits.connections_per_minute_per_client
    return OwnLimits(LimitCounters(max_sessions=settings.mx.max_connections_per_client, per_minute=per_minute))


def _has_ca(table: BackendTable) -> bool:
    return isinstance(table, config.LmtpBackend) and table.tls != "off"


def _client_tls(ca: Path | None) -> ssl.SSLContext:
    """Verify mailbox servers against `ca`, None: the system's certificates."""
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _log_reload(fault: str | None) -> None:
    if fault is None:
        log.info("certificate_reloaded")
    else:
        log.error("certificate_not_reloaded", fault=fault)
