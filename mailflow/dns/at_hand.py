"""Answers that are at hand, and no waiting for others: what lets a check run through without a task of its own.

The surprise: an answer that would have to be waited for is no DnsTemporary. Nothing is wrong with the DNS, so no check
may make a result of it; it goes through them to whoever chose not to wait.
"""

from collections.abc import Callable

from mailflow.dns.resolver import Answer, RdType, Record, Resolver


class NotAtHand(Exception):
    """An answer would have to be waited for."""


class AtHandResolver:
    """A Resolver that answers what the one behind it has at hand (see `StubResolver.peek`), else raises NotAtHand.

    Of a resolver that cannot tell, nothing is at hand.
    """

    def __init__(self, resolver: Resolver) -> None:
        self._peek: Callable[[str, RdType | str], Answer[Record] | None] | None = getattr(resolver, "peek", None)

    async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
        """Answer without a wait; see Resolver.resolve."""
        answer = self.peek(name, rdtype)
        if answer is None:
            raise NotAtHand
        return answer

    def peek(self, name: str, rdtype: RdType | str) -> Answer[Record] | None:
        """The answer that is at hand, None where there is none."""
        return self._peek and self._peek(name, rdtype)
