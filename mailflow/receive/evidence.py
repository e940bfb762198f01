"""What is known of a message when it is judged: the two senders, and what every check said.

Frozen: it is gathered once (authenticate.py), judged (verdict.py), explained (mailauth/explain.py), written into the
trace fields and the log, and none of them may change what another saw.
"""

from dataclasses import dataclass

from mailflow.mail.address import Address
from mailflow.mailauth.author import Author, AuthorFault
from mailflow.mailauth.result import ArcResult, AuthStatus, DkimResult, DmarcResult, SpfResult
from mailflow.receive.checks import ReverseName


@dataclass(frozen=True, slots=True)
class Evidence:
    """Facts about one message. `reverse_path` None is the null sender; `may_relay`: a client of ours.

    `dmarc` is None where the author cannot be told.
    """

    client_ip: str
    helo: str
    reverse_name: ReverseName
    reverse_path: Address | None
    author: Author | AuthorFault
    spf: SpfResult
    dkim: tuple[DkimResult, ...]
    arc: ArcResult
    dmarc: DmarcResult | None
    may_relay: bool = False

    @property
    def author_domain(self) -> str:
        """The author's domain in A-labels, "" where the author cannot be told."""
        return self.author.domain if isinstance(self.author, Author) else ""

    @property
    def envelope_from(self) -> str:
        """The envelope sender as text, "" for the null sender."""
        return str(self.reverse_path) if self.reverse_path else ""


def list_results(evidence: Evidence) -> list[tuple[str, AuthStatus]]:
    """Give each check's result with the method's name of RFC 8601, of DKIM each signature's."""
    return [
        ("iprev", evidence.reverse_name.status),
        ("spf", evidence.spf.status),
        *(("dkim", result.status) for result in evidence.dkim or (DkimResult(AuthStatus.NONE),)),
        ("arc", evidence.arc.status),
        ("dmarc", evidence.dmarc.status if evidence.dmarc else AuthStatus.NONE),
    ]
