"""The supervisor: binds, starts a worker per slot, watches, reloads, drains (DESIGN: Sockets, Drain).

SIGTERM and SIGINT drain: unready first, then serve on for `[drain] delay_s` (nobody tells a process
that its endpoint was withdrawn), then let the workers finish; the admin listener closes last.
SIGHUP reads the configuration again; a faulty one changes nothing.
"""

import asyncio
import contextlib
import ipaddress
import itertools
import logging
import resource
import signal
import ssl
import sys
import time
from collections.abc import Callable
from typing import Any

import structlog
import uvloop

from mailflow.admin.queue_api import QueueApi
from mailflow.admin.server import AdminServer, Health
from mailflow.config import ConfigFaults, PostgresServer, Settings
from mailflow.observe.cgroup import count_workers
from mailflow.observe.log import LogWriter, open_log
from mailflow.observe.metrics import Metrics
from mailflow.observe.nursery import Nursery
from mailflow.receive.limits import LimitCounters
from mailflow.receive.proxy_trust import ProxyTrust
from mailflow.receive.shared_counters import SharedCounters
from mailflow.smtp.tls import PemPair, read_pair
from mailflow.supervisor.channel import Message
from mailflow.supervisor.merged_metrics import MergedMetrics, take_snapshot
from mailflow.supervisor.queue_desk import QueueDesk
from mailflow.supervisor.reload import merge_reloaded
from mailflow.supervisor.slot import WorkerSlot
from mailflow.supervisor.sockets import bind_slots, name_socket
from mailflow.supervisor.worker_main import pack_settings

OTHER_DESCRIPTORS = 512  # mailbox servers, DNS, probes, files, refused clients that still read why
TICK_S = 1.0
MAX_DETAIL = 300  # characters of a worker's own words on /readyz
SCRAPE_S = 0.5  # a worker that does not answer a scrape in this time is shown as it was last

log = structlog.get_logger()


def serve(settings: Settings, load: Callable[[], Settings]) -> int:
    """Run the roles of the configuration until SIGTERM; give the exit code. `load` reads it again at SIGHUP.

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
            return 0 if runner.run(_serve(settings, load, metrics, writer)) else 1
    except OSError as exc:
        sys.stderr.write(f"mailflow: cannot start: {exc}\n")
        return 1
    finally:
        writer.close()


async def _serve(settings: Settings, load: Callable[[], Settings], metrics: Metrics, writer: LogWriter) -> bool:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    supervisor = Supervisor(settings, load, metrics, writer)
    loop.add_signal_handler(signal.SIGHUP, supervisor.reload)
    try:
        await supervisor.start(stop)
        if not stop.is_set():
            writer.write_line({"event": "ready", "listeners": supervisor.listeners, "workers": len(supervisor.slots)})
            await stop.wait()
    except OSError:
        await supervisor.drain(delay_s=0)
        raise
    return await supervisor.drain(delay_s=supervisor.settings.drain.delay_s)


class Supervisor:
    """The slots, the admin listener, and what the workers share."""

    def __init__(self, settings: Settings, load: Callable[[], Settings], metrics: Metrics, writer: LogWriter) -> None:
        """Bind every listener of the roles. Raises OSError that names the address."""
        self.settings = settings
        self._load = load
        self._metrics = metrics
        self._writer = writer
        self._nursery = Nursery(on_failure=metrics.internal_errors_total.inc)
        self._health = Health()
        self._health.details = self._details
        self._health.livez_reason = self._find_dead_worker
        self._trust = ProxyTrust(settings.mx.proxy_protocol_from, clock=time.monotonic)
        self._limits = LimitCounters(
            max_sessions=settings.mx.max_connections_per_client,
            per_minute=settings.limits.connections_per_minute_per_client,
        )
        self._shedding: dict[WorkerSlot, str] = {}  # why, in the worker's words
        self._unready: dict[WorkerSlot, str] = {}  # the same
        self._health.find_unready = lambda: next(iter(self._unready.values()), None)
        self._reloading = asyncio.Lock()
        self._shared: SharedCounters | None = None  # over all Pods, where limits.url names a server
        count = (settings.workers or count_workers()) if {"mx", "delivery"} & set(settings.roles) else 0
        is_mx = "mx" in settings.roles
        mx = bind_slots(settings.mx.listen, count) if is_mx and count else [[] for _ in range(count)]
        admin = bind_slots((settings.admin.listen,), 1)[0] if "admin" in settings.roles else []
        self.listeners = {
            "mx": [name_socket(sock) for sock in mx[0]] if mx else [],
            "submission": [],
            "submission_tls": [],
            "admin": [name_socket(sock) for sock in admin],
        }
        self._admin_sockets = admin
        self._merged = MergedMetrics()
        self._pair: PemPair | None = None
        self._scrapes: dict[int, tuple[set[WorkerSlot], asyncio.Event]] = {}
        self._numbers = itertools.count(1)
        self.slots = [
            WorkerSlot(number, sockets, make_start=self._make_start, on_message=self._take, on_end=self._forget_worker)
            for number, sockets in enumerate(mx)
        ]
        self._running: list[asyncio.Task[int]] = []
        self._desk = QueueDesk(self.slots, is_shared=isinstance(settings.store.url, PostgresServer))
        is_loopback = ipaddress.ip_address(settings.admin.listen.host).is_loopback
        api = QueueApi(self._desk.ask, is_loopback=is_loopback, token_file=settings.admin.token_file)
        self._admin = AdminServer(self._health, self._render_metrics, api_routes=api.routes)

    async def start(self, stop: asyncio.Event) -> None:
        """Start everything; return when all workers serve, or when `stop` is set. Raises OSError."""
        for sock in self._admin_sockets:
            self._admin.start(sock, self._nursery)
        self._tick()
        self._share_limits()
        self._running = [self._nursery.start(slot.keep_running(), name="worker slot") for slot in self.slots]
        stopping = self._nursery.start(stop.wait(), name="stop")
        for slot in self.slots:
            either: list[asyncio.Future[Any]] = [slot.ready, stopping]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if slot.ready.done():
                slot.ready.result()  # raises what the worker could not do
        self._health.is_started = not stop.is_set()

    async def drain(self, *, delay_s: float) -> bool:
        """Unready; serve on for `delay_s`; let the workers finish. False where something was cut."""
        log.info("drain_begins")
        self._health.is_draining = True
        await asyncio.sleep(delay_s)
        for slot in self.slots:
            slot.stop(self.settings.drain.timeout_s)
        codes = await asyncio.gather(*self._running)
        is_clean = not any(codes)
        if self._shared is not None:
            self._shared.stop()
            await self._shared.wait_stopped()
        await self._admin.stop()
        await self._nursery.cancel_all()
        log.info("drain_ends", is_clean=is_clean)
        return is_clean

    def reload(self) -> None:
        """Take up the configuration as it is now, or tell every fault and go on with the old one; returns at once."""
        self._nursery.start(self._reload(), name="reload")

    async def _reload(self) -> None:
        async with self._reloading:  # one after the other: what was read last holds
            try:
                # In a thread: large files take a while, in which probes and every new client wait for us.
                fresh = await asyncio.to_thread(self._load)
            except ConfigFaults as faults:
                log.error("reload_refused", faults=[str(fault) for fault in faults.faults])
                return
            self._take_up(fresh)

    def _take_up(self, fresh: Settings) -> None:
        self.settings, refused = merge_reloaded(self.settings, fresh)
        if refused:
            log.error("reload_refused", keys=refused, reason="these keys change with a restart only")
        self._limits.configure(
            max_sessions=self.settings.mx.max_connections_per_client,
            per_minute=self.settings.limits.connections_per_minute_per_client,
        )
        self._share_limits()
        self._writer.threshold = logging.getLevelNamesMapping()[self.settings.log.level.upper()]
        packed = self._pack_settings()
        for slot in self.slots:
            slot.send({"type": "reload", "settings": packed})
        log.info("reload", workers=len(self.slots))

    def _make_start(self, slot: WorkerSlot) -> Message:
        return {
            "type": "start",
            "settings": self._pack_settings(),
            "workers": len(self.slots),
            "slot": slot.number,
            "mx": [sock.fileno() for sock in slot.sockets],
            "proxy_missing": self._trust.missing_peers(),
        }

    def _take(self, slot: WorkerSlot, message: Message) -> None:
        match message["type"]:
            case "metrics":
                self._merged.living[slot] = message["samples"]
                waiting, answered = self._scrapes.get(message.get("number", 0), (set(), asyncio.Event()))
                waiting.discard(slot)
                if not waiting:
                    answered.set()
            case "enter":
                self._enter(slot, message["number"], str(message["network"]))
            case "leave":
                (self._shared or self._limits).leave(str(message["network"]), holder=_holder(slot))
            case "proxy_missing":
                self._trust.note_missing_elsewhere(message["peer"])
                for other in self.slots:
                    if other is not slot:
                        other.send(message)
            case "shedding" if message["detail"] is None:
                self._shedding.pop(slot, None)
            case "shedding":
                self._shedding[slot] = str(message["detail"])[:MAX_DETAIL]
            case "queue":
                self._desk.take(slot, message)
            case "unready" if message["reason"] is None:
                self._unready.pop(slot, None)
            case "unready":
                self._unready[slot] = str(message["reason"])[:MAX_DETAIL]
            case "reloaded" if message["fault"]:
                log.error("reload_refused", slot=slot.number, reason=message["fault"])
            case "reloaded":
                log.info("worker_reloaded", slot=slot.number)

    def _enter(self, slot: WorkerSlot, number: int, network: str) -> None:
        def reply(reason: str | None) -> None:
            # Over several Pods nobody here knows how far from its limit a network is.
            is_roomy = self._shared is None and self._limits.is_roomy(network)
            slot.send({"type": "entered", "number": number, "reason": reason, "is_roomy": is_roomy})

        if self._shared is not None:
            self._shared.enter(network, holder=_holder(slot), reply=reply)
        else:
            reply(self._limits.enter(network, holder=_holder(slot)))

    def _share_limits(self) -> None:
        """Count limits where limits.url says; what was counted stays."""
        server = self.settings.limits.url if self.slots else None
        if self._shared is not None:
            if self._shared.server == server:
                return
            self._shared.stop()
            self._shared = None
        self._metrics.limits_backend_up.set(server is None)
        if server is not None:
            self._shared = SharedCounters(
                self._limits,
                server,
                nursery=self._nursery,
                on_change=self._metrics.limits_backend_up.set,
                on_internal_error=self._metrics.internal_errors_total.inc,
            )
            self._shared.start()

    def _pack_settings(self) -> str:
        """Give what workers get: all but the way to the limits' server, which they need not know."""
        limits = self.settings.limits.model_copy(update={"url": None})
        return pack_settings(self.settings.model_copy(update={"limits": limits}), self._refresh_pair())

    def _refresh_pair(self) -> PemPair | None:
        """Give the certificate as it is, or, where that cannot be used, as it was last: a restart must not need it."""
        tls = self.settings.tls
        if not tls.certificate or not tls.key:
            return None
        try:
            self._pair = read_pair(tls.certificate, tls.key)
        except (OSError, ssl.SSLError) as exc:
            log.error("certificate_not_reloaded", fault=str(exc))
        return self._pair

    def _forget_worker(self, slot: WorkerSlot) -> None:
        """Give back what an ended worker held; keep what it had counted."""
        (self._shared or self._limits).release_holder(_holder(slot))
        self._merged.retire(slot)
        self._shedding.pop(slot, None)
        self._unready.pop(slot, None)

    def _tick(self) -> None:
        for slot in self.slots:
            slot.tick()
        asyncio.get_running_loop().call_later(TICK_S, self._tick)

    async def _render_metrics(self) -> tuple[bytes, str]:
        """Ask every worker what it has counted; give the sums, our own included."""
        waiting = {slot for slot in self.slots if slot.is_serving}
        if waiting:
            number, answered = next(self._numbers), asyncio.Event()
            self._scrapes[number] = (waiting, answered)
            for slot in tuple(waiting):
                slot.send({"type": "snapshot", "number": number})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SCRAPE_S):
                    await answered.wait()
            del self._scrapes[number]
        self._metrics.workers.set(sum(slot.is_serving for slot in self.slots))
        self._merged.living[self] = take_snapshot(self._metrics.registry)
        return self._merged.render()

    def _details(self) -> list[str]:
        # Shedding is no reason to be unready: a load that all Pods have would take all of them out at once.
        shedding = [f"worker {slot.number} {why}" for slot, why in self._shedding.items()]
        return self._trust.describe() + (self._shared.describe() if self._shared else []) + shedding

    def _find_dead_worker(self) -> str | None:
        stuck = [str(slot.pid) for slot in self.slots if slot.is_beyond_killing]
        return f"worker processes that cannot be killed: {', '.join(stuck)}" if stuck else None


def _holder(slot: WorkerSlot) -> str:
    return f"{slot.number}.{slot.generation}"


def _raise_descriptor_limit(settings: Settings) -> None:
    """Take as many descriptors as the hard limit gives, and say so where that is too few for the sessions allowed.

    The workers inherit it; it holds for each of them.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = settings.mx.max_connections + OTHER_DESCRIPTORS
    if hard != resource.RLIM_INFINITY and hard < wanted:
        log.warning("too_few_descriptors", limit=hard, wanted=wanted)
