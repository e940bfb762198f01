"""Between messages and rows: what is sent as columns of arrays, and entries read back from a row."""

import zlib
from collections.abc import Iterable, Sequence
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
from mailflow.store.store import Corrupt, Entry, Epoch, State

MAX_PART_BYTES = 262_144
MAX_ERROR_CHARACTERS = 1000

# Whether a living epoch owns entry e.
IS_OWNED = "EXISTS (SELECT FROM mailflow.worker w WHERE w.epoch = e.owner AND w.expires_at > clock_timestamp())"

# The columns that read_entry wants, of an entry that is called e. What a living epoch owns is not tried by itself.
ENTRY_COLUMNS = f"""
    e.id, e.envelope, e.recipients, e.size, e.attempts, e.crashes, e.last_error, e.is_delay_told,
    extract(epoch FROM e.arrived_at)::float8 AS arrived_at,
    extract(epoch FROM clock_timestamp() - e.arrived_at)::float8 AS age_s,
    CASE WHEN NOT {IS_OWNED} THEN extract(epoch FROM e.next_try - clock_timestamp())::float8 END AS next_try_s,
    CASE
        WHEN e.state <> 'queued' THEN e.state
        WHEN {IS_OWNED} THEN CASE WHEN e.is_in_doubt THEN 'in_doubt' ELSE 'active' END
        WHEN e.lane = 0 AND e.attempts = 0 THEN 'new'
        ELSE 'deferred'
    END AS state
"""


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message as it is to be stored. `owner` 0: nobody's yet. `last_error`: why it was not delivered before."""

    envelope: Envelope
    parts: tuple[bytes, ...]
    size_bytes: int
    crc: int
    owner: int = 0
    is_in_doubt: bool = False
    retry_s: float = 0.0
    last_error: str = ""

    @property
    def key(self) -> str:
        """Its id: the same one twice does not go in one statement."""
        return self.envelope.id

    @property
    def weight_bytes(self) -> int:
        """Octets of its body and about those of its rows."""
        return self.size_bytes + 512


def new_message(
    envelope: Envelope,
    body: Sequence[bytes],
    owner: Epoch | None = None,
    is_in_doubt: bool = False,
    retry_s: float = 0.0,
    last_error: str = "",
) -> NewMessage:
    """Cut and seal a body."""
    crc = 0
    for piece in body:
        crc = zlib.crc32(piece, crc)
    number = owner.number if owner else 0
    error = storable_text(last_error)
    return NewMessage(envelope, tuple(_cut(body)), sum(map(len, body)), crc, number, is_in_doubt, retry_s, error)


def message_columns(messages: Sequence[NewMessage]) -> list[list[Any]]:
    """Give the arrays of MESSAGE_COLUMNS (postgres_statements) in their order."""
    rows = [
        (
            message.envelope.id,
            encode_envelope(message.envelope),
            encode_recipients(message.envelope.recipients),
            shared_destination(message.envelope.recipients),
            message.size_bytes,
            message.crc,
            message.owner,
            message.is_in_doubt,
        )
        for message in messages
    ]
    parts = [(message.envelope.id, number, data) for message in messages for number, data in enumerate(message.parts)]
    return [*columns(rows, 8), *columns(parts, 3)]


def columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    """Turn rows into columns, of which there are `width` even without rows."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


def read_entry(row: Any) -> Entry | Corrupt:
    """Read a row of ENTRY_COLUMNS."""
    try:
        recipients = decode_recipients(row["recipients"])
        envelope = decode_envelope(row["envelope"], id=row["id"], recipients=recipients)
    except CorruptRecord as exc:
        return Corrupt(row["id"], str(exc))
    return Entry(
        envelope=envelope,
        size_bytes=row["size"],
        arrived_at=row["arrived_at"],
        age_s=row["age_s"],
        state=State(row["state"]),
        next_try_s=row["next_try_s"],
        attempts=row["attempts"],
        crashes=row["crashes"],
        last_error=row["last_error"],
        is_delay_told=row["is_delay_told"],
    )


def read_body(rows: Sequence[Any]) -> Sequence[bytes]:
    """Give a body from the rows of OPEN_BODY, if it is the one that was written. Raises CorruptRecord."""
    parts: list[bytes] = [row["data"] for row in rows if row["data"] is not None]
    size, wanted = sum(map(len, parts)), rows[0]["size"]
    if size != wanted:
        raise CorruptRecord(f"body: {size} octets of {wanted}")
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    if crc != rows[0]["crc"]:
        raise CorruptRecord("body: checksum does not match")
    return parts


def storable_text(text: str) -> str:
    """Give text as PostgreSQL can keep it, which takes no NUL and no lone surrogate, and not without end."""
    return text[:MAX_ERROR_CHARACTERS].replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def _cut(body: Iterable[bytes]) -> Iterable[bytes]:
    """Cut a body in parts of MAX_PART_BYTES, the last one shorter; its pieces may be of any length."""
    pending: list[bytes] = []
    length = 0
    for piece in body:
        start = 0
        while length + len(piece) - start >= MAX_PART_BYTES:
            end = start + MAX_PART_BYTES - length
            yield b"".join((*pending, piece[start:end]))
            pending, length, start = [], 0, end
        if start < len(piece):
            pending.append(piece[start:] if start else piece)
            length += len(piece) - start
    if pending:
        yield b"".join(pending)
