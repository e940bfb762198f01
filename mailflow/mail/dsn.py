"""Delivery status notifications: RFC 3464 in the multipart/report of RFC 6522; RFC 6533 where addresses need UTF-8.

Three parts: words for a person, fields for a program, the header of the message (or all of it, where RET=FULL asked).
What others wrote (replies, ORCPT, ENVID, the message) can add no field and no part: it is cut to one printable line, or
stands in a part whose boundary was made for it.
"""

import quopri
import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate
from enum import Enum

from mailflow.mail.address import Address

MAX_LINE_OCTETS = 998  # RFC 5322 s2.1.1
MAX_TEXT_OCTETS = 900  # of what others say, in a line with the name of a field in front; ORCPT may have 500
MAX_HEADER_BYTES = 65_536
MAX_FULL_BYTES = 1 << 20  # a larger message is not sent back whole, whatever RET says (RFC 3461 s4.3 allows that)

_MESSAGE_ID = re.compile(rb"^Message-ID:\s*(<[\x21-\x3d\x3f-\x7e]{1,250}>)\s*$", re.IGNORECASE | re.MULTILINE)


class Action(Enum):
    """What became of a recipient's copy (RFC 3464 s2.3.3)."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"


@dataclass(frozen=True, slots=True)
class ReportedRecipient:
    """One recipient of a notification: the address as the sender gave it.

    `status` is the enhanced code (RFC 3463), `diagnostic` what was answered, `remote` the server that did, both perhaps
    empty. `original` is ORCPT, `type;address`.
    """

    address: Address
    status: str
    diagnostic: str = ""
    remote: str = ""
    original: str = ""


@dataclass(frozen=True, slots=True)
class Notification:
    """One notification. Times are Unix seconds; `retry_until` only for delays. `id` becomes its Message-ID and, with
    random characters in it that nobody could foresee, its boundary.
    """

    action: Action
    id: str
    hostname: str
    to: Address
    recipients: Sequence[ReportedRecipient]
    arrived_at: float
    now: float
    envelope_id: str = ""
    retry_until: float | None = None
    returns_full: bool = False


_SUBJECTS = {
    Action.FAILED: "Your mail could not be delivered",
    Action.DELAYED: "Your mail is delayed",
    Action.DELIVERED: "Your mail was delivered",
}
_OPENINGS = {
    Action.FAILED: "Your message could not be delivered to the following recipients, and is not tried any more:",
    Action.DELAYED: "Your message could not be delivered to the following recipients yet:",
    Action.DELIVERED: "As you asked to be told: your message was delivered to the following recipients:",
}
_CLOSINGS = {
    Action.FAILED: "Nothing more will be done about it. What follows is meant for programs, and the header of your"
    " message.",
    Action.DELAYED: "You need not send it again: delivery goes on until {until}. If it fails by then you will be told.",
    Action.DELIVERED: "This is no promise that it has been read.",
}


def write_notification(notification: Notification, original: Sequence[bytes]) -> bytes:
    """Give the whole message, CRLF lines of at most 998 octets; `original` is the message it is about, in pieces."""
    addresses = (notification.to, *(recipient.address for recipient in notification.recipients))
    originals = (recipient.original for recipient in notification.recipients)
    is_global = not (all(address.is_ascii for address in addresses) and all(map(str.isascii, originals)))
    boundary = f"=_{notification.id}"
    parts = [_write_words(notification), _write_fields(notification, is_global=is_global)]
    parts.append(_write_original(notification, original, is_global=is_global))
    content = b"".join(b"--%b\r\n%b\r\n" % (boundary.encode(), part) for part in parts)
    header = _write_header(notification, original, boundary, is_8bit=not content.isascii())
    return header + content + b"--%b--\r\n" % boundary.encode()


def _write_header(notification: Notification, original: Sequence[bytes], boundary: str, *, is_8bit: bool) -> bytes:
    found = _MESSAGE_ID.search(_header_of(original).replace(b"\r\n", b"\n"))
    fields = [
        f"From: Mail Delivery System <MAILER-DAEMON@{notification.hostname}>",
        f"To: <{notification.to}>",
        f"Subject: {_SUBJECTS[notification.action]}",
        f"Date: {formatdate(notification.now)}",
        f"Message-ID: <{notification.id}@{notification.hostname}>",
        *([f"In-Reply-To: {found[1].decode()}", f"References: {found[1].decode()}"] if found else []),
        "Auto-Submitted: auto-replied",  # RFC 3834 s5: no other robot answers it
        "MIME-Version: 1.0",
        *(["Content-Transfer-Encoding: 8bit"] if is_8bit else []),  # RFC 2045 s6.4: as some part has it
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n boundary="{boundary}"',
    ]
    return "".join(f"{field}\r\n" for field in fields).encode() + b"\r\n"


def _write_words(notification: Notification) -> bytes:
    """The part for people."""
    until = formatdate(notification.retry_until) if notification.retry_until else ""
    lines = [f"This is the mail system at {notification.hostname}.", "", _OPENINGS[notification.action], ""]
    for recipient in notification.recipients:
        lines.append(f"  <{recipient.address}>")
        if recipient.diagnostic:
            lines.append(f"    {_one_line(recipient.diagnostic)}")
    lines += ["", _CLOSINGS[notification.action].format(until=until), ""]
    return _text_part("text/plain; charset=utf-8", "\r\n".join(lines).encode())


def _write_fields(notification: Notification, *, is_global: bool) -> bytes:
    """The part for programs (RFC 3464 s2): a group of fields about the message, one about each recipient."""
    about = [f"Reporting-MTA: dns; {notification.hostname}"]
    if notification.envelope_id:
        about.insert(0, f"Original-Envelope-Id: {_printable(notification.envelope_id)}")
    about.append(f"Arrival-Date: {formatdate(notification.arrived_at)}")
    groups = [about, *(_recipient_fields(notification, recipient) for recipient in notification.recipients)]
    text = "\r\n".join("".join(f"{field}\r\n" for field in group) for group in groups)
    if is_global:
        return (
            b"Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + text.encode()
        )
    return b"Content-Type: message/delivery-status\r\n\r\n" + text.encode("ascii", "replace")


def _recipient_fields(notification: Notification, recipient: ReportedRecipient) -> list[str]:
    fields = []
    if recipient.original:
        fields.append(f"Original-Recipient: {_printable(recipient.original)}")
    kind = "rfc822" if recipient.address.is_ascii else "utf-8"
    fields += [
        f"Final-Recipient: {kind}; {recipient.address}",
        f"Action: {notification.action.value}",
        f"Status: {recipient.status}",
    ]
    if recipient.remote:
        fields.append(f"Remote-MTA: dns; {_one_line(recipient.remote)}")
    if recipient.diagnostic:
        fields.append(f"Diagnostic-Code: smtp; {_one_line(recipient.diagnostic)}")
    fields.append(f"Last-Attempt-Date: {formatdate(notification.now)}")
    if notification.retry_until:
        fields.append(f"Will-Retry-Until: {formatdate(notification.retry_until)}")
    return fields


def _write_original(notification: Notification, original: Sequence[bytes], *, is_global: bool) -> bytes:
    """The message it is about: whole only where that was asked for, of a failure, and can be carried as it is."""
    asks_full = notification.returns_full and notification.action is Action.FAILED
    if asks_full and sum(map(len, original)) <= MAX_FULL_BYTES:
        whole = b"".join(original)
        if all(len(line) <= MAX_LINE_OCTETS for line in whole.split(b"\r\n")):
            encoding = "7bit" if whole.isascii() else "8bit"
            kind = "message/global" if is_global else "message/rfc822"
            return f"Content-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n".encode() + whole
    kind = "message/global-headers" if is_global else "text/rfc822-headers; charset=utf-8"
    return _text_part(kind, _header_of(original), is_text=not is_global)


def _header_of(original: Sequence[bytes]) -> bytes:
    """The header of a message, as much as is sent back of it."""
    head = b""
    for piece in original:
        head += piece
        if b"\r\n\r\n" in head or len(head) > MAX_HEADER_BYTES:
            break
    head = head.partition(b"\r\n\r\n")[0] + b"\r\n"
    if len(head) > MAX_HEADER_BYTES:
        end = head.rfind(b"\r\n", 0, MAX_HEADER_BYTES)
        head = head[: end if end > 0 else MAX_HEADER_BYTES] + b"\r\n"
    return head


def _text_part(kind: str, content: bytes, *, is_text: bool = True) -> bytes:
    """A part whose lines are fit to travel: as it is, or quoted-printable."""
    fits = all(len(line) <= MAX_LINE_OCTETS for line in content.split(b"\r\n"))
    if fits and content.isascii():
        return f"Content-Type: {kind}\r\n\r\n".encode() + content
    if fits and not is_text:
        return f"Content-Type: {kind}\r\nContent-Transfer-Encoding: 8bit\r\n\r\n".encode() + content
    quoted = quopri.encodestring(content.replace(b"\r\n", b"\n")).replace(b"\n", b"\r\n")
    return f"Content-Type: {kind}\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n".encode() + quoted


def _one_line(text: str) -> str:
    """What others said, as one printable line of a bounded length."""
    return " ".join(_printable(text).split())


def _printable(text: str) -> str:
    """What others wrote, unaltered where it can stand in a line and is not too long for one."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    return printable.encode()[:MAX_TEXT_OCTETS].decode("utf-8", "ignore")
