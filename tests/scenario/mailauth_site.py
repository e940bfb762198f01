"""Mail with an author, and a DNS that knows its senders: what the scenarios about authentication share.

The client is 127.0.0.1, the author ceo@bank.example, whose domain asks to reject what nothing stands for.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from structlog.typing import EventDict

from mailflow.dns import RdType
from tests.dkim_keys import ed25519_key, key_record, sign_with_tags
from tests.scenario.client import LineReader, SmtpClient
from tests.scenario.memory import MemoryClient

Zone = dict[str, list[Any]]

ENFORCE = '[mailauth]\ndmarc = "enforce"\n'
CONTENT = b"From: Ceo <ceo@bank.example>\r\nTo: <alice@example.org>\r\nSubject: Hello\r\n\r\nHello Alice\r\n"
SIGNED = sign_with_tags(CONTENT, ed25519_key(), d="bank.example", s="s")
KEY = "s._domainkey.bank.example"
PERMITTED = [{"TXT": "v=spf1 ip4:127.0.0.1 -all"}]
FORBIDDEN = [{"TXT": "v=spf1 ip4:192.0.2.20 -all"}]
ZONE: Zone = {
    "127.0.0.1": [{"PTR": "mail.client.example"}],
    "mail.client.example": [{"A": "127.0.0.1"}],
    "bank.example": FORBIDDEN,
    "news.bank.example": PERMITTED,
    "_dmarc.bank.example": [{"TXT": "v=DMARC1; p=reject"}],
    KEY: [{"TXT": key_record(ed25519_key())}],
    "attacker.example": PERMITTED,
}


def asking(policy: str) -> Zone:
    """The zone with another DMARC record of the bank."""
    return ZONE | {"_dmarc.bank.example": [{"TXT": f"v=DMARC1; {policy}"}]}


def key_of(name: str, rdtype: RdType | str) -> tuple[str, str]:
    """What a question is recognized by."""
    return name.rstrip(".").lower(), RdType(rdtype).value


async def send(
    client: SmtpClient | MemoryClient, content: bytes = CONTENT, *, sender: str = "x@attacker.example"
) -> str:
    """Bring one message to Alice; the reply to its content. `content` needs no dot-stuffing."""
    for line in (f"MAIL FROM:<{sender}>", "RCPT TO:<alice@example.org>", "DATA"):
        client.send(line.encode() + b"\r\n")
        reply = await LineReader.reply(client)
        assert reply[0] in "23", reply
    client.send(content + b".\r\n")
    return await LineReader.reply(client)


def decisions(events: Iterable[Mapping[str, Any] | EventDict]) -> list[dict[str, Any]]:
    """The events of messages, in order."""
    return [dict(event) for event in events if event["event"] == "message"]


def split_ours(delivered: bytes) -> tuple[list[bytes], bytes]:
    """Take our own fields off the top of a delivered message: those as whole fields, and the rest.

    The mailbox's two, Authentication-Results, Received-SPF where there is one, and Received, which is the last.
    """
    fields: list[bytes] = []
    rest = delivered
    while not (fields and fields[-1].startswith(b"Received:")):
        end = rest.index(b"\r\n") + 2
        while rest[end : end + 1] in (b" ", b"\t"):
            end = rest.index(b"\r\n", end) + 2
        fields.append(rest[:end])
        rest = rest[end:]
    return fields, rest
