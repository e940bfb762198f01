"""A monotonic clock under a test's control.

Wherever mailflow takes `clock`, a callable that returns seconds, this stands in for `time.monotonic`. It moves only
when told to and never back, and it does not move the event loop: a timeout that the loop runs takes real time.
"""


class FakeClock:
    """Callable; returns the seconds it was last moved to."""

    def __init__(self, now_s: float = 1_000.0) -> None:
        self._now_s = now_s

    def __call__(self) -> float:
        """The clock's time, in seconds from an arbitrary start."""
        return self._now_s

    def advance(self, seconds: float) -> None:
        """Move forward; ValueError for a negative step, as a monotonic clock has none."""
        if seconds < 0:
            raise ValueError("a monotonic clock never goes back")
        self._now_s += seconds
