"""What was promised and what came of it.

A promise is a 250 to a message: each of its recipients has to be delivered or returned, once. A second copy is excused
only by an end that came while the first one's confirmation was still on its way or being written down.
"""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field

EXCUSED_S = 3.0  # from the mailbox's confirmation to the kill: no settle takes longer

Pair = tuple[str, str]  # token, recipient


@dataclass(slots=True)
class Ledger:
    """All that one campaign saw; times are Unix seconds."""

    promised: dict[str, tuple[str, ...]] = field(default_factory=dict)
    refused: int = 0
    delivered: dict[Pair, list[float]] = field(default_factory=lambda: defaultdict(list))
    returned: dict[Pair, list[float]] = field(default_factory=lambda: defaultdict(list))
    withheld: set[Pair] = field(default_factory=set)  # by the log: no bounce, since nothing stood for the sender
    set_aside: int = 0  # freed by the operator at the end
    kills: list[float] = field(default_factory=list)
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    def note_line(self, line: str) -> None:
        """Take a line of the sink."""
        at, what, token, recipient = line.split()
        (self.delivered if what == "delivered" else self.returned)[token, recipient].append(float(at))
        self._came.set()

    def note_withheld(self, recipient: str) -> None:
        """Take a recipient of whose failure nobody is told; it has the message's token in it."""
        token = recipient.partition(".")[0].removeprefix("gone")
        self.withheld.add((token, recipient))

    async def wait_line(self) -> None:
        """Wait for the next line of the sink."""
        self._came.clear()
        await self._came.wait()

    def missing(self) -> list[Pair]:
        """Give what was promised and neither delivered nor returned, nor by the log not to be returned."""
        seen = self.delivered.keys() | self.returned.keys() | self.withheld
        return [pair for pair in self._owed() if pair not in seen]

    def doubles(self) -> dict[Pair, list[float]]:
        """Give what arrived more than once, with the times of all its copies."""
        copies = {pair: [*self.delivered.get(pair, ()), *self.returned.get(pair, ())] for pair in self._seen()}
        return {pair: sorted(times) for pair, times in copies.items() if len(times) > 1}

    def unexcused(self) -> dict[Pair, list[float]]:
        """Give the doubles whose earlier copy nobody was killed behind."""
        return {
            pair: times
            for pair, times in self.doubles().items()
            if not all(any(at - 0.5 <= kill <= at + EXCUSED_S for kill in self.kills) for at in times[:-1])
        }

    @property
    def damaged(self) -> int:
        """Copies that were not what was sent."""
        return sum(len(times) for (token, _), times in self.delivered.items() if token == "damaged")

    def summary(self) -> str:
        """Give the figures in a line."""
        return (
            f"{len(self.promised)} messages promised, {self.refused} not, {len(self.kills)} kills: "
            f"{len(self.delivered)} copies delivered, {len(self.returned)} returned, {len(self.withheld)} not to be "
            f"returned, {self.set_aside} set aside and freed at the end, "
            f"{len(self.missing())} lost, {len(self.doubles())} doubled ({len(self.unexcused())} without a reason), "
            f"{self.damaged} damaged"
        )

    def _owed(self) -> list[Pair]:
        return [(token, recipient) for token, recipients in self.promised.items() for recipient in recipients]

    def _seen(self) -> set[Pair]:
        return {pair for pair in (*self.delivered, *self.returned) if pair[0] != "damaged"}
