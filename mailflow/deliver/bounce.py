"""What an attempt makes of a message: who is still owed, when next, and what its sender is told. Pure but for ids.

A notification is sent only where it hits no stranger: SPF or DMARC stood for the sender, the mail was not quarantined,
and there is a sender (RFC 3834, RFC 5321 s4.5.5: never about a notification). NOTIFY decides further (RFC 3461 s4.1).
What is not told to anybody is given to the caller, to be logged and counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mailflow.deliver.schedule import Schedule
from mailflow.mail.address import Address
from mailflow.mail.dsn import Action, Notification, ReportedRecipient, write_notification
from mailflow.mail.envelope import Envelope, Notify, Recipient
from mailflow.mail.handoff import DeliveryStatus, Outcome
from mailflow.store import Entry, Report, Settlement

EXPIRED = "4.4.7"  # RFC 3463 s3.5: delivery time expired
_WANTED = {Action.FAILED: Notify.FAILURE, Action.DELAYED: Notify.DELAY, Action.DELIVERED: Notify.SUCCESS}
_BY_DEFAULT = Notify.FAILURE | Notify.DELAY


@dataclass(frozen=True, slots=True)
class Untold:
    """A recipient of whose failure nobody is told, and why."""

    recipient: Address
    reason: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is written to the store, and which notifications (their kind each) are in it."""

    settlement: Settlement
    told: Sequence[Action] = ()
    untold: Sequence[Untold] = ()


@dataclass(frozen=True, slots=True)
class _Reported:
    """Recipients by what they are reported as."""

    failed: list[tuple[Recipient, ReportedRecipient]] = field(default_factory=list)
    delayed: list[tuple[Recipient, ReportedRecipient]] = field(default_factory=list)
    delivered: list[tuple[Recipient, ReportedRecipient]] = field(default_factory=list)


class Judge:
    """Judges attempts. `find_recipient(address)` gives the way of a notification, None where no route leads there;
    `new_id()` a new message's id, `now()` Unix seconds, `draw()` a number from 0 up to 1.
    """

    def __init__(
        self,
        *,
        hostname: str,
        schedule: Schedule,
        find_recipient: Callable[[Address], Recipient | None],
        new_id: Callable[[], str],
        now: Callable[[], float],
        draw: Callable[[], float],
    ) -> None:
        self._hostname = hostname
        self._schedule = schedule
        self._find_recipient = find_recipient
        self._new_id = new_id
        self._now = now
        self._draw = draw

    def judge(self, entry: Entry, body: Sequence[bytes], outcomes: Sequence[Outcome]) -> Judgement:
        """Settle an attempt that gave these outcomes, one for each recipient of the entry, in order."""
        owed: list[Recipient] = []
        errors: list[str] = []
        reported = _Reported()
        is_expired = self._schedule.is_expired(entry.age_s)
        tells_delay = not entry.is_delay_told and self._schedule.is_delay_due(entry.age_s)
        for recipient, outcome in zip(entry.envelope.recipients, outcomes, strict=True):
            if outcome.status is DeliveryStatus.DELIVERED:
                reported.delivered.append((recipient, _describe(recipient, outcome, "2.0.0")))
            elif outcome.is_final:
                reported.failed.append((recipient, _describe(recipient, outcome, outcome.reply.enhanced)))
            elif is_expired:
                reported.failed.append((recipient, _describe(recipient, outcome, EXPIRED)))
            else:
                owed.append(recipient)
                errors.append(outcome.detail or str(outcome.reply))
                if tells_delay:
                    reported.delayed.append((recipient, _describe(recipient, outcome, outcome.reply.enhanced)))
        return self._settle(entry, body, owed, errors, reported, is_delay_told=tells_delay)

    def _settle(
        self,
        entry: Entry,
        body: Sequence[bytes],
        owed: Sequence[Recipient],
        errors: Sequence[str],
        reported: _Reported,
        *,
        is_delay_told: bool,
    ) -> Judgement:
        reports: list[Report] = []
        told: list[Action] = []
        untold: list[Untold] = []
        for action, recipients in (
            (Action.FAILED, reported.failed),
            (Action.DELAYED, reported.delayed),
            (Action.DELIVERED, reported.delivered),
        ):
            wanted = [described for recipient, described in recipients if _wants(recipient, action)]
            to, reason = self._find_reader(entry.envelope)
            if wanted and to is not None:
                reports.append(self._write(entry, body, action, to, wanted))
                told.append(action)
            if action is Action.FAILED:
                silent = [r.address for r, _ in recipients if to is None or not _wants(r, action)]
                untold += [Untold(address, reason or "the sender asked not to be told") for address in silent]
        settlement = Settlement(
            owed=owed,
            retry_s=self._schedule.find_retry_s(entry.attempts, entry.age_s, self._draw()),
            last_error=errors[0] if errors else "",
            is_delay_told=is_delay_told,
            reports=reports,
        )
        return Judgement(settlement, told, untold)

    def _find_reader(self, envelope: Envelope) -> tuple[Recipient | None, str]:
        """Give who is told of this message, or why nobody is."""
        if envelope.reverse_path is None:
            return None, "it has the null sender"
        if envelope.is_quarantined:
            return None, "it was quarantined"
        if not envelope.may_report:
            return None, "nothing stands for its sender"
        reader = self._find_recipient(envelope.reverse_path)
        return reader, "" if reader else "no route leads to its sender"

    def _write(
        self, entry: Entry, body: Sequence[bytes], action: Action, to: Recipient, wanted: Sequence[ReportedRecipient]
    ) -> Report:
        now, id = self._now(), self._new_id()
        left_s = self._schedule.expire_s - entry.age_s
        content = write_notification(
            Notification(
                action,
                id,
                self._hostname,
                to.address,
                wanted,
                arrived_at=entry.arrived_at,
                now=now,
                envelope_id=entry.envelope.envelope_id,
                retry_until=now + left_s if action is Action.DELAYED else None,
                returns_full=entry.envelope.returns_full is True,
            ),
            body,
        )
        envelope = Envelope(
            id,
            None,
            (to,),
            is_smtputf8=not to.address.is_ascii or not to.deliver_to.is_ascii,
            is_8bit=not content.isascii(),
        )
        return Report(envelope, (content,))


def _wants(recipient: Recipient, action: Action) -> bool:
    notify = _BY_DEFAULT if recipient.notify is None else recipient.notify
    return bool(notify & _WANTED[action])


def _describe(recipient: Recipient, outcome: Outcome, status: str) -> ReportedRecipient:
    """Give what is told of a recipient, in our own words: what a mailbox server of ours said stays with us."""
    diagnostic = "" if outcome.status is DeliveryStatus.DELIVERED else str(outcome.reply)
    return ReportedRecipient(
        recipient.address,
        status or f"{outcome.reply.code // 100}.0.0",
        diagnostic=diagnostic,
        original=recipient.original_recipient,
    )
