"""Mail through mailflow into a real Dovecot and back out over IMAP: not a byte of it changes on the way."""

import asyncio
import re
import smtplib
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.certificates import write_pair
from tests.integration.dovecot_server import Dovecot
from tests.integration.mail_client import MailClient
from tests.integration.mailflow_process import MailflowProcess, route
from tests.servers import require_program

TRACE_FIELD = re.compile(
    rb"(Return-Path|Delivered-To|Received|Authentication-Results):[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*"
)
HEADER = b"From: <a@sender.example>\r\nTo: <alice@example.org>\r\nSubject: %b\r\nMessage-ID: <%b@sender.example>\r\n"
LOREM = b"Nothing in this line is to be changed on its way. " * 19 + b"\r\n"  # 952 octets
TAILS = {
    "dots": b"\r\n.\r\n..\r\n.a\r\n..b\r\n...\r\n. \r\nc.\r\n.\r\n.\r\n",
    "eight-bit": b"X-Raw: \xff\xfe\xe9\r\n\r\n" + bytes(range(128, 256)) + "\r\nÄpfel, ëπ, 漢字\r\n".encode(),
    "long-header": b"X-Long: " + b" word\r\n" * 2000 + b"X-Longer: " + b"x" * 2000 + b"\r\n\r\nbody\r\n",
    "megabyte": b"\r\n" + b"." + LOREM * 1110,
    "no-body": b"",
    "empty-lines": b"\r\n\r\n\r\n\r\n",
    "trace-fields-inside": b"Received: from elsewhere\r\n\tby nowhere\r\nReturn-Path: <x@x>\r\n\r\nFrom here\r\n",
    "spaces": b"\r\n   \r\n\t\r\ntrailing  \t\r\n",
}  # fmt: skip
Send = Callable[[MailflowProcess, bytes], Coroutine[Any, Any, None]]


def message(name: str, token: str) -> bytes:
    """A message on the wire, as far as its last CRLF."""
    return HEADER % (name.encode(), f"{token}-{name}".encode()) + TAILS[name]


def without_trace(delivered: bytes) -> bytes:
    """What follows the five trace fields: two of the final delivery, Dovecot's Received, our two."""
    names: list[bytes] = []
    while len(names) < 5 and (field := TRACE_FIELD.match(delivered)):
        names.append(field[1])
        delivered = delivered[field.end() :]
    assert names == [b"Return-Path", b"Delivered-To", b"Received", b"Authentication-Results", b"Received"]
    return delivered


async def send_by_swaks(mailflow: MailflowProcess, content: bytes, *options: str) -> None:
    # Without its own fixing up of data, what swaks sends is exactly the file: here is how the wire looks.
    file = mailflow.folder / "data"
    file.write_bytes(re.sub(rb"^\.", b"..", content, flags=re.MULTILINE) + b".")
    process = await asyncio.create_subprocess_exec(
        require_program("swaks"), "--server", f"127.0.0.1:{mailflow.mx_port}", "--helo", "client.example",
        "--from", "a@sender.example", "--to", "alice@example.org", "--data", f"@{file}", "--no-data-fixup",
        "--hide-send", *options, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode(errors="replace")
    assert (b"TLS started" in output) == ("--tls" in options)


async def send_by_swaks_with_tls(mailflow: MailflowProcess, content: bytes) -> None:
    require_program("Net/SSLeay.pm")
    await send_by_swaks(mailflow, content, "--tls")


async def send_by_smtplib(mailflow: MailflowProcess, content: bytes, *, uses_tls: bool = False) -> None:
    def send() -> None:
        with smtplib.SMTP("127.0.0.1", mailflow.mx_port, "client.example", timeout=20) as client:
            if uses_tls:
                context = ssl.create_default_context(cafile=str(mailflow.folder / "tls/tls.crt"))
                context.check_hostname = False  # it connects to an address
                client.starttls(context=context)
            client.sendmail("a@sender.example", ["alice@example.org"], content, ["BODY=8BITMIME"])

    await asyncio.to_thread(send)


async def send_by_smtplib_with_tls(mailflow: MailflowProcess, content: bytes) -> None:
    await send_by_smtplib(mailflow, content, uses_tls=True)


@pytest.mark.parametrize("transport", ["tcp", "unix"])
@pytest.mark.parametrize(
    "send", [send_by_swaks, send_by_swaks_with_tls, send_by_smtplib, send_by_smtplib_with_tls]
)  # fmt: skip
async def test_mail_is_read_back_over_imap_byte_for_byte(
    tmp_path: Path, dovecot: Dovecot, transport: Literal["tcp", "unix"], send: Send
) -> None:
    write_pair(tmp_path / "tls")
    tls = '[tls]\ncertificate = "tls/tls.crt"\nkey = "tls/tls.key"\n'
    server = dovecot.server if transport == "tcp" else dovecot.unix_server
    async with MailflowProcess(tmp_path, config=tls + route("example.org", lmtp=[server])) as mailflow:
        token = f"{transport}-{send.__name__}"
        sent = {name: message(name, token) for name in TAILS}
        for content in sent.values():
            await send(mailflow, content)
        delivered = await asyncio.to_thread(dovecot.mail_with, f"Message-ID: <{token}-".encode())
    received = dict(zip(sent, map(without_trace, delivered), strict=True))
    assert [name for name in sent if received[name] != sent[name]] == []
    assert mailflow.stderr == ""


@pytest.mark.parametrize("transport", ["tcp", "unix"])
async def test_a_message_without_a_final_newline_gets_one_and_no_other_change(
    tmp_path: Path, dovecot: Dovecot, transport: Literal["tcp", "unix"]
) -> None:
    server = dovecot.server if transport == "tcp" else dovecot.unix_server
    name = f"no-newline-{transport}".encode()
    content = HEADER % (name, name) + b"\r\nthe last line has no end"
    async with MailflowProcess(tmp_path, config=route("example.org", lmtp=[server])) as mailflow:
        await send_by_smtplib(mailflow, content)
        client = await MailClient.greeted(mailflow.mx_port)
        client.send(
            b"MAIL FROM:<a@sender.example>\r\nRCPT TO:<alice@example.org>\r\n"
            b"BDAT 20\r\n" + content[:20] + b"BDAT %d LAST\r\n" % len(content[20:]) + content[20:]
        )
        assert [reply[:3] for reply in await client.replies(4)] == ["250"] * 4
        delivered = await asyncio.to_thread(dovecot.mail_with, name)
    assert [without_trace(mail) for mail in delivered] == [content + b"\r\n"] * 2


async def test_our_received_field_names_the_hop_and_the_id_that_the_client_was_told(
    tmp_path: Path, dovecot: Dovecot
) -> None:
    async with MailflowProcess(tmp_path, config=route("example.org", lmtp=[dovecot.server])) as mailflow:
        client = await MailClient.greeted(mailflow.mx_port, "EHLO client.example")
        client.send(b"MAIL FROM:<a@sender.example>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\n")
        await client.replies(3)
        client.send(HEADER % (b"hop", b"hop-test") + b"\r\nbody\r\n.\r\n")
        answer = await client.reply()
        event = await mailflow.wait_event("message", action="accept")
        [delivered] = await asyncio.to_thread(dovecot.mail_with, b"<hop-test@")
    assert answer == f"250 2.0.0 Ok {event['id']}"
    ours = delivered[delivered.rindex(b"Received:") :]
    assert ours.startswith(b"Received: from client.example ([127.0.0.1])\r\n\tby mx.example.org with ESMTP id ")
    assert event["id"].encode() in ours
    assert delivered.startswith(b"Return-Path: <a@sender.example>\r\nDelivered-To: alice@example.org\r\n")


async def test_unknown_user_is_550_at_rcpt_and_postmaster_is_always_taken(tmp_path: Path, dovecot: Dovecot) -> None:
    async with MailflowProcess(tmp_path, config=route("example.org", lmtp=[dovecot.server])) as mailflow:
        client = await MailClient.greeted(mailflow.mx_port)
        await client.command("MAIL FROM:<a@sender.example>")
        replies = {}
        for recipient in ("nobody@example.org", "a@elsewhere.example", "abuse@example.org"):
            replies[recipient] = await client.command(f"RCPT TO:<{recipient}>")
            await client.command("RSET")
            await client.command("MAIL FROM:<a@sender.example>")
        postmaster = await client.command("RCPT TO:<postmaster>")
        await client.command("DATA")
        client.send(HEADER % (b"to postmaster", b"postmaster-test") + b"\r\nhelp\r\n.\r\n")
        assert (await client.reply()).startswith("250 2.0.0 Ok ")
        found = await asyncio.to_thread(dovecot.mail_with, b"<postmaster-test@", "postmaster@example.org")
    assert replies["nobody@example.org"] == "550 5.1.1 No such user here"
    assert replies["a@elsewhere.example"].startswith("550 5.7.1 ")
    assert replies["abuse@example.org"].startswith("250 2.1.5 ")  # not a user of this Dovecot: goes to postmaster
    assert postmaster.startswith("250 2.1.5 ")
    assert len(found) == 1


async def test_smtputf8_is_refused_at_rcpt_as_dovecot_does_not_offer_it(tmp_path: Path, dovecot: Dovecot) -> None:
    async with MailflowProcess(tmp_path, config=route("example.org", lmtp=[dovecot.server])) as mailflow:
        client = await MailClient.greeted(mailflow.mx_port)
        assert (await client.command("MAIL FROM:<ä@sender.example> SMTPUTF8")).startswith("250 ")
        assert (await client.command("RCPT TO:<alice@example.org>")).startswith("550 5.6.7 ")
        assert (await client.command("RSET")).startswith("250 ")
        assert (await client.deliver("alice@example.org", "without-smtputf8")).startswith("250 2.0.0 ")
