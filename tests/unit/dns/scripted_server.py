"""A DNS server on loopback that says what a test tells it to, right or wrong, over UDP and TCP."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

Said: TypeAlias = Sequence[dns.message.Message | bytes]
Script: TypeAlias = Callable[[dns.message.Message], Awaitable[Said]]


class ScriptedServer:
    """`queries` holds what came, in order; `address` is "HOST:PORT"."""

    def __init__(self, script: Script, tcp_script: Script) -> None:
        self.script = script
        self.tcp_script = tcp_script
        self.queries: list[dns.message.Message] = []
        self.source_ports: list[int] = []
        self.tcp_queries: list[dns.message.Message] = []
        self.address = ""
        self.tasks: set[asyncio.Task[None]] = set()

    def datagram_came(self, data: bytes, source: tuple[str, int], transport: asyncio.DatagramTransport) -> None:
        query = dns.message.from_wire(data)
        self.queries.append(query)
        self.source_ports.append(source[1])

        async def reply() -> None:
            for said in await self.script(query):
                transport.sendto(to_wire(said), source)

        task = asyncio.create_task(reply())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def stream_came(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        query = dns.message.from_wire(await reader.readexactly(size))
        self.tcp_queries.append(query)
        for said in await self.tcp_script(query):
            wire = to_wire(said)
            writer.write(len(wire).to_bytes(2, "big") + wire)
        writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: ScriptedServer) -> None:
        self.server = server

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.server.datagram_came(data, addr, self.transport)


@contextlib.asynccontextmanager
async def serve(script: Script, tcp_script: Script | None = None) -> AsyncIterator[ScriptedServer]:
    """Run a server until the block ends; over TCP it follows `script` too unless told otherwise."""
    server = ScriptedServer(script, tcp_script or script)
    listener = await asyncio.start_server(server.stream_came, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Datagrams(server), local_addr=("127.0.0.1", port)
    )
    server.address = f"127.0.0.1:{port}"
    try:
        yield server
    finally:
        transport.close()
        listener.close()
        for task in list(server.tasks):
            task.cancel()
        await asyncio.gather(*server.tasks, return_exceptions=True)


def to_wire(said: dns.message.Message | bytes) -> bytes:
    return said if isinstance(said, bytes) else said.to_wire(max_size=65_535)


def answer(query: dns.message.Message, *records: str, soa: str = "", flags: int = 0) -> dns.message.Message:
    """A reply with answer records such as "x.test. 60 IN A 192.0.2.1", and perhaps an SOA line for absence."""
    reply = dns.message.make_response(query)
    reply.flags |= dns.flags.RA | flags
    reply.answer = [to_rrset(record) for record in records]
    reply.authority = [to_rrset(soa)] if soa else []
    return reply


def failure(query: dns.message.Message, rcode: dns.rcode.Rcode) -> dns.message.Message:
    """A reply that is only an error code."""
    reply = dns.message.make_response(query)
    reply.set_rcode(rcode)
    return reply


def to_rrset(text: str) -> dns.rrset.RRset:
    name, ttl, rdclass, rdtype, data = text.split(" ", 4)
    return dns.rrset.from_text(name, int(ttl), rdclass, rdtype, data)


def always(*records: str, ttl_s: int = 60) -> Script:
    """Answers every query with these TXT strings at its name."""

    async def script(query: dns.message.Message) -> Said:
        return [answer(query, *(f"{query.question[0].name} {ttl_s} IN TXT {record}" for record in records))]

    return script


def failing(rcode: dns.rcode.Rcode) -> Script:
    """Answers every query with an error code."""

    async def script(query: dns.message.Message) -> Said:
        return [failure(query, rcode)]

    return script


async def silence(query: dns.message.Message) -> Said:
    """Never says anything."""
    return []
