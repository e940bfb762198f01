"""Routes: which domains are ours, and which backend has a domain's mailboxes.

Router is the delivering side as the receiving side sees it (mail.handoff.Handoff). An exact domain
goes before a rule for subdomains, a longer such rule before a shorter one. postmaster and abuse of
every domain of ours are always taken (RFC 5321 s4.5.1, RFC 2142): what their domain's backend does
not take for them goes to the configured postmaster.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mailflow.deliver.answers import NO_SMTPUTF8
from mailflow.mail.address import Address
from mailflow.mail.envelope import Envelope
from mailflow.mail.handoff import DeliveryStatus, Outcome, RecipientStatus, Verification
from mailflow.mail.reply import Reply

RELAYING_DENIED = Reply(550, "5.7.1", "Relaying denied")
MISCONFIGURED = Reply(451, "4.3.5", "Mail for this address cannot be taken now, try again later")

_ALWAYS_TAKEN = frozenset({"postmaster", "abuse"})


class Backend(Protocol):
    """Where mailboxes are: an LMTP server or a Maildir tree. Neither method raises for the backend's fault."""

    name: str

    async def open(self) -> None:
        """Make ready."""
        ...

    async def close(self) -> None:
        """Let go of what is idle."""
        ...

    async def verify(self, address: Address, *, is_smtputf8: bool) -> Verification:
        """Tell whether mail for `address` would be taken; never NOT_OURS."""
        ...

    async def deliver(self, envelope: Envelope, body: Sequence[bytes]) -> list[Outcome]:
        """Deliver now; one outcome per recipient, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Route:
    """Domains in lower-case A-labels, `.example.org` for every name below example.org, and their backend's name.

    `*` makes no domain ours: it carries the mail of clients that may relay.
    """

    domains: Sequence[str]
    backend: str


class Router:
    """The hand-off to backends by domain. `backends` by name. Raises ValueError where a route names an unknown one."""

    def __init__(self, routes: Iterable[Route], backends: Mapping[str, Backend], *, postmaster: Address) -> None:
        self._backends = backends
        self._postmaster = postmaster
        self._by_domain: dict[str, Backend] = {}
        for route in routes:
            if route.backend not in backends:
                raise ValueError(f"no backend is named {route.backend!r}")
            for domain in route.domains:
                self._by_domain[domain] = backends[route.backend]
        self._relay = self._by_domain.pop("*", None)

    @property
    def max_recipients(self) -> int:
        """One: with two, what one mailbox took and the other did not would need a store that owns the rest."""
        return 1

    async def open(self) -> None:
        """Make the backends ready."""
        for backend in self._backends.values():
            await backend.open()

    async def close(self) -> None:
        """Close what the backends keep idle."""
        for backend in self._backends.values():
            await backend.close()

    async def verify_recipient(self, recipient: Address, *, is_smtputf8: bool, may_relay: bool) -> Verification:
        """Tell whether mail for `recipient` would be taken now; see Handoff."""
        backend = self.find_backend(recipient)
        if backend is None and may_relay and self._relay is not None:
            return await self._relay.verify(recipient, is_smtputf8=is_smtputf8)
        if backend is None:
            return Verification(RecipientStatus.NOT_OURS, reply=RELAYING_DENIED)
        verification = await backend.verify(recipient, is_smtputf8=is_smtputf8)
        if recipient.local.lower() not in _ALWAYS_TAKEN or verification.reply in (None, NO_SMTPUTF8):
            return verification
        # Unknown, full, or not to be asked now: taken all the same. What becomes of the message, its delivery tells.
        is_refused = verification.status is RecipientStatus.REFUSED
        return Verification(RecipientStatus.GOOD, deliver_to=self._postmaster if is_refused else recipient)

    async def deliver(self, envelope: Envelope, body: Sequence[bytes]) -> list[Outcome]:
        """Deliver now to the one recipient; see Handoff."""
        (recipient,) = envelope.recipients
        backend = self.find_backend(recipient.deliver_to) or self._relay
        if backend is None:  # the route went away since RCPT
            return [Outcome(DeliveryStatus.DEFERRED, MISCONFIGURED, "", "no route leads there any more")]
        return await backend.deliver(envelope, body)

    def find_backend(self, address: Address) -> Backend | None:
        """Give the backend that has the mailboxes of the address's domain; None where the domain is not ours."""
        domain = address.ascii_domain
        found = self._by_domain.get(domain)
        dot = domain.find(".")
        while found is None and dot >= 0:
            found = self._by_domain.get(domain[dot:])
            dot = domain.find(".", dot + 1)
        return found
