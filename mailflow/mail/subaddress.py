"""Subaddresses (RFC 5233): `alice+lists@example.org` is alice's mailbox with the detail `lists`.

Pure. The separator is the receiving domain's own affair, "" where it has none. A local part that
begins with the separator has no user before it, so it is no subaddress.
"""

from dataclasses import replace

from mailflow.mail.address import Address, AddressSyntaxError, parse_mailbox


def split_detail(address: Address, separator: str) -> tuple[Address, str]:
    """Give the address without its detail, and the detail without its separator; "" where there is none."""
    user, found, detail = address.local.partition(separator) if separator else (address.local, "", "")
    return (replace(address, local=user), detail) if user and found else (address, "")


def add_detail(address: Address, detail: str, separator: str) -> Address:
    """Give the address with this detail, unless it has one of its own or cannot take it: the mail matters more."""
    if not detail or not separator or split_detail(address, separator)[0] is not address:
        return address
    try:
        return parse_mailbox(str(replace(address, local=f"{address.local}{separator}{detail}")))
    except AddressSyntaxError:  # too long
        return address
