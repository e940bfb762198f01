"""Watching a delivery that somebody waits for: how it ended, or that it is in doubt.

A backend gives up by itself before its final dot, at its hand-off deadline. After the dot it reads on for as long as
RFC 1047 grants; who waits for it, a client or a queue, is told meanwhile that nobody knows.
"""

import asyncio

from mailflow.mail.handoff import FinalDot, Outcome

GRACE_S = 1.0  # for a backend that gives up at its own deadline to say so


async def wait_delivery(delivery: "asyncio.Task[list[Outcome]]", dot: FinalDot, *, patience_s: float) -> bool:
    """Wait for the end of a delivery; False where its final dot has left and no answer came within `patience_s`.

    One whose dot has not left by then is cancelled: nothing was delivered. Should the caller be cancelled, so is such a
    delivery; one whose dot has left goes on.
    """
    try:
        await asyncio.wait({delivery}, timeout=patience_s + GRACE_S)
    except asyncio.CancelledError:
        if not dot.has_left:
            delivery.cancel()
        raise
    if delivery.done():
        return True
    if dot.has_left:
        return False
    delivery.cancel()
    await asyncio.wait({delivery})
    return True
