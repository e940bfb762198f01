"""A file of messages, each with the sender of its envelope: made by a benchmark, sent by the load client.

The first line is JSON, [sender, octets] of each; the contents follow without a gap. They stand as on the wire, with
the final dot; reading maps the file, so that a client that sends 200 MB has not read them before.
"""

import json
import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mailflow.smtp.dot_stuffing import DotStuffer


@dataclass(frozen=True, slots=True)
class Corpus:
    """Where the file is and how many messages it has."""

    path: Path
    messages: int

    @property
    def load(self) -> list[str]:
        """The client's arguments to send each of them once."""
        return ["--corpus", str(self.path), "--messages", str(self.messages)]


def write_corpus(path: Path, messages: Iterable[tuple[str, bytes]]) -> Corpus:
    """Write sender and message of each."""
    contents = [(sender, _stuff(message)) for sender, message in messages]
    with path.open("wb") as file:
        file.write(json.dumps([[sender, len(content)] for sender, content in contents]).encode("ascii") + b"\n")
        file.writelines(content for _, content in contents)
    return Corpus(path, len(contents))


def read_corpus(path: Path) -> list[tuple[str, memoryview]]:
    """Give sender and content of each."""
    with path.open("rb") as file:
        index = json.loads(file.readline())
        position = file.tell()
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    messages = []
    for sender, octets in index:
        messages.append((sender, content[position : position + octets]))
        position += octets
    return messages


def _stuff(message: bytes) -> bytes:
    stuffer = DotStuffer()
    return stuffer.feed(message) + stuffer.finish()
