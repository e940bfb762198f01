"""The composition root of a worker: the only place that names concrete classes.

Made from the whole configuration; every room below gets plain arguments. A worker serves sockets
that were bound before it, and drains: SIGTERM ends in `drain`, never in the middle of a message.
"""

import asyncio
import socket
import ssl
from collections.abc import Sequence

import structlog

from mailflow.config import HostPort, LmtpBackend, MaildirBackend, Settings
from mailflow.deliver.maildir import MaildirBackend as MaildirMailboxes
from mailflow.deliver.mailbox import LmtpBackend as LmtpMailboxes
from mailflow.deliver.route import Router
from mailflow.dns import Resolver, StubResolver
from mailflow.mail.address import parse_mailbox
from mailflow.observe.metrics import Metrics
from mailflow.observe.nursery import Nursery
from mailflow.receive.inbound import Inbound
from mailflow.receive.limits import ConnectionLimits
from mailflow.smtp.budget import ByteBudget
from mailflow.smtp.server import SHUTTING_DOWN, SmtpOptions, SmtpService
from mailflow.smtp.tls import ServerTls

ACCEPT_BACKLOG = 1024

log = structlog.get_logger()


class Worker:
    """One worker: the MX listener, its hand-off to the backends, its drain.

    `resolver` replaces the real one in the demo, which has a zone of its own.
    Raises OSError or ssl.SSLError where certificate, key or a mailbox folder cannot be used.
    """

    def __init__(self, settings: Settings, metrics: Metrics, *, resolver: Resolver | None = None) -> None:
        self._settings = settings
        self._metrics = metrics
        self._nursery = Nursery(on_failure=metrics.internal_errors_total.inc)
        self._budget = ByteBudget(settings.limits.bytes_in_flight)
        self._router = self._make_router()
        self._mx = self._make_mx_service(resolver or StubResolver([str(n) for n in settings.dns.nameservers]))
        self._servers: list[tuple[socket.socket, asyncio.Server]] = []

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Serve the MX on bound sockets."""
        loop = asyncio.get_running_loop()
        await self._router.open()
        for sock in sockets:
            server = await loop.create_server(self._mx, sock=sock, backlog=ACCEPT_BACKLOG)
            self._servers.append((sock, server))

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new sessions, let transactions finish for `timeout_s` seconds, stop. False where something was cut."""
        self._mx.drain()
        for sock, server in self._servers:
            _answer_backlog(sock)
            server.close()
        is_clean = await self._nursery.wait_empty(timeout_s)
        if not is_clean:
            log.warning("drain_cut", sessions=len(self._mx.sessions))
            await self._nursery.cancel_all()
        await self._router.close()
        return is_clean

    def refresh_metrics(self) -> None:
        """Read the gauges."""
        self._metrics.sessions.set(len(self._mx.sessions))
        self._metrics.bytes_in_flight.set(self._budget.reserved_bytes)

    def _make_mx_service(self, resolver: Resolver) -> SmtpService:
        settings, metrics = self._settings, self._metrics
        inbound = Inbound(
            hostname=settings.hostname,
            handoff=self._router,
            postmaster=parse_mailbox(settings.postmaster),
            resolver=resolver,
            metrics=metrics,
            nursery=self._nursery,
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
            nursery=self._nursery,
            tls=self._server_tls(),
            admit=limits.admit,
            leave=limits.leave,
            on_internal_error=metrics.internal_errors_total.inc,
            on_tls_handshake=lambda result: metrics.tls_handshakes_total.labels(result).inc(),
        )

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
