r"""Dot-stuffing on the way out: content becomes what may stand between 354 and the final dot (RFC 5321 s4.5.2).

Sans-IO and in slices, so that no message holds the event loop for long. The surprise is what it
refuses: a bare CR, a bare LF or a NUL raises UnsafeContent before any final dot, since a next hop
that reads line ends loosely would see another message inside this one (`\n.\n`).
"""

from collections.abc import Iterable, Iterator

from mailflow.smtp.newlines import has_bare_cr, has_bare_lf

MAX_SLICE_BYTES = 65536


class UnsafeContent(Exception):
    """The content has a bare CR, a bare LF or a NUL; it must not be sent (RFC 5321 s2.3.8)."""


class DotStuffer:
    """Stuffs one message; feed it blocks cut anywhere, then take `finish()`."""

    def __init__(self) -> None:
        self._is_at_line_start = True
        self._held = b""  # a CR whose LF may open the next block

    def feed(self, block: bytes) -> bytes:
        """Give the stuffed block. Raises UnsafeContent."""
        block = self._held + block
        self._held = b"\r" if block.endswith(b"\r") else b""
        block = block.removesuffix(b"\r")
        if not block:
            return b""
        if has_bare_cr(block) or has_bare_lf(block):
            raise UnsafeContent("bare CR or LF")
        if b"\0" in block:
            raise UnsafeContent("NUL")
        first_dot = b"." if self._is_at_line_start and block.startswith(b".") else b""
        self._is_at_line_start = block.endswith(b"\r\n")
        return first_dot + block.replace(b"\r\n.", b"\r\n..")

    def finish(self) -> bytes:
        """Give what closes the content: the CRLF its last line may lack, and the final dot. Raises UnsafeContent."""
        if self._held:
            raise UnsafeContent("bare CR at the end")
        return b".\r\n" if self._is_at_line_start else b"\r\n.\r\n"


def iter_slices(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Cut pieces into slices of at most MAX_SLICE_BYTES."""
    for piece in pieces:
        if len(piece) <= MAX_SLICE_BYTES:
            yield piece
            continue
        for start in range(0, len(piece), MAX_SLICE_BYTES):
            yield piece[start : start + MAX_SLICE_BYTES]
