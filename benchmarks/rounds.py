"""Rounds of a measurement: every server in turn, several times, so that what else the machine does falls on all."""

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Run:
    """One run against one server: CPU milliseconds per message, messages per second, and how long a message took."""

    cost_ms: float
    rate: float
    median_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Rounds:
    """The runs against one server; its figures are their medians."""

    runs: Sequence[Run]

    @property
    def cost_ms(self) -> float:
        """CPU milliseconds per message."""
        return statistics.median(run.cost_ms for run in self.runs)

    @property
    def rate(self) -> float:
        """Messages per second."""
        return statistics.median(run.rate for run in self.runs)

    @property
    def latency(self) -> str:
        """How long a message took, in words."""
        median_ms, p99_ms = (
            statistics.median(found) for found in zip(*((run.median_ms, run.p99_ms) for run in self.runs), strict=True)
        )
        return f"a message takes {median_ms:.1f} ms (median), {p99_ms:.1f} ms (p99)"

    def __str__(self) -> str:
        """Gives cost and rate as one line, the cheapest and the dearest round with it."""
        costs = [run.cost_ms for run in self.runs]
        return (
            f"{self.cost_ms:7.3f} ms CPU a message (rounds {min(costs):.3f} to {max(costs):.3f}),"
            f" {self.rate:6.0f} messages/s"
        )


async def take_rounds(rounds: int, measures: Mapping[str, Callable[[], Awaitable[Run]]]) -> dict[str, Rounds]:
    """Measure each server once in each round; give what was found by their names."""
    runs: dict[str, list[Run]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            runs[name].append(await measure())
    return {name: Rounds(found) for name, found in runs.items()}


def list_rounds(found: Mapping[str, Rounds]) -> list[str]:
    """Give the rows of a block of figures, one for each server."""
    return [f"{name:9s} {rounds}" for name, rounds in found.items()]
