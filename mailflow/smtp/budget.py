"""Bytes in flight: what all sessions of a worker may hold of messages at one time.

Nobody ever waits here: who holds bytes and waits for more while others do the same is a deadlock.
A reservation is given or refused at once, and a refused message is swallowed and answered 452.
"""


class ByteBudget:
    """A sum of reservations that never exceeds `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.reserved_bytes = 0

    @property
    def is_full(self) -> bool:
        """Tells that not a byte more fits."""
        return self.reserved_bytes >= self.limit_bytes

    def reserve(self, size_bytes: int) -> bool:
        """Reserve `size_bytes`; False, and nothing reserved, where they do not fit."""
        if self.reserved_bytes + size_bytes > self.limit_bytes:
            return False
        self.reserved_bytes += size_bytes
        return True

    def release(self, size_bytes: int) -> None:
        """Give `size_bytes` back."""
        self.reserved_bytes -= size_bytes
