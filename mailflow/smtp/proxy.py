"""Reading exactly the PROXY header off a raw socket, before anybody else reads from it.

What follows the header may share a segment with it, a TLS ClientHello as well as an EHLO, and must
stay in the socket for whoever comes next. So octets are peeked at and taken only when they surely
belong to the header: taken at once, so that a header in pieces never makes the loop spin.
"""

import asyncio
import socket

from mailflow.smtp.proxy_header import (
    MAX_V2_OCTETS,
    BadProxyHeader,
    ProxyHeader,
    count_header_octets,
    parse_proxy_header,
)

HEADER_S = 5.0


async def read_proxy_header(sock: socket.socket) -> ProxyHeader | None:
    """Read the header from a non-blocking socket within HEADER_S seconds; None where the peer closed without a byte.

    Raises BadProxyHeader where something else came, or nothing in time; then what came is still in the socket.
    OSError where the connection broke.
    """
    taken = bytearray()
    try:
        async with asyncio.timeout(HEADER_S):
            while True:
                peeked = await _peek(sock, MAX_V2_OCTETS - len(taken))
                if not peeked:
                    if taken:
                        raise BadProxyHeader("the connection ended within the header")
                    return None
                whole = bytes(taken) + peeked
                header = parse_proxy_header(whole)
                if header is not None:
                    sock.recv(header.size_bytes - len(taken))
                    return header
                taken += sock.recv(count_header_octets(whole) - len(taken))
    except TimeoutError as exc:
        raise BadProxyHeader("no whole header in time") from exc


async def _peek(sock: socket.socket, max_bytes: int) -> bytes:
    while True:
        try:
            return sock.recv(max_bytes, socket.MSG_PEEK)
        except BlockingIOError:
            await _wait_readable(sock)


async def _wait_readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, _wake, readable)
    try:
        await readable
    finally:
        loop.remove_reader(sock)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
