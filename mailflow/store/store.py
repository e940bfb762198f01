"""The seam of step 4: a store that owns messages until they are delivered, returned or removed.

What `accept` returned from survives kill -9 and power loss. A message is one entry: a small mutable state (its
envelope with the recipients still owed, when to try next) and a body that is written once. A worker enters the store
under an epoch of its own, which one heartbeat keeps alive for a lease; it claims entries, begins an attempt, settles.
Every settle is fenced by the epoch: whoever lost it hears ClaimLost, and may send no further final dot. All times are
the store's own clock; a caller names delays, never instants.

Must never: forget an entry that it cannot read (that is set aside and given as Corrupt), give one entry to two epochs
that are both alive, or raise anything but StoreUnavailable and ClaimLost for what its disk or server does.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from mailflow.mail.envelope import Envelope, Recipient

MAX_CRASHES = 3  # so many attempts of one message ended with the worker: it is set aside


class StoreUnavailable(Exception):
    """The store did not do it; a retry helps. `is_full`: because it has no room, which a smaller load may mend.

    After an `accept` that raised this the message is not in the store, save where even that could not be found out.
    """

    def __init__(self, reason: str, *, is_full: bool = False) -> None:
        super().__init__(reason)
        self.is_full = is_full


class ClaimLost(Exception):
    """The claim is not ours any more: the lease ran out, or the operator took the message away. No retry helps."""


class State(Enum):
    """Where an entry stands."""

    NEW = "new"  # never tried
    ACTIVE = "active"  # a living worker has it
    DEFERRED = "deferred"  # tried, waits for its next try
    IN_DOUBT = "in_doubt"  # our final dot left, and a living worker still waits for the answer
    HELD = "held"  # by the operator
    SET_ASIDE = "set_aside"  # unreadable, or its attempts ended in crashes: only the operator frees it


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored message. `envelope.recipients` are those still owed.

    `arrived_at` is Unix time in seconds and `age_s` how long ago that was, both by the store's clock; `next_try_s` is
    how long until the next try (0 and less: due), None where there is none by itself. `attempts` counts those that
    began, `crashes` those that ended with their worker. `is_delay_told`: the sender has heard that it takes longer.
    """

    envelope: Envelope
    size_bytes: int
    arrived_at: float
    age_s: float
    state: State
    next_try_s: float | None = 0.0
    attempts: int = 0
    crashes: int = 0
    last_error: str = ""
    is_delay_told: bool = False

    @property
    def id(self) -> str:
        """The message's id."""
        return self.envelope.id


@dataclass(frozen=True, slots=True)
class Corrupt:
    """An entry that cannot be read: set aside, its bytes kept. `reason` says what is wrong with it."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Epoch:
    """One worker's time in the store, from `enter` to `leave` or to its death. `number` is nobody else's, ever."""

    number: int
    name: str


@dataclass(frozen=True, slots=True)
class Claim:
    """An entry that `epoch` owns; `entry` is as it was when it was claimed."""

    entry: Entry
    epoch: Epoch

    @property
    def id(self) -> str:
        """The message's id."""
        return self.entry.id


@dataclass(frozen=True, slots=True)
class Batch:
    """What `claim` gave. `next_due_s`: in how many seconds the next entry of all comes due, None where none will."""

    claims: Sequence[Claim] = ()
    corrupt: Sequence[Corrupt] = ()
    next_due_s: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """A message of ours about another (a DSN), to be stored in the same commit that settles the other."""

    envelope: Envelope
    body: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Settlement:
    """What an attempt made of an entry. No recipient `owed` any more: the entry goes, body and all.

    Otherwise it is tried again in `retry_s` seconds. `reports` are accepted in the same commit. `is_set_aside` takes
    it out of delivery until the operator frees it.
    """

    owed: Sequence[Recipient] = ()
    retry_s: float = 0.0
    last_error: str = ""
    is_delay_told: bool = False
    is_set_aside: bool = False
    reports: Sequence[Report] = ()


@dataclass(frozen=True, slots=True)
class Filter:
    """Which entries: all that is given must hold. `sender` and `recipient` are compared without case, whole addresses
    (`<>` is the null sender); `domain` is that of sender or of an owed recipient; `error` is a part of the last error.
    """

    sender: str | None = None
    recipient: str | None = None
    domain: str | None = None
    min_age_s: float | None = None
    error: str | None = None
    state: State | None = None


class Change(Enum):
    """What an operator does to an entry."""

    RETRY = "retry"  # due now; also frees what was set aside, its crashes forgotten
    HOLD = "hold"
    RELEASE = "release"  # what was held is due now
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Statistics:
    """The queue in figures: entries by state (each state is there), octets of their bodies, age of the oldest."""

    messages: dict[State, int] = field(default_factory=dict)
    size_bytes: int = 0
    oldest_s: float = 0.0


def add_statistics(parts: Iterable[Statistics]) -> Statistics:
    """Add up the figures of stores."""
    found = list(parts)
    messages = {state: sum(part.messages.get(state, 0) for part in found) for state in State}
    return Statistics(messages, sum(p.size_bytes for p in found), max((p.oldest_s for p in found), default=0.0))


@dataclass(frozen=True, slots=True)
class Unhealthy:
    """Why the store takes nothing now. `is_full`: it has no room (452), else it does not answer (451)."""

    reason: str
    is_full: bool = False


class MessageStore(Protocol):
    """A store as receiving and delivering see it. Every method but the last two raises StoreUnavailable.

    `deadline` is in seconds of the running loop's clock (`loop.time()`).
    """

    async def open(self) -> None:
        """Make ready: schema, migrations, leftovers of a crash. To be called once, before all else."""
        ...

    async def close(self) -> None:
        """Let go of it; what was accepted stays."""
        ...

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
        """Commit a message, body in pieces; it is durable when this returns. An id that is there already is as good.

        One that was tried before it came has a `last_error`: it is DEFERRED, one attempt behind it, due in `retry_s`,
        of which `on_due` does not tell.

        With an `owner` the entry is that epoch's from the start, an attempt begun, and the claim is returned;
        `is_in_doubt`: that attempt has already sent its final dot.
        """
        ...

    async def enter(self, name: str) -> Epoch:
        """Begin an epoch; `name` is for people who read of it."""
        ...

    async def heartbeat(self, epoch: Epoch) -> None:
        """Keep an epoch for another lease. Raises ClaimLost where it was over."""
        ...

    async def leave(self, epoch: Epoch) -> None:
        """End an epoch: what it still owns is due at once, and no crash."""
        ...

    async def claim(
        self, epoch: Epoch, limit: int, *, full: Collection[str] = (), takes_suspect: bool = False
    ) -> Batch:
        """Claim up to `limit` entries that are due, those of dead epochs among them. New mail before deferred mail.

        Each destination gets its turn, whatever waits for the others; those in `full` are left out. An entry whose
        attempt ended in a crash is a suspect: at most one, and only where `takes_suspect`. At MAX_CRASHES it is set
        aside instead. Raises ClaimLost where the epoch is over.
        """
        ...

    async def begin(self, claim: Claim) -> None:
        """Note durably that the attempt begins: from here on a death of the worker counts as a crash of this entry."""
        ...

    async def settle(self, claim: Claim, settlement: Settlement) -> None:
        """Commit what came of it; the claim is over. Raises ClaimLost where it was lost: then nothing was changed."""
        ...

    async def hand_back(self, claim: Claim) -> None:
        """Give up a claim unused: due at once, no attempt counted that had not begun. A lost one is no fault."""
        ...

    async def mark_in_doubt(self, claim: Claim) -> None:
        """Show that the final dot has left and the answer is waited for. Raises ClaimLost."""
        ...

    async def open_body(self, id: str) -> Sequence[bytes] | Corrupt | None:
        """Give a body in pieces of at most 256 KB; None where no such entry is. A corrupt one is set aside by this."""
        ...

    async def find(self, id: str) -> Entry | Corrupt | None:
        """Give one entry."""
        ...

    async def list_entries(self, wanted: Filter, *, limit: int, after: str = "") -> Sequence[Entry | Corrupt]:
        """Give up to `limit` entries by ascending id, from behind the id `after`. Corrupt ones match any Filter that
        does not ask for another state.
        """
        ...

    async def change(self, ids: Sequence[str], change: Change) -> Sequence[str]:
        """Do what the operator asks to those entries; give the ids that it was done to.

        RELEASE is for held ones alone. A worker's claim ends by HOLD and REMOVE (its settle hears ClaimLost); RETRY
        leaves alone what a living worker has.
        """
        ...

    async def count(self) -> Statistics:
        """Count what is stored."""
        ...

    def unhealthy_reason(self) -> Unhealthy | None:
        """Tell why it takes nothing now, None where it does. Cheap, never blocks."""
        ...

    def on_due(self, callback: Callable[[], None]) -> None:
        """Have `callback` called, in the loop, where an entry may have come due that `next_due_s` did not tell of."""
        ...
