"""The limits per client network as a worker sees them: asked of the supervisor, which counts for all workers.

An answer that does not come in time admits the client: a limit protects mail, and must not be what
holds it up. Where a network is far from its limit, the place of a session that ended is kept for a
moment: the next session from there mostly comes at once, and asks nobody.
"""

import asyncio
from collections import Counter
from collections.abc import Callable

from mailflow.supervisor.channel import Message

ANSWER_S = 1.0
KEEP_S = 0.5
MAX_KEPT = 5  # places of one network


class RemoteLimits:
    """receive.limits.SharedLimits over the channel."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._number = 0
        self._asked: dict[int, asyncio.Future[Message]] = {}
        self._abandoned: dict[int, str] = {}  # questions of sessions that ended before their answer
        self._roomy: set[str] = set()  # networks of sessions here that are far from their limit
        self._kept: Counter[str] = Counter()
        self._giving_back: asyncio.TimerHandle | None = None

    async def enter(self, network: str) -> str | None:
        """Count a session of `network` in; give the reason where it may not."""
        if self._kept[network]:
            self._kept[network] -= 1
            return None
        self._number = number = self._number + 1
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self._send({"type": "enter", "number": number, "network": network})
        try:
            async with asyncio.timeout(ANSWER_S):
                message = await answer
        except TimeoutError:
            return None
        except asyncio.CancelledError:
            self._abandoned[number] = network
            raise
        finally:
            del self._asked[number]
        if message["is_roomy"]:
            self._roomy.add(network)
        else:
            self._roomy.discard(network)
        reason: str | None = message["reason"]
        return reason

    def leave(self, network: str) -> None:
        """Count an admitted session out, or keep its place for the next one."""
        if network not in self._roomy or self._kept[network] >= MAX_KEPT:
            self._send({"type": "leave", "network": network})
            return
        self._kept[network] += 1
        if self._giving_back is None:
            self._giving_back = asyncio.get_running_loop().call_later(KEEP_S, self._give_back)

    def take_answer(self, message: Message) -> None:
        """Pass the supervisor's answer on; one that came too late finds nobody, its session was admitted."""
        abandoned = self._abandoned.pop(message["number"], None)
        if abandoned is not None and message["reason"] is None:
            self.leave(abandoned)  # it was counted in, and nobody else will count it out
        answer = self._asked.get(message["number"])
        if answer is not None and not answer.done():
            answer.set_result(message)

    def _give_back(self) -> None:
        """Count out the places that nobody took up; from then on it is asked again whether a network is roomy."""
        self._giving_back = None
        kept, self._kept = self._kept, Counter()
        self._roomy.clear()
        for network in kept.elements():
            self._send({"type": "leave", "network": network})
