"""What a signature field says: DKIM-Signature, and what ARC-Message-Signature shares with it. (RFC 6376 s3.5)

Sans-IO. Only what can be told from the field alone is judged here; times are compared by who knows the time.
"""

import re
from dataclasses import dataclass
from typing import Final

from mailflow.mailauth.canonical import Canonicalization
from mailflow.mailauth.dkim_tags import (
    Algorithm,
    permanent_fault,
    read_algorithm,
    read_base64,
    read_canonicalizations,
    read_domain,
    read_list,
    read_number,
    read_required,
    read_selector,
    read_signed_fields,
    to_domain,
)

_QUOTED_OCTET = re.compile(r"=([0-9A-F]{2})")
_LENGTH_DIGITS: Final = 76
_TIME_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class MessageSignature:
    """A signature over fields and body. `domain` and `selector` are A-labels, `signed_fields` names in lower case.

    `length` is l=, in octets of the canonical body; `signed_at` (t=) and `expires_at` (x=) are Unix times in seconds.
    """

    algorithm: Algorithm
    signature: bytes
    body_hash: bytes
    header_form: Canonicalization
    body_form: Canonicalization
    domain: str
    selector: str
    signed_fields: tuple[bytes, ...]
    length: int | None
    signed_at: int | None
    expires_at: int | None


def parse_message_signature(tags: dict[str, str], signed_fields: tuple[bytes, ...]) -> MessageSignature:
    """Read the tags that DKIM-Signature and ARC-Message-Signature share; raises SignatureFault.

    `signed_fields` is h=, of which the two ask different things.
    """
    header_form, body_form = read_canonicalizations(tags)
    signed_at = read_number(tags, "t", max_digits=_TIME_DIGITS)
    expires_at = read_number(tags, "x", max_digits=_TIME_DIGITS)
    if signed_at is not None and expires_at is not None and expires_at <= signed_at:
        raise permanent_fault("the signature ends (x=) before it begins (t=)")  # "MUST be greater"
    if "q" in tags and "dns/txt" not in read_list(tags["q"]):
        raise permanent_fault("the way to the key (q=) is not known")
    return MessageSignature(
        algorithm=read_algorithm(tags),
        signature=read_base64(tags, "b"),
        body_hash=read_base64(tags, "bh"),
        header_form=header_form,
        body_form=body_form,
        domain=read_domain(tags, "d"),
        selector=read_selector(tags),
        signed_fields=signed_fields,
        length=read_number(tags, "l", max_digits=_LENGTH_DIGITS),
        signed_at=signed_at,
        expires_at=expires_at,
    )


def parse_dkim_signature(tags: dict[str, str]) -> tuple[MessageSignature, str]:
    """Read a DKIM-Signature: the signature, and the domain of its i= as A-labels. Raises SignatureFault."""
    if read_required(tags, "v") != "1":
        raise permanent_fault("the version (v=) is not known")
    signature = parse_message_signature(tags, read_signed_fields(tags))
    return signature, _read_agent_domain(tags, signature.domain)


def _read_agent_domain(tags: dict[str, str], domain: str) -> str:
    """Read the domain of i=, which "MUST be the same as, or a subdomain of" d=; d= where there is no i=."""
    if "i" not in tags:
        return domain
    text = tags["i"].replace(" ", "").replace("\t", "")
    _, at, agent_text = _QUOTED_OCTET.sub(lambda match: chr(int(match[1], 16)), text).rpartition("@")
    agent_domain = to_domain(agent_text)
    if not at or agent_domain is None:
        raise permanent_fault("the identity (i=) is no address")
    if agent_domain != domain and not agent_domain.endswith("." + domain):
        raise permanent_fault("the identity (i=) is not of the signing domain (d=)")
    return agent_domain
