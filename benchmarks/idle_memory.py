"""What an idle session costs: resident memory of one worker with 5,000 of them, in plain text and under TLS."""

import asyncio
import contextlib
import resource
import socket
import ssl
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.process import read_rss_bytes
from benchmarks.report import Bar, show
from tests.certificates import write_pair
from tests.integration.mailflow_process import MailflowProcess, route

SESSIONS = 5_000
MAX_PLAIN_KB = 25
MAX_TLS_KB = 60
MX = f"max_connections = {SESSIONS + 100}\nmax_connections_per_client = {SESSIONS + 100}\ncommand_timeout_s = 600\n"
TLS = '[tls]\ncertificate = "tls.crt"\nkey = "tls.key"\n\n'


async def run() -> list[Bar]:
    """Measure; give the bars."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    plain_kb = await _measure(is_tls=False)
    tls_kb = await _measure(is_tls=True)
    show(f"{SESSIONS} idle sessions", [f"plain text {plain_kb:5.1f} KB each", f"TLS        {tls_kb:5.1f} KB each"])
    return [
        Bar("idle session, plain text", plain_kb, MAX_PLAIN_KB, "KB", is_ceiling=True),
        Bar("idle session under TLS", tls_kb, MAX_TLS_KB, "KB", is_ceiling=True),
    ]


async def _measure(*, is_tls: bool) -> float:
    """Give what each of the sessions adds to the worker's resident memory, in KB."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_pair(folder)
        config = TLS + route("rcpt.example", maildir="mail", create=True)
        async with MailflowProcess(folder, config=config, mx=MX) as mailflow:
            (worker,) = mailflow.worker_pids
            with contextlib.ExitStack() as sessions:
                for _ in range(10):  # what comes once with the first session is not the sessions'
                    await asyncio.to_thread(_open, mailflow.mx_port, sessions, is_tls=is_tls)
                before = read_rss_bytes(worker)
                for _ in range(SESSIONS):
                    await asyncio.to_thread(_open, mailflow.mx_port, sessions, is_tls=is_tls)
                return (read_rss_bytes(worker) - before) / SESSIONS / 1024


def _open(port: int, sessions: contextlib.ExitStack, *, is_tls: bool) -> None:
    """Open a session and leave it idle behind its EHLO."""
    sock = socket.create_connection(("127.0.0.1", port))
    _expect(sock, b"220 ")
    _say_ehlo(sock)
    if is_tls:
        sock.sendall(b"STARTTLS\r\n")
        _expect(sock, b"220 ")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        sock = context.wrap_socket(sock)
        _say_ehlo(sock)
    sessions.enter_context(sock)


def _say_ehlo(sock: socket.socket) -> None:
    sock.sendall(b"EHLO client.example\r\n")
    _expect(sock, b"250 ")


def _expect(sock: socket.socket, last_line: bytes) -> None:
    """Read a reply to its last line, which must begin like this."""
    received = b""
    while not (received.endswith(b"\r\n") and received.splitlines()[-1][3:4] == b" "):
        data = sock.recv(4096)
        assert data, "the server closed"
        received += data
    assert received.splitlines()[-1].startswith(last_line), received
