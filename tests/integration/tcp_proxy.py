"""A TCP proxy on loopback that holds back, of the connections it has at that moment, what goes one way, and cuts them.

What is held back can be let through later, after the peer on the other side has been cut off: a network may do that.
"""

import asyncio
import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import Self


class _Link:
    """One connection through the proxy."""

    def __init__(
        self, client: asyncio.StreamWriter, server: asyncio.StreamWriter, on_held: Callable[[bytes], None]
    ) -> None:
        self.on_held = on_held
        self.client = client
        self.server = server
        self.is_up_open = asyncio.Event()
        self.is_down_open = asyncio.Event()
        self.is_up_open.set()
        self.is_down_open.set()

    async def carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65_536):
                if not gate.is_set():
                    self.on_held(data)
                    await gate.wait()
                target.write(data)
                await target.drain()
            target.close()


class TcpProxy:
    """Serves inside `async with`."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._links: list[_Link] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: list[bytes] = []
        self._has_held = asyncio.Event()
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in self._links:
            link.client.transport.abort()
            link.server.transport.abort()

    def hold_requests(self) -> "list[_Link]":
        """Keep what clients send on the connections of now."""
        for link in self._links:
            link.is_up_open.clear()
        return list(self._links)

    def hold_answers(self) -> "list[_Link]":
        """Keep what servers send on the connections of now."""
        for link in self._links:
            link.is_down_open.clear()
        return list(self._links)

    async def wait_held(self, text: bytes) -> None:
        """Wait until something with `text` in it was held back."""
        async with asyncio.timeout(10):
            while not any(text in data for data in self._held):
                self._has_held.clear()
                await self._has_held.wait()

    def cut_clients(self, links: "list[_Link]") -> None:
        """Reset the clients' side of these connections."""
        for link in links:
            link.client.transport.abort()

    def let_through(self, links: "list[_Link]") -> None:
        """Send on what was held back."""
        for link in links:
            link.is_up_open.set()
            link.is_down_open.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        link = _Link(writer, server_writer, self._note_held)
        self._links.append(link)
        for carrying in (
            link.carry(reader, server_writer, link.is_up_open),
            link.carry(server_reader, writer, link.is_down_open),
        ):
            task = asyncio.create_task(carrying)
            self._tasks.add(task)

    def _note_held(self, data: bytes) -> None:
        self._held.append(data)
        self._has_held.set()
