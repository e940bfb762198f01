"""The door of a listener: makes the protocol of each new connection, a session or, under pressure, a refusal.

A refusal under pressure has to be cheap, since it is the load that is left when all else is shed:
no session, no task, no question to anybody, one write. It still closes in order, as an RST would
destroy the reply, but for a flood, where descriptors matter more. Sessions that stand are not touched.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from mailflow.mail.reply import Reply
from mailflow.observe.nursery import Nursery
from mailflow.receive.backlog import read_backlog
from mailflow.smtp.connection import MAX_REFUSED_LINGERING, SmtpService
from mailflow.smtp.server import SmtpSession
from mailflow.smtp.stream import LINGER_S
from mailflow.smtp.transaction import ProxiedPeer

OVERLOADED = Reply(421, "4.3.2", "Too busy, try again later")
REFUSED_AT_ONCE = 300  # some 10 ms; then the sessions have their turn
OVERLOADED_LINE = OVERLOADED.encode()


class Door:
    """Leads to `service`; `find_refusal` gives the reason to refuse the next client, `on_shed` hears of each."""

    def __init__(
        self, service: SmtpService, *, find_refusal: Callable[[], str | None], on_shed: Callable[[str], None]
    ) -> None:
        self._service = service
        self._find_refusal = find_refusal
        self._on_shed = on_shed
        self.lingering: set[RefusedConnection] = set()

    def __call__(self, proxied: ProxiedPeer | None = None) -> asyncio.BaseProtocol:
        """Make the protocol of one connection; `proxied` is what its PROXY header told."""
        # A load balancer's health checks are nobody's client: shed, they would take every client with them.
        is_health_check = proxied is not None and proxied.source is None
        if self._service.is_draining or is_health_check:
            return SmtpSession(self._service, proxied)
        reason = self._find_refusal()
        if reason is None:
            return SmtpSession(self._service, proxied)
        self._on_shed(reason)
        return RefusedConnection(self.lingering)

    def refuse_waiting(self, sock: socket.socket, nursery: Nursery) -> None:
        """Accept and refuse those of the listening socket's backlog who are to be; the others wait on.

        The loop accepts one connection a turn, and under pressure turns are long: who is refused anyway would wait for
        that, too. Nobody is let in here, as that would only make the turns longer.
        """
        for _ in range(min(read_backlog(sock).waiting, REFUSED_AT_ONCE)):
            reason = self._find_refusal()
            if reason is None:
                continue
            try:
                client, _ = sock.accept()
            except OSError:  # gone, or no descriptor is left
                return
            self._on_shed(reason)
            nursery.start(self._refuse(client), name="refusal")

    async def _refuse(self, client: socket.socket) -> None:
        try:
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(lambda: RefusedConnection(self.lingering), client)
        except OSError:
            client.close()

    def close(self) -> None:
        """Close what still lingers: whoever was refused has heard it, or will not."""
        for connection in tuple(self.lingering):
            connection.close()


class RefusedConnection(asyncio.Protocol):
    """Says OVERLOADED, shuts its side down, reads to the client's end for at most LINGER_S; a member of `lingering`."""

    def __init__(self, lingering: "set[RefusedConnection]") -> None:
        self._lingering = lingering
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Refuse."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(OVERLOADED_LINE)
        if len(self._lingering) >= MAX_REFUSED_LINGERING:
            self._transport.close()
            return
        self._lingering.add(self)
        self._transport.write_eof()
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, self.close)

    def data_received(self, data: bytes) -> None:
        """Throw away what an eager client says."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Be done."""
        self._lingering.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def close(self) -> None:
        """Wait for the client no longer."""
        if self._transport is not None:
            self._transport.close()
