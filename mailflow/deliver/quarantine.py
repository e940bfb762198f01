"""Mail in quarantine: delivered, but so that its reader is warned. (RFC 9989 s4.7: "treat as suspicious")

The field says it to every filter behind us; by setting the mail goes to a subaddress too, which a mailbox server can
file apart. Pure. Whoever has no such subaddress (a relayed recipient, another separator) gets the field alone.
"""

from mailflow.mail.address import Address
from mailflow.mail.subaddress import add_detail, split_detail

QUARANTINE_FIELD = b"X-Spam-Flag: YES\r\n"


def quarantine_address(address: Address, subaddress: str, separator: str) -> Address:
    """Give where quarantined mail for `address` goes: its user with `subaddress` ("+Junk"), which replaces a detail.

    `separator` is the one of the address's domain.
    """
    if not subaddress or subaddress[0] != separator:
        return address
    user, _ = split_detail(address, separator)
    return add_detail(user, subaddress[1:], separator)
