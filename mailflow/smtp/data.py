r"""The content of a message as it arrives: DATA to its final dot, BDAT by count (RFC 5321 s4.1.1.4, RFC 3030).

Only CR LF `.` CR LF ends DATA; every other spelling is how one message is smuggled inside another.
Bytes are taken in the blocks in which they come, never line by line, and looked at by C loops
only. A bare CR or LF raises BareNewline at once (or is made CRLF, by setting, after the end was
sought: `\n.\n` ends nothing either way); a NUL always raises. What a size limit refuses is still
read to its end, but no longer kept.
"""

import re
from collections.abc import Callable
from enum import Enum

from mailflow.smtp.newlines import ODD_CR, has_bare_cr, has_bare_lf

_END = b"\r\n.\r\n"
_ANY_NEWLINE = re.compile(rb"\r\n|\r|\n")


class BareNewline(Exception):
    """The peer sent a bare CR, a bare LF or a NUL (RFC 5321 s2.3.8); nothing after it can be trusted."""


class ContentFault(Enum):
    """Why the content is no longer kept although the rest of it is read."""

    TOO_LARGE = "too_large"
    LINE_TOO_LONG = "line_too_long"
    NO_ROOM = "no_room"  # the budget of bytes in flight is used up


class Content:
    """The content being collected, with line ends checked; filled by DotReader or ChunkReader.

    Bounded: `max_bytes` in all, `max_line_octets` a line with its CRLF. `reserve` is asked before more is kept,
    with the octets that would then be kept in all; `on_discard` hears that nothing is kept any more. `fault` tells the
    first breach.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        max_line_octets: int,
        normalizes_newlines: bool,
        reserve: Callable[[int], bool] = lambda kept_bytes: True,
        on_discard: Callable[[], None] = lambda: None,
    ) -> None:
        self.fault: ContentFault | None = None
        self._max_bytes = max_bytes
        self._max_line_octets = max_line_octets
        self._normalizes_newlines = normalizes_newlines
        self._reserve = reserve
        self._on_discard = on_discard
        self._kept = bytearray()
        self._line_octets = 0

    def add(self, block: bytes, *, unstuffs: bool, has_odd_cr: bool = True) -> None:
        """Take a block that ends inside no CRLF and, where it `unstuffs`, inside no CRLF-dot. Raises BareNewline.

        `has_odd_cr` False tells that every CR is known to be followed by LF, and no CRLF by a dot.
        """
        unstuffs = unstuffs and has_odd_cr
        if self._has_bare_newline(block, has_odd_cr=has_odd_cr):
            if unstuffs:
                block = block.replace(b"\r\n.", b"\r\n")
            block = _ANY_NEWLINE.sub(b"\r\n", block)
        elif unstuffs:
            block = block.replace(b"\r\n.", b"\r\n")
        if self.fault:
            return
        if self._has_long_line(block):
            self.discard(ContentFault.LINE_TOO_LONG)
        elif len(self._kept) + len(block) > self._max_bytes:
            self.discard(ContentFault.TOO_LARGE)
        elif not self._reserve(len(self._kept) + len(block)):
            self.discard(ContentFault.NO_ROOM)
        else:
            self._kept += block

    def discard(self, fault: ContentFault) -> None:
        """Keep nothing from here on; what was kept is freed."""
        self.fault = self.fault or fault
        self._kept = bytearray()
        self._on_discard()

    def take(self) -> bytes:
        """Give the whole content; its last line has its CRLF."""
        if self._kept and not self._kept.endswith(b"\r\n"):
            self._kept += b"\r\n"
        content, self._kept = bytes(self._kept), bytearray()
        return content

    def _has_bare_newline(self, block: bytes, *, has_odd_cr: bool) -> bool:
        if b"\0" in block:
            raise BareNewline("NUL")
        if not (has_odd_cr and has_bare_cr(block)) and not has_bare_lf(block):
            return False
        if not self._normalizes_newlines:
            raise BareNewline("bare CR or LF")
        return True

    def _has_long_line(self, block: bytes) -> bool:
        """Look for a line over the limit by leaping from line end to line end, at most one search per limit."""
        start, room = 0, self._max_line_octets - self._line_octets
        while len(block) - start > room:
            newline = block.rfind(b"\n", start, start + room)
            if newline < 0:
                return True
            start, room = newline + 1, self._max_line_octets
        last = block.rfind(b"\n", start)
        if last >= 0:
            start = last + 1
        self._line_octets = len(block) - start + (self._line_octets if start == 0 else 0)
        return False


class DotReader:
    """Reads DATA up to its final dot into a Content, undoing dot-stuffing (RFC 5321 s4.5.2)."""

    is_complete = False  # before the final dot

    def __init__(self, content: Content) -> None:
        self.content = content
        # A dot on the very first line counts as one after a line end: begin as if a CRLF had just come.
        self._held = b"\r\n"
        self._virtual = 2

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes; give what follows the final dot once it was seen, None before. Raises BareNewline."""
        data = self._held + data
        odd = ODD_CR.search(data)  # in nearly all mail the end itself is the first
        end = data.find(_END, odd.start()) if odd else -1
        if odd and end >= 0:
            self._add(data[: end + 2], has_odd_cr=odd.start() < end)
            return data[end + len(_END) :]
        held = next((n for n in (4, 3, 2, 1) if data.endswith(_END[:n])), 0)
        kept = len(data) - held
        self._held = data[kept:]
        self._add(data[:kept], has_odd_cr=bool(odd and odd.start() < kept))
        return None

    def _add(self, block: bytes, *, has_odd_cr: bool) -> None:
        if self._virtual and block:
            # The CRLF that was never sent: unstuff the first line by hand and forget it.
            block, self._virtual = block[self._virtual :].removeprefix(b"."), 0
        self.content.add(block, unstuffs=True, has_odd_cr=has_odd_cr)


class ChunkReader:
    """Reads one BDAT chunk of `size_bytes` octets into a Content that outlives it.

    A CR that ends one chunk may meet its LF in the next, so the Content's owner passes `held` on.
    """

    def __init__(self, content: Content, size_bytes: int, *, is_last: bool, held: bytes = b"") -> None:
        self.content = content
        self.held = held
        self._missing_bytes = size_bytes
        self._is_last = is_last

    @property
    def is_complete(self) -> bool:
        """Tells that every octet of the chunk has come."""
        return not self._missing_bytes

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes; give what follows the chunk once it is complete, None before. Raises BareNewline."""
        chunk, rest = data[: self._missing_bytes], data[self._missing_bytes :]
        self._missing_bytes -= len(chunk)
        block = self.held + chunk
        self.held = b"\r" if block.endswith(b"\r") and not (self.is_complete and self._is_last) else b""
        self.content.add(block[: len(block) - len(self.held)], unstuffs=False)
        return rest if self.is_complete else None
