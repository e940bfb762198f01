"""Remembers what was asked and what came back, for whoever has to explain a decision afterwards.

Passes everything through, failures included. A question that is asked again is remembered once, with its last outcome.
"""

from mailflow.dns.resolver import Answer, DnsTemporary, RdType, Record, Resolver


class RecordingResolver:
    """A Resolver; `seen` has the outcome of each question, in the order in which they were first asked."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self.seen: dict[tuple[str, RdType], Answer[Record] | DnsTemporary] = {}

    async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
        """Answer as the resolver behind it does; see Resolver.resolve."""
        key = (name, RdType(rdtype))
        try:
            answer = await self._resolver.resolve(name, rdtype)
        except DnsTemporary as failure:
            self.seen[key] = failure
            raise
        self.seen[key] = answer
        return answer
