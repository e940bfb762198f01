"""Which entries an operator means: a Filter held against an entry. Pure."""

from mailflow.mail.address import Address
from mailflow.store.store import Corrupt, Entry, Filter, State


def matches(entry: Entry | Corrupt, wanted: Filter) -> bool:
    """Tell whether an entry is meant; a corrupt one always is where no other state than SET_ASIDE is asked for."""
    if isinstance(entry, Corrupt):
        return wanted.state in (None, State.SET_ASIDE)
    envelope = entry.envelope
    recipients = [address for r in envelope.recipients for address in (r.address, r.deliver_to)]
    return (
        (wanted.state is None or entry.state is wanted.state)
        and (wanted.min_age_s is None or entry.age_s >= wanted.min_age_s)
        and (wanted.error is None or wanted.error.casefold() in entry.last_error.casefold())
        and (wanted.sender is None or _is_named(envelope.reverse_path, wanted.sender))
        and (wanted.recipient is None or any(_is_named(address, wanted.recipient) for address in recipients))
        and (wanted.domain is None or _has_domain([envelope.reverse_path, *recipients], wanted.domain))
    )


def _is_named(address: Address | None, text: str) -> bool:
    if address is None:
        return text in ("", "<>")
    return text.casefold() in (str(address).casefold(), f"{address.local}@{address.ascii_domain}".casefold())


def _has_domain(addresses: list[Address | None], text: str) -> bool:
    domain = text.casefold()
    return any(a is not None and domain in (a.domain.casefold(), a.ascii_domain) for a in addresses)
