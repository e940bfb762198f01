"""The composition root of a worker: the only place that names concrete classes.

Made from the whole configuration; every room below gets plain arguments. A worker serves sockets
that were bound before it, and drains: SIGTERM ends in `drain`, never in the middle of a message.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

import structlog

from mailflow import config
from mailflow.deliver.mailbox import LmtpBackend
from mailflow.deliver.maildir import MaildirBackend
from mailflow.deliver.route import Backend, Route, Router
from mailflow.dns import Resolver, StubResolver
from mailflow.mail.address import parse_mailbox
from mailflow.observe.metrics import Metrics
from mailflow.observe.nursery import Nursery
from mailflow.receive.inbound import Inbound
from mailflow.receive.limits import ConnectionLimits
from mailflow.smtp.budget import ByteBudget
from mailflow.smtp.lmtp_connect import parse_server
from mailflow.smtp.server import SHUTTING_DOWN, SmtpOptions, SmtpService
from mailflow.smtp.tls import ServerTls

ACCEPT_BACKLOG = 1024

log = structlog.get_logger()


class Worker:
    """One worker: the MX listener, its hand-off to the backends, its drain.

    `resolver` replaces the real one in the demo, which has a zone of its own.
    Raises OSError or ssl.SSLError where certificate, key or a mailbox folder cannot be used.
    """

    def __init__(self, settings: config.Settings, metrics: Metrics, *, resolver: Resolver | None = None) -> None:
        self._settings = settings
        self._metrics = metrics
        self._sessions = Nursery(on_failure=metrics.internal_errors_total.inc)
        self._background = Nursery(on_failure=metrics.internal_errors_total.inc)
        self._budget = ByteBudget(settings.limits.bytes_in_flight)
        self._resolver: Resolver = resolver or StubResolver([str(server) for server in settings.dns.nameservers])
        self._postmaster = parse_mailbox(settings.postmaster)
        self._backends = {table.name: self._make_backend(table) for table in settings.backend}
        self._router = Router(
            [Route(table.domains, table.backend) for table in settings.route],
            self._backends,
            postmaster=self._postmaster,
        )
        self._mx = self._make_mx_service()
        self._servers: list[tuple[socket.socket, asyncio.Server]] = []

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Serve the MX on bound sockets."""
        loop = asyncio.get_running_loop()
        await self._router.open()
        await self._make_postmaster()
        for sock in sockets:
            server = await loop.create_server(self._mx, sock=sock, backlog=ACCEPT_BACKLOG)
            self._servers.append((sock, server))

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new sessions, let transactions finish for `timeout_s` seconds, stop. False where something was cut."""
        self._mx.drain()
        for sock, server in self._servers:
            _answer_backlog(sock)
            server.close()
        is_clean = await self._sessions.wait_empty(timeout_s)
        if not is_clean:
            log.warning("drain_cut", sessions=len(self._mx.sessions))
        await self._sessions.cancel_all()
        # What is left has nobody who waits for it: its session was cut, it refreshes a memory, or asks for a name.
        await self._background.cancel_all()
        await self._router.close()
        if isinstance(self._resolver, StubResolver):
            await self._resolver.aclose()
        return is_clean

    def refresh_metrics(self) -> None:
        """Read the gauges."""
        self._metrics.sessions.set(len(self._mx.sessions))
        self._metrics.bytes_in_flight.set(self._budget.reserved_bytes)

    def _make_mx_service(self) -> SmtpService:
        settings, metrics = self._settings, self._metrics
        inbound = Inbound(
            hostname=settings.hostname,
            handoff=self._router,
            postmaster=self._postmaster,
            resolver=self._resolver,
            metrics=metrics,
            nursery=self._background,
            max_header_bytes=settings.mx.max_header_bytes,
        )
        limits = ConnectionLimits(
            max_connections=settings.mx.max_connections,
            max_per_client=settings.mx.max_connections_per_client,
            on_shed=lambda reason: metrics.shed_total.labels(reason).inc(),
        )
        return SmtpService(
            handler=inbound,
            options=self._smtp_options(),
            budget=self._budget,
            nursery=self._sessions,
            tls=self._server_tls(),
            admit=limits.admit,
            leave=limits.leave,
            on_internal_error=metrics.internal_errors_total.inc,
            on_tls_handshake=lambda result: metrics.tls_handshakes_total.labels(result).inc(),
        )

    def _make_backend(self, table: config.LmtpBackend | config.MaildirBackend) -> Backend:
        hostname, on_handoff = self._settings.hostname, self._observe_handoff
        if isinstance(table, config.MaildirBackend):
            root, create = table.maildir, table.create
            return MaildirBackend(table.name, root, create=create, hostname=hostname, on_handoff=on_handoff)
        (server,) = table.lmtp
        return LmtpBackend(
            table.name,
            parse_server(str(server)),
            hostname=hostname,
            nursery=self._background,
            connections=table.connections,
            connect_timeout_s=table.connect_timeout_s,
            reply_timeout_s=table.reply_timeout_s,
            handoff_deadline_s=table.handoff_deadline_s,
            when_unverifiable=table.when_unverifiable,
            tls=table.tls,
            tls_context=_client_tls(table.tls_ca) if table.tls != "off" else None,
            on_handoff=on_handoff,
        )

    def _observe_handoff(self, backend: str, outcome: str, seconds: float) -> None:
        self._metrics.handoff_seconds.labels(backend, outcome).observe(seconds)

    async def _make_postmaster(self) -> None:
        """Give the postmaster a mailbox where we keep the mailboxes: mail to it is never refused (RFC 5321 s4.5.1)."""
        backend = self._router.find_backend(self._postmaster)
        if isinstance(backend, MaildirBackend):
            await backend.create_mailbox(self._postmaster)

    def _smtp_options(self) -> SmtpOptions:
        mx = self._settings.mx
        return SmtpOptions(
            hostname=self._settings.hostname,
            max_message_bytes=mx.max_message_bytes,
            max_recipients=min(mx.max_recipients, self._router.max_recipients),
            max_errors=mx.max_errors,
            max_line_octets=mx.max_line_octets,
            command_timeout_s=mx.command_timeout_s,
            data_timeout_s=mx.data_timeout_s,
            min_data_rate=mx.min_data_rate,
            normalizes_newlines=mx.bare_newline == "normalize",
        )

    def _server_tls(self) -> ServerTls | None:
        tls = self._settings.tls
        if not tls.certificate or not tls.key:
            return None
        return ServerTls(tls.certificate, tls.key, on_reload=_log_reload)


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


def _answer_backlog(sock: socket.socket) -> None:
    """Tell clients that were not accepted yet to come again: closing the socket would reset them without a word."""
    while True:
        try:
            client, _ = sock.accept()
        except OSError:  # none is left, or no descriptor is
            return
        with contextlib.suppress(OSError), client:
            client.setblocking(False)
            client.send(SHUTTING_DOWN.encode())
            client.shutdown(socket.SHUT_WR)
