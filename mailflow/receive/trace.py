"""What we put on top of a message: Authentication-Results, Received-SPF by setting, Received.

In this order: Received-SPF belongs above the Received field of the same hop (RFC 7208 s9.1), and what the results are
about is what had been received (RFC 8601 s4).
"""

from mailflow.mail.trace import Hop, received_field
from mailflow.mailauth.authentication_results import authentication_results_field
from mailflow.mailauth.received_spf import received_spf_field
from mailflow.receive.evidence import Evidence
from mailflow.smtp.transaction import Client, Transaction


def trace_fields(
    session: Client,
    envelope: Transaction,
    evidence: Evidence,
    *,
    id: str,
    at: float,
    hostname: str,
    authserv_id: str,
    writes_received_spf: bool,
) -> bytes:
    """Write them, with CRLF. `at` is Unix time in seconds."""
    fields = [
        authentication_results_field(
            authserv_id,
            spf=evidence.spf,
            mail_from=evidence.envelope_from,
            helo=evidence.helo,
            dkim=evidence.dkim,
            arc=evidence.arc,
            dmarc=evidence.dmarc,
            author_domain=evidence.author_domain,
            iprev=evidence.reverse_name.status,
            client_ip=evidence.client_ip,
        )
    ]
    if writes_received_spf:
        fields.append(
            received_spf_field(
                evidence.spf,
                mail_from=evidence.envelope_from,
                helo=evidence.helo,
                client_ip=evidence.client_ip,
                receiver=hostname,
            )
        )
    hop = Hop(
        helo=evidence.helo,
        client_ip=evidence.client_ip,
        client_name=evidence.reverse_name.name or None,
        protocol=_protocol(session, envelope),
        tls=session.tls,
    )
    (recipient,) = envelope.recipients if len(envelope.recipients) == 1 else (None,)
    fields.append(
        received_field(hop, hostname=hostname, id=id, recipient=recipient.address if recipient else None, at=at)
    )
    return b"".join(fields)


def _protocol(session: Client, envelope: Transaction) -> str:
    """Give the transmission type of RFC 3848 and RFC 6531 s4.3."""
    secured = "S" if session.tls else ""
    if envelope.mail and envelope.mail.is_smtputf8:
        return f"UTF8SMTP{secured}"
    return f"ESMTP{secured}" if session.extended_smtp else "SMTP"
