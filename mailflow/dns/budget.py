"""What one message may cost in DNS queries and seconds. (RFC 7208 s11.1 says why)

A message whose SPF, DKIM and DMARC lookups lead nowhere must not hold a session, nor make us hammer others. The limit
is on queries that had to be asked: answers a caching resolver has at hand cost nothing. The surprise: seconds count
only while a query is outstanding, since a client may take minutes between MAIL and the final dot.
"""

import asyncio
import time
from collections.abc import Callable

from mailflow.dns.resolver import Answer, Clock, DnsFailure, DnsTemporary, RdType, Record, Resolver


class BudgetedResolver:
    """A Resolver for the checks of one message: after `max_queries` or `max_seconds` it raises DnsTemporary (BUDGET).

    What is at hand (see `StubResolver.peek`) is answered even then. Queries cut off by the budget go on in a caching
    resolver, so that the sender's next try finds their answers. `clock` is monotonic, in seconds.
    """

    def __init__(
        self, resolver: Resolver, *, max_queries: int = 100, max_seconds: float = 20.0, clock: Clock = time.monotonic
    ) -> None:
        self._resolver = resolver
        # Of a resolver that cannot tell what it has at hand, every question counts.
        self._peek: Callable[[str, RdType | str], Answer[Record] | None] | None = getattr(resolver, "peek", None)
        self._queries_left = max_queries
        self._seconds_left = max_seconds
        self._clock = clock
        self._outstanding = 0
        self._since = 0.0

    async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
        """Answer as the resolver behind it does, within the budget; see Resolver.resolve."""
        if self._peek is not None and (answer := self._peek(name, rdtype)) is not None:
            return answer
        self._settle_time()
        if self._queries_left <= 0 or self._seconds_left <= 0:
            raise DnsTemporary(DnsFailure.BUDGET, name, rdtype)
        self._queries_left -= 1
        self._outstanding += 1
        limit = asyncio.timeout(self._seconds_left)
        try:
            async with limit:
                return await self._resolver.resolve(name, rdtype)
        except TimeoutError as exc:
            if limit.expired():
                raise DnsTemporary(DnsFailure.BUDGET, name, rdtype) from exc
            raise
        finally:
            self._settle_time()
            self._outstanding -= 1

    def peek(self, name: str, rdtype: RdType | str) -> Answer[Record] | None:
        """The answer `resolve` would give without a query, None where it would need one; costs nothing."""
        return self._peek and self._peek(name, rdtype)

    def _settle_time(self) -> None:
        now = self._clock()
        if self._outstanding:
            self._seconds_left -= now - self._since
        self._since = now
