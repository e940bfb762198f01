"""Accepting messages into PostgreSQL, and finding out what became of one whose answer never came.

An INSERT whose connection broke is stored, or not, or will be: asking whether the id is there tells nothing about a
transaction that is still under way. So the id is taken by an entry of ours that is `gone` (GIVE_UP): the unique index
makes that wait for the other transaction. If we get the id, the message is not stored and can never come to be; if we
do not, it is stored.
"""

import asyncio
from collections.abc import Mapping, Sequence

from mailflow.observe.nursery import Nursery
from mailflow.store.postgres_batches import Batches
from mailflow.store.postgres_connection import Connections, OutcomeUnknown
from mailflow.store.postgres_rows import NewMessage, message_columns
from mailflow.store.postgres_statements import ACCEPT, GIVE_UP, LOOK_UP
from mailflow.store.store import StoreUnavailable

LARGE_BYTES = 1_048_576  # a message from this size on goes alone, beside the batches of the others
STATEMENT_S = 5.0
SLOWEST_BYTES_PER_S = 4_194_304
RETRY_S = 0.2
SHARE_TO_SEND = 0.6  # of the time there is; the rest is for finding out what became of it


class Acceptor:
    """Commits messages in batches; answers with the time of arrival by the server's clock, in Unix seconds."""

    def __init__(self, connections: Connections, *, lease_s: float, nursery: Nursery) -> None:
        self._connections = connections
        self._lease_s = lease_s
        self._small: Batches[NewMessage, float] = Batches(self._store, nursery=nursery, name="accept")
        self._large: Batches[NewMessage, float] = Batches(self._store, nursery=nursery, name="accept_large")

    async def accept(self, message: NewMessage, *, deadline: float) -> float:
        """Commit one message. Raises StoreUnavailable; OutcomeUnknown where even that could not be found out."""
        now = asyncio.get_running_loop().time()
        batches = self._large if message.size_bytes >= LARGE_BYTES else self._small
        try:
            return await batches.ask(message, deadline=now + (deadline - now) * SHARE_TO_SEND)
        except OutcomeUnknown as fault:
            return await self._find_out(message.envelope.id, fault, deadline=deadline)

    async def _store(self, messages: Sequence[NewMessage], deadline: float) -> Sequence[float]:
        connections = self._connections
        # One connection may be dead where a new one is not: those that wait behind this batch are not to wait long.
        weight = sum(message.weight_bytes for message in messages)
        patience_s = STATEMENT_S + weight / SLOWEST_BYTES_PER_S
        deadline = min(deadline, asyncio.get_running_loop().time() + patience_s)
        before = [message.retry_s for message in messages], [message.last_error for message in messages]
        rows = await connections.fetch(ACCEPT, *message_columns(messages), self._lease_s, *before, deadline=deadline)
        connections.note_room()
        arrived: dict[str, float] = {row["id"]: row["arrived_at"] for row in rows}
        if missing := [message.envelope.id for message in messages if message.envelope.id not in arrived]:
            arrived |= await self._look_up(missing, deadline=deadline)
        return [_arrival(message.envelope.id, arrived) for message in messages]

    async def _look_up(self, ids: Sequence[str], *, deadline: float) -> Mapping[str, float]:
        """Give the arrival of ids that were found taken; those given up are left out.

        One that is not there at all was there a moment ago: delivered meanwhile, so it had been stored.
        """
        rows = await self._connections.fetch(LOOK_UP, ids, deadline=deadline)
        given_up = {row["id"] for row in rows if row["state"] == "gone"}
        arrived = {row["id"]: row["arrived_at"] for row in rows}
        return {id: arrived.get(id, 0.0) for id in ids if id not in given_up}

    async def _find_out(self, id: str, fault: OutcomeUnknown, *, deadline: float) -> float:
        """Give the arrival of a message if it is stored. Raises StoreUnavailable once it never can be."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                taken = await self._connections.fetch(GIVE_UP, id, deadline=deadline)
                arrived = {} if taken else await self._look_up([id], deadline=deadline)
            except StoreUnavailable as exc:
                if loop.time() + RETRY_S > deadline or self._connections.is_closed:
                    raise OutcomeUnknown(f"stored or not, it could not be found out: {exc}") from fault
                await asyncio.sleep(RETRY_S)  # a server that starts again needs a moment
                continue
            if id not in arrived:
                raise StoreUnavailable(f"not stored: {fault}") from fault
            return arrived[id]


def _arrival(id: str, arrived: Mapping[str, float]) -> float:
    if id not in arrived:
        raise StoreUnavailable("given up earlier under this id, which is used up")
    return arrived[id]
