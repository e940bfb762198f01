"""Claiming from the queue in PostgreSQL: whose turn it is, and what is done about entries that nobody can read.

The statement does the work (CLAIM). What is kept here between claims is only for fairness: which destination had the
last turn, where a look at very many destinations left off, how much of its share deferred mail has had.
"""

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

from mailflow.store.postgres_connection import Connections
from mailflow.store.postgres_ownership import Ownership
from mailflow.store.postgres_rows import read_entry, storable_text
from mailflow.store.postgres_statements import CLAIM, DISOWN, SET_ASIDE
from mailflow.store.store import MAX_CRASHES, Batch, Claim, ClaimLost, Corrupt, Entry, Epoch, StoreUnavailable

ANSWER_S = 10.0
LOOK_FURTHER_S = 0.1
DEFERRED_SHARE = 8  # one entry in so many is deferred mail, whatever new mail there is


class Claimer:
    """Claims for the epochs of one process, one claim at a time."""

    def __init__(self, connections: Connections, ownership: Ownership, *, lease_s: float) -> None:
        self._connections = connections
        self._ownership = ownership
        self._lease_s = lease_s
        self._claiming = asyncio.Lock()
        self._starts = ["", "", ""]  # in each lane: where the next claim starts to look, and who had the last turn
        self._last_turns = ["", "", ""]
        self._was_whole = True  # the last look took in all destinations; and what a round of several looks found
        self._is_round_empty = True
        self._deferred_credit = 0

    async def claim(self, epoch: Epoch, limit: int, *, full: Collection[str], takes_suspect: bool) -> Batch:
        """MessageStore.claim."""
        share, self._deferred_credit = divmod(self._deferred_credit + limit, DEFERRED_SHARE)
        async with self._claiming:
            with self._ownership.expected(epoch):
                rows = await self._claim(epoch, limit, full, takes_suspect, share)
            entries = [read_entry(row) for row in rows if row["id"] is not None]
            claims = [Claim(entry, epoch) for entry in entries if isinstance(entry, Entry)]
            self._ownership.add(epoch, [claim.id for claim in claims])
        corrupt = [entry for entry in entries if isinstance(entry, Corrupt)]
        for entry in corrupt:
            try:
                await set_aside(self._connections, entry, deadline=_deadline())
            except StoreUnavailable:
                self._ownership.doubt(epoch)  # it is ours, and no claim of anybody's
        return Batch(claims, corrupt, self._next_due_s(rows[0], takes_suspect=takes_suspect))

    async def give_up_unknown(self, epoch: Epoch) -> bool:
        """Let go of what the epoch owns without knowing; tell whether there was any."""
        async with self._claiming:  # a claim under way is known of only when it has been answered
            known = self._ownership.known(epoch)
            return bool(await self._connections.fetch(DISOWN, epoch.number, known, deadline=_deadline()))

    async def _claim(
        self, epoch: Epoch, limit: int, full: Collection[str], takes_suspect: bool, share: int
    ) -> Sequence[Any]:
        while True:
            rows = await self._connections.fetch(
                CLAIM, epoch.number, self._lease_s, limit, list(full), takes_suspect, self._starts, self._last_turns,
                share, MAX_CRASHES, deadline=_deadline(),
            )  # fmt: skip
            if not rows[0]["is_alive"]:
                raise ClaimLost(f"epoch {epoch.number} is over")
            self._note_turns(rows[0])
            # What died with its worker took places here and was not given out: those are suspects now.
            if rows[0]["id"] is not None or not rows[0]["crashed"]:
                return rows

    def _note_turns(self, row: Any) -> None:
        """Remember whose turn it was. With more destinations than one look takes in, the next look starts behind it."""
        has_more = row["next_due_s"] == 0.0
        self._was_whole = not any(self._starts) and not any(row["cut_at"])
        lanes = zip(self._starts, row["cut_at"], row["last_turns"], strict=True)
        self._starts = [
            "" if not start and cut is None else last if has_more and last is not None else cut or ""
            for start, cut, last in lanes
        ]
        turns = zip(row["last_turns"], self._last_turns, strict=True)
        self._last_turns = [before if last is None else last for last, before in turns]

    def _next_due_s(self, row: Any, *, takes_suspect: bool) -> float | None:
        has_claimed = row["id"] is not None
        if row["crashed"] and takes_suspect:
            return 0.0
        if not self._was_whole:
            self._is_round_empty = self._is_round_empty and not has_claimed
            if has_claimed:
                return 0.0
            if any(self._starts):
                return LOOK_FURTHER_S
            was_empty, self._is_round_empty = self._is_round_empty, True
            if not was_empty:
                return 0.0
        next_due_s: float | None = row["next_due_s"]
        return next_due_s


async def set_aside(connections: Connections, corrupt: Corrupt, *, deadline: float) -> None:
    """Take what cannot be read out of delivery; its bytes stay."""
    await connections.fetch(SET_ASIDE, [corrupt.id], storable_text(corrupt.reason), deadline=deadline)


def _deadline() -> float:
    return asyncio.get_running_loop().time() + ANSWER_S
