"""STARTTLS where the timing matters: a dialogue file cannot say which octets share a segment with the handshake."""

import asyncio
import ssl
from pathlib import Path

import pytest

from tests.scenario.client import SmtpClient
from tests.scenario.service import Certificate, serve


class PatientTls:
    """A TLS client by hand, which decides itself when what it encrypted leaves."""

    def __init__(self, client: SmtpClient, chain: Path) -> None:
        self._client = client
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=str(chain))
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="mx.test")

    async def shake_hands(self) -> None:
        """Shake hands; the client's last flight is not sent yet."""
        while True:
            try:
                return self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self.send_pending()
                await self._receive()

    def encrypt(self, data: bytes) -> None:
        """Encrypt `data` behind whatever was not sent yet."""
        self._tls.write(data)

    def send_pending(self) -> None:
        """Send what was encrypted, as one segment."""
        self._client.send(self._outgoing.read())

    async def read_to(self, end: bytes) -> bytes:
        """Read plain text up to and with `end`."""
        received = b""
        while not received.endswith(end):
            try:
                received += self._tls.read(65536)
            except ssl.SSLWantReadError:
                await self._receive()
        return received

    async def _receive(self) -> None:
        async with asyncio.timeout(5):
            data = await self._client.reader.read(65536)
        assert data, "the server closed"
        self._incoming.write(data)


@pytest.mark.parametrize("size", [0, 40000])
async def test_what_comes_in_one_segment_with_the_end_of_the_handshake_is_heard(
    size: int, tmp_path: Path, certificate: Certificate
) -> None:
    async with serve(tmp_path, certificate=certificate) as service:
        client = await service.greeted()
        assert (await client.command("STARTTLS")).startswith("220")
        tls = PatientTls(client, certificate.chain)
        await tls.shake_hands()
        count = size // 6
        tls.encrypt(b"NOOP\r\n" * count + b"EHLO client.test\r\n")
        tls.send_pending()
        heard = await tls.read_to(b"250 LIMITS RCPTMAX=1\r\n")
    assert heard.startswith(b"250 2.0.0 Ok\r\n" * count + b"250-mx.test\r\n")


async def test_handshake_that_never_begins_meets_the_deadline(tmp_path: Path, certificate: Certificate) -> None:
    async with serve(tmp_path, config="[mx]\ncommand_timeout_s = 0.3\n", certificate=certificate) as service:
        client = await service.connect()
        await client.reply()
        assert (await client.command("STARTTLS")).startswith("220")
        assert await client.rest() == b""
    assert service.count("mailflow_tls_handshakes_total", result="failed") == 1


async def test_plain_text_in_a_segment_of_its_own_is_not_taken_as_a_command(
    tmp_path: Path, certificate: Certificate
) -> None:
    async with serve(tmp_path, certificate=certificate) as service:
        client = await service.connect()
        await client.reply()
        assert (await client.command("STARTTLS")).startswith("220")
        client.send(b"NOOP\r\n" * 10000)
        assert b"250" not in await read_until_cut(client)
    assert service.count("mailflow_tls_handshakes_total", result="done") == 0


async def test_received_field_tells_of_tls(tmp_path: Path, certificate: Certificate) -> None:
    zone = {"127.0.0.1": [{"PTR": "client.test"}], "client.test": [{"A": "127.0.0.1"}]}
    async with serve(tmp_path, certificate=certificate, zone=zone) as service:
        client = await service.greeted()
        await client.command("STARTTLS")
        await client.start_tls(certificate.chain)
        await client.command("EHLO helo.test")
        await client.command("MAIL FROM:<bob@client.test>")
        await client.command("RCPT TO:<alice@example.org>")
        await client.command("DATA")
        client.send(b"hello\r\n.\r\n")
        assert (await client.reply()).startswith("250 2.0.0 Ok ")
    (message,) = service.delivered()
    assert b"\r\nReceived: from helo.test (client.test [127.0.0.1])\r\n\t(using TLSv1.3 with cipher TLS_" in message
    assert b"\r\n\tby mx.test with ESMTPS id " in message
    assert b" for <alice@example.org>;\r\n\t" in message


async def read_until_cut(client: SmtpClient) -> bytes:
    try:
        return await client.rest()
    except ConnectionResetError:
        return b""
