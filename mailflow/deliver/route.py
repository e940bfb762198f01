"""Routes: which domains are ours, and which backend has a domain's mailboxes.

Router is the delivering side as the receiving side sees it (mail.handoff.Handoff). An exact domain
goes before a rule for subdomains, a longer such rule before a shorter one. postmaster and abuse of
every domain of ours are always taken (RFC 5321 s4.5.1, RFC 2142): what their domain's backend does
not take for them goes to the configured postmaster.

The order for an address of ours: aliases (mail.address_book), then the user's backend by the map of
users, else the route's, then what that backend says; for a user it does not know, `catch_all`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from mailflow.deliver.address_file import AddressFiles
from mailflow.deliver.answers import NO_SMTPUTF8
from mailflow.deliver.groups import deliver_in_groups
from mailflow.deliver.quarantine import QUARANTINE_FIELD, quarantine_address
from mailflow.mail.address import Address
from mailflow.mail.address_book import AddressBook, AddressRules, AliasLoop, list_files
from mailflow.mail.address_map import AddressMap
from mailflow.mail.domain_table import DomainTable
from mailflow.mail.envelope import Envelope, Recipient
from mailflow.mail.handoff import DeliveryStatus, FinalDot, Outcome, RecipientStatus, Verification
from mailflow.mail.reply import Reply
from mailflow.observe.nursery import Nursery

RELAYING_DENIED = Reply(550, "5.7.1", "Relaying denied")
MISCONFIGURED = Reply(451, "4.3.5", "Mail for this address cannot be taken now, try again later")

NO_WAY_S = 1.0  # nothing is waited for

_ALWAYS_TAKEN = frozenset({"postmaster", "abuse"})


class Backend(Protocol):
    """Where mailboxes are: LMTP servers or a Maildir tree. No method raises for the backend's fault.

    `handoff_deadline_s` is how long a delivery may take until its final dot.
    """

    name: str
    handoff_deadline_s: float

    async def open(self) -> None:
        """Make ready."""
        ...

    async def close(self) -> None:
        """Let go of what is idle."""
        ...

    async def verify(self, address: Address, *, is_smtputf8: bool) -> Verification:
        """Tell whether mail for `address` would be taken; never NOT_OURS."""
        ...

    async def deliver(self, envelope: Envelope, body: Sequence[bytes], dot: FinalDot) -> list[Outcome]:
        """Deliver now; one outcome per recipient, in order. Where `dot` may not leave they are deferred."""
        ...


@dataclass(frozen=True, slots=True)
class Route:
    """Domains in lower-case A-labels, `.example.org` for every name below example.org, and their backend's name.

    `*` makes no domain ours: it carries the mail of clients that may relay.
    """

    domains: Sequence[str]
    backend: str
    rules: AddressRules = field(default_factory=AddressRules)
    catch_all: Address | None = None


class Router:
    """The hand-off to backends by domain. `backends` by name. Raises ValueError where a route names an unknown one.

    `quarantine` has, by a backend's name, the subaddress that its quarantined mail goes to; none where it has none.
    `maps` has the contents of the routes' files as they were when they were checked; looks at the files and
    deliveries side by side run in `nursery`.
    """

    def __init__(
        self,
        routes: Iterable[Route],
        backends: Mapping[str, Backend],
        *,
        postmaster: Address,
        quarantine: Mapping[str, str] | None = None,
        maps: Mapping[Path, AddressMap] | None = None,
        nursery: Nursery | None = None,
    ) -> None:
        self._backends = backends
        self._postmaster = postmaster
        self._quarantine = quarantine or {}
        by_domain = {domain: route for route in routes for domain in route.domains}
        for route in by_domain.values():
            if route.backend not in backends:
                raise ValueError(f"no backend is named {route.backend!r}")
        relay = by_domain.get("*")
        self._relay = backends[relay.backend] if relay else None
        self._nursery = nursery if nursery is not None else Nursery()  # an empty one is falsy
        self._routes = DomainTable(by_domain.items())
        rules = {domain: route.rules for domain, route in by_domain.items()}
        self._files = AddressFiles(
            AddressBook(DomainTable(rules.items()), maps or {}),
            alias_files=list_files(rule.aliases for rule in rules.values()),
            user_maps=list_files(rule.user_map for rule in rules.values()),
            backends=tuple(backends),
            nursery=self._nursery,
        )

    @property
    def max_recipients(self) -> int:
        """One: with two, what one mailbox took and the other did not would need a store that owns the rest.

        So many are taken at RCPT; `deliver` takes any number.
        """
        return 1

    async def read_files(self) -> None:
        """Read the files of addresses as they are now; a faulty one is told in the log, and the old one holds."""
        await self._files.refresh()

    def refresh(self) -> None:
        """Look whether files of addresses changed, beside the mail; see Handoff."""
        self._files.look()

    async def verify_recipient(self, recipient: Address, *, is_smtputf8: bool, may_relay: bool) -> Verification:
        """Tell whether mail for `recipient` would be taken now; see Handoff."""
        self._files.look()
        if self._routes.find(recipient.ascii_domain) is not None:
            verification = await self._verify_ours(recipient, is_smtputf8=is_smtputf8)
            backend = self.find_backend(verification.deliver_to) if verification.deliver_to else None
            return replace(verification, destination=backend.name) if backend else verification
        if may_relay and self._relay is not None:
            verification = await self._relay.verify(recipient, is_smtputf8=is_smtputf8)
            return replace(verification, is_relayed=True, destination=self._relay.name)
        return Verification(RecipientStatus.NOT_OURS, reply=RELAYING_DENIED)

    async def deliver(self, envelope: Envelope, body: Sequence[bytes], dot: FinalDot | None = None) -> list[Outcome]:
        """Deliver now, to all backends side by side; see Handoff. `dot` hears of every final dot."""
        final_dot = dot or FinalDot()
        return await deliver_in_groups(
            envelope,
            self._find_way,
            lambda backend, part: self._deliver_at(backend, part, body, final_dot),
            dot=final_dot,
            nursery=self._nursery,
        )

    def handoff_deadline_s(self, envelope: Envelope) -> float:
        """Give how many seconds a delivery of this message may take until its final dots."""
        backends = filter(None, map(self._find_way, envelope.recipients))
        return max((backend.handoff_deadline_s for backend in backends), default=NO_WAY_S)

    def find_recipient(self, address: Address) -> Recipient | None:
        """Give the way of mail that we make ourselves, aliases followed; None where no route leads there.

        No backend is asked: what a mailbox refuses, its delivery tells.
        """
        if self._routes.find(address.ascii_domain) is None:
            return Recipient(address, address, is_relayed=True, destination=self._relay.name) if self._relay else None
        final = self.find_mailbox(address)
        backend = self.find_backend(final)
        return Recipient(address, final, destination=backend.name) if backend else None

    async def _deliver_at(
        self, backend: Backend | None, envelope: Envelope, body: Sequence[bytes], dot: FinalDot
    ) -> list[Outcome]:
        if backend is None:  # the route went away since RCPT
            gone = Outcome(DeliveryStatus.DEFERRED, MISCONFIGURED, "", "no route leads there any more")
            return [gone] * len(envelope.recipients)
        if envelope.is_quarantined:
            diverted = tuple(self._divert(recipient, backend.name) for recipient in envelope.recipients)
            envelope = replace(envelope, recipients=diverted)
            body = (QUARANTINE_FIELD, *body)
        return await backend.deliver(envelope, body, dot)

    def _find_way(self, recipient: Recipient) -> Backend | None:
        """Give the backend that has a recipient now: what was taken as ours never leaves by the way out, which would
        bounce it or send it round.
        """
        return self._relay if recipient.is_relayed else self.find_backend(recipient.deliver_to)

    def _divert(self, recipient: Recipient, backend: str) -> Recipient:
        """Give where a recipient's quarantined mail goes."""
        rules = self._files.book.rules.find(recipient.deliver_to.ascii_domain)
        if rules is None:
            return recipient
        subaddress = self._quarantine.get(backend, "")
        return replace(recipient, deliver_to=quarantine_address(recipient.deliver_to, subaddress, rules.subaddress))

    def find_backend(self, address: Address) -> Backend | None:
        """Give the backend that has the mailbox of a final address; None where its domain is not ours."""
        route = self._routes.find(address.ascii_domain)
        if route is None:
            return None
        return self._backends.get(self._files.book.find_backend(address) or route.backend)

    def find_mailbox(self, address: Address) -> Address:
        """Give the final address that mail for `address` goes to: aliases followed, as far as they lead anywhere."""
        try:
            return self._files.book.follow_aliases(address)
        except AliasLoop:
            return address

    async def _verify_ours(self, recipient: Address, *, is_smtputf8: bool) -> Verification:
        verification = await self._verify_user(recipient, is_smtputf8=is_smtputf8)
        if recipient.local.lower() in _ALWAYS_TAKEN and verification.reply not in (None, NO_SMTPUTF8):
            # Unknown, full, or not to be asked now: taken all the same. What becomes of the mail, its delivery tells.
            is_refused = verification.status is RecipientStatus.REFUSED
            return Verification(
                RecipientStatus.GOOD, deliver_to=self.find_mailbox(self._postmaster if is_refused else recipient)
            )
        if verification.is_unknown_user and (catch_all := self._find_catch_all(recipient)):
            return await self._verify_user(catch_all, is_smtputf8=is_smtputf8)
        return verification

    async def _verify_user(self, address: Address, *, is_smtputf8: bool) -> Verification:
        """Follow the aliases and ask the backend about the mailbox they lead to."""
        try:
            final = self._files.book.follow_aliases(address)
        except AliasLoop:
            return Verification(RecipientStatus.UNVERIFIABLE, reply=MISCONFIGURED)
        backend = self.find_backend(final)
        if backend is None:  # an alias leads out of our domains
            return Verification(RecipientStatus.UNVERIFIABLE, reply=MISCONFIGURED)
        return await backend.verify(final, is_smtputf8=is_smtputf8)

    def _find_catch_all(self, recipient: Address) -> Address | None:
        """Give who gets the mail of unknown users of the domain that the aliases of `recipient` lead to."""
        route = self._routes.find(self.find_mailbox(recipient).ascii_domain)
        return route.catch_all if route else None
