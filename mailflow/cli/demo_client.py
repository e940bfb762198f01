"""A real SMTP client that notes what both sides say: aiosmtplib, with the content sent byte for byte.

aiosmtplib's own DATA would repair line ends, and a repaired smuggling attempt shows nothing; so
content is written to its connection as it stands. Each sample has a connection of its own, under
TLS with the certificate verified.
"""

import ssl
from dataclasses import dataclass, field
from typing import Any

import aiosmtplib

from mailflow.cli.demo_messages import CLIENT_NAME, Sample

TIMEOUT_S = 10.0


@dataclass(slots=True)
class Dialogue:
    """What was said, in order: (speaker "C" or "S", line), as it went over the wire but for line ends.

    `fault` tells why it ended before its end, "" where it did not.
    """

    lines: list[tuple[str, str]] = field(default_factory=list)
    fault: str = ""

    @property
    def replies(self) -> list[str]:
        """Every line the server said."""
        return [line for speaker, line in self.lines if speaker == "S"]

    @property
    def is_ended_by_server(self) -> bool:
        """Tells that the last reply ended the session (421, or 521 for a client that cannot be trusted)."""
        return bool(self.replies) and self.replies[-1][:3] in ("421", "521")

    def add_reply(self, reply: aiosmtplib.SMTPResponse) -> None:
        """Note a reply, which may have several lines."""
        *first, last = reply.message.split("\n")
        self.lines += [("S", f"{reply.code}-{line}") for line in first]
        self.lines.append(("S", f"{reply.code} {last}"))


class NotingClient(aiosmtplib.SMTP):
    """aiosmtplib's client; `dialogue` has what was said since it was last replaced."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.dialogue = Dialogue()

    async def execute_command(self, *args: bytes, **options: Any) -> aiosmtplib.SMTPResponse:
        """Send a command, note it and its reply."""
        self.dialogue.lines.append(("C", b" ".join(args).decode()))
        reply = await super().execute_command(*args, **options)
        self.dialogue.add_reply(reply)
        return reply

    async def starttls(self, *args: Any, **options: Any) -> aiosmtplib.SMTPResponse:
        """Begin TLS, note it after the EHLO that aiosmtplib says first; the handshake itself is not shown."""
        reply = await super().starttls(*args, **options)
        self.dialogue.lines.append(("C", "STARTTLS"))
        self.dialogue.add_reply(reply)
        return reply

    async def send_content(self, octets: bytes, shown: list[str]) -> None:
        """Write `octets` after a 354 as they are, note `shown` for them, and read the reply."""
        self.dialogue.lines += [("C", line) for line in shown]
        assert self.protocol is not None
        self.protocol.write(octets)
        self.dialogue.add_reply(await self.protocol.read_response(timeout=TIMEOUT_S))


async def send_sample(address: str, tls: ssl.SSLContext, sample: Sample) -> tuple[Dialogue, Dialogue]:
    """Send one sample to `address` (host:port); give what was said up to TLS, and in the transaction.

    Never raises for what the server does: the dialogue then ends early and says why.
    """
    host, _, port = address.rpartition(":")
    client = NotingClient(
        hostname=host,
        port=int(port),
        local_hostname=CLIENT_NAME,
        timeout=TIMEOUT_S,
        tls_context=tls,
        start_tls=True,
    )
    greeting = client.dialogue
    try:
        opening = await client.connect()
        greeting.lines.insert(0, ("S", f"{opening.code} {opening.message}"))
        client.dialogue = Dialogue()
        await client.ehlo()
        client.dialogue = Dialogue()
        await _transact(client, sample)
    except (aiosmtplib.SMTPException, OSError) as exc:
        client.dialogue.fault = f"{type(exc).__name__}: {exc}"
    transaction = client.dialogue if client.dialogue is not greeting else Dialogue(fault=greeting.fault)
    await _leave(client, transaction)
    return greeting, transaction


async def _transact(client: NotingClient, sample: Sample) -> None:
    encoding = "utf-8" if "SMTPUTF8" in sample.options else "ascii"
    try:
        await client.mail(sample.sender, options=sample.options, encoding=encoding)
        await client.rcpt(sample.recipient, encoding=encoding)
    except aiosmtplib.SMTPResponseException:
        return  # the refusal is in the dialogue
    if (await client.execute_command(b"DATA")).code == 354:
        octets = sample.content
        if not sample.is_raw:
            octets = octets.replace(b"\r\n.", b"\r\n..") + b".\r\n"
        await client.send_content(octets, show_content(sample))


async def _leave(client: NotingClient, transaction: Dialogue) -> None:
    """Say QUIT, unless the server has ended the session: it waits for our close then, not for a command."""
    client.dialogue = Dialogue()
    try:
        if client.is_connected and not transaction.is_ended_by_server:
            await client.quit()
    except (aiosmtplib.SMTPException, OSError):
        pass
    finally:
        client.close()


def show_content(sample: Sample) -> list[str]:
    """Give the lines shown for the content: all of a raw one, bare LF made visible; of another the telling one."""
    lines = sample.content.decode().removesuffix("\r\n").split("\r\n")
    if sample.is_raw:
        return [line.replace("\n", "<LF>") for line in lines]
    telling = next(line for line in lines if line.startswith(sample.telling))
    return [f"{telling}  (of {len(sample.content)} octets)", "."]
