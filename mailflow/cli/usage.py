"""What the commands that ask the DNS have in common: a fault of usage, and the resolver that `--nameserver` names."""

import contextlib
from collections.abc import AsyncIterator, Sequence

from mailflow.config.value import parse_nameserver
from mailflow.dns import Resolver, StubResolver


class UsageFault(Exception):
    """An argument cannot be used; the text says which and what is allowed. A retry does not help."""


def read_nameserver(text: str) -> str:
    """Give the value of `--nameserver` as a resolver takes it. Raises UsageFault."""
    try:
        return str(parse_nameserver(text))
    except ValueError as exc:
        raise UsageFault(f"--nameserver {text!r}: allowed is {exc}") from exc


@contextlib.asynccontextmanager
async def open_resolver(nameservers: Sequence[str]) -> AsyncIterator[Resolver]:
    """Open a resolver for these nameservers, of the system where none is named. Raises UsageFault where it has none."""
    try:
        stub = StubResolver(nameservers)
    except OSError as exc:
        raise UsageFault(f"no nameserver is known ({exc.strerror}): name one with --nameserver") from exc
    try:
        yield stub
    finally:
        await stub.aclose()
