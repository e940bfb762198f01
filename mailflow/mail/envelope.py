"""The envelope of one accepted message: who sent it, to whom, and what its way must be able to carry.

Made by the receiving side once, read by the delivering side; it never changes. The header's
author (HeaderFrom) is no part of it: envelope sender and author are two different senders.
"""

from dataclasses import dataclass

from mailflow.mail.address import Address


@dataclass(frozen=True, slots=True)
class Recipient:
    """One forward path: `address` as the client gave it, `deliver_to` the mailbox it leads to
    (another for postmaster, aliases and catch-all addresses). `is_relayed`: its domain was not ours at RCPT.
    """

    address: Address
    deliver_to: Address
    is_relayed: bool = False


@dataclass(frozen=True, slots=True)
class Envelope:
    """Envelope of one message. `reverse_path` None is the null sender `<>` (RFC 5321 s4.5.5).

    `is_smtputf8` asks the next hop for SMTPUTF8 (RFC 6531), `is_8bit` for 8BITMIME (RFC 6152). `is_quarantined`: to be
    delivered as suspicious.
    """

    id: str
    reverse_path: Address | None
    recipients: tuple[Recipient, ...]
    is_smtputf8: bool = False
    is_8bit: bool = False
    is_quarantined: bool = False
