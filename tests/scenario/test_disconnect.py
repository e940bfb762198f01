"""Clients that go: by FIN, RST or half-close, in every state of a session; the hand-off goes on by itself.

What holds in the end (sessions ended, bytes given back, no exception of ours) is asserted by `serve`.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.lmtp_server import LmtpTestServer, late
from tests.scenario.client import SmtpClient
from tests.scenario.service import MAILDIR, RunningService, serve

ENVELOPE = b"EHLO client.test\r\nMAIL FROM:<bob@client.test>\r\nRCPT TO:<alice@example.org>\r\n"
STATES = {
    "before the banner is read": b"",
    "inside a command": b"EHL",
    "behind EHLO": b"EHLO client.test\r\n",
    "behind MAIL": b"EHLO client.test\r\nMAIL FROM:<bob@client.test> SIZE=1000\r\n",
    "behind RCPT": ENVELOPE,
    "behind 354": ENVELOPE + b"DATA\r\n",
    "inside the header": ENVELOPE + b"DATA\r\nSubject: he",
    "inside a line end": ENVELOPE + b"DATA\r\nhello\r",
    "inside the final dot": ENVELOPE + b"DATA\r\nhello\r\n.\r",
    "inside a chunk": ENVELOPE + b"BDAT 1000\r\nhello",
    "between two chunks": ENVELOPE + b"BDAT 7\r\nhello\r\n",
    "inside a swallowed chunk": b"BDAT 1000\r\nhello",
    "behind STARTTLS": b"EHLO client.test\r\nSTARTTLS\r\n",
    "behind QUIT": b"QUIT\r\n",
    "behind an error that closes": b"GET / HTTP/1.1\r\n",
}


@pytest.mark.parametrize("leave", [SmtpClient.close, SmtpClient.half_close, SmtpClient.reset])
async def test_client_that_goes_in_any_state_leaves_nothing_behind(
    leave: Callable[[SmtpClient], None], tmp_path: Path
) -> None:
    async with serve(tmp_path) as service:
        for sent in STATES.values():
            client = await service.connect()
            if sent:
                await client.reply()  # accepted by now: what is sent is read before the FIN
            await client.send_all(sent)
            leave(client)
        other = await service.greeted()
        assert (await other.command("NOOP")).startswith("250")
    assert service.all_delivered() == []


async def test_clients_reset_before_they_are_accepted_harm_nothing(tmp_path: Path) -> None:
    async with serve(tmp_path, config="[mx]\nmax_connections_per_client = 1000\n") as service:
        for _ in range(100):
            # Without a turn of the loop in between: the worker accepts what is gone already and has no peer name.
            with socket.create_connection(("127.0.0.1", service.port)) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        other = await service.greeted()
        assert (await other.command("NOOP")).startswith("250")


@asynccontextmanager
async def serve_slow_backend(folder: Path) -> AsyncGenerator[tuple[RunningService, LmtpTestServer]]:
    """Serve with an LMTP backend that answers the final dot once `release` is set."""
    async with LmtpTestServer() as backend:
        backend.at["DOT"] = late()
        table = MAILDIR.replace('maildir = "mail"', f'lmtp = ["{backend}"]')
        async with serve(folder, backend=table) as service:
            yield service, backend
            backend.release.set()


async def send_message(client: SmtpClient) -> None:
    """Send a message whole, with its final dot; nothing of the last reply is read."""
    await client.send_all(ENVELOPE + b"DATA\r\n")
    while not (await client.line()).startswith(b"354"):
        pass
    await client.send_all(b"Message-ID: <one@client.test>\r\n\r\nhello\r\n.\r\n")


@pytest.mark.parametrize("leave", [SmtpClient.close, SmtpClient.half_close, SmtpClient.reset])
async def test_hand_off_goes_on_when_the_client_goes_behind_the_final_dot(
    leave: Callable[[SmtpClient], None], tmp_path: Path
) -> None:
    async with serve_slow_backend(tmp_path) as (service, backend):
        client = await service.connect()
        await send_message(client)
        await backend.reached("DOT")
        leave(client)
        other = await service.greeted()
        assert await other.command("NOOP") == "250 2.0.0 Ok"
        assert service.count("mailflow_messages_total", listener="mx", action="accept") == 0
        backend.release.set()
    assert len(backend.messages) == 1
    assert service.count("mailflow_messages_total", listener="mx", action="accept") == 1
    assert service.count("mailflow_handoff_seconds_count", backend="mailboxes", outcome="delivered") == 1


async def test_half_close_during_the_hand_off_still_gets_the_reply(tmp_path: Path) -> None:
    async with serve_slow_backend(tmp_path) as (service, backend):
        client = await service.connect()
        await send_message(client)
        client.half_close()
        await backend.reached("DOT")
        backend.release.set()
        assert (await client.reply()).startswith("250 2.0.0 Ok ")
        assert await client.rest() == b""


async def test_drain_waits_for_a_hand_off_and_its_reply_is_told(tmp_path: Path) -> None:
    async with serve_slow_backend(tmp_path) as (service, backend):
        client = await service.connect()
        await send_message(client)
        await backend.reached("DOT")
        service.begin_drain()
        await asyncio.sleep(0)
        backend.release.set()
        assert (await client.reply()).startswith("250 2.0.0 Ok ")
        assert await client.rest() == b"421 4.3.2 Service shutting down, try again later\r\n"


async def test_ten_hand_offs_whose_clients_go_disturb_no_other(tmp_path: Path) -> None:
    async with serve_slow_backend(tmp_path) as (service, backend):
        clients = [await service.connect() for _ in range(20)]
        leaving, staying = clients[:10], clients[10:]
        for client in clients:
            await send_message(client)
        await backend.reached("DOT", 20)
        for index, client in enumerate(leaving):
            (client.reset, client.close, client.half_close)[index % 3]()
        backend.release.set()
        for client in staying:
            assert (await client.reply()).startswith("250 2.0.0 Ok ")
    assert len(backend.messages) == 20
