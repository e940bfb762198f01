"""Checks on the client, the sender's domain and the header that stand before any authentication.

DNS facts are evidence: no answer, no reverse name, an unresolvable sender refuse nobody. Two things
are decided here: a sender domain that says it sends and takes no mail (null MX, RFC 7505), and a
message that has been here before (loops, RFC 5321 s6.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from mailflow.dns import AnswerStatus, DnsTemporary, Resolver, lookup_addresses, lookup_mx, lookup_ptr
from mailflow.mail.address import Address, AddressSyntaxError, parse_mailbox
from mailflow.mail.headers import HeaderTooLarge
from mailflow.mail.reply import ProtocolError, Reply
from mailflow.mailauth.result import AuthStatus
from mailflow.mailauth.signed_message import SignedMessage

MAX_RECEIVED_FIELDS = 50
MAX_DELIVERED_TO_FIELDS = 50
MAX_REVERSE_NAMES = 10  # as many as RFC 7208 s4.6.4 lets SPF look at

NULL_MX_SENDER = Reply(550, "5.7.27", "Sender domain does not take mail (null MX, RFC 7505)")
HEADER_TOO_LARGE = Reply(554, "5.6.0", "Message header is too large")
LOOP = Reply(554, "5.4.6", "Mail loop: this message has been here before")


@dataclass(frozen=True, slots=True)
class ReverseName:
    """Does the client's reverse name lead back to its address? (iprev, RFC 8601 s2.7.3)

    `name` is "" unless it does: pass. Otherwise fail (it has names, none with this address), permerror (it has none)
    or temperror.
    """

    status: AuthStatus
    name: str = ""


async def verify_client_name(resolver: Resolver, ip: str) -> ReverseName:
    """Look for a reverse name of the client that leads back to its address.

    `resolver` should carry a budget. DNS failure at one name's addresses does not hide the next name. `ip` may be
    "": a client that has gone before it was looked at has no address any more.
    """
    if not ip:
        return ReverseName(AuthStatus.PERMERROR)
    client = ip_address(ip.partition("%")[0])
    try:
        names = (await lookup_ptr(resolver, client)).records
    except DnsTemporary:
        return ReverseName(AuthStatus.TEMPERROR)
    status = AuthStatus.FAIL if names else AuthStatus.PERMERROR
    for name in names[:MAX_REVERSE_NAMES]:
        try:
            addresses = await lookup_addresses(resolver, name, family=client.version)
        except DnsTemporary:
            status = AuthStatus.TEMPERROR
            continue
        if client in addresses.records:
            return ReverseName(AuthStatus.PASS, name)
    return ReverseName(status)


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


def take_message(content: bytes, *, max_header_bytes: int) -> SignedMessage:
    """Split a message. Raises ProtocolError 554 5.6.0 where its header exceeds `max_header_bytes` or MAX_FIELDS."""
    try:
        return SignedMessage(content, max_header_bytes=max_header_bytes)
    except HeaderTooLarge as exc:
        raise ProtocolError(HEADER_TOO_LARGE) from exc


def refuse_loop(message: SignedMessage, recipients: Sequence[Address]) -> None:
    """Raise 554 5.4.6 where the message came through too many hands or was already delivered to a recipient."""
    if len(message.positions(b"received")) > MAX_RECEIVED_FIELDS:
        raise ProtocolError(LOOP)
    delivered_to = message.positions(b"delivered-to")
    if len(delivered_to) > MAX_DELIVERED_TO_FIELDS:
        raise ProtocolError(LOOP)
    if any(_names_any(message.fields[position].value, recipients) for position in delivered_to):
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
