"""A listener behind a load balancer: connections of trusted networks begin with a PROXY header.

It accepts by itself, since the header must be read off the raw socket (smtp/proxy.py) before a
session, or later TLS, reads from it. A peer that sends none is told 421 and closed: its client is
not known, and its mail must not bounce for a load balancer's configuration.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from mailflow.mail.reply import Reply
from mailflow.observe.nursery import Nursery
from mailflow.receive.proxy_trust import ProxyTrust
from mailflow.smtp.proxy import read_proxy_header
from mailflow.smtp.proxy_header import BadProxyHeader
from mailflow.smtp.transaction import ProxiedPeer

NO_HEADER = Reply(421, "4.3.5", "The load balancer did not tell your address, try again later")
ACCEPTS_PER_TURN = 100  # then the other sessions have their turn
MAX_WAITING = 1000  # connections whose header is still to come; beyond, new ones wait in the backlog
NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
PAUSE_S = 0.5
LINGER_S = 2.0
WARN_EVERY_S = 10.0

log = structlog.get_logger()


class ProxyListener:
    """Accepts on `sock`, which is bound. `make_protocol` makes a connection's protocol from what its header told.

    `on_missing()` hears of each trusted peer without header.
    """

    def __init__(
        self,
        make_protocol: Callable[[ProxiedPeer | None], asyncio.BaseProtocol],
        sock: socket.socket,
        *,
        trust: ProxyTrust,
        nursery: Nursery,
        on_missing: Callable[[], object],
    ) -> None:
        self._make_protocol = make_protocol
        self._sock = sock
        self._trust = trust
        self._nursery = nursery
        self._on_missing = on_missing
        self._waiting = 0
        self._resuming: asyncio.TimerHandle | None = None
        self._warnings = _Warnings()

    def start(self, backlog: int) -> None:
        """Listen and accept."""
        self._sock.listen(backlog)
        self._sock.setblocking(False)
        asyncio.get_running_loop().add_reader(self._sock, self._accept)

    def close(self) -> None:
        """Accept no more and close the listening socket."""
        asyncio.get_running_loop().remove_reader(self._sock)
        if self._resuming is not None:
            self._resuming.cancel()
        self._sock.close()

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if self._waiting >= MAX_WAITING:
                self._pause()
                return
            try:
                client, peer = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno in NO_DESCRIPTOR:
                    self._pause()
                    return
                continue  # this client has gone already
            client.setblocking(False)
            self._waiting += 1
            self._nursery.start(self._begin(client, peer[0]), name="PROXY header")

    def _pause(self) -> None:
        """Leave clients in the backlog for a moment: asked at once, the loop would do nothing else."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._sock)
        self._resuming = loop.call_later(PAUSE_S, loop.add_reader, self._sock, self._accept)

    async def _begin(self, client: socket.socket, ip: str) -> None:
        """Begin the session of an accepted connection, as soon as its client is known."""
        try:
            proxied = await self._identify(client, ip) if self._trust.must_send_header(ip) else None
        except (OSError, _Ended):
            client.close()
            return
        except asyncio.CancelledError:
            client.close()
            raise
        except BadProxyHeader as exc:
            self._note_missing(ip, str(exc))
            await self._refuse(client)
            return
        finally:
            self._waiting -= 1
        try:
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(lambda: self._make_protocol(proxied), client)
        except OSError:
            client.close()

    async def _identify(self, client: socket.socket, ip: str) -> "ProxiedPeer":
        header = await read_proxy_header(client)
        if header is None:
            raise _Ended  # a health check that only connects
        return ProxiedPeer(header.source)

    def _note_missing(self, ip: str, reason: str) -> None:
        self._trust.note_missing(ip)
        self._on_missing()
        self._warnings.tell(ip, reason)

    async def _refuse(self, client: socket.socket) -> None:
        """Say why and close in order: bytes left unread would turn into a reset that destroys the reply."""
        loop = asyncio.get_running_loop()
        with client, contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await loop.sock_sendall(client, NO_HEADER.encode())
                client.shutdown(socket.SHUT_WR)
                while await loop.sock_recv(client, 65536):
                    pass


class _Ended(Exception):
    """The peer closed without a byte."""


@dataclass(slots=True)
class _Warnings:
    """One line in a while: a load balancer without the header would write one for each connection."""

    told_at: float = float("-inf")
    untold: int = 0

    def tell(self, ip: str, reason: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self.told_at < WARN_EVERY_S:
            self.untold += 1
            return
        log.warning("proxy_header_missing", peer=ip, reason=reason, not_told=self.untold)
        self.told_at, self.untold = now, 0
