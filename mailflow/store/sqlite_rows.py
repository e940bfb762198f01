"""Between messages and rows of a shard: what is written of a message, and entries read back."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mailflow.mail.envelope import Envelope
from mailflow.store.record import (
    CorruptRecord,
    decode_envelope,
    decode_recipients,
    encode_envelope,
    encode_recipients,
    shared_destination,
)
from mailflow.store.store import Corrupt, Entry, State

MAX_INLINE_BYTES = 65_536  # a larger body is a file
MAX_ERROR_CHARACTERS = 1000

LANE_NEW, LANE_DEFERRED, LANE_SUSPECT = range(3)

ENTRY_COLUMNS = (
    "id, envelope, recipients, size, arrived_at, state, owner, is_in_doubt, lane, next_try, attempts, crashes,"
    " last_error, is_delay_told"
)


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message as it is written. `content` None: its body is a file."""

    id: str
    envelope: bytes
    recipients: bytes
    destination: str
    size_bytes: int
    crc: int
    content: bytes | None
    owner: int = 0
    is_in_doubt: bool = False
    retry_s: float = 0.0
    last_error: str = ""


def new_message(
    envelope: Envelope,
    body: Sequence[bytes],
    *,
    owner: int = 0,
    is_in_doubt: bool = False,
    retry_s: float = 0.0,
    last_error: str = "",
) -> NewMessage:
    """Make the columns of a message."""
    size_bytes = sum(map(len, body))
    crc = 0
    for piece in body:
        crc = zlib.crc32(piece, crc)
    return NewMessage(
        envelope.id,
        encode_envelope(envelope),
        encode_recipients(envelope.recipients),
        shared_destination(envelope.recipients),
        size_bytes,
        crc,
        b"".join(body) if size_bytes <= MAX_INLINE_BYTES else None,
        owner,
        is_in_doubt,
        retry_s,
        cut_error(last_error),
    )


def read_entry(row: Sequence[Any], *, now: float, living: Sequence[int]) -> Entry | Corrupt:
    """Read a row of ENTRY_COLUMNS; `living` are the epochs that own what they claimed."""
    (id, envelope, recipients, size, arrived_at, state, owner, is_in_doubt, lane, next_try, *counts) = row
    try:
        owed = decode_recipients(bytes(recipients))
        read = decode_envelope(bytes(envelope), id=id, recipients=owed)
    except (CorruptRecord, TypeError, ValueError) as exc:
        return Corrupt(str(id), str(exc))
    attempts, crashes, last_error, is_delay_told = counts
    return Entry(
        read,
        size,
        arrived_at,
        now - arrived_at,
        _state(state, lane=lane, is_owned=owner in living, is_in_doubt=bool(is_in_doubt)),
        None if next_try is None else next_try - now,
        attempts,
        crashes,
        last_error,
        bool(is_delay_told),
    )


def check_body(pieces: Sequence[bytes], *, size_bytes: int, crc: int) -> None:
    """Raise CorruptRecord where a body is not the one that was written."""
    found_bytes = sum(map(len, pieces))
    if found_bytes != size_bytes:
        raise CorruptRecord(f"body: {found_bytes} octets of {size_bytes}")
    found = 0
    for piece in pieces:
        found = zlib.crc32(piece, found)
    if found != crc:
        raise CorruptRecord("body: checksum does not match")


def cut_error(text: str) -> str:
    """Bound what is kept of an error."""
    return text[:MAX_ERROR_CHARACTERS].encode("utf-8", "replace").decode()


def _state(state: str, *, lane: int, is_owned: bool, is_in_doubt: bool) -> State:
    if state != "queued":
        return State(state)
    if is_owned:
        return State.IN_DOUBT if is_in_doubt else State.ACTIVE
    return State.NEW if lane == LANE_NEW else State.DEFERRED
