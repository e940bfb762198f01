"""One mailbox server of a backend: its connections, and whether it is well.

Three failures in a row (no session, or one that broke or fell silent) open its circuit: nobody waits
for it any more, and a probe asks in the background, soon at first and then every few seconds, until
it greets again. What a server answers, a refusal included, is no failure.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence

import structlog

from mailflow.deliver.pool import Dial, Lease, LmtpPool
from mailflow.observe.nursery import Nursery
from mailflow.smtp.lmtp_errors import LmtpError, LmtpTimeout

FAILURES_TO_OPEN = 3
PROBE_S = (0.5, 1.0, 2.0, 4.0, 5.0)  # pauses before probes; the last is repeated
PROBE_TIMEOUT_S = 5.0

log = structlog.get_logger()


class MailboxServer:
    """The server `name` of `backend`, reached by `dial`.

    `on_failure()` hears each failure, `on_circuit(is_open)` each change of the circuit.
    """

    def __init__(
        self,
        name: str,
        *,
        backend: str,
        dial: Dial,
        connections: int,
        nursery: Nursery,
        on_failure: Callable[[], object],
        on_circuit: Callable[[bool], object],
    ) -> None:
        self.name = name
        self.is_down = False
        self._backend = backend
        self._dial = dial
        self._nursery = nursery
        self._on_failure = on_failure
        self._on_circuit = on_circuit
        self._pool = LmtpPool(dial, connections=connections)
        self._failures = 0
        self._probing: asyncio.Task[None] | None = None
        self._is_closed = False
        # A hanging server must not fill the pool with questions.
        self.question_slots = asyncio.Semaphore(max(1, connections // 2))
        on_circuit(False)  # the series is there from the start

    def close(self) -> None:
        """Close idle connections now, those in use when they are done; probe no more."""
        self._is_closed = True
        self._pool.close()
        if self._probing is not None:
            self._probing.cancel()

    async def lease(self, deadline: float, *, slot_deadline: float | None = None) -> Lease:
        """Give a connection; see LmtpPool. That all are in use is no failure of the server."""
        try:
            return await self._pool.lease(deadline, slot_deadline=slot_deadline)
        except LmtpTimeout:
            raise
        except LmtpError as exc:
            self.note_failure(str(exc))
            raise

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Count an LmtpError within as a failure; it goes on."""
        try:
            yield
        except LmtpError as exc:
            self.note_failure(str(exc))
            raise

    def note_success(self) -> None:
        """The server answered all that it was asked."""
        self._failures = 0

    def note_failure(self, reason: str) -> None:
        """The server gave no session, or a session broke or fell silent."""
        self._failures += 1
        self._on_failure()
        if self._failures >= FAILURES_TO_OPEN and not self.is_down and not self._is_closed:
            self.is_down = True
            self._on_circuit(True)
            log.warning("backend_down", backend=self._backend, server=self.name, reason=reason)
            self._probing = self._nursery.start(self._probe(), name="probe of a mailbox server")

    async def _probe(self) -> None:
        """Ask until the server gives a session again."""
        loop = asyncio.get_running_loop()
        probes = 0
        while True:
            await asyncio.sleep(PROBE_S[min(probes, len(PROBE_S) - 1)])
            probes += 1
            try:
                connection = await self._dial(loop.time() + PROBE_TIMEOUT_S)
            except LmtpError:
                continue
            connection.quit()
            break
        self.is_down, self._failures = False, 0
        self._on_circuit(False)
        log.info("backend_up", backend=self._backend, server=self.name, probes=probes)


def order_servers(servers: Sequence[MailboxServer], user: str) -> list[MailboxServer]:
    """Give the servers in the user's own order, his first: the same in every worker and Pod (rendezvous hashing).

    A server that is added or taken away moves only the users that it gains or had.
    """
    return sorted(servers, key=lambda server: hashlib.blake2b(f"{server.name} {user}".encode()).digest())
