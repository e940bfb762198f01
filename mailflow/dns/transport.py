"""One question to one server: UDP, and TCP where the answer did not fit. (RFC 1035 s4.2, 5452, 7766)

Every UDP query has a socket of its own, connected to the server: the system then picks a source port at random, drops
datagrams from any other source, and reports a closed port at once instead of by a timeout. Ids come from the system's
randomness. It never judges a response code and never retries; that is the upstreams' business.
"""

import asyncio
import secrets
import socket
from dataclasses import dataclass

from mailflow.dns.message import Question, is_truncated
from mailflow.dns.reply import MalformedReply

_MAX_DATAGRAM_OCTETS = 65_535


@dataclass(frozen=True, slots=True)
class Nameserver:
    """The address of a recursive server."""

    host: str
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        """AF_INET6 if the host is an IPv6 address."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET


async def exchange(server: Nameserver, question: Question, *, timeout_s: float, has_edns: bool = True) -> bytes:
    """The server's whole reply to a question.

    Raises TimeoutError, OSError where the network fails, MalformedReply where TCP brings something else.
    """
    query_id = secrets.randbits(16)
    query = question.to_query(query_id, has_edns=has_edns)
    deadline = asyncio.get_running_loop().time() + timeout_s
    reply = await _exchange_udp(server, question, query, query_id, timeout_s)
    if not is_truncated(reply):
        return reply
    async with asyncio.timeout_at(deadline):
        return await _exchange_tcp(server, question, query, query_id)


async def _exchange_udp(server: Nameserver, question: Question, query: bytes, query_id: int, timeout_s: float) -> bytes:
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[bytes] = loop.create_future()
    with socket.socket(server.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:

        def read() -> None:
            if answered.done():
                return
            try:
                datagram = sock.recv(_MAX_DATAGRAM_OCTETS)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                answered.set_exception(exc)
                return
            if question.is_answered_by(datagram, query_id):  # else forged or late: keep listening (RFC 5452 s9.1)
                answered.set_result(datagram)

        def expire() -> None:
            if not answered.done():
                answered.set_exception(TimeoutError())

        # Neither call waits: a datagram socket is connected and written to, or refused, at once.
        sock.connect((server.host, server.port))
        sock.send(query)
        timer = loop.call_later(timeout_s, expire)
        loop.add_reader(sock, read)
        try:
            return await answered
        finally:
            loop.remove_reader(sock)
            timer.cancel()


async def _exchange_tcp(server: Nameserver, question: Question, query: bytes, query_id: int) -> bytes:
    reader, writer = await asyncio.open_connection(server.host, server.port, limit=_MAX_DATAGRAM_OCTETS + 2)
    try:
        writer.write(len(query).to_bytes(2, "big") + query)
        length = int.from_bytes(await reader.readexactly(2), "big")
        reply = await reader.readexactly(length)
    except asyncio.IncompleteReadError as exc:
        raise MalformedReply("TCP connection closed within the reply") from exc
    finally:
        writer.transport.abort()  # nothing of ours is unsent, and the rest of what it says is of no interest
    if not question.is_answered_by(reply, query_id) or is_truncated(reply):
        raise MalformedReply("TCP reply to another question")
    return reply
