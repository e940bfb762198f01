"""What a benchmark prints: figures, and the bars they are held to."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure and what it must be: at least `limit`, or at most where `is_ceiling`."""

    what: str
    value: float
    limit: float
    unit: str = ""
    is_ceiling: bool = False

    @property
    def is_met(self) -> bool:
        """Tells whether it holds."""
        return self.value <= self.limit if self.is_ceiling else self.value >= self.limit

    def __str__(self) -> str:
        """Gives it as one line."""
        verdict = "ok  " if self.is_met else "MISS"
        word = "at most" if self.is_ceiling else "at least"
        return f"  {verdict} {self.what}: {self.value:.3g} {self.unit} ({word} {self.limit:g})"


def show(title: str, rows: list[str]) -> None:
    """Print a block of figures."""
    print("\n".join([f"\n{title}", *(f"    {row}" for row in rows)]), flush=True)
