"""Several recipients of one message: split by where each one's way leads, the groups delivered side by side.

One outcome per recipient comes back, in the envelope's order. What befalls one group is nothing to another, an
exception of ours included: its recipients are deferred, or in doubt where a final dot of this message had left.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any, TypeVar

from mailflow.deliver.answers import OWN_FAULT
from mailflow.mail.envelope import Envelope, Recipient
from mailflow.mail.handoff import DeliveryStatus, FinalDot, Outcome
from mailflow.observe.nursery import Nursery

Way = TypeVar("Way")  # hashable


async def deliver_in_groups(
    envelope: Envelope,
    way_of: Callable[[Recipient], Way],
    deliver: Callable[[Way, Envelope], Coroutine[Any, Any, list[Outcome]]],
    *,
    dot: FinalDot,
    nursery: Nursery,
    max_recipients: int | None = None,
) -> list[Outcome]:
    """Call `deliver` for each way with the envelope of its recipients, at most `max_recipients` a call.

    Cancelled, it cancels what is under way and waits for that.
    """
    groups = list(_split(envelope.recipients, way_of, max_recipients))
    if len(groups) == 1:
        return await deliver(groups[0][0], envelope)
    tasks = {
        nursery.start(deliver(way, _part(envelope, indexes)), name="delivery of a group"): indexes
        for way, indexes in groups
    }
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        raise
    outcomes = {
        index: outcome
        for task, indexes in tasks.items()
        for index, outcome in zip(indexes, _outcomes_of(task, len(indexes), dot), strict=True)
    }
    return [outcomes[index] for index in range(len(envelope.recipients))]


def _split(
    recipients: Iterable[Recipient], way_of: Callable[[Recipient], Way], max_recipients: int | None
) -> Iterable[tuple[Way, list[int]]]:
    """Give each way with the indexes of its recipients, more than once where they are too many."""
    by_way: dict[Way, list[int]] = {}
    for index, recipient in enumerate(recipients):
        by_way.setdefault(way_of(recipient), []).append(index)
    for way, indexes in by_way.items():
        size = max_recipients or len(indexes)
        for start in range(0, len(indexes), size):
            yield way, indexes[start : start + size]


def _part(envelope: Envelope, indexes: list[int]) -> Envelope:
    return replace(envelope, recipients=tuple(envelope.recipients[index] for index in indexes))


def _outcomes_of(task: asyncio.Task[list[Outcome]], recipients: int, dot: FinalDot) -> list[Outcome]:
    """Give what a group came to; the nursery has told of its exception."""
    if not task.cancelled() and task.exception() is None:
        return task.result()
    status = DeliveryStatus.IN_DOUBT if dot.has_left else DeliveryStatus.DEFERRED
    return [Outcome(status, OWN_FAULT, "", "the delivery of its group did not end")] * recipients
