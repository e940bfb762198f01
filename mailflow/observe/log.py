"""The log: structlog everywhere, one JSON line per event, through a buffer that never holds mail up.

    writer = open_log(level="info", buffer_bytes=8388608, on_drop=count)
    log = structlog.get_logger()
    log.info("drain_begins", sessions=3)
    log_decision("message", action="accept", reply="250 2.0.0 Ok")

A decision is what became of a mail: written at every level, dropped last. Python's own logging
(asyncio, uvicorn, aiosmtpd) comes out here too, from warnings up. Before open_log() structlog does
what it does by default, so the rooms can be tested without.
"""

import logging
import sys
import traceback
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any

import structlog

from mailflow.observe.log_line import encode_line
from mailflow.observe.log_writer import LineClass, LogWriter

__all__ = ["LineClass", "Log", "LogWriter", "log_decision", "open_log"]

DEFAULT_BUFFER_BYTES = 8388608
MAX_TRACEBACK_CHARS = 2400
_LOG = structlog.get_logger()
_writer: LogWriter | None = None
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Log(structlog.BoundLoggerBase):
    """What structlog.get_logger() gives: methods that take an event's name and its fields.

    An event below the level costs next to nothing.
    """

    def debug(self, event: str, **fields: Any) -> None:
        """Log what only a developer wants to see."""
        self._log(logging.DEBUG, "debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Log what happens in ordinary life."""
        self._log(logging.INFO, "info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Log what somebody should look at."""
        self._log(logging.WARNING, "warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Log what went wrong."""
        self._log(logging.ERROR, "error", event, fields)

    critical = error

    def exception(self, event: str, **fields: Any) -> None:
        """Log what went wrong with the traceback of the exception being handled."""
        fields.setdefault("exc_info", True)
        self._log(logging.ERROR, "error", event, fields)

    def _log(self, level: int, method: str, event: str, fields: dict[str, Any]) -> None:
        if level >= self._logger.threshold:
            self._proxy_to_logger(method, event, **fields)


def open_log(
    *,
    fd: int = 1,
    level: str = "info",
    buffer_bytes: int = DEFAULT_BUFFER_BYTES,
    on_drop: Callable[[str], object] = lambda label: None,
) -> LogWriter:
    """Send every logger of this process to `fd`; `on_drop(class)` is called once per line lost.

    One at a time; close() of what is given flushes and stops it. The caller keeps the descriptor.
    """
    global _writer  # noqa: PLW0603 - structlog's own configuration is as global
    threshold = _LEVELS[level]
    handler = _StandardHandler(max(threshold, logging.WARNING))
    writer = LogWriter(
        fd,
        buffer_bytes=buffer_bytes,
        on_drop=on_drop,
        threshold=threshold,
        on_close=lambda: _close(handler),
    )
    handler.writer = _writer = writer
    logging.getLogger().addHandler(handler)
    # aiosmtpd tells of every connection and every unknown command here: the sessions' own events say it once.
    logging.getLogger("mail.log").setLevel(logging.ERROR)
    structlog.configure(
        processors=[_render_line],
        wrapper_class=Log,
        context_class=dict,
        logger_factory=lambda *_names: writer,
        cache_logger_on_first_use=False,
    )
    return writer


def _close(handler: "_StandardHandler") -> None:
    global _writer  # noqa: PLW0603
    logging.getLogger().removeHandler(handler)
    if _writer is handler.writer:  # not one that was opened since
        _writer = None


def log_decision(event: str, **fields: Any) -> None:
    """Log what became of a mail (or of a command that named one): written at every level, dropped last."""
    if _writer is None:
        _LOG.info(event, **fields)
    else:  # not by way of structlog, which costs as much again as the line: one is written for every message
        _writer.decision(encode_line({"ts": _now(), "level": "info", "event": event, **fields}))


def _render_line(_logger: Any, method: str, fields: MutableMapping[str, Any]) -> bytes:
    """Render structlog's event as a line: time, level, event, then the fields in the order given."""
    record = {"ts": _now(), "level": method, "event": fields.pop("event", "")}
    exc_info = fields.pop("exc_info", None)
    record.update(fields)
    if exc_info:
        record |= _describe_exception(exc_info)
    return encode_line(record)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _describe_exception(exc_info: Any) -> dict[str, Any]:
    """Give the traceback's end, which says what happened, of an exception, an exc_info tuple or True."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    exc = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1]
    if exc is None:
        return {}
    text = "".join(traceback.format_exception(exc))
    if len(text) <= MAX_TRACEBACK_CHARS:
        return {"traceback": text}
    return {"traceback": text[-MAX_TRACEBACK_CHARS:], "truncated": True}


class _StandardHandler(logging.Handler):
    """Python's logging, into the same lines. Never raises into the library that logs."""

    writer: LogWriter

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # arguments that do not fit the format, or whose repr raises
            message = str(record.msg)
        fields = {
            "ts": _now(),
            "level": record.levelname.lower(),
            "event": "library_log",
            "logger": record.name,
            "message": message,
        }
        if record.exc_info:
            fields |= _describe_exception(record.exc_info)
        self.writer.write(encode_line(fields), LineClass.WARNING)
