"""What an SMTP session knows: of its listener, of its client, of the transaction under way.

Client and Transaction are aiosmtpd's Session and Envelope with what we add, so that a handler written
for aiosmtpd finds what it looks for.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from aiosmtpd.smtp import Envelope, Session

from mailflow.mail.envelope import Recipient
from mailflow.smtp.commands import Mail, Rcpt
from mailflow.smtp.data import ChunkReader


@dataclass(frozen=True, slots=True)
class SmtpOptions:
    """What one listener allows. Times in seconds, sizes in octets.

    `has_dsn` offers DSN (RFC 3461): only where what was taken can be stored, or nobody would be left to send one.
    """

    hostname: str
    max_message_bytes: int = 52428800
    max_recipients: int = 1000
    max_errors: int = 20
    max_unknown_users: int = 10
    max_line_octets: int = 2048
    command_timeout_s: float = 300
    data_timeout_s: float = 180
    min_data_rate: float = 100
    normalizes_newlines: bool = False
    has_dsn: bool = False


@dataclass(frozen=True, slots=True)
class ProxiedPeer:
    """What a PROXY header told: the client's address and port, None where it told none (LOCAL, UNKNOWN)."""

    source: tuple[str, int] | None


class Client(Session):
    """The session's facts; aiosmtpd's Session with what we add. `tls` is version and cipher, None in plain text."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.ip = ""
        self.may_mail = True  # False where a load balancer speaks for itself: whose mail it were, nobody knows
        self.tls: tuple[str, str] | None = None
        self.errors = 0
        self.unknown_users = 0
        self.context: Any = None  # the handler's own, for what it learns about this client


class Transaction(Envelope):
    """One mail transaction; aiosmtpd's Envelope with the parsed commands and what it holds of the budget."""

    def __init__(self) -> None:
        super().__init__()
        self.mail: Mail | None = None
        self.rcpt: Rcpt | None = None  # the RCPT command being judged
        self.recipients: list[Recipient] = []
        self.reserved_bytes = 0
        self.kept_bytes = 0
        self.declared_at = 0.0  # in loop time
        self.chunks_began_at = 0.0
        self.chunk_octets = 0
        self.chunks: ChunkReader | None = None
        self.has_failed = False
