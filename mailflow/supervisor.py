"""The process around a worker: sockets, signals, the admin listener, the order of start and end.

Sockets are bound before anything runs, so that port 0 is resolved once and a port that is taken is
told at once. SIGTERM and SIGINT drain: unready first, then serve on for `[drain] delay_s` (nobody
tells a process that its endpoint was withdrawn), then let transactions finish; the admin listener
closes last.
"""

import asyncio
import errno
import resource
import signal
import socket
import sys
from collections.abc import Sequence

import structlog
import uvloop

from mailflow.admin.server import AdminServer, Health
from mailflow.app import Worker
from mailflow.config import HostPort, Settings
from mailflow.dns import Resolver
from mailflow.observe.log import LogWriter, open_log
from mailflow.observe.metrics import Metrics
from mailflow.observe.nursery import Nursery

OTHER_DESCRIPTORS = 512  # mailbox servers, DNS, probes, files, refused clients that still read why
NO_SUCH_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})

log = structlog.get_logger()


class Service:
    """Listeners, worker and admin server of one process, from start to the end of the drain."""

    def __init__(self, settings: Settings, metrics: Metrics, *, resolver: Resolver | None = None) -> None:
        """Bind every listener of the roles. Raises OSError that names the address."""
        self._settings = settings
        self._health = Health()
        self._mx_sockets = _bind_all(settings.mx.listen) if "mx" in settings.roles else []
        self._admin_sockets = _bind_all((settings.admin.listen,)) if "admin" in settings.roles else []
        self._worker = Worker(settings, metrics, resolver=resolver) if self._mx_sockets else None
        refresh = self._worker.refresh_metrics if self._worker else lambda: None
        self._admin = AdminServer(self._health, metrics, refresh=refresh)
        self._nursery = Nursery(on_failure=metrics.internal_errors_total.inc)

    @property
    def listeners(self) -> dict[str, list[str]]:
        """The bound addresses by role, as `host:port` with ports resolved."""
        mx, admin = ([_name(sock) for sock in sockets] for sockets in (self._mx_sockets, self._admin_sockets))
        return {"mx": mx, "submission": [], "submission_tls": [], "admin": admin}

    async def start(self) -> None:
        """Serve; after it /startupz and /readyz answer 200."""
        for sock in self._admin_sockets:
            self._admin.start(sock, self._nursery)
        if self._worker:
            await self._worker.start(self._mx_sockets)
        self._health.is_started = True

    async def drain(self) -> bool:
        """Unready; serve on for `delay_s`; let transactions finish for `timeout_s`. False where something was cut."""
        log.info("drain_begins")
        self._health.is_draining = True
        await asyncio.sleep(self._settings.drain.delay_s)
        is_clean = await self._worker.drain(self._settings.drain.timeout_s) if self._worker else True
        await self._admin.stop()
        log.info("drain_ends", is_clean=is_clean)
        return is_clean


def serve(settings: Settings) -> int:
    """Run the roles of the configuration until SIGTERM; give the exit code.

    0 after a drain, 1 if its time cut something or if the service could not start.
    """
    metrics = Metrics()
    writer = open_log(
        level=settings.log.level,
        buffer_bytes=settings.log.buffer_bytes,
        on_drop=metrics.count_log_drop,
    )
    _raise_descriptor_limit(settings)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return 0 if runner.run(_serve(settings, metrics, writer)) else 1
    except OSError as exc:
        sys.stderr.write(f"mailflow: cannot start: {exc}\n")
        return 1
    finally:
        writer.close()


async def _serve(settings: Settings, metrics: Metrics, writer: LogWriter) -> bool:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    service = Service(settings, metrics)
    await service.start()
    workers = int("mx" in settings.roles)
    writer.write_line({"event": "ready", "listeners": service.listeners, "workers": workers})
    await stop.wait()
    return await service.drain()


def _raise_descriptor_limit(settings: Settings) -> None:
    """Take as many descriptors as the hard limit gives, and say so where that is too few for the sessions allowed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = settings.mx.max_connections + OTHER_DESCRIPTORS
    if hard != resource.RLIM_INFINITY and hard < wanted:
        log.warning("too_few_descriptors", limit=hard, wanted=wanted)


def _bind_all(addresses: Sequence[HostPort]) -> list[socket.socket]:
    sockets = []
    for address in addresses:
        try:
            sockets.append(_bind(address))
        except OSError as exc:
            # A host without IPv6 must not fail on the default of listening on both families.
            if exc.errno not in NO_SUCH_FAMILY or len(addresses) == 1:
                raise
            log.warning("listener_skipped", address=str(address), reason=str(exc))
    return sockets


def _bind(address: HostPort) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Its own family only: an IPv4 client is never seen as ::ffff:192.0.2.1.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address.host, address.port))
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        raise OSError(exc.errno, f"{address}: {exc.strerror}") from exc
    return sock


def _name(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
