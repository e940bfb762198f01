"""When a message is tried again, when its sender is told of the delay, when it is given up. Pure.

The wait doubles from try to try up to LONGEST_RETRY_S (RFC 5321 s4.5.4.1 asks for at least 30 minutes once a while has
passed), a fifth more or less at random, so that what failed together does not come back together.
"""

from dataclasses import dataclass

LONGEST_RETRY_S = 4 * 3600.0
DELAY_TOLD_S = 4 * 3600.0
JITTER = 0.2


@dataclass(frozen=True, slots=True)
class Schedule:
    """The times of [store], in seconds."""

    first_retry_s: float
    expire_s: float

    def find_retry_s(self, attempts: int, age_s: float, draw: float) -> float:
        """Give how long to wait after so many attempts, at this age; `draw` is random, from 0 up to 1.

        The last try comes as the message expires, not long after.
        """
        doubled = self.first_retry_s * 2.0 ** min(max(attempts - 1, 0), 32)
        wait_s = min(doubled, max(LONGEST_RETRY_S, self.first_retry_s)) * (1 - JITTER + 2 * JITTER * draw)
        left_s = self.expire_s - age_s
        return wait_s if wait_s < left_s else max(left_s, self.first_retry_s)

    def is_expired(self, age_s: float) -> bool:
        """Tell whether a message of this age is given up when it cannot be delivered."""
        return age_s >= self.expire_s

    def is_delay_due(self, age_s: float) -> bool:
        """Tell whether the sender is to hear that it takes longer; one that expires before that hears it then."""
        return age_s >= DELAY_TOLD_S
