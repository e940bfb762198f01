"""A store in memory that passes the contract suite of the real ones: for tests and for what runs without a disk.

It can be told to fail. Nothing of it survives the process. Entries are kept as the records that real stores keep, so
that they can be damaged; the clock is what it is given, in seconds.
"""

import asyncio
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from mailflow.mail.envelope import Envelope
from mailflow.store import (
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
from mailflow.store.matching import matches
from mailflow.store.record import (
    CorruptRecord,
    decode_envelope,
    decode_recipients,
    encode_envelope,
    encode_recipients,
    shared_destination,
)

PIECE_BYTES = 262_144
DEFERRED_SHARE = 8  # one in so many is deferred mail, whatever new mail there is


@dataclass(slots=True)
class Stored:
    """One entry as it lies in the store. `next_try` None: by itself never."""

    id: str
    envelope: bytes
    recipients: bytes
    body: bytes
    body_crc: int
    destination: str
    arrived_at: float
    next_try: float | None
    state: State = State.NEW  # NEW is waiting here, HELD or SET_ASIDE
    owner: int = 0
    is_begun: bool = False
    is_in_doubt: bool = False
    attempts: int = 0
    crashes: int = 0
    last_error: str = ""
    is_delay_told: bool = False


class MemoryStore:
    """MessageStore in memory. `clock` gives seconds; an epoch lives for `lease_s` after each heartbeat."""

    def __init__(self, *, clock: Callable[[], float], lease_s: float = 60.0) -> None:
        self.entries: dict[str, Stored] = {}
        self._clock = clock
        self._lease_s = lease_s
        self._beats: dict[int, float] = {}
        self._epochs = 0
        self._fault: Unhealthy | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._last_turn = ""
        self._deferred_credit = 0

    def break_down(self, fault: Unhealthy) -> None:
        """Fail from now on."""
        self._fault = fault

    def recover(self) -> None:
        """Work again."""
        self._fault = None

    async def open(self) -> None:
        """See MessageStore."""
        self._check()

    async def close(self) -> None:
        """See MessageStore."""

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
        """See MessageStore."""
        self._check()
        if asyncio.get_running_loop().time() >= deadline:
            raise StoreUnavailable("not stored in time")
        stored = self.entries.setdefault(envelope.id, self._make(envelope, body, retry_s, last_error))
        if owner is None:
            if not retry_s:
                self._tell()
            return None
        stored.owner, stored.is_begun, stored.is_in_doubt, stored.attempts = owner.number, True, is_in_doubt, 1
        stored.next_try = self._clock() + self._lease_s
        return Claim(self._entry(stored), owner)

    async def enter(self, name: str) -> Epoch:
        """See MessageStore."""
        self._check()
        self._epochs += 1
        self._beats[self._epochs] = self._clock()
        return Epoch(self._epochs, name)

    async def heartbeat(self, epoch: Epoch) -> None:
        """See MessageStore."""
        self._check()
        self._require_alive(epoch)
        self._beats[epoch.number] = self._clock()

    async def leave(self, epoch: Epoch) -> None:
        """See MessageStore."""
        self._check()
        self._beats.pop(epoch.number, None)
        for stored in self.entries.values():
            if stored.owner == epoch.number:
                self._free(stored, 0.0)
        self._tell()

    async def claim(
        self, epoch: Epoch, limit: int, *, full: Collection[str] = (), takes_suspect: bool = False
    ) -> Batch:
        """See MessageStore."""
        self._check()
        self._require_alive(epoch)
        now = self._clock()
        due = [s for s in self.entries.values() if s.next_try is not None and s.next_try <= now and self._is_free(s)]
        for stored in due:
            self._note_crash(stored)
        due = [s for s in due if s.next_try is not None]
        taken, corrupt = self._choose(due, limit, full, takes_suspect=takes_suspect)
        for stored in taken:
            stored.owner, stored.is_begun, stored.is_in_doubt = epoch.number, False, False
            stored.next_try = now + self._lease_s
        waiting = [s.next_try - now for s in self.entries.values() if s.next_try is not None and self._is_free(s)]
        return Batch([Claim(self._entry(s), epoch) for s in taken], corrupt, min(waiting, default=None))

    async def begin(self, claim: Claim) -> None:
        """See MessageStore."""
        stored = self._owned(claim)
        stored.attempts += not stored.is_begun
        stored.is_begun = True

    async def settle(self, claim: Claim, settlement: Settlement) -> None:
        """See MessageStore."""
        stored = self._owned(claim)
        for report in settlement.reports:
            self.entries.setdefault(report.envelope.id, self._make(report.envelope, report.body, 0.0, ""))
        if not settlement.owed:
            del self.entries[claim.id]
        else:
            stored.recipients = encode_recipients(settlement.owed)
            stored.destination = shared_destination(settlement.owed)
            stored.last_error = settlement.last_error
            stored.is_delay_told |= settlement.is_delay_told
            self._free(stored, settlement.retry_s)
            if settlement.is_set_aside:
                stored.state, stored.next_try = State.SET_ASIDE, None
        if settlement.reports:
            self._tell()

    async def hand_back(self, claim: Claim) -> None:
        """See MessageStore."""
        self._check()
        stored = self.entries.get(claim.id)
        if stored is not None and stored.owner == claim.epoch.number:
            self._free(stored, 0.0)
            self._tell()

    async def mark_in_doubt(self, claim: Claim) -> None:
        """See MessageStore."""
        self._owned(claim).is_in_doubt = True

    async def open_body(self, id: str) -> Sequence[bytes] | Corrupt | None:
        """See MessageStore."""
        self._check()
        stored = self.entries.get(id)
        if stored is None:
            return None
        if zlib.crc32(stored.body) != stored.body_crc:
            return self._set_aside(stored, "body: checksum does not match")
        return [stored.body[at : at + PIECE_BYTES] for at in range(0, len(stored.body), PIECE_BYTES)]

    async def find(self, id: str) -> Entry | Corrupt | None:
        """See MessageStore."""
        self._check()
        stored = self.entries.get(id)
        return None if stored is None else self._read(stored)

    async def list_entries(self, wanted: Filter, *, limit: int, after: str = "") -> Sequence[Entry | Corrupt]:
        """See MessageStore."""
        self._check()
        entries = (self._read(self.entries[id]) for id in sorted(self.entries) if id > after)
        return [entry for entry in entries if matches(entry, wanted)][:limit]

    async def change(self, ids: Sequence[str], change: Change) -> Sequence[str]:
        """See MessageStore."""
        self._check()
        changed = [id for id in ids if id in self.entries and self._change(self.entries[id], change)]
        if changed:
            self._tell()
        return changed

    async def count(self) -> Statistics:
        """See MessageStore."""
        self._check()
        messages = dict.fromkeys(State, 0)
        for stored in self.entries.values():
            messages[self._state(stored)] += 1
        now = self._clock()
        oldest = max((now - stored.arrived_at for stored in self.entries.values()), default=0.0)
        return Statistics(messages, sum(len(stored.body) for stored in self.entries.values()), oldest)

    def unhealthy_reason(self) -> Unhealthy | None:
        """See MessageStore."""
        return self._fault

    def on_due(self, callback: Callable[[], None]) -> None:
        """See MessageStore."""
        self._callbacks.append(callback)

    def _check(self) -> None:
        if self._fault is not None:
            raise StoreUnavailable(self._fault.reason, is_full=self._fault.is_full)

    def _tell(self) -> None:
        for callback in self._callbacks:
            callback()

    def _make(self, envelope: Envelope, body: Sequence[bytes], retry_s: float, last_error: str) -> Stored:
        now, content = self._clock(), b"".join(body)
        return Stored(
            envelope.id,
            encode_envelope(envelope),
            encode_recipients(envelope.recipients),
            content,
            zlib.crc32(content),
            shared_destination(envelope.recipients),
            arrived_at=now,
            next_try=now + retry_s,
            attempts=int(bool(last_error)),
            last_error=last_error,
        )

    def _is_alive(self, number: int) -> bool:
        beat = self._beats.get(number)
        return beat is not None and self._clock() - beat < self._lease_s

    def _require_alive(self, epoch: Epoch) -> None:
        if not self._is_alive(epoch.number):
            self._beats.pop(epoch.number, None)
            raise ClaimLost(f"epoch {epoch.number} is over")

    def _is_free(self, stored: Stored) -> bool:
        return not stored.owner or not self._is_alive(stored.owner)

    def _owned(self, claim: Claim) -> Stored:
        self._check()
        stored = self.entries.get(claim.id)
        if stored is None or stored.owner != claim.epoch.number or not self._is_alive(stored.owner):
            raise ClaimLost(f"epoch {claim.epoch.number} has lost {claim.id}")
        return stored

    def _free(self, stored: Stored, retry_s: float) -> None:
        stored.owner, stored.is_begun, stored.is_in_doubt = 0, False, False
        stored.next_try = self._clock() + retry_s

    def _note_crash(self, stored: Stored) -> None:
        """Count what its owner's death says of it."""
        if stored.owner and stored.is_begun:
            stored.crashes += 1
        stored.owner, stored.is_begun, stored.is_in_doubt = 0, False, False
        if stored.crashes >= MAX_CRASHES:
            stored.state, stored.next_try = State.SET_ASIDE, None

    def _choose(
        self, due: Sequence[Stored], limit: int, full: Collection[str], *, takes_suspect: bool
    ) -> tuple[list[Stored], list[Corrupt]]:
        taken: list[Stored] = []
        corrupt: list[Corrupt] = []
        open_ways = [stored for stored in due if stored.destination not in full]
        suspects = [stored for stored in open_ways if stored.crashes][: int(takes_suspect)]
        new = [stored for stored in open_ways if not stored.crashes and not stored.attempts]
        deferred = [stored for stored in open_ways if not stored.crashes and stored.attempts]
        share, self._deferred_credit = divmod(self._deferred_credit + limit, DEFERRED_SHARE)
        waited = self._in_turns(deferred)
        for stored in (*suspects, *waited[:share], *self._in_turns(new), *waited[share:]):
            if len(taken) == limit:
                break
            entry = self._read(stored)
            if isinstance(entry, Corrupt):
                corrupt.append(entry)
            else:
                taken.append(stored)
                self._last_turn = stored.destination
        return taken, corrupt

    def _in_turns(self, entries: Sequence[Stored]) -> list[Stored]:
        """One of each destination, then another of each."""
        places: dict[str, int] = {}
        ranked = []
        for stored in sorted(entries, key=lambda s: s.next_try or 0.0):
            places[stored.destination] = place = places.get(stored.destination, 0) + 1
            ranked.append((place, stored.destination <= self._last_turn, stored.destination, stored))
        return [stored for *_, stored in sorted(ranked, key=lambda rank: rank[:3])]

    def _change(self, stored: Stored, change: Change) -> bool:
        is_claimed = bool(stored.owner) and self._is_alive(stored.owner)
        match change:
            case Change.REMOVE:
                del self.entries[stored.id]
            case Change.HOLD:
                self._free(stored, 0.0)
                stored.state, stored.next_try = State.HELD, None
            case Change.RELEASE if stored.state is State.HELD:
                stored.state, stored.next_try = State.NEW, self._clock()
            case Change.RETRY if not is_claimed and stored.state is not State.HELD:
                self._free(stored, 0.0)
                stored.state, stored.crashes = State.NEW, 0
            case _:
                return False
        return True

    def _set_aside(self, stored: Stored, reason: str) -> Corrupt:
        self._free(stored, 0.0)
        stored.state, stored.next_try, stored.last_error = State.SET_ASIDE, None, reason
        return Corrupt(stored.id, reason)

    def _read(self, stored: Stored) -> Entry | Corrupt:
        try:
            return self._entry(stored)
        except CorruptRecord as exc:
            return self._set_aside(stored, str(exc))

    def _entry(self, stored: Stored) -> Entry:
        now = self._clock()
        recipients = decode_recipients(stored.recipients)
        return Entry(
            decode_envelope(stored.envelope, id=stored.id, recipients=recipients),
            len(stored.body),
            stored.arrived_at,
            now - stored.arrived_at,
            self._state(stored),
            None if stored.next_try is None else stored.next_try - now,
            stored.attempts,
            stored.crashes,
            stored.last_error,
            stored.is_delay_told,
        )

    def _state(self, stored: Stored) -> State:
        if stored.state is not State.NEW:
            return stored.state
        if stored.owner and self._is_alive(stored.owner):
            return State.IN_DOUBT if stored.is_in_doubt else State.ACTIVE
        return State.DEFERRED if stored.attempts else State.NEW
