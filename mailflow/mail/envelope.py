"""The envelope of one accepted message: who sent it, to whom, and what its way must be able to carry.

Made by the receiving side once, read by the delivering side; it never changes. The header's
author (HeaderFrom) is no part of it: envelope sender and author are two different senders.
"""

from dataclasses import dataclass
from enum import Flag

from mailflow.mail.address import Address


class Notify(Flag):
    """On which events the sender wants a DSN for a recipient (NOTIFY, RFC 3461 s4.1); no flag at all is NEVER."""

    NEVER = 0
    SUCCESS = 1
    FAILURE = 2
    DELAY = 4


@dataclass(frozen=True, slots=True)
class Recipient:
    """One forward path: `address` as the client gave it, `deliver_to` the mailbox it leads to
    (another for postmaster, aliases and catch-all addresses). `is_relayed`: its domain was not ours at RCPT.

    `destination` names where its way leads (a backend): mail that waits is shared out fairly between destinations.
    `notify` None is no NOTIFY parameter; `original_recipient` is ORCPT decoded, `type;address`, empty where none came.
    """

    address: Address
    deliver_to: Address
    is_relayed: bool = False
    destination: str = ""
    notify: Notify | None = None
    original_recipient: str = ""


@dataclass(frozen=True, slots=True)
class Envelope:
    """Envelope of one message. `reverse_path` None is the null sender `<>` (RFC 5321 s4.5.5).

    `is_smtputf8` asks the next hop for SMTPUTF8 (RFC 6531), `is_8bit` for 8BITMIME (RFC 6152). `is_quarantined`: to be
    delivered as suspicious. `may_report`: a DSN to the reverse path hits no stranger, since SPF or DMARC passed.
    `envelope_id` is ENVID decoded; `returns_full` tells whether RET asked for the whole message (RFC 3461 s4.3), None
    where there was no RET.
    """

    id: str
    reverse_path: Address | None
    recipients: tuple[Recipient, ...]
    is_smtputf8: bool = False
    is_8bit: bool = False
    is_quarantined: bool = False
    may_report: bool = False
    envelope_id: str = ""
    returns_full: bool | None = None
