"""A bounded buffer of log lines and the thread that writes them: the log never holds mail up.

The pipe to the collector may stall for hours. The thread then hangs in write(); the event loop only
ever appends to the buffer. When the buffer is full, lines go by class: debug first, decisions about
mail last. O_NONBLOCK is never set on the descriptor: it would be set for every process that shares
it. Whole lines only, as many per write() as fit into PIPE_BUF, so lines of several processes do not
mix. A reader that went away (EPIPE) costs lines, never the service.
"""

import os
import select
import threading
from collections import deque
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any

from mailflow.observe.log_line import MAX_LINE_BYTES, encode_line

# What a held line costs beyond its bytes: the objects around it. Memory is what the bound is about.
LINE_OVERHEAD_BYTES = 160

# An idle thread that wakes waits this long before it writes. Each write() gives up the interpreter lock and takes it
# back from a busy event loop: done line by line as they come, that doubles what a line costs.
LINGER_S = 0.02
MAX_WRITE_BYTES = MAX_LINE_BYTES  # a write of no more is not torn apart by those of other processes


class LineClass(IntEnum):
    """How much a line is worth when not all can be kept; `label` names it in metrics."""

    DEBUG = 0
    INFO = 1
    WARNING = 2
    DECISION = 3

    @property
    def label(self) -> str:
        """The value of the label `class` of mailflow_log_dropped_total."""
        return self.name.lower()


class LogWriter:
    """Writes lines to a descriptor from a thread of its own. Any thread may call it; nothing here blocks but close().

    `on_drop(label)` is called once per lost line, from whichever thread lost it. `threshold` is the
    number of the least severe level written (logging.INFO …); decisions pass it always.
    """

    def __init__(
        self,
        fd: int,
        *,
        buffer_bytes: int,
        on_drop: Callable[[str], object],
        threshold: int = 0,
        on_close: Callable[[], object] = lambda: None,
    ) -> None:
        self.threshold = threshold
        self._fd = fd
        self._limit_bytes = buffer_bytes
        self._on_drop = on_drop
        self._on_close = on_close
        self._held_bytes = 0
        self._number = 0
        self._queues: tuple[deque[tuple[int, bytes]], ...] = tuple(deque() for _class in LineClass)
        self._changed = threading.Condition(threading.Lock())
        self._is_idle = False
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def held_bytes(self) -> int:
        """Bytes of the buffer in use, overhead included; never more than `buffer_bytes`."""
        return self._held_bytes

    def debug(self, line: bytes) -> None:
        """Write a line of little worth."""
        self.write(line, LineClass.DEBUG)

    def info(self, line: bytes) -> None:
        """Write a line of ordinary worth."""
        self.write(line, LineClass.INFO)

    def warning(self, line: bytes) -> None:
        """Write a line about something wrong."""
        self.write(line, LineClass.WARNING)

    error = critical = exception = warning

    def decision(self, line: bytes) -> None:
        """Write a line that says what became of a mail."""
        self.write(line, LineClass.DECISION)

    def write_line(self, fields: Mapping[str, Any]) -> None:
        """Write these fields and no others (no time, no level), as the last to be dropped."""
        self.write(encode_line(fields), LineClass.DECISION)

    def write(self, line: bytes, line_class: LineClass) -> None:
        """Put a line into the buffer, or drop what is worth least; never waits for the reader."""
        cost = len(line) + LINE_OVERHEAD_BYTES
        lost: list[LineClass] = []
        with self._changed:
            if self._is_closing or self._held_bytes + cost > self._limit_bytes:
                lost = self._make_room(cost, line_class)
            if line_class not in lost:
                self._number += 1
                self._queues[line_class].append((self._number, line))
                self._held_bytes += cost
                if self._is_idle:
                    self._changed.notify()
        for dropped in lost:
            self._on_drop(dropped.label)

    def close(self, timeout_s: float = 2.0) -> bool:
        """Write what is held and stop, waiting at most `timeout_s` for a stalled reader; False where lines are left.

        Lines written later are dropped and counted.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._on_close()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _make_room(self, cost: int, line_class: LineClass) -> list[LineClass]:
        """Drop older lines of less worth until `cost` fits; the new line itself where there are none."""
        if self._is_closing:
            return [line_class]
        lost: list[LineClass] = []
        while self._held_bytes + cost > self._limit_bytes:
            victim = next((lower for lower in LineClass if self._queues[lower]), line_class)
            if victim >= line_class:
                return [*lost, line_class]
            _number, line = self._queues[victim].popleft()
            self._held_bytes -= len(line) + LINE_OVERHEAD_BYTES
            lost.append(victim)
        return lost

    def _run(self) -> None:
        while taken := self._take():
            try:
                self._write_whole(b"".join(line for line, _ in taken))
            except OSError:  # the reader is gone, or the disk is full: these lines are lost, the next may not be
                for _, line_class in taken:
                    self._on_drop(line_class.label)

    def _take(self) -> list[tuple[bytes, LineClass]]:
        """Take the oldest lines, as many as one write may carry, waiting for one; none where there will be no more."""
        with self._changed:
            while not any(self._queues):
                if self._is_closing:
                    return []
                self._is_idle = True
                self._changed.wait()
                self._is_idle = False
                if not self._is_closing:
                    self._changed.wait(LINGER_S)  # woken early by close() alone
            taken: list[tuple[bytes, LineClass]] = []
            room = MAX_WRITE_BYTES
            while any(self._queues):
                oldest = min((c for c in LineClass if self._queues[c]), key=lambda c: self._queues[c][0][0])
                room -= len(self._queues[oldest][0][1])
                if taken and room < 0:
                    break
                _number, line = self._queues[oldest].popleft()
                self._held_bytes -= len(line) + LINE_OVERHEAD_BYTES
                taken.append((line, oldest))
            return taken

    def _write_whole(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                # Somebody who shares the pipe made it non-blocking; here it blocks all the same.
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()
