"""Steps of deliveries in PostgreSQL: begin, in doubt, settle, hand back; those of many deliveries in one statement.

Each is fenced by its epoch, in the statement itself: the epoch lives and owns the entry, or the step is not done.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from mailflow.observe.nursery import Nursery
from mailflow.store.postgres_batches import Batches
from mailflow.store.postgres_connection import Connections, OutcomeUnknown
from mailflow.store.postgres_ownership import Ownership
from mailflow.store.postgres_rows import NewMessage, columns, message_columns, storable_text
from mailflow.store.postgres_statements import PROGRESS
from mailflow.store.record import encode_recipients, shared_destination
from mailflow.store.store import Claim, ClaimLost, Settlement

ANSWER_S = 5.0  # for each of two tries


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of an entry. `kind` is begin, doubt, back; with a `settlement` settle, remove or aside."""

    claim: Claim
    kind: str
    settlement: Settlement | None = None
    reports: tuple[NewMessage, ...] = ()

    @property
    def key(self) -> str:
        """Its message: two steps of one do not go in one statement."""
        return self.claim.id

    @property
    def weight_bytes(self) -> int:
        """Octets of its reports, and about those of its row."""
        return 512 + sum(report.weight_bytes for report in self.reports)


class Steps:
    """Carries out steps. Each raises ClaimLost where the claim is not ours any more."""

    def __init__(self, connections: Connections, ownership: Ownership, *, nursery: Nursery) -> None:
        self._connections = connections
        self._ownership = ownership
        self._batches: Batches[Step, bool] = Batches(self._run, nursery=nursery, name="steps")

    async def note(self, step: Step) -> None:
        """Carry out a step that leaves the claim; again where the answer was lost, which does no harm."""
        try:
            is_done = await self._ask(step)
        except OutcomeUnknown:
            is_done = await self._ask(step)
        if not is_done:
            raise self._lost(step)

    async def end(self, step: Step) -> None:
        """End a claim. Where the answer was lost and the claim is not ours any more, it was this that ended it."""
        try:
            is_done = await self._ask(step)
        except OutcomeUnknown:
            await self._ask(step)
            is_done = True
        if not is_done:
            raise self._lost(step)
        self._ownership.remove(step.claim)

    def _lost(self, step: Step) -> ClaimLost:
        self._ownership.remove(step.claim)
        return ClaimLost(f"epoch {step.claim.epoch.number} has lost {step.claim.id}")

    async def _ask(self, step: Step) -> bool:
        return await self._batches.ask(step, deadline=asyncio.get_running_loop().time() + ANSWER_S)

    async def _run(self, steps: Sequence[Step], deadline: float) -> Sequence[bool]:
        reports = [(report, step.claim.id) for step in steps for report in step.reports]
        rows = await self._connections.fetch(
            PROGRESS,
            *message_columns([report for report, _ in reports]),
            *columns([_row(step) for step in steps], 8),
            [settled for _, settled in reports],
            deadline=deadline,
        )
        done = {row["id"] for row in rows}
        return [step.claim.id in done for step in steps]


def _row(step: Step) -> tuple[object, ...]:
    row = (step.claim.id, step.claim.epoch.number, step.kind)
    if step.settlement is None:
        return (*row, None, None, 0.0, None, False)
    owed = step.settlement.owed
    return (
        *row,
        encode_recipients(owed) if owed else None,
        shared_destination(owed) if owed else None,
        step.settlement.retry_s,
        storable_text(step.settlement.last_error),
        step.settlement.is_delay_told,
    )
