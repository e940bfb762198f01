"""Recipient verification with a memory: would this mailbox take mail? Asked at RCPT, so that nothing bounces later.

Good answers live an hour and are asked for again in the background while they are used; bad ones
live a minute, as a new user must not bounce for hours. One question per address is under way at a
time. A server that gives no session is left alone for a second, an address that a session broke or
hung on for some more, so that one recipient's trouble is nobody else's. An address that was good
within a week is taken meanwhile. Good and bad have separate room: guessing addresses pushes no
real one out.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

from mailflow.deliver.answers import NO_SUCH_USER, NOT_ANSWERING, is_about_recipient, judge_answer
from mailflow.mail.address import Address
from mailflow.mail.handoff import DeliveryStatus, RecipientStatus, Verification
from mailflow.mail.reply import Reply
from mailflow.observe.nursery import Nursery
from mailflow.smtp.lmtp import Answer, Stage
from mailflow.smtp.lmtp_errors import LmtpError, LmtpUnreachable

GOOD_S = 3600.0
REFRESH_S = 2700.0  # from this age on, use asks again in the background
TRUSTED_S = 7 * 86400.0
BAD_S = 60.0
SILENT_S = 3.0  # an address that the server would not speak of
UNREACHABLE_S = 1.0  # a server that gives no session; short, as it silences every address
MAX_ENTRIES = 100_000  # of good addresses, and of others; about 300 bytes each

V = TypeVar("V")


class RecipientVerifier:
    """Answers from memory or asks `ask`, which gives the server's answer to RCPT or raises LmtpError.

    `clock` gives monotonic seconds. Cancelling one caller disturbs no other who waits for the same address.
    """

    def __init__(
        self,
        ask: Callable[[Address], Awaitable[Answer]],
        *,
        when_unverifiable: Literal["defer", "accept"],
        nursery: Nursery,
        clock: Callable[[], float],
        max_entries: int = MAX_ENTRIES,
    ) -> None:
        self._ask = ask
        self._accepts_unverifiable = when_unverifiable == "accept"
        self._nursery = nursery
        self._clock = clock
        self._max_entries = max_entries
        self._good: OrderedDict[str, float] = OrderedDict()  # when it was confirmed last
        self._bad: OrderedDict[str, tuple[float, Reply | None]] = OrderedDict()  # until when; None: unverifiable
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._unreachable_until = 0.0

    async def verify(self, address: Address, *, is_forced: bool = False) -> Verification:
        """Tell what is known of the address, asking where too little is; `is_forced` asks at any rate."""
        key = _key(address)
        now = self._clock()
        age_s = now - self._good.get(key, -TRUSTED_S)
        if self._is_refused(key, now) or (age_s < GOOD_S and not is_forced):
            if REFRESH_S <= age_s < GOOD_S:
                self._start_asking(key, address)
        elif asking := self._start_asking(key, address):
            await asyncio.shield(asking)
        return self._tell(key, address)

    def note_delivered(self, address: Address) -> None:
        """Learn from a delivery that the mailbox took a message."""
        self._remember_good(_key(address))

    def note_refused(self, address: Address, answer: Answer) -> None:
        """Learn from a delivery that was refused; only what would meet any message to this address counts."""
        if is_about_recipient(answer):
            self._remember_refusal(_key(address), judge_answer(answer)[1])

    def _start_asking(self, key: str, address: Address) -> asyncio.Task[None] | None:
        """Give the question under way, or begin it; None while the server is known to give no session."""
        now = self._clock()
        if key not in self._asking and now >= self._unreachable_until and not self._is_refused(key, now):
            self._asking[key] = self._nursery.start(self._learn(key, address), name="recipient verification")
        return self._asking.get(key)

    async def _learn(self, key: str, address: Address) -> None:
        try:
            answer = await self._ask(address)
        except LmtpUnreachable:
            self._unreachable_until = self._clock() + UNREACHABLE_S
            return
        except LmtpError:  # one address may crash or hang its session while all others are well
            self._remember_unverifiable(key)
            return
        finally:
            del self._asking[key]
        self._unreachable_until = 0.0
        status, reply = judge_answer(answer)
        if status is DeliveryStatus.DELIVERED:
            self._remember_good(key)
        elif status is DeliveryStatus.REFUSED and answer.stage is Stage.RCPT:
            self._remember_refusal(key, reply)
        else:  # a temporary answer; or the null sender was refused, which says nothing of the recipient
            self._remember_unverifiable(key)

    def _is_refused(self, key: str, now: float) -> bool:
        """Tell whether a bad answer still lives (an unverifiable one included)."""
        until, _ = self._bad.get(key, (0.0, None))
        return now < until

    def _tell(self, key: str, address: Address) -> Verification:
        """Put what is in memory into words; the order is: refused, confirmed, trusted, unverifiable."""
        now = self._clock()
        until, reply = self._bad.get(key, (0.0, None))
        if now < until and reply is not None:
            self._bad.move_to_end(key)
            is_unknown = reply.enhanced == NO_SUCH_USER.enhanced
            return Verification(RecipientStatus.REFUSED, reply=reply, is_unknown_user=is_unknown)
        if key in self._good:
            self._good.move_to_end(key)
            if now - self._good[key] < TRUSTED_S:
                return Verification(RecipientStatus.GOOD, deliver_to=address)
        if self._accepts_unverifiable:
            return Verification(RecipientStatus.GOOD, deliver_to=address)
        return Verification(RecipientStatus.UNVERIFIABLE, reply=NOT_ANSWERING)

    def _remember_good(self, key: str) -> None:
        self._bad.pop(key, None)
        self._remember(self._good, key, self._clock())

    def _remember_refusal(self, key: str, reply: Reply) -> None:
        if reply.enhanced.startswith("5.1."):
            # Gone: that it was there last week is no reason to take mail for it. A full mailbox is still there.
            self._good.pop(key, None)
        self._remember(self._bad, key, (self._clock() + BAD_S, reply))

    def _remember_unverifiable(self, key: str) -> None:
        self._remember(self._bad, key, (self._clock() + SILENT_S, None))

    def _remember(self, memory: OrderedDict[str, V], key: str, value: V) -> None:
        memory[key] = value
        memory.move_to_end(key)
        if len(memory) > self._max_entries:
            memory.popitem(last=False)


def _key(address: Address) -> str:
    return f"{address.local}@{address.ascii_domain}"
