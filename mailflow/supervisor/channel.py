"""How supervisor and worker talk: JSON messages over a socket pair, each behind its length in four octets.

Nothing is answered here and nothing waits: `send` queues, a message that came is passed to its
handler, the end of the other side is told once. The supervisor believes a worker's messages only as
JSON, since a worker is what hostile peers talk to.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

LENGTH_OCTETS = 4
MAX_MESSAGE_BYTES = 1 << 24

Message = dict[str, Any]


class Channel(asyncio.Protocol):
    """One end. `on_message(message)` hears every message in order, `on_lost()` the end; what they raise ends it."""

    def __init__(
        self,
        on_message: Callable[[Message], None],
        on_lost: Callable[[], None],
        *,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._max_message_bytes = max_message_bytes
        self._on_message = on_message
        self._on_lost = on_lost
        self._input = bytearray()
        self._transport: asyncio.Transport | None = None

    def send(self, message: Message) -> None:
        """Queue a message; to an end that is gone it is lost."""
        if self._transport is not None and not self._transport.is_closing():
            data = json.dumps(message, separators=(",", ":")).encode()
            self._transport.write(len(data).to_bytes(LENGTH_OCTETS, "big") + data)

    def close(self) -> None:
        """Close after what is queued was sent."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Take whole messages off the input."""
        self._input += data
        while len(self._input) >= LENGTH_OCTETS:
            end = LENGTH_OCTETS + int.from_bytes(self._input[:LENGTH_OCTETS], "big")
            if end > self._max_message_bytes:
                raise ValueError("a message beyond all bounds")
            if len(self._input) < end:
                return
            message = json.loads(self._input[LENGTH_OCTETS:end])
            del self._input[:end]
            self._on_message(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner."""
        self._transport = None
        self._on_lost()
