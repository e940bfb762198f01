"""Which shards there are, and several of them as one store.

Worker slot n has the shard of number n: the file itself for 0, `FILE.n` beside it for others. Where there are fewer
workers than there were, the shards of missing slots go to living ones, which empty them and remove them.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import structlog

from mailflow.mail.envelope import Envelope
from mailflow.store.sqlite import SqliteStore
from mailflow.store.store import (
    Batch,
    Change,
    Claim,
    Corrupt,
    Entry,
    Epoch,
    Filter,
    Settlement,
    Statistics,
    StoreUnavailable,
    Unhealthy,
    add_statistics,
)

log = structlog.get_logger()


def shard_path(path: Path, number: int) -> Path:
    """Give the file of a shard."""
    return path if number == 0 else path.with_name(f"{path.name}.{number}")


def find_shards(path: Path) -> dict[int, Path]:
    """Give the shards that exist, by number."""
    names = {path.name: 0}
    if path.parent.is_dir():
        suffixes = [(p.name, p.name.removeprefix(f"{path.name}.")) for p in path.parent.glob(f"{path.name}.*")]
        names |= {name: int(suffix) for name, suffix in suffixes if suffix.isascii() and suffix.isdecimal()}
    return {number: path.with_name(name) for name, number in names.items() if path.with_name(name).exists()}


def shards_of_slot(path: Path, *, slot: int, slots: int) -> list[Path]:
    """Give the shards of a worker slot, its own first: each existing one of a missing slot is some living one's."""
    orphans = [found for number, found in sorted(find_shards(path).items()) if number >= slots]
    return [shard_path(path, slot), *(p for index, p in enumerate(orphans) if index % slots == slot)]


class SqliteShards:
    """MessageStore over shards: new mail goes into the first, the others are emptied. `make(path)` makes a shard."""

    def __init__(self, paths: Sequence[Path], make: Callable[[Path], SqliteStore]) -> None:
        self._shards = [make(path) for path in paths]
        self._own = self._shards[0]
        self._homes: dict[str, SqliteStore] = {}  # of claims that are not the first shard's
        self._turn = 0

    async def open(self) -> None:
        """MessageStore.open. A shard of a missing slot that cannot be opened keeps nobody from working."""
        await self._own.open()
        opened = [self._own]
        for shard in self._shards[1:]:
            try:
                await shard.open()
                opened.append(shard)
            except StoreUnavailable as exc:
                log.error("shard_not_opened", path=str(shard.path), reason=str(exc))
        self._shards = opened

    async def close(self) -> None:
        """MessageStore.close. Shards of missing slots that are empty are removed."""
        for shard in self._shards:
            is_spent = shard is not self._own and await _is_empty(shard)
            await shard.close()
            if is_spent:
                await asyncio.to_thread(shard.discard)

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
        return await self._own.accept(
            envelope,
            body,
            deadline=deadline,
            owner=owner,
            is_in_doubt=is_in_doubt,
            retry_s=retry_s,
            last_error=last_error,
        )

    async def enter(self, name: str) -> Epoch:
        """MessageStore.enter."""
        epoch = await self._own.enter(name)
        for shard in self._shards[1:]:
            shard.join(epoch)
        return epoch

    async def heartbeat(self, epoch: Epoch) -> None:
        """MessageStore.heartbeat."""
        for shard in self._shards:
            await shard.heartbeat(epoch)

    async def leave(self, epoch: Epoch) -> None:
        """MessageStore.leave."""
        for shard in self._shards:
            await shard.leave(epoch)

    async def claim(
        self, epoch: Epoch, limit: int, *, full: Collection[str] = (), takes_suspect: bool = False
    ) -> Batch:
        """MessageStore.claim: of each shard a share, beginning with another one each time."""
        self._turn = (self._turn + 1) % len(self._shards)
        claims: list[Claim] = []
        corrupt: list[Corrupt] = []
        dues: list[float] = []
        for index, shard in enumerate(self._shards[self._turn :] + self._shards[: self._turn]):
            share = -(-(limit - len(claims)) // (len(self._shards) - index))
            if not share:
                break
            has_suspect = any(claim.entry.crashes for claim in claims)
            batch = await shard.claim(epoch, share, full=full, takes_suspect=takes_suspect and not has_suspect)
            if shard is not self._own:
                self._homes.update((claim.id, shard) for claim in batch.claims)
            claims += batch.claims
            corrupt += batch.corrupt
            dues += [] if batch.next_due_s is None else [batch.next_due_s]
        return Batch(claims, corrupt, min(dues, default=None))

    async def begin(self, claim: Claim) -> None:
        """MessageStore.begin."""
        await self._shard_of(claim).begin(claim)

    async def settle(self, claim: Claim, settlement: Settlement) -> None:
        """MessageStore.settle."""
        await self._shard_of(claim).settle(claim, settlement)
        self._homes.pop(claim.id, None)

    async def hand_back(self, claim: Claim) -> None:
        """MessageStore.hand_back."""
        await self._shard_of(claim).hand_back(claim)
        self._homes.pop(claim.id, None)

    async def mark_in_doubt(self, claim: Claim) -> None:
        """MessageStore.mark_in_doubt."""
        await self._shard_of(claim).mark_in_doubt(claim)

    async def open_body(self, id: str) -> Sequence[bytes] | Corrupt | None:
        """MessageStore.open_body."""
        for shard in self._shards:
            if (body := await shard.open_body(id)) is not None:
                return body
        return None

    async def find(self, id: str) -> Entry | Corrupt | None:
        """MessageStore.find."""
        for shard in self._shards:
            if (entry := await shard.find(id)) is not None:
                return entry
        return None

    async def list_entries(self, wanted: Filter, *, limit: int, after: str = "") -> Sequence[Entry | Corrupt]:
        """MessageStore.list_entries."""
        found = [e for s in self._shards for e in await s.list_entries(wanted, limit=limit, after=after)]
        return sorted(found, key=lambda entry: entry.id)[:limit]

    async def change(self, ids: Sequence[str], change: Change) -> Sequence[str]:
        """MessageStore.change."""
        return [id for shard in self._shards for id in await shard.change(ids, change)]

    async def count(self) -> Statistics:
        """MessageStore.count."""
        return add_statistics([await shard.count() for shard in self._shards])

    def unhealthy_reason(self) -> Unhealthy | None:
        """MessageStore.unhealthy_reason: that of the shard new mail goes into."""
        return self._own.unhealthy_reason()

    def on_due(self, callback: Callable[[], None]) -> None:
        """MessageStore.on_due."""
        for shard in self._shards:
            shard.on_due(callback)

    def _shard_of(self, claim: Claim) -> SqliteStore:
        return self._homes.get(claim.id, self._own)


async def _is_empty(shard: SqliteStore) -> bool:
    try:
        return not any((await shard.count()).messages.values())
    except StoreUnavailable:
        return False
