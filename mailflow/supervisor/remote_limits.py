"""The limits per client network as a worker sees them: asked of the supervisor, which counts for all workers.

An answer that does not come in time admits the client: a limit protects mail, and must not be what
holds it up.
"""

import asyncio
from collections.abc import Callable

from mailflow.supervisor.channel import Message

ANSWER_S = 1.0


class RemoteLimits:
    """receive.limits.SharedLimits over the channel."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._number = 0
        self._asked: dict[int, asyncio.Future[str | None]] = {}
        self._abandoned: dict[int, str] = {}  # questions of sessions that ended before their answer

    async def enter(self, network: str) -> str | None:
        """Count a session of `network` in; give the reason where it may not."""
        self._number = number = self._number + 1
        answer: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self._send({"type": "enter", "number": number, "network": network})
        try:
            async with asyncio.timeout(ANSWER_S):
                return await answer
        except TimeoutError:
            return None
        except asyncio.CancelledError:
            self._abandoned[number] = network
            raise
        finally:
            del self._asked[number]

    def leave(self, network: str) -> None:
        """Count an admitted session out."""
        self._send({"type": "leave", "network": network})

    def take_answer(self, message: Message) -> None:
        """Pass the supervisor's answer on; one that came too late finds nobody, its session was admitted."""
        number, reason = message["number"], message["reason"]
        abandoned = self._abandoned.pop(number, None)
        if abandoned is not None and reason is None:
            self.leave(abandoned)  # it was counted in, and nobody else will count it out
        answer = self._asked.get(number)
        if answer is not None and not answer.done():
            answer.set_result(reason)
