"""LMTP under TLS: from the first byte or by STARTTLS, verified, and never given up."""

import asyncio
import ssl
from pathlib import Path

import pytest

from mailflow.mail.address import parse_mailbox
from mailflow.mail.handoff import FinalDot
from mailflow.smtp.lmtp import LmtpConnection
from mailflow.smtp.lmtp_connect import LmtpServer, TlsMode, connect_lmtp
from mailflow.smtp.lmtp_errors import LmtpError, LmtpOutOfStep, LmtpUnreachable
from tests.certificates import write_pair
from tests.lmtp_server import Action, LmtpTestServer, Session, close, say, send, silent

ALICE = parse_mailbox("alice@example.org")


def make_contexts(folder: Path, host: str = "localhost") -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a server with a certificate for `host`, and of a client that trusts it."""
    certificate, key = write_pair(folder, host=host)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=str(certificate))


async def connect(server: LmtpTestServer, tls: TlsMode, context: ssl.SSLContext, seconds: float = 5) -> LmtpConnection:
    deadline = asyncio.get_running_loop().time() + seconds
    return await connect_lmtp(
        LmtpServer("localhost", server.port), hostname="mx.example.org", tls=tls, tls_context=context, deadline=deadline
    )


async def deliver(connection: LmtpConnection, body: bytes) -> int:
    deadline = asyncio.get_running_loop().time() + 5
    await connection.open_transaction(
        None, [ALICE], size_bytes=len(body), is_8bit=False, is_smtputf8=False, deadline=deadline
    )
    await connection.send_content([body], FinalDot(), deadline=deadline)
    return (await connection.read_answer(deadline=deadline)).reply.code


@pytest.mark.parametrize("tls", ["starttls", "tls"])
async def test_a_message_larger_than_any_buffer_arrives_under_tls(tls: TlsMode, tmp_path: Path) -> None:
    server_context, client_context = make_contexts(tmp_path)
    body = (b"y" * 98 + b"\r\n") * 20_000
    async with LmtpTestServer(tls_context=server_context, is_tls_implicit=tls == "tls") as server:
        connection = await connect(server, tls, client_context)
        assert await deliver(connection, body) == 250
        assert server.messages[0].content == body
        assert connection.is_reusable
        connection.quit()
        await server.reached("QUIT")


async def test_what_was_offered_in_plain_text_counts_no_more_after_starttls(tmp_path: Path) -> None:
    server_context, client_context = make_contexts(tmp_path)
    async with LmtpTestServer(tls_context=server_context, capabilities=["SMTPUTF8"]) as server:
        server.at["STARTTLS"] = forget_capabilities
        connection = await connect(server, "starttls", client_context)
        assert not connection.capabilities.has_smtputf8
        assert [line for _, line in server.commands] == ["LHLO mx.example.org", "STARTTLS", "LHLO mx.example.org"]
        connection.abort()


async def forget_capabilities(session: Session, usual: bytes) -> None:
    session.server.capabilities.clear()
    session.send(usual)


@pytest.mark.parametrize("injected", [b"250 2.0.0 believe me\r\n", b"250-unfinished", b"\r\n"])
async def test_plain_text_behind_the_answer_to_starttls_is_an_attack(injected: bytes, tmp_path: Path) -> None:
    server_context, client_context = make_contexts(tmp_path)
    async with LmtpTestServer(tls_context=server_context) as server:
        server.at["STARTTLS"] = send(b"220 2.0.0 go ahead\r\n" + injected)
        with pytest.raises(LmtpOutOfStep):
            await connect(server, "starttls", client_context)


async def test_a_server_without_starttls_is_unreachable_rather_than_used_in_plain_text(tmp_path: Path) -> None:
    _, client_context = make_contexts(tmp_path)
    async with LmtpTestServer() as server:
        with pytest.raises(LmtpUnreachable, match="STARTTLS"):
            await connect(server, "starttls", client_context)
        await server.reached("CLOSED")


async def test_a_server_that_refuses_starttls_is_unreachable(tmp_path: Path) -> None:
    server_context, client_context = make_contexts(tmp_path)
    async with LmtpTestServer(tls_context=server_context) as server:
        server.at["STARTTLS"] = say("454 4.7.0 not now")
        with pytest.raises(LmtpUnreachable, match="454"):
            await connect(server, "starttls", client_context)


@pytest.mark.parametrize("tls", ["starttls", "tls"])
async def test_a_certificate_for_another_name_is_refused(tls: TlsMode, tmp_path: Path) -> None:
    server_context, client_context = make_contexts(tmp_path, host="other.example")
    async with LmtpTestServer(tls_context=server_context, is_tls_implicit=tls == "tls") as server:
        with pytest.raises(LmtpUnreachable, match=r"(?i)certificate"):
            await connect(server, tls, client_context)


async def go_ahead_and_hang(session: Session, usual: bytes) -> None:
    session.send(usual)
    await silent()(session, usual)


@pytest.mark.parametrize("action", [go_ahead_and_hang, close("220 2.0.0 go ahead")])
async def test_a_handshake_that_comes_to_nothing_is_no_session(action: Action, tmp_path: Path) -> None:
    server_context, client_context = make_contexts(tmp_path)
    async with LmtpTestServer(tls_context=server_context) as server:
        server.at["STARTTLS"] = action
        with pytest.raises(LmtpError):
            await connect(server, "starttls", client_context, seconds=0.3)


async def test_tls_over_a_unix_socket_or_without_a_context_is_a_mistake_of_ours() -> None:
    for server in (LmtpServer(unix_path="/x"), LmtpServer("localhost", 24)):
        with pytest.raises(ValueError, match="TLS"):
            await connect_lmtp(server, hostname="mx", tls="tls", deadline=0)
