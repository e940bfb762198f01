"""Checks on the client, the sender's domain and the header that stand before any authentication.

DNS facts are evidence: no answer, no reverse name, an unresolvable sender refuse nobody. Two things
are decided here: a sender domain that says it sends and takes no mail (null MX, RFC 7505), and a
message that has been here before (loops, RFC 5321 s6.3).
"""

from collections.abc import Sequence
from ipaddress import ip_address

from mailflow.dns import AnswerStatus, DnsTemporary, Resolver, lookup_addresses, lookup_mx, lookup_ptr
from mailflow.mail.address import Address, AddressSyntaxError, parse_mailbox
from mailflow.mail.headers import header_length, iter_fields
from mailflow.mail.reply import ProtocolError, Reply

MAX_RECEIVED_FIELDS = 50
MAX_DELIVERED_TO_FIELDS = 50
MAX_REVERSE_NAMES = 10  # as many as RFC 7208 s4.6.4 lets SPF look at

NULL_MX_SENDER = Reply(550, "5.7.27", "Sender domain does not take mail (null MX, RFC 7505)")
LOOP = Reply(554, "5.4.6", "Mail loop: this message has been here before")


async def verify_client_name(resolver: Resolver, ip: str) -> str | None:
    """Give the client's reverse name if it leads back to its address (iprev, RFC 8601 s3), else None.

    `resolver` should carry a budget. DNS failure is None, at one name's addresses only for that name. `ip` may be
    "": a client that has gone before it was looked at has no address any more.
    """
    if not ip:
        return None
    client = ip_address(ip.partition("%")[0])
    try:
        names = (await lookup_ptr(resolver, client)).records
    except DnsTemporary:
        return None
    for name in names[:MAX_REVERSE_NAMES]:
        try:
            addresses = await lookup_addresses(resolver, name, family=client.version)
        except DnsTemporary:
            continue
        if client in addresses.records:
            return name
    return None


async def refuse_null_mx(resolver: Resolver, reverse_path: Address | None) -> None:
    """Raise 550 5.7.27 where the sender's domain has a null MX (RFC 7505 s4.2); DNS failure refuses nobody."""
    if reverse_path is None or reverse_path.domain.startswith("["):
        return
    try:
        answer = await lookup_mx(resolver, reverse_path.ascii_domain)
    except DnsTemporary:
        return
    if answer.status is AnswerStatus.FOUND and all(record.is_null for record in answer.records):
        raise ProtocolError(NULL_MX_SENDER)


def take_header(content: bytes, *, max_bytes: int) -> bytes:
    """Give the header section. Raises ProtocolError 554 5.6.0 where it exceeds `max_bytes`."""
    length = header_length(content, max_bytes=max_bytes)
    if length > max_bytes:
        raise ProtocolError(Reply(554, "5.6.0", "Message header is too large"))
    return content[:length]


def refuse_loop(header: bytes, recipients: Sequence[Address]) -> None:
    """Raise 554 5.4.6 where the message came through too many hands or was already delivered to a recipient."""
    fields = list(iter_fields(header))
    delivered_to = [value for name, value in fields if name == b"delivered-to"]
    if sum(name == b"received" for name, _ in fields) > MAX_RECEIVED_FIELDS:
        raise ProtocolError(LOOP)
    if len(delivered_to) > MAX_DELIVERED_TO_FIELDS or any(_names_any(value, recipients) for value in delivered_to):
        raise ProtocolError(LOOP)


def _names_any(value: bytes, recipients: Sequence[Address]) -> bool:
    text = value.decode("utf-8", "replace").strip().removeprefix("<").removesuffix(">")
    try:
        delivered_to = parse_mailbox(text)
    except AddressSyntaxError:
        return False
    return any(
        delivered_to.ascii_domain == recipient.ascii_domain
        and delivered_to.local.casefold() == recipient.local.casefold()
        for recipient in recipients
    )
