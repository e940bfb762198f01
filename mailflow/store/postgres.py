"""The distributed store: one queue in PostgreSQL, shared by any number of Pods (MessageStore).

    postgres_connection    connections with deadlines; what a failure means
    postgres_schema        tables and migrations
    postgres_statements    the SQL of accepting and delivering
    postgres_batches       many callers, one statement
    postgres_accept        accepting, and the outcome that nobody told us
    postgres_ownership     what our epochs own, as far as this process knows
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
from dataclasses import dataclass
from typing import Any

from mailflow.mail.envelope import Envelope
from mailflow.observe.nursery import Nursery
from mailflow.store.postgres_accept import Acceptor
from mailflow.store.postgres_batches import Batches
from mailflow.store.postgres_connection import Connections, OutcomeUnknown
from mailflow.store.postgres_operator import change_entries, count_entries, find_entry, list_entries
from mailflow.store.postgres_ownership import Ownership
from mailflow.store.postgres_rows import (
    NewMessage,
    columns,
    message_columns,
    new_message,
    read_body,
    read_entry,
    storable_text,
)
from mailflow.store.postgres_schema import migrate
from mailflow.store.postgres_statements import (
    CLAIM,
    DISOWN,
    ENTER,
    FORGET_GIVEN_UP,
    HEARTBEAT,
    LEAVE,
    OPEN_BODY,
    PROBE,
    PROGRESS,
    SET_ASIDE,
)
from mailflow.store.postgres_wake import Wake
from mailflow.store.record import CorruptRecord, encode_recipients, shared_destination
from mailflow.store.store import (
    MAX_CRASHES,
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

ANSWER_S = 10.0  # for what names no deadline of its own
OPERATOR_S = 30.0
PROBE_S = 2.0
TIDY_S = 300.0
MAX_CONNECTIONS = 8
MAX_READS = 2  # of those, for bodies and operators
LOOK_FURTHER_S = 0.1
DEFERRED_SHARE = 8  # one claim in so many is for deferred mail, whatever new mail there is


@dataclass(frozen=True, slots=True)
class _Step:
    """What a delivery reports of its entry; `settlement` only where it ends the attempt."""

    claim: Claim
    kind: str
    settlement: Settlement | None = None
    reports: tuple[NewMessage, ...] = ()

    @property
    def key(self) -> str:
        return self.claim.id

    @property
    def weight_bytes(self) -> int:
        return 512 + sum(report.weight_bytes for report in self.reports)


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
        self._steps: Batches[_Step, bool] = Batches(self._progress, nursery=self._nursery, name="progress")
        self._wake = Wake(self._connections, self._nursery)
        self._reads = asyncio.Semaphore(MAX_READS)
        self._ownership = Ownership()
        self._claiming = asyncio.Lock()
        self._starts = ["", "", ""]  # in each lane: where the next claim starts to look, and who had the last turn
        self._last_turns = ["", "", ""]
        self._deferred_credit = 0

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
    ) -> Claim | None:
        """MessageStore.accept."""
        number = owner.number if owner else 0
        message = new_message(envelope, body, owner=number, is_in_doubt=is_in_doubt)
        if owner is None:
            await self._acceptor.accept(message, deadline=deadline)
            self._wake.tell()
            return None
        with self._ownership.expected(owner, [envelope.id]):
            arrived_at = await self._acceptor.accept(message, deadline=deadline)
        state = State.IN_DOUBT if is_in_doubt else State.ACTIVE
        return Claim(Entry(envelope, message.size_bytes, arrived_at, 0.0, state, None, attempts=1), owner)

    async def enter(self, name: str) -> Epoch:
        """MessageStore.enter."""
        [row] = await self._connections.fetch(ENTER, storable_text(name), self._lease_s, deadline=_in(ANSWER_S))
        return Epoch(row["epoch"], name)

    async def heartbeat(self, epoch: Epoch) -> None:
        """MessageStore.heartbeat."""
        if not await self._connections.fetch(HEARTBEAT, epoch.number, self._lease_s, deadline=_in(ANSWER_S)):
            raise ClaimLost(f"epoch {epoch.number} is over")
        if self._ownership.is_unsure(epoch):
            async with self._claiming:  # a claim under way is known of only when it has been answered
                known = self._ownership.known(epoch)
                if await self._connections.fetch(DISOWN, epoch.number, known, deadline=_in(ANSWER_S)):
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
        share, self._deferred_credit = divmod(self._deferred_credit + limit, DEFERRED_SHARE)
        async with self._claiming:
            with self._ownership.expected(epoch):
                rows = await self._claim_rows(epoch, limit, full, takes_suspect, share)
            entries = [read_entry(row) for row in rows if row["id"] is not None]
            claims = [Claim(entry, epoch) for entry in entries if isinstance(entry, Entry)]
            self._ownership.add(epoch, [claim.id for claim in claims])
        corrupt = [entry for entry in entries if isinstance(entry, Corrupt)]
        for entry in corrupt:
            try:
                await self._set_aside(entry)
            except StoreUnavailable:
                self._ownership.doubt(epoch)  # it is ours, and no claim of anybody's
        return Batch(claims, corrupt, self._next_due_s(rows[0], takes_suspect=takes_suspect))

    async def begin(self, claim: Claim) -> None:
        """MessageStore.begin."""
        await self._step(_Step(claim, "begin"))

    async def mark_in_doubt(self, claim: Claim) -> None:
        """MessageStore.mark_in_doubt."""
        await self._step(_Step(claim, "doubt"))

    async def hand_back(self, claim: Claim) -> None:
        """MessageStore.hand_back."""
        with contextlib.suppress(ClaimLost):
            await self._end(_Step(claim, "back"))
            self._wake.tell()

    async def settle(self, claim: Claim, settlement: Settlement) -> None:
        """MessageStore.settle."""
        kind = "aside" if settlement.is_set_aside else "settle" if settlement.owed else "remove"
        reports = tuple(new_message(report.envelope, report.body) for report in settlement.reports)
        await self._end(_Step(claim, kind, settlement, reports))
        if reports:
            self._wake.tell()

    async def open_body(self, id: str) -> Sequence[bytes] | Corrupt | None:
        """MessageStore.open_body."""
        async with self._reads:
            rows = await self._connections.fetch(OPEN_BODY, id, deadline=_in(ANSWER_S))
        if not rows:
            return None
        parts = [row["data"] for row in rows if row["data"] is not None]
        try:
            return read_body(parts, size_bytes=rows[0]["size"], crc=rows[0]["crc"])
        except CorruptRecord as exc:
            corrupt = Corrupt(id, str(exc))
            await self._set_aside(corrupt)
            return corrupt

    async def find(self, id: str) -> Entry | Corrupt | None:
        """MessageStore.find."""
        async with self._reads:
            return await find_entry(self._connections, id, deadline=_in(ANSWER_S))

    async def list_entries(self, wanted: Filter, *, limit: int, after: str = "") -> Sequence[Entry | Corrupt]:
        """MessageStore.list_entries."""
        async with self._reads:
            return await list_entries(self._connections, wanted, limit=limit, after=after, deadline=_in(OPERATOR_S))

    async def change(self, ids: Sequence[str], change: Change) -> Sequence[str]:
        """MessageStore.change."""
        async with self._reads:
            changed = await change_entries(self._connections, ids, change, deadline=_in(OPERATOR_S))
        if changed and change in {Change.RETRY, Change.RELEASE}:
            self._wake.tell()
        return changed

    async def count(self) -> Statistics:
        """MessageStore.count."""
        async with self._reads:
            return await count_entries(self._connections, deadline=_in(OPERATOR_S))

    def unhealthy_reason(self) -> Unhealthy | None:
        """MessageStore.unhealthy_reason: how the last statement went."""
        return self._connections.unhealthy

    def on_due(self, callback: Callable[[], None]) -> None:
        """MessageStore.on_due."""
        self._wake.callbacks.append(callback)

    def _next_due_s(self, row: Any, *, takes_suspect: bool) -> float | None:
        if (row["id"] is not None and any(self._starts)) or (row["crashed"] and takes_suspect):
            return 0.0
        if any(self._starts):  # not all destinations were looked at
            return min(row["next_due_s"] or LOOK_FURTHER_S, LOOK_FURTHER_S)
        next_due_s: float | None = row["next_due_s"]
        return next_due_s

    async def _claim_rows(
        self, epoch: Epoch, limit: int, full: Collection[str], takes_suspect: bool, share: int
    ) -> Sequence[Any]:
        while True:
            rows = await self._connections.fetch(
                CLAIM, epoch.number, self._lease_s, limit, list(full), takes_suspect, self._starts, self._last_turns,
                share, MAX_CRASHES, deadline=_in(ANSWER_S),
            )  # fmt: skip
            if not rows[0]["is_alive"]:
                raise ClaimLost(f"epoch {epoch.number} is over")
            self._starts = [cut or "" for cut in rows[0]["cut_at"]]
            turns = zip(rows[0]["last_turns"], self._last_turns, strict=True)
            self._last_turns = [before if now is None else now for now, before in turns]
            # What died with its worker took places here and was not given out: those are suspects now.
            if rows[0]["id"] is not None or not rows[0]["crashed"]:
                return rows

    async def _step(self, step: _Step) -> None:
        """Note progress; again where the answer was lost, which does no harm."""
        try:
            is_done = await self._steps.ask(step, deadline=_in(ANSWER_S / 2))
        except OutcomeUnknown:
            is_done = await self._steps.ask(step, deadline=_in(ANSWER_S / 2))
        if not is_done:
            self._ownership.remove(step.claim)
            raise ClaimLost(f"epoch {step.claim.epoch.number} has lost {step.claim.id}")

    async def _end(self, step: _Step) -> None:
        """End a claim. Where the answer was lost and the claim is not ours any more, it was this that ended it."""
        try:
            is_done = await self._steps.ask(step, deadline=_in(ANSWER_S / 2))
        except OutcomeUnknown:
            await self._steps.ask(step, deadline=_in(ANSWER_S / 2))
            is_done = True
        self._ownership.remove(step.claim)
        if not is_done:
            raise ClaimLost(f"epoch {step.claim.epoch.number} has lost {step.claim.id}")

    async def _progress(self, steps: Sequence[_Step], deadline: float) -> Sequence[bool]:
        """Do what each step says where its epoch lives and owns the entry; tell of which that was true."""
        reports = [(report, step.claim.id) for step in steps for report in step.reports]
        rows = await self._connections.fetch(
            PROGRESS,
            *message_columns([report for report, _ in reports]),
            *columns([_step_row(step) for step in steps], 8),
            [settled for _, settled in reports],
            deadline=deadline,
        )
        done = {row["id"] for row in rows}
        return [step.claim.id in done for step in steps]

    async def _set_aside(self, corrupt: Corrupt) -> None:
        reason = storable_text(corrupt.reason)
        await self._connections.fetch(SET_ASIDE, [corrupt.id], reason, deadline=_in(ANSWER_S))

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


def _step_row(step: _Step) -> tuple[object, ...]:
    settlement = step.settlement
    row: tuple[object, ...] = (step.claim.id, step.claim.epoch.number, step.kind)
    if settlement is None:
        return (*row, None, None, 0.0, None, False)
    owed = settlement.owed
    return (
        *row,
        encode_recipients(owed) if owed else None,
        shared_destination(owed) if owed else None,
        settlement.retry_s,
        storable_text(settlement.last_error),
        settlement.is_delay_told,
    )


def _in(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds
