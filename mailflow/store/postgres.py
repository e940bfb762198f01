"""The distributed store: one queue in PostgreSQL, shared by any number of Pods (MessageStore).

    postgres_connection    connections with deadlines; what a failure means
    postgres_schema        tables and migrations
    postgres_statements    the SQL of accepting and delivering
    postgres_batches       many callers, one statement
    postgres_accept        accepting, and the outcome that nobody told us
    postgres_ownership     what our epochs own, as far as this process knows
    postgres_claims        claiming: turns of destinations, shares of new and deferred mail
    postgres_steps         begin, settle and what lies between
    postgres_rows          messages as rows and back
    postgres_operator      find, list, change, count
    postgres_wake          LISTEN and NOTIFY, as hints

A claim is owned by an epoch and comes due by itself when the lease is over: the mail of a Pod that died needs nobody to
sweep it up. Locks last as long as one statement. Must never: answer an accept whose commit is not known, or touch an
entry for an epoch whose heartbeat is overdue.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Collection, Sequence
from typing import ParamSpec, TypeVar

from mailflow.mail.envelope import Envelope
from mailflow.observe.nursery import Nursery
from mailflow.store.postgres_accept import LARGE_BYTES, Acceptor
from mailflow.store.postgres_claims import Claimer, set_aside
from mailflow.store.postgres_connection import Connections
from mailflow.store.postgres_operator import change_entries, count_entries, find_entry, list_entries
from mailflow.store.postgres_ownership import Ownership
from mailflow.store.postgres_rows import new_message, read_body, storable_text
from mailflow.store.postgres_schema import migrate
from mailflow.store.postgres_statements import ENTER, FORGET_GIVEN_UP, HEARTBEAT, LEAVE, OPEN_BODY, PROBE
from mailflow.store.postgres_steps import Step, Steps
from mailflow.store.postgres_wake import Wake
from mailflow.store.record import CorruptRecord
from mailflow.store.store import (
    Batch,
    Change,
    Claim,
    ClaimLost,
    Corrupt,
    Entry,
    Epoch,
    Filter,
    Settlement,
    State,
    Statistics,
    StoreUnavailable,
    Unhealthy,
)

P = ParamSpec("P")
T = TypeVar("T")

ANSWER_S = 10.0  # for what names no deadline of its own
OPERATOR_S = 30.0
PROBE_S = 2.0
TIDY_S = 300.0
MAX_CONNECTIONS = 8
MAX_BODIES = 2  # of those, for bodies; and for operators, whose questions may take long
MAX_OPERATORS = 1


class PostgresStore:
    """MessageStore on PostgreSQL. `url` is libpq's (`postgresql://user@host/db`); an epoch lives `lease_s` seconds.

    Up to MAX_CONNECTIONS connections are used, as many as are needed at a time, and one more to listen. A failed `open`
    may be tried again. `statements` counts the statements sent.
    """

    def __init__(self, url: str, *, lease_s: float = 60.0) -> None:
        self._lease_s = lease_s
        self._connections = Connections(url, limit=MAX_CONNECTIONS)
        self._nursery = Nursery()
        self._acceptor = Acceptor(self._connections, lease_s=lease_s, nursery=self._nursery)
        self._ownership = Ownership()
        self._claimer = Claimer(self._connections, self._ownership, lease_s=lease_s)
        self._steps = Steps(self._connections, self._ownership, nursery=self._nursery)
        self._wake = Wake(self._connections, self._nursery)
        self._bodies = asyncio.Semaphore(MAX_BODIES)
        self._operators = asyncio.Semaphore(MAX_OPERATORS)

    @property
    def statements(self) -> int:
        """Statements sent so far."""
        return self._connections.statements

    @property
    def last_success(self) -> float | None:
        """When the server last did what it was asked, by the loop's clock; None where it never has."""
        return self._connections.last_success

    async def open(self) -> None:
        """Connect and bring the schema up to date; MessageStore.open."""
        self._connections.open()
        try:
            await migrate(self._connections, deadline=_in(OPERATOR_S))
            await self._connections.fetch(FORGET_GIVEN_UP, deadline=_in(ANSWER_S))
        except BaseException:
            self._connections.close()
            raise
        self._nursery.start(self._wake.listen(), name="listen")
        self._nursery.start(self._tend(), name="tend")

    async def close(self) -> None:
        """MessageStore.close."""
        await self._nursery.cancel_all()
        self._connections.close()

    async def accept(
        self,
        envelope: Envelope,
        body: Sequence[bytes],
        *,
        deadline: float,
        owner: Epoch | None = None,
        is_in_doubt: bool = False,
        retry_s: float = 0.0,
        last_error: str = "",
    ) -> Claim | None:
        """MessageStore.accept."""
        size_bytes = sum(map(len, body))
        message = await _off_loop(size_bytes, new_message, envelope, body, owner, is_in_doubt, retry_s, last_error)
        if owner is None:
            await self._acceptor.accept(message, deadline=deadline)
            if not retry_s:
                self._wake.tell()
            return None
        with self._ownership.expected(owner, [envelope.id]):
            arrived_at = await self._acceptor.accept(message, deadline=deadline)
        state = State.IN_DOUBT if is_in_doubt else State.ACTIVE
        return Claim(Entry(envelope, size_bytes, arrived_at, 0.0, state, None, attempts=1), owner)

    async def enter(self, name: str) -> Epoch:
        """MessageStore.enter."""
        [row] = await self._connections.fetch(ENTER, storable_text(name), self._lease_s, deadline=_in(ANSWER_S))
        return Epoch(row["epoch"], name)

    async def heartbeat(self, epoch: Epoch) -> None:
        """MessageStore.heartbeat."""
        if not await self._connections.fetch(HEARTBEAT, epoch.number, self._lease_s, deadline=_in(ANSWER_S)):
            raise ClaimLost(f"epoch {epoch.number} is over")
        if self._ownership.is_unsure(epoch) and await self._claimer.give_up_unknown(epoch):
            self._wake.tell()

    async def leave(self, epoch: Epoch) -> None:
        """MessageStore.leave."""
        owned = self._ownership.known(epoch)
        await self._connections.fetch(LEAVE, epoch.number, owned, deadline=_in(ANSWER_S))
        self._ownership.forget(epoch)
        if owned:
            self._wake.tell()

    async def claim(
        self, epoch: Epoch, limit: int, *, full: Collection[str] = (), takes_suspect: bool = False
    ) -> Batch:
        """MessageStore.claim."""
        return await self._claimer.claim(epoch, limit, full=full, takes_suspect=takes_suspect)

    async def begin(self, claim: Claim) -> None:
        """MessageStore.begin."""
        await self._steps.note(Step(claim, "begin"))

    async def mark_in_doubt(self, claim: Claim) -> None:
        """MessageStore.mark_in_doubt."""
        await self._steps.note(Step(claim, "doubt"))

    async def hand_back(self, claim: Claim) -> None:
        """MessageStore.hand_back."""
        with contextlib.suppress(ClaimLost):
            await self._steps.end(Step(claim, "back"))
            self._wake.tell()

    async def settle(self, claim: Claim, settlement: Settlement) -> None:
        """MessageStore.settle."""
        kind = "aside" if settlement.is_set_aside else "settle" if settlement.owed else "remove"
        reports = [
            await _off_loop(sum(map(len, report.body)), new_message, report.envelope, report.body)
            for report in settlement.reports
        ]
        await self._steps.end(Step(claim, kind, settlement, tuple(reports)))
        if reports:
            self._wake.tell()

    async def open_body(self, id: str) -> Sequence[bytes] | Corrupt | None:
        """MessageStore.open_body."""
        async with self._bodies:
            rows = await self._connections.fetch(OPEN_BODY, id, deadline=_in(ANSWER_S))
        if not rows:
            return None
        try:
            return await _off_loop(rows[0]["size"], read_body, rows)
        except CorruptRecord as exc:
            corrupt = Corrupt(id, str(exc))
            await set_aside(self._connections, corrupt, deadline=_in(ANSWER_S))
            return corrupt

    async def find(self, id: str) -> Entry | Corrupt | None:
        """MessageStore.find."""
        async with self._operators:
            return await find_entry(self._connections, id, deadline=_in(ANSWER_S))

    async def list_entries(self, wanted: Filter, *, limit: int, after: str = "") -> Sequence[Entry | Corrupt]:
        """MessageStore.list_entries."""
        async with self._operators:
            return await list_entries(self._connections, wanted, limit=limit, after=after, patience_s=ANSWER_S)

    async def change(self, ids: Sequence[str], change: Change) -> Sequence[str]:
        """MessageStore.change."""
        async with self._operators:
            changed = await change_entries(self._connections, ids, change, deadline=_in(OPERATOR_S))
        if changed and change in {Change.RETRY, Change.RELEASE}:
            self._wake.tell()
        return changed

    async def count(self) -> Statistics:
        """MessageStore.count."""
        async with self._operators:
            return await count_entries(self._connections, deadline=_in(OPERATOR_S))

    def unhealthy_reason(self) -> Unhealthy | None:
        """MessageStore.unhealthy_reason: how the last statement went."""
        return self._connections.unhealthy

    def on_due(self, callback: Callable[[], None]) -> None:
        """MessageStore.on_due."""
        self._wake.callbacks.append(callback)

    async def _tend(self) -> None:
        """Ask a store that failed whether it is back, and forget now and then what was given up."""
        loop = asyncio.get_running_loop()
        tidy_at = loop.time() + TIDY_S
        while True:
            await asyncio.sleep(PROBE_S)
            try:
                if self._connections.unhealthy:
                    await self._probe()
                if loop.time() > tidy_at:
                    await self._connections.fetch(FORGET_GIVEN_UP, deadline=_in(ANSWER_S))
                    tidy_at = loop.time() + TIDY_S
            except StoreUnavailable:
                pass  # noted where unhealthy_reason looks

    async def _probe(self) -> None:
        """Find out whether there is room for a message: write one, and take it back."""
        async with self._connections.session(_in(ANSWER_S)) as session:
            await session.fetch("BEGIN")
            await session.fetch(PROBE, os.urandom(16).hex(), os.urandom(65_536))
            await session.fetch("ROLLBACK")
            self._connections.note_room()


async def _off_loop(size_bytes: int, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Do what takes long with a large message, in a thread: its checksum."""
    if size_bytes < LARGE_BYTES:
        return work(*arguments, **named)
    return await asyncio.to_thread(work, *arguments, **named)


def _in(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds
