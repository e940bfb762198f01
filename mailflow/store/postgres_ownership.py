"""What the epochs of this process own, as far as it knows: nobody else takes it away while they live.

An epoch that leaves names its entries, so that nothing has to look through the queue for them. And where the answer to
a claim was lost, the epoch owns what nobody here knows of, and would for as long as it lives: such an epoch is unsure
for UNSURE_S, in which its heartbeat gives up all that is not known. By then the server has ended every statement that
was under way (statement_timeout).
"""

import contextlib
import time
from collections.abc import Iterator, Sequence

from mailflow.store.postgres_connection import OutcomeUnknown
from mailflow.store.store import Claim, ClaimLost, Epoch, StoreUnavailable

UNSURE_S = 60.0


class Ownership:
    """Ids by epoch."""

    def __init__(self) -> None:
        self._ids: dict[int, set[str]] = {}
        self._unsure_until: dict[int, float] = {}

    def known(self, epoch: Epoch) -> list[str]:
        """Give the ids of what it owns, and of what it is about to own."""
        return list(self._ids.get(epoch.number, ()))

    def is_unsure(self, epoch: Epoch) -> bool:
        """Tell whether it may own what is not known."""
        return time.monotonic() < self._unsure_until.get(epoch.number, 0.0)

    def add(self, epoch: Epoch, ids: Sequence[str]) -> None:
        """Note what it owns."""
        self._ids.setdefault(epoch.number, set()).update(ids)

    def remove(self, claim: Claim) -> None:
        """Note that a claim is over."""
        self._ids.get(claim.epoch.number, set()).discard(claim.id)

    def forget(self, epoch: Epoch) -> None:
        """Note that an epoch is over."""
        self._ids.pop(epoch.number, None)
        self._unsure_until.pop(epoch.number, None)

    def doubt(self, epoch: Epoch) -> None:
        """Note that it may own what is not known."""
        self._unsure_until[epoch.number] = time.monotonic() + UNSURE_S

    @contextlib.contextmanager
    def expected(self, epoch: Epoch, ids: Sequence[str] = ()) -> Iterator[None]:
        """Count `ids` as owned from before they are asked for; where that failed they are not, or nobody knows."""
        self.add(epoch, ids)
        try:
            yield
        except BaseException as exc:
            self._ids[epoch.number].difference_update(ids)
            if isinstance(exc, OutcomeUnknown) or not isinstance(exc, ClaimLost | StoreUnavailable):
                self.doubt(epoch)
            raise
