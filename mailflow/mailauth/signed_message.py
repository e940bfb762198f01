"""A message as signatures see it: its fields by name, and its body's digests, each worked out once.

One SignedMessage serves DKIM, ARC and whoever else asks of the same message. Header input is put together as the RFC
says (RFC 6376 s5.4.2, s3.7); large bodies are hashed in slices with a turn of the loop between them, so that they
hold nobody up.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from mailflow.mail.headers import split_message
from mailflow.mailauth.canonical import (
    BodyDigest,
    BodyHasher,
    Canonicalization,
    canonicalize_field,
    digest_body,
    erase_signature,
)

WHOLE_OCTETS: Final = 131_072  # a body up to this is hashed in one go: about a millisecond
SLICE_OCTETS: Final = 32_768  # of a larger one, so that ten at once leave each other's turns short


def read_message(message: bytes) -> "SignedMessage":
    """Split a message; one kept with bare LF alone, as files are, is taken with the CRLF of the wire (s5.3).

    Beside a single CRLF a bare LF is no line end but text (s3.4).
    """
    return SignedMessage(message if b"\r\n" in message else message.replace(b"\n", b"\r\n"))


class SignedMessage:
    """A message split once. `fields` are in order, top first; a position is an index into them.

    The body begins at `body_start`, behind the empty line. `max_header_bytes` bounds the header: HeaderTooLarge is
    raised where it is larger, see split_message.
    """

    def __init__(self, content: bytes, *, max_header_bytes: int | None = None) -> None:
        self.content = content
        self.fields, self.body_start = split_message(content, max_bytes=max_header_bytes)
        self._positions: dict[bytes, list[int]] = {}
        for position, field in enumerate(self.fields):
            self._positions.setdefault(field.name, []).append(position)
        self._relaxed_fields: dict[int, bytes] = {}
        self._digests: dict[Canonicalization, BodyDigest] = {}

    def positions(self, name: bytes) -> Sequence[int]:
        """The positions of the fields of a name (in lower case), top first."""
        return self._positions.get(name, ())

    def select_fields(self, names: Iterable[bytes], *, besides: int | None = None) -> list[int]:
        """Give the positions of the fields that h= names, each name the lowest one not yet taken (s5.4.2).

        A name without a field left counts as nothing. `besides`, the signature, never signs itself.
        """
        selected = []
        left: dict[bytes, list[int]] = {}
        for name in names:
            positions = left.get(name)
            if positions is None:
                positions = left[name] = [*self.positions(name)]
            if positions and positions[-1] == besides:
                positions.pop()
            if positions:
                selected.append(positions.pop())
        return selected

    def canonical_field(self, position: int, form: Canonicalization) -> bytes:
        """One field as it is hashed, with its CRLF."""
        if form is Canonicalization.SIMPLE:
            return self.fields[position].raw
        octets = self._relaxed_fields.get(position)
        if octets is None:
            octets = self._relaxed_fields[position] = canonicalize_field(self.fields[position], form)
        return octets

    def header_input(self, names: Iterable[bytes], signature: int, form: Canonicalization) -> bytes:
        """Give the octets that the signature field at position `signature` signs (s3.7).

        They are the fields that h= names and then the field itself with b= empty and without its CRLF.
        """
        selected = [self.canonical_field(position, form) for position in self.select_fields(names, besides=signature)]
        own = canonicalize_field(erase_signature(self.fields[signature]), form)
        return b"".join(selected) + own[:-2]

    async def hash_body(self, form: Canonicalization, lengths: Iterable[int] = ()) -> BodyDigest:
        """Hash the body in one form, with its beginnings of `lengths` octets; what is known is not hashed again."""
        wanted = set(lengths)
        digest = self._digests.get(form)
        is_large = len(self.content) - self.body_start > WHOLE_OCTETS
        if digest is None and not wanted and not is_large:
            digest = self._digests[form] = digest_body(self.content[self.body_start :], form)
            return digest
        if digest is not None:
            wanted = {length for length in wanted if length < digest.size_octets} - digest.beginnings.keys()
            if not wanted:
                return digest
            wanted |= digest.beginnings.keys()
        hasher = BodyHasher(form, wanted)
        if not is_large:
            hasher.feed(self.content[self.body_start :])
        else:
            view = memoryview(self.content)
            for start in range(self.body_start, len(self.content), SLICE_OCTETS):
                hasher.feed(view[start : start + SLICE_OCTETS])
                await asyncio.sleep(0)
        digest = self._digests[form] = hasher.finish()
        return digest
