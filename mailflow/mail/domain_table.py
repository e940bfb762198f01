"""Which entry a domain falls under: an exact domain first, then the longest rule for its subdomains.

Pure. Names are lower-case A-labels; a name with a leading dot stands for every domain below it, never
for the domain itself. `*` is no rule of this table: it makes no domain ours.
"""

from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class DomainTable(Generic[T]):
    """Entries by domain; of two for one name the later holds."""

    def __init__(self, entries: Iterable[tuple[str, T]] = ()) -> None:
        self._entries = {name: entry for name, entry in entries if name != "*"}

    def find(self, domain: str) -> T | None:
        """Give the entry of `domain`, a lower-case A-label name; None where no rule covers it."""
        found = self._entries.get(domain)
        dot = domain.find(".")
        while found is None and dot >= 0:
            found = self._entries.get(domain[dot:])
            dot = domain.find(".", dot + 1)
        return found
