"""One worker slot: the process that serves its sockets, watched, restarted, drained.

A worker that ends is restarted: at once the first time, then with growing pauses. What its listening
sockets gathered waits for the successor; if that takes over a second, the clients are told 421.
A worker that is silent for ten ticks is killed. Ticks are counted, not seconds: a machine that was
suspended, or a supervisor that got no CPU, has not heard anybody and must not kill for it.
"""

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence

import structlog

from mailflow.receive.backlog import answer_backlog
from mailflow.supervisor.channel import Channel, Message

SILENT_TICKS = 10
STARTING_TICKS = 60  # before its first word: a throttled CPU loads our modules slowly
STEADY_S = 60.0
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
BACKLOG_WAITS_S = 1.0
EXIT_S = 5.0  # after its drain's time a worker has its log to flush

log = structlog.get_logger()


class WorkerSlot:
    """Slot `number` with its bound `sockets`. `make_start` gives the start message of a new worker.

    `on_message(slot, message)` hears what the worker says, `on_end(slot)` that it ended.
    """

    def __init__(
        self,
        number: int,
        sockets: Sequence[socket.socket],
        *,
        make_start: Callable[["WorkerSlot"], Message],
        on_message: Callable[["WorkerSlot", Message], None],
        on_end: Callable[["WorkerSlot"], None],
    ) -> None:
        self.number = number
        self.sockets = sockets
        self.generation = 0
        self.is_serving = False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # of the first worker
        self._make_start = make_start
        self._on_message = on_message
        self._on_end = on_end
        self._channel: Channel | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._silent_ticks = 0
        self._has_spoken = False
        self._ticks_since_kill: int | None = None
        self._answering: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int | None:
        """The worker's process, None while there is none."""
        return self._process.pid if self._process else None

    @property
    def is_beyond_killing(self) -> bool:
        """Tells that the worker was killed and does not end: nothing more can be done from here."""
        return self._ticks_since_kill is not None and self._ticks_since_kill > SILENT_TICKS

    def send(self, message: Message) -> None:
        """Tell the worker something; lost where there is none, as its successor starts with all that holds."""
        if self._channel is not None:
            self._channel.send(message)

    def tick(self) -> None:
        """Count a second without a word; kill the worker that has been silent too long."""
        if self._ticks_since_kill is not None:
            self._ticks_since_kill += 1
        elif self._process is not None:
            self._silent_ticks += 1
            if self._silent_ticks > (SILENT_TICKS if self._has_spoken else STARTING_TICKS):
                log.error("worker_silent", slot=self.number, pid=self.pid)
                self._kill()

    async def keep_running(self) -> int:
        """Run worker after worker until `stop`; give the exit code of the last."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            try:
                code = await self._run_worker()
            except OSError as exc:  # no process, no descriptor to be had
                log.error("worker_not_started", slot=self.number, reason=str(exc))
                code = 1
            if self._stopping.is_set():
                return code
            failures = 1 if loop.time() - began > STEADY_S else failures + 1
            pause_s = 0.0 if failures == 1 else min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (failures - 2))
            log.warning("worker_restarts", slot=self.number, exit_code=code, after_s=pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
                return 0

    def stop(self, timeout_s: float) -> None:
        """Drain the worker and start no other; who takes longer than `timeout_s` and some more is killed."""
        self._stopping.set()
        self._stop_answering()
        for sock in self.sockets:
            if not self.is_serving:
                answer_backlog(sock)
            sock.close()  # the worker's copy is the last: the port is free when that closes
        self.send({"type": "drain", "timeout_s": timeout_s})
        asyncio.get_running_loop().call_later(timeout_s + EXIT_S, self._kill)

    async def _run_worker(self) -> int:
        loop = asyncio.get_running_loop()
        self.generation += 1
        self._silent_ticks, self._has_spoken, self._ticks_since_kill = 0, False, None
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "mailflow.supervisor.worker_main", str(theirs.fileno())),
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), *(sock.fileno() for sock in self.sockets)),
                )
            except OSError:
                ours.close()
                raise
        channel = Channel(self._take, lambda: None)
        self._process, self._channel = process, channel
        await loop.create_unix_connection(lambda: channel, sock=ours)
        try:
            channel.send(self._make_start(self))
            if self._stopping.is_set():  # told between the fork and here
                channel.send({"type": "drain", "timeout_s": 0})
            return await process.wait()
        finally:
            await asyncio.sleep(0)  # its last words, which came with its end
            channel.close()
            self._process = self._channel = self._ticks_since_kill = None
            self.is_serving = False
            self._on_end(self)
            if not self._stopping.is_set():
                self._answering = loop.call_later(BACKLOG_WAITS_S, self._start_answering)

    def _take(self, message: Message) -> None:
        self._silent_ticks, self._has_spoken = 0, True
        match message["type"]:
            case "ready":
                self._stop_answering()
                self.is_serving = True
                if not self.ready.done():
                    self.ready.set_result(None)
            case "failed":
                log.error("worker_not_started", slot=self.number, reason=message["reason"])
                if not self.ready.done():
                    self.ready.set_exception(OSError(message["reason"]))
        self._on_message(self, message)

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._ticks_since_kill = 0
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _start_answering(self) -> None:
        """Answer those who wait for a worker that does not come."""
        loop = asyncio.get_running_loop()
        for sock in self.sockets:
            loop.add_reader(sock, answer_backlog, sock)

    def _stop_answering(self) -> None:
        if self._answering is not None:
            self._answering.cancel()
            self._answering = None
            for sock in self.sockets:
                asyncio.get_running_loop().remove_reader(sock)
