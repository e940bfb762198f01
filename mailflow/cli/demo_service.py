"""The demo's service: a worker and the admin listener in this process, on free ports.

`mailflow serve` runs workers as processes of their own; here DNS is a zone in memory, and one
process is enough to see mail flow.
"""

from mailflow.admin.server import AdminServer, Health
from mailflow.app import Worker
from mailflow.config import Settings
from mailflow.dns import Resolver
from mailflow.observe.metrics import Metrics
from mailflow.observe.nursery import Nursery
from mailflow.supervisor.sockets import bind_slots, name_socket


class DemoService:
    """Worker and admin listener from start to the end of the drain. Raises OSError that names the address."""

    def __init__(self, settings: Settings, resolver: Resolver) -> None:
        self._settings = settings
        self._metrics = Metrics()
        self._health = Health()
        (self._mx,) = bind_slots(settings.mx.listen, 1)
        (self._admin_sockets,) = bind_slots((settings.admin.listen,), 1)
        self._worker = Worker(settings, self._metrics, resolver=resolver)
        self._admin = AdminServer(self._health, self._render_metrics)
        self._nursery = Nursery()
        self.listeners = {
            "mx": [name_socket(sock) for sock in self._mx],
            "admin": [name_socket(sock) for sock in self._admin_sockets],
        }

    async def start(self) -> None:
        """Serve."""
        for sock in self._admin_sockets:
            self._admin.start(sock, self._nursery)
        await self._worker.start(self._mx)
        self._health.is_started = True

    async def drain(self) -> None:
        """Let transactions finish, then stop."""
        self._health.is_draining = True
        await self._worker.drain(self._settings.drain.timeout_s)
        await self._admin.stop()

    async def _render_metrics(self) -> tuple[bytes, str]:
        self._worker.refresh_metrics()
        return self._metrics.render()
