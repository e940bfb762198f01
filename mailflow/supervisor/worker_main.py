"""What runs inside a worker process: a Worker, told by the supervisor over the channel what to do.

Started as `python -m mailflow.supervisor.worker_main FD`, FD being this end of the channel; the
sockets it serves were inherited. It says when it serves, that it lives (each second), what it
counted and whether it sheds, and drains when it is told to, on a SIGTERM of its own, or when the supervisor is gone:
an orphan that went on would share the ports with the service's successor.
"""

import asyncio
import base64
import gc
import logging
import pickle
import signal
import socket
import ssl
import sys
import zlib
from typing import Any

import structlog
import uvloop

from mailflow.app import Worker
from mailflow.config import Settings
from mailflow.observe.log import LogWriter, open_log
from mailflow.observe.metrics import Metrics
from mailflow.observe.nursery import Nursery
from mailflow.smtp.tls import PemPair
from mailflow.supervisor.channel import Channel, Message
from mailflow.supervisor.merged_metrics import Snapshot, take_snapshot
from mailflow.supervisor.remote_limits import RemoteLimits

BEAT_S = 1.0
BEATS_PER_SNAPSHOT = 5
MAX_SETTINGS_BYTES = 1 << 28  # files of addresses travel with them; the supervisor is believed

log = structlog.get_logger()


def main() -> int:
    """Run until told to end; exit 0 after a clean drain, 1 where something was cut or could not start."""
    # The terminal's interrupt goes to every process; the supervisor drains.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(int(sys.argv[1])))


async def _run(channel_fd: int) -> int:
    return await WorkerProcess().run(socket.socket(fileno=channel_fd))


def pack_settings(settings: Settings, pair: PemPair | None) -> str:
    """Give the settings, and a certificate known to be good, as they travel to a worker, never the other way."""
    return base64.b64encode(zlib.compress(pickle.dumps((settings, pair)), 1)).decode("ascii")


class WorkerProcess:
    """The worker's end of the channel."""

    def __init__(self) -> None:
        self._metrics = Metrics()
        self._nursery = Nursery(on_failure=self._metrics.internal_errors_total.inc)
        self._channel = Channel(self._take, self._lose, max_message_bytes=MAX_SETTINGS_BYTES)
        self._limits = RemoteLimits(self._channel.send)
        self._start: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()
        self._drain_timeout_s: float | None = None
        self._worker: Worker | None = None
        self._writer: LogWriter | None = None
        self._missed_reload: Message | None = None  # one that came while the worker was being made
        self._beats = 0
        self._has_told_shedding = False
        self._told_unready: str | None = None

    async def run(self, channel: socket.socket) -> int:
        """Serve from the start message to the end of the drain; give the exit code."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self._channel, sock=channel)
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        self._beat()
        start = await self._start
        settings, pair = _unpack(start["settings"])
        writer = self._writer = open_log(
            level=settings.log.level,
            buffer_bytes=settings.log.buffer_bytes,
            on_drop=self._metrics.count_log_drop,
        )
        try:
            return 0 if await self._serve(settings, pair, start) else 1
        finally:
            self._channel.send({"type": "metrics", "samples": self._snapshot()})
            self._channel.close()
            await asyncio.sleep(0)  # the loop sends what is queued before it ends
            writer.close()

    async def _serve(self, settings: Settings, pair: PemPair | None, start: Message) -> bool:
        sockets = [socket.socket(fileno=fd) for fd in start["mx"]]
        try:
            worker = Worker(
                settings,
                self._metrics,
                workers=start["workers"],
                slot=start["slot"],
                shared_limits=self._limits,
                fallback=pair,
            )
            worker.proxy_trust.on_missing = lambda ip: self._channel.send({"type": "proxy_missing", "peer": ip})
            for ip in start["proxy_missing"]:
                worker.proxy_trust.note_missing_elsewhere(ip)
            await worker.start(sockets)
        except (OSError, ssl.SSLError) as exc:
            self._channel.send({"type": "failed", "reason": str(exc)})
            return False
        self._worker = worker
        if self._missed_reload is not None:
            await self._reload(self._missed_reload)
        _spare_collector()
        self._tell_unready()
        self._channel.send({"type": "ready"})
        await self._stop.wait()
        timeout_s = worker.drain_timeout_s if self._drain_timeout_s is None else self._drain_timeout_s
        return await worker.drain(timeout_s)

    def _take(self, message: Message) -> None:
        """Do what the supervisor says."""
        match message["type"]:
            case "start":
                self._start.set_result(message)
            case "reload" if self._worker is None:
                self._missed_reload = message
            case "reload":
                self._nursery.start(self._reload(message), name="reload")
            case "drain":
                self._drain_timeout_s = message["timeout_s"]
                self._stop.set()
            case "entered":
                self._limits.take_answer(message)
            case "proxy_missing" if self._worker:
                self._worker.proxy_trust.note_missing_elsewhere(message["peer"])
            case "queue":
                self._nursery.start(self._answer_queue(message), name="queue question")
            case "snapshot":
                self._channel.send({"type": "metrics", "samples": self._snapshot(), "number": message["number"]})

    def _lose(self) -> None:
        if self._start.done():
            self._stop.set()
        else:
            self._start.cancel()

    async def _reload(self, message: Message) -> None:
        fault = None
        settings, pair = _unpack(message["settings"])
        try:
            assert self._worker
            assert self._writer
            await self._worker.reload(settings, fallback=pair)
            self._writer.threshold = logging.getLevelNamesMapping()[settings.log.level.upper()]
        except (OSError, ssl.SSLError) as exc:
            fault = str(exc)
        self._channel.send({"type": "reloaded", "fault": fault})

    async def _answer_queue(self, message: Message) -> None:
        answer = await self._worker.answer_queue(message["question"]) if self._worker else {"error": "starting"}
        self._channel.send({"type": "queue", "number": message["number"], "answer": answer})

    def _beat(self) -> None:
        """Say that the loop turns, now and then with what was counted."""
        self._beats += 1
        message: Message = {"type": "beat"}
        if self._beats % BEATS_PER_SNAPSHOT == 0:
            message |= {"type": "metrics", "samples": self._snapshot()}
        self._channel.send(message)
        self._tell_shedding()
        self._tell_unready()
        asyncio.get_running_loop().call_later(BEAT_S, self._beat)

    def _tell_shedding(self) -> None:
        """Say why new connections are shed, each second while they are, and once that they are not any more."""
        detail = self._worker.describe_shedding() if self._worker else None
        if detail or self._has_told_shedding:
            self._channel.send({"type": "shedding", "detail": detail})
        self._has_told_shedding = detail is not None

    def _tell_unready(self) -> None:
        """Say why no traffic should come, at once when that changes."""
        reason = self._worker.unready_reason() if self._worker else None
        if reason != self._told_unready:
            self._channel.send({"type": "unready", "reason": reason})
            self._told_unready = reason

    def _snapshot(self) -> Snapshot:
        if self._worker:
            self._worker.refresh_metrics()
        return take_snapshot(self._metrics.registry)


def _spare_collector() -> None:
    """Let the garbage collector look only at what mail makes: walking through all modules again and again costs both
    CPU and pauses, and next to nothing of what a session leaves behind is a cycle.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _unpack(text: str) -> tuple[Settings, PemPair | None]:
    unpacked: Any = pickle.loads(zlib.decompress(base64.b64decode(text)))  # noqa: S301 - from our parent, over a socket pair of its own
    settings, pair = unpacked
    assert isinstance(settings, Settings)
    return settings, pair


if __name__ == "__main__":
    sys.exit(main())
