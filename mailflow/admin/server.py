"""Probes and metrics over HTTP: /startupz, /readyz, /livez, /metrics.

Starlette on uvicorn, on a socket that is already bound. uvicorn must not take over signals: SIGTERM
is the drain's, and the admin listener closes last, so that the drain can be watched to its end.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mailflow.observe.nursery import Nursery

STOP_S = 2.0


@dataclass(slots=True)
class Health:
    """What the probes tell; written by the supervisor."""

    is_started: bool = False
    is_draining: bool = False
    details: Callable[[], list[str]] = field(default=list)  # what an operator should know; no reason to be unready
    find_unready: Callable[[], str | None] = field(default=lambda: None)  # what a worker lacks
    livez_reason: Callable[[], str | None] = field(default=lambda: None)

    def unready_reason(self) -> str | None:
        """Give why no traffic should come, None where it should."""
        if not self.is_started:
            return "starting"
        return "draining" if self.is_draining else self.find_unready()


class _QuietServer(uvicorn.Server):
    """uvicorn without its signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class AdminServer:
    """The admin listener. `render_metrics` gives the text that Prometheus scrapes and its content type;
    `api_routes` are served beside.
    """

    def __init__(
        self,
        health: Health,
        render_metrics: Callable[[], Awaitable[tuple[bytes, str]]],
        *,
        api_routes: Sequence[Route] = (),
    ) -> None:
        self._health = health
        self._render = render_metrics
        routes = [
            Route("/startupz", self._startupz),
            Route("/readyz", self._readyz),
            Route("/livez", self._livez),
            Route("/metrics", self._render_metrics),
            *api_routes,
        ]
        config = uvicorn.Config(
            Starlette(routes=routes), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = _QuietServer(config)
        self._task: asyncio.Task[None] | None = None

    def start(self, sock: socket.socket, nursery: Nursery) -> None:
        """Serve on a bound socket in a task of the nursery."""
        sock.listen()  # at once: whoever reads that the service is ready may ask
        self._task = nursery.start(self._server.serve(sockets=[sock]), name="admin")

    async def stop(self) -> None:
        """Close the listener; whoever still reads has two seconds."""
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=STOP_S)

    async def _startupz(self, request: Request) -> Response:
        return _probe(None if self._health.is_started else "starting")

    async def _readyz(self, request: Request) -> Response:
        return _probe(self._health.unready_reason(), self._health.details())

    async def _livez(self, request: Request) -> Response:
        return _probe(self._health.livez_reason())  # that it is answered at all shows that the loop turns

    async def _render_metrics(self, request: Request) -> Response:
        body, content_type = await self._render()
        return Response(body, media_type=content_type)


def _probe(reason: str | None, details: list[str] | None = None) -> Response:
    detail = {"detail": details} if details else {}
    if reason is None:
        return JSONResponse({"status": "ok", **detail})
    return JSONResponse({"status": "unavailable", "reason": reason, **detail}, status_code=503)
