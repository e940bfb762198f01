"""Reading the DKIM suites' files: messages with the line ends of the wire, and the times they were signed at."""

import email.utils
import pathlib

from mailflow.mailauth.dkim_tags import parse_tag_list
from mailflow.mailauth.signed_message import SignedMessage
from mailflow.testing import ZoneResolver


def read_message(path: pathlib.Path) -> bytes:
    """Read a message; the suites hold most with bare LF."""
    return to_wire(path.read_bytes())


def to_wire(message: bytes) -> bytes:
    return message.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def signing_time(message: bytes) -> float:
    """Give the time of the first t=, else 0: the suites' messages are old and some have expired since."""
    view = SignedMessage(message)
    for position in view.positions(b"dkim-signature"):
        tags = parse_tag_list(view.fields[position].value)
        if "t" in tags:
            return float(tags["t"])
    return 0.0


def receiving_time(message: bytes) -> float | None:
    """Give the time in the topmost Received field, None without one."""
    view = SignedMessage(message)
    for position in view.positions(b"received")[:1]:
        date = view.fields[position].value.decode("ascii", "replace").rpartition(";")[2]
        return email.utils.parsedate_to_datetime(date.strip()).timestamp()
    return None


def resolver(keys: dict[str, str]) -> ZoneResolver:
    """Make a resolver that holds these key records by name."""
    return ZoneResolver({name: [{"TXT": record}] for name, record in keys.items()})
