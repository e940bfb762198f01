"""From a server's address to an LMTP session on it: TCP or a unix socket, TLS, greeting, LHLO (RFC 2033, 3207).

One deadline covers all of it, since a server that accepts and stays silent is as bad as none.
TLS that was asked for is never given up: a server without STARTTLS, or with a certificate that
does not verify, is unreachable. So is one that accepts and says nothing: a timeout here is
LmtpUnreachable, whereas LmtpTimeout speaks of a session that stood.
"""

import asyncio
import re
import ssl
from dataclasses import dataclass
from typing import Literal

from mailflow.smtp.lmtp import LmtpConnection
from mailflow.smtp.lmtp_errors import LmtpError, LmtpTimeout, LmtpUnreachable
from mailflow.smtp.reply_stream import ReplyStream

TlsMode = Literal["off", "starttls", "tls"]

_TCP = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]/]+)):(\d{1,5})")


@dataclass(frozen=True, slots=True)
class LmtpServer:
    """Where a server listens: `host` and `port`, or `unix_path` where that is not empty."""

    host: str = ""
    port: int = 0
    unix_path: str = ""

    def __str__(self) -> str:
        if self.unix_path:
            return f"unix:{self.unix_path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_server(text: str) -> LmtpServer:
    """Parse `HOST:PORT`, `[IPv6]:PORT` or `unix:/path`. Raises ValueError."""
    if text.startswith("unix:") and len(text) > len("unix:"):
        return LmtpServer(unix_path=text.removeprefix("unix:"))
    match = _TCP.fullmatch(text)
    if not match or not 0 < int(match[3]) < 65536:
        raise ValueError(f"not HOST:PORT or unix:/path: {text!r}")
    return LmtpServer(host=match[1] or match[2], port=int(match[3]))


async def connect_lmtp(
    server: LmtpServer,
    *,
    hostname: str,
    tls: TlsMode = "off",
    tls_context: ssl.SSLContext | None = None,
    deadline: float,
) -> LmtpConnection:
    """Connect, hear the greeting, say LHLO as `hostname`; under TLS as `tls` says, which is never given up silently.

    `deadline` in loop time, seconds, covers all of it. Raises LmtpError, or ValueError where TLS
    lacks a context or a host.
    """
    if tls != "off" and (tls_context is None or server.unix_path):
        raise ValueError("TLS needs a context and a TCP server")
    loop = asyncio.get_running_loop()
    stream = ReplyStream(loop)
    try:
        async with asyncio.timeout_at(deadline):
            stream.expect_greeting()
            await _open_transport(loop, stream, server, tls_context if tls == "tls" else None)
            connection = LmtpConnection(stream)
            await connection.greet(hostname, deadline)
            if tls == "starttls":
                assert tls_context is not None
                await connection.start_tls(tls_context, server.host, hostname, deadline)
    except LmtpTimeout as exc:
        stream.abort()
        raise LmtpUnreachable(str(exc)) from exc
    except LmtpError:
        stream.abort()
        raise
    except TimeoutError as exc:
        stream.abort()
        raise LmtpUnreachable(f"no session with {server} in time") from exc
    except (OSError, UnicodeError) as exc:  # ssl.SSLError is an OSError; a host name that is no IDNA is a UnicodeError
        stream.abort()
        raise LmtpUnreachable(f"{server}: {exc}") from exc
    except BaseException:
        stream.abort()
        raise
    return connection


async def _open_transport(
    loop: asyncio.AbstractEventLoop, stream: ReplyStream, server: LmtpServer, tls_context: ssl.SSLContext | None
) -> None:
    if server.unix_path:
        await loop.create_unix_connection(lambda: stream, server.unix_path)
    else:
        server_hostname = server.host if tls_context else None
        await loop.create_connection(
            lambda: stream, server.host, server.port, ssl=tls_context, server_hostname=server_hostname
        )
