"""What one SPF evaluation may ask the DNS, and what it has asked. (RFC 7208 s4.6.4, s5.4, s5.5)

Ten terms, of which two may find nothing; ten MX names of a domain and ten reverse names of the client. Over a limit
that the publisher had in hand is permerror; reverse names are the client's own, and those over the limit are ignored.
The surprise: terms are counted, not queries, so an mx whose every host has no address is one that found nothing. The
client's names are looked up once and each is validated once, however many terms ask.
"""

from typing import Final, Literal

from mailflow.dns import (
    AnswerStatus,
    DnsFailure,
    DnsTemporary,
    IpAddress,
    Resolver,
    lookup_addresses,
    lookup_mx,
    lookup_ptr,
    lookup_txt,
)
from mailflow.mailauth.spf_macro import shown

MAX_LOOKUPS: Final = 10
MAX_VOID_LOOKUPS: Final = 2
MAX_MX_NAMES: Final = 10
MAX_PTR_NAMES: Final = 10


class PermanentError(Exception):
    """The evaluation ends in permerror; the reason is printable and bounded."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SpfLookups:
    """The DNS as one evaluation for one client sees it. Methods raise PermanentError over a limit, and DnsTemporary."""

    def __init__(self, client: IpAddress, resolver: Resolver) -> None:
        self.terms = 0
        self.family: Literal[4, 6] = client.version
        self._client = client
        self._resolver = resolver
        self._voids = 0
        self._is_void_counted = True
        self._is_counting = True
        self._client_names: tuple[str, ...] | None = None
        self._validated: dict[str, bool] = {}

    def count_term(self) -> None:
        """Count one more term that asks, before it does."""
        if self.terms >= MAX_LOOKUPS:
            raise PermanentError(f"more than {MAX_LOOKUPS} terms need DNS")
        self.terms += 1
        self._is_void_counted = False

    def stop_counting(self) -> None:
        """Let everything that follows count towards no limit: the explanation is looked up behind the result."""
        self._is_counting = False

    async def find_texts(self, name: str) -> tuple[bytes, ...]:
        """Give the TXT records of a name."""
        return (await lookup_txt(self._resolver, name)).records

    async def find_addresses(self, name: str, family: Literal[4, 6]) -> tuple[IpAddress, ...]:
        """Give the addresses of one family."""
        answer = await lookup_addresses(self._resolver, name, family=family)
        if answer.status is not AnswerStatus.FOUND:
            self._count_void()
        return answer.records

    async def find_exchanges(self, name: str) -> tuple[str, ...]:
        """Give a domain's MX hosts by preference, without the null MX; the domain itself is never one (s5.4)."""
        answer = await lookup_mx(self._resolver, name)
        if answer.status is not AnswerStatus.FOUND:
            self._count_void()
        # Before any is asked, or the result would hang on the order of equals.
        if len(answer.records) > MAX_MX_NAMES:
            raise PermanentError(f"{shown(name)} has more than {MAX_MX_NAMES} MX names")
        return tuple(record.exchange for record in answer.records if not record.is_null)

    async def find_client_names(self) -> tuple[str, ...]:
        """Give the client's first 10 reverse names, none of them validated; none where the DNS fails (s5.5)."""
        if self._client_names is None:
            self._client_names = ()
            try:
                answer = await lookup_ptr(self._resolver, self._client)
            except DnsTemporary as failure:
                _refuse_budget(failure)
                return ()
            self._client_names = answer.records[:MAX_PTR_NAMES]  # others "MUST be ignored"
            if not self._client_names:
                self._count_void()
        return self._client_names

    async def is_validated(self, name: str) -> bool:
        """Tell whether a reverse name leads back to the client (s5.5); one whose lookup fails does not."""
        if name not in self._validated:
            try:
                self._validated[name] = self._client in await self.find_addresses(name, self.family)
            except DnsTemporary as failure:
                _refuse_budget(failure)
                self._validated[name] = False
        return self._validated[name]

    async def validated_name(self, domain: str) -> str:
        """Give the value of %{p} (s7.3): the domain itself, else a name below it, else any, else `unknown`.

        Looking the names up counts as a term: "the ptr mechanism or the %{p} macro [...] is included in the limit".
        """
        if self._client_names is None and self._is_counting:
            self.count_term()
        names = await self.find_client_names()
        for name in sorted(names, key=lambda name: (name != domain, not name.endswith(f".{domain}"))):
            if await self.is_validated(name):
                return name
        return "unknown"

    def _count_void(self) -> None:
        if self._is_void_counted or not self._is_counting:
            return
        self._is_void_counted = True
        self._voids += 1
        if self._voids > MAX_VOID_LOOKUPS:
            raise PermanentError(f"more than {MAX_VOID_LOOKUPS} terms find nothing in DNS")


def _refuse_budget(failure: DnsTemporary) -> None:
    """A failing ptr does not match (s5.5), but time that ran out says nothing about the client (s4.6.4)."""
    if failure.kind is DnsFailure.BUDGET:
        raise failure
