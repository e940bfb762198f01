"""Domain names as text and on the wire. (RFC 1035 s3.1, 5890)

Pure. The canonical text made here is what caches, zones and answers hold: lower case, no trailing dot, A-labels, the
root as ".", and \\DDD for every octet that could be misread, so that splitting it at dots always gives the true labels:
a PTR whose first label is "a.example" must not end in ".example.com" by accident of printing. Input text is raw: SPF
macros make names out of whatever a sender wrote, blanks and backslashes included.
"""

import functools
import ipaddress
import re

import idna

from mailflow.dns.resolver import IpAddress

MAX_LABEL_OCTETS = 63
MAX_WIRE_OCTETS = 255

_PLAIN = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}")
_UNCLEAR = re.compile(r"[^!-\-/-\[\]-~]")
_ESCAPE = re.compile(r"\\(\d{3})")


def canonical_name(text: str) -> str | None:
    """The canonical form of a raw name, or None where it cannot be a DNS name.

    None for the empty string, an empty label, a label over 63 octets, a name over 253 characters (255 octets on the
    wire) and a U-label that IDNA 2008 (with UTS 46 mapping) rejects.
    """
    if len(text) > MAX_WIRE_OCTETS - 1:  # room for the trailing dot; bounds what is kept, and the work of IDNA
        return None
    return _canonical_name(text)


@functools.lru_cache(maxsize=4096)  # one message asks for some names a dozen times, and for those of its neighbours
def _canonical_name(text: str) -> str | None:
    if not text.isascii():
        mapped = _to_a_labels(text)
        if mapped is None:
            return None
        text = mapped
    text = text.lower()
    if text == ".":
        return text
    text = text.removesuffix(".")
    if _PLAIN.fullmatch(text) and len(text) <= MAX_WIRE_OCTETS - 2:
        return text
    labels = text.split(".")
    if len(text) > MAX_WIRE_OCTETS - 2 or not all(0 < len(label) <= MAX_LABEL_OCTETS for label in labels):
        return None
    return ".".join(_UNCLEAR.sub(_escape, label) for label in labels)


def name_from_labels(labels: tuple[bytes, ...]) -> str:
    """The canonical form of a name taken from the wire; a closing root label is ignored."""
    if labels and not labels[-1]:
        labels = labels[:-1]
    text = b".".join(labels).decode("latin-1").lower()
    if _PLAIN.fullmatch(text) and text.count(".") == len(labels) - 1:  # else a label holds a dot
        return text
    return ".".join(_UNCLEAR.sub(_escape, label.decode("latin-1")) for label in labels).lower() or "."


def name_to_wire(name: str) -> bytes:
    """A canonical name in wire format, uncompressed."""
    if name == ".":
        return b"\0"
    wire = bytearray()
    for label in name.split("."):
        octets = _ESCAPE.sub(lambda match: chr(int(match[1])), label).encode("latin-1")
        wire.append(len(octets))
        wire += octets
    wire.append(0)
    return bytes(wire)


def reverse_name(ip: IpAddress | str) -> str:
    """The name under in-addr.arpa or ip6.arpa that holds an address's PTR records (RFC 1035 s3.5, 3596 s2.5)."""
    return ipaddress.ip_address(ip).reverse_pointer


def _escape(match: re.Match[str]) -> str:
    return f"\\{ord(match[0]):03d}"


def _to_a_labels(text: str) -> str | None:
    # Mapped as a whole first: UTS 46 turns the ideographic full stops into dots. Labels that are ASCII stay as they
    # are: idna would refuse the underscore of _dmarc.
    try:
        mapped = idna.uts46_remap(text, std3_rules=False)
        labels = (label if label.isascii() else idna.alabel(label).decode("ascii") for label in mapped.split("."))
        return ".".join(labels)
    except (idna.IDNAError, UnicodeError):
        return None
