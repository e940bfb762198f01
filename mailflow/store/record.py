"""Envelopes and recipients as bytes: one line of JSON behind the CRC-32 of it.

A store keeps these as they are. What does not read back exactly as it was written raises CorruptRecord: a flipped bit
in an address must not send mail elsewhere. Keys that a later version adds are left alone by an earlier one; a key is
never given another meaning.
"""

import json
import zlib
from collections.abc import Iterable
from typing import Any

from mailflow.mail.address import Address
from mailflow.mail.envelope import Envelope, Notify, Recipient


class CorruptRecord(Exception):
    """The bytes are not what was written; the message says in what way."""


def encode_envelope(envelope: Envelope) -> bytes:
    """Give what never changes of an envelope: all but its recipients, and its id, under which it is stored."""
    kept: dict[str, object] = {"from": _address(envelope.reverse_path) if envelope.reverse_path else None}
    flags = {
        "smtputf8": envelope.is_smtputf8,
        "8bit": envelope.is_8bit,
        "quarantined": envelope.is_quarantined,
        "may_report": envelope.may_report,
        "envid": envelope.envelope_id,
    }
    kept |= {name: value for name, value in flags.items() if value}
    if envelope.returns_full is not None:
        kept["full"] = envelope.returns_full
    return _seal(kept)


def decode_envelope(record: bytes, *, id: str, recipients: tuple[Recipient, ...]) -> Envelope:
    """Read what encode_envelope wrote. Raises CorruptRecord."""
    fields = _open(record)
    try:
        return Envelope(
            id=id,
            reverse_path=_read_address(fields["from"]) if fields["from"] is not None else None,
            recipients=recipients,
            is_smtputf8=fields.get("smtputf8", False),
            is_8bit=fields.get("8bit", False),
            is_quarantined=fields.get("quarantined", False),
            may_report=fields.get("may_report", False),
            envelope_id=fields.get("envid", ""),
            returns_full=fields.get("full"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise CorruptRecord(f"envelope: {exc!r}") from exc


def encode_recipients(recipients: Iterable[Recipient]) -> bytes:
    """Give the recipients still owed."""
    return _seal([_recipient(recipient) for recipient in recipients])


def decode_recipients(record: bytes) -> tuple[Recipient, ...]:
    """Read what encode_recipients wrote. Raises CorruptRecord."""
    rows = _open(record)
    try:
        return tuple(_read_recipient(row) for row in rows)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise CorruptRecord(f"recipients: {exc!r}") from exc


def is_intact(record: bytes) -> bool:
    """Tell whether the checksum of a record is right, without reading it."""
    checksum, _, text = record.partition(b" ")
    return checksum == b"%08x" % zlib.crc32(text)


def shared_destination(recipients: Iterable[Recipient]) -> str:
    """Give the destination of all recipients, empty where there are several."""
    destinations = {recipient.destination for recipient in recipients}
    return destinations.pop() if len(destinations) == 1 else ""


def _recipient(recipient: Recipient) -> dict[str, object]:
    row: dict[str, object] = {"to": _address(recipient.address)}
    if recipient.deliver_to != recipient.address:
        row["deliver_to"] = _address(recipient.deliver_to)
    if recipient.is_relayed:
        row["relayed"] = True
    if recipient.destination:
        row["destination"] = recipient.destination
    if recipient.notify is not None:
        row["notify"] = recipient.notify.value
    if recipient.original_recipient:
        row["orcpt"] = recipient.original_recipient
    return row


def _read_recipient(row: dict[str, Any]) -> Recipient:
    address = _read_address(row["to"])
    return Recipient(
        address=address,
        deliver_to=_read_address(row["deliver_to"]) if "deliver_to" in row else address,
        is_relayed=row.get("relayed", False),
        destination=row.get("destination", ""),
        notify=Notify(row["notify"]) if "notify" in row else None,
        original_recipient=row.get("orcpt", ""),
    )


def _address(address: Address) -> list[str]:
    if address.domain == address.ascii_domain:
        return [address.local, address.domain]
    return [address.local, address.domain, address.ascii_domain]


def _read_address(parts: list[str]) -> Address:
    local, domain, *ascii_domain = parts
    return Address(local, domain, *(ascii_domain or (domain,)))


def _seal(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return b"%08x %s" % (zlib.crc32(text), text)


def _open(record: bytes) -> Any:
    if not is_intact(record):
        raise CorruptRecord("checksum does not match")
    try:
        return json.loads(record.partition(b" ")[2])
    except ValueError as exc:
        raise CorruptRecord(f"no JSON: {exc}") from exc
