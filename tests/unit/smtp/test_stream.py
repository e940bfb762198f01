"""PeerStream over real connections, on both event loops: lines, content, deadlines, STARTTLS, the orderly end."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
import uvloop

from mailflow.smtp.data import BareNewline, ChunkReader, Content, DotReader
from mailflow.smtp.stream import INPUT_HIGH_BYTES, DeadlinePassed, LineTooLong, PeerGone, PeerStream
from tests.certificates import write_pair

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy.")

MAX_LINE_OCTETS = 64
READY = b"220 2.0.0 Ready to start TLS\r\n"


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy], ids=["asyncio", "uvloop"])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    policy: Callable[[], asyncio.AbstractEventLoopPolicy] = request.param
    return policy()


class Owner(asyncio.Protocol):
    """The least that a session does for its stream: pass the transport's callbacks on."""

    def __init__(self) -> None:
        self.stream = PeerStream(asyncio.get_running_loop(), max_line_octets=MAX_LINE_OCTETS)
        self.connection_made = self.stream.connection_made  # type: ignore[method-assign, assignment]
        self.data_received = self.stream.data_received  # type: ignore[method-assign]
        self.pause_writing = self.stream.pause_writing  # type: ignore[method-assign]
        self.resume_writing = self.stream.resume_writing  # type: ignore[method-assign]

    def eof_received(self) -> bool:
        self.stream.eof_received()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.stream.connection_lost()


@dataclass
class Connection:
    """Our end as `stream`, the client's as `reader` and `writer` (and as a bare socket)."""

    owner: Owner
    stream: PeerStream
    client: socket.socket
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def next_line(self, within_s: float = 5.0) -> bytes:
        """Read a line as the session does: one deadline for the whole of it."""
        deadline = self.stream.now() + within_s
        while (line := self.stream.take_line()) is None:
            await self.stream.wait_input(deadline)
        return line

    async def read_content(self, reader: DotReader | ChunkReader, *, timeout_s: float = 5.0, rate: float = 0) -> None:
        await self.stream.read_content(reader, progress_timeout_s=timeout_s, min_octets_per_s=rate)


@pytest_asyncio.fixture
async def connection() -> AsyncIterator[Connection]:
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    _, owner = await asyncio.get_running_loop().create_connection(Owner, sock=ours)
    reader, writer = await asyncio.open_connection(sock=theirs)
    yield Connection(owner, owner.stream, theirs, reader, writer)
    owner.stream.abort()
    writer.close()


@contextlib.contextmanager
def dripping(writer: asyncio.StreamWriter) -> Iterator[None]:
    """Send an octet every 10 ms meanwhile."""
    loop = asyncio.get_running_loop()

    timers: list[asyncio.TimerHandle] = []

    def drip() -> None:
        writer.write(b"x")
        timers.append(loop.call_later(0.01, drip))

    drip()
    yield
    timers[-1].cancel()


def new_content(max_bytes: int = 100_000) -> Content:
    return Content(max_bytes=max_bytes, max_line_octets=1000, normalizes_newlines=False)


async def test_pipelined_lines_come_out_one_by_one_with_their_lf(connection: Connection) -> None:
    connection.writer.write(b"EHLO a\r\nMAIL FROM:<>\r\nQU")
    assert await connection.next_line() == b"EHLO a\r\n"
    assert await connection.next_line() == b"MAIL FROM:<>\r\n"
    assert connection.stream.take_line() is None
    connection.writer.write(b"IT\r\n")
    assert await connection.next_line() == b"QUIT\r\n"


async def test_line_of_exactly_the_limit_is_taken(connection: Connection) -> None:
    line = b"x" * (MAX_LINE_OCTETS - 2) + b"\r\n"
    connection.writer.write(line)
    assert await connection.next_line() == line


@pytest.mark.parametrize("length", [MAX_LINE_OCTETS + 1, MAX_LINE_OCTETS + 2, 1000, INPUT_HIGH_BYTES, 1_000_000])
async def test_line_too_long_is_thrown_away_to_its_end_and_the_next_one_read(
    connection: Connection, length: int
) -> None:
    connection.writer.write(b"x" * (length - 2) + b"\r\nNOOP\r\n")
    with pytest.raises(LineTooLong):
        await connection.next_line()
    assert await connection.next_line() == b"NOOP\r\n"


async def test_line_without_an_end_is_not_kept(connection: Connection) -> None:
    async def send() -> None:
        for _ in range(100):
            connection.writer.write(b"x" * 10_000)
            await connection.writer.drain()
        connection.writer.write(b"\r\nNOOP\r\n")

    sending = asyncio.create_task(send())
    kept: list[int] = []

    async def read() -> None:
        while True:
            assert connection.stream.take_line() is None
            kept.append(len(connection.stream._input))
            await connection.stream.wait_input(connection.stream.now() + 5)

    with pytest.raises(LineTooLong):
        await read()
    await sending
    assert max(kept) <= MAX_LINE_OCTETS
    assert await connection.next_line() == b"NOOP\r\n"


async def test_what_a_client_pipelines_is_held_in_bounds_and_none_of_it_is_lost(connection: Connection) -> None:
    commands = [b"RCPT TO:<u%d@example.org>\r\n" % n for n in range(20_000)]
    connection.writer.write(b"".join(commands))

    async def take_nothing() -> None:
        while True:
            await connection.stream.wait_input(connection.stream.now() + 0.05)

    with pytest.raises(DeadlinePassed):
        await take_nothing()
    assert INPUT_HIGH_BYTES < len(connection.stream._input) < INPUT_HIGH_BYTES + 300_000  # one read besides
    for command in commands:
        assert await connection.next_line() == command


async def test_deadline_is_for_the_whole_line_and_does_not_begin_again_with_each_byte(connection: Connection) -> None:
    with dripping(connection.writer), pytest.raises(DeadlinePassed):
        await asyncio.wait_for(connection.next_line(within_s=0.1), 5)


async def test_half_close_ends_the_input_after_the_lines_that_came_before_it(connection: Connection) -> None:
    connection.writer.write(b"NOOP\r\nQUIT\r\nhalf a li")
    connection.writer.write_eof()
    assert await connection.next_line() == b"NOOP\r\n"
    assert await connection.next_line() == b"QUIT\r\n"
    with pytest.raises(PeerGone):
        await connection.next_line()


async def test_half_closed_client_still_gets_its_reply(connection: Connection) -> None:
    connection.writer.write_eof()
    with pytest.raises(PeerGone):
        await connection.next_line()
    connection.stream.push(b"250 2.0.0 Ok\r\n")
    await connection.stream.close_in_order()
    assert await asyncio.wait_for(connection.reader.read(), 5) == b"250 2.0.0 Ok\r\n"


async def test_half_closed_client_that_reads_slowly_still_gets_all_of_its_replies(connection: Connection) -> None:
    replies = b"250 2.0.0 Ok\r\n" * 50_000
    connection.writer.write_eof()
    with pytest.raises(PeerGone):
        await connection.next_line()
    connection.stream.push(replies)
    await connection.stream.close_in_order()
    assert await asyncio.wait_for(connection.reader.read(), 5) == replies


async def test_reset_by_the_client_is_peer_gone(connection: Connection) -> None:
    connection.writer.transport.abort()
    with pytest.raises(PeerGone):
        await connection.next_line()


async def test_replies_wait_for_the_flush_and_leave_in_one_write(connection: Connection) -> None:
    connection.stream.push(b"250 one\r\n")
    connection.stream.push(b"250 two\r\n")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(connection.reader.read(100), 0.02)
    connection.stream.flush()
    assert await connection.reader.read(100) == b"250 one\r\n250 two\r\n"


async def test_client_that_never_reads_is_noticed_at_the_deadline_and_cut_off(connection: Connection) -> None:
    connection.reader._transport.pause_reading()  # type: ignore[attr-defined]
    while not connection.stream.is_write_paused:
        connection.stream.push(b"250 2.0.0 Ok\r\n" * 1000)
        connection.stream.flush()
    with pytest.raises(DeadlinePassed):
        await connection.stream.wait_writable(connection.stream.now() + 0.05)
    connection.stream.abort()
    await asyncio.wait_for(connection.stream.wait_writable(connection.stream.now() + 5), 5)
    with pytest.raises(PeerGone):
        await connection.next_line()


async def test_client_that_reads_again_is_written_to_again(connection: Connection) -> None:
    transport = connection.reader._transport  # type: ignore[attr-defined]
    transport.pause_reading()
    while not connection.stream.is_write_paused:
        connection.stream.push(b"250 2.0.0 Ok\r\n" * 1000)
        connection.stream.flush()
    transport.resume_reading()
    reading = asyncio.create_task(connection.reader.read(1 << 30))
    await connection.stream.wait_writable(connection.stream.now() + 5)
    assert await reading


async def test_closing_with_input_unread_does_not_destroy_the_reply_just_written() -> None:
    # Over TCP, where a close with unread input is an RST that overtakes what the client has not read yet.
    loop = asyncio.get_running_loop()
    owners: list[Owner] = []

    def accept() -> Owner:
        owners.append(Owner())
        return owners[-1]

    server = await loop.create_server(accept, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"MAIL FROM:<>\r\n" * 50_000)
    while not owners or not owners[0].stream.has_input:  # noqa: ASYNC110  # turns of the loop, not a time
        await asyncio.sleep(0)
    owners[0].stream.push(b"421 4.7.0 Too many errors\r\n")
    closing = asyncio.create_task(owners[0].stream.close_in_order())
    assert await asyncio.wait_for(reader.read(), 5) == b"421 4.7.0 Too many errors\r\n"
    writer.close()
    await asyncio.wait_for(closing, 5)
    server.close()


async def test_close_ends_at_once_when_the_client_closes_its_side(connection: Connection) -> None:
    closing = asyncio.create_task(connection.stream.close_in_order())
    assert await asyncio.wait_for(connection.reader.read(), 1) == b""  # our side is shut before theirs is
    connection.writer.close()
    await asyncio.wait_for(closing, 1)


async def test_content_and_the_command_behind_it_in_one_segment_are_told_apart(connection: Connection) -> None:
    connection.writer.write(b"DATA\r\nHi\r\n.\r\nQUIT\r\n")
    assert await connection.next_line() == b"DATA\r\n"
    content = new_content()
    await connection.read_content(DotReader(content))
    assert content.take() == b"Hi\r\n"
    assert await connection.next_line() == b"QUIT\r\n"


async def test_content_comes_through_byte_at_a_time(connection: Connection) -> None:
    content = new_content()
    reading = asyncio.create_task(connection.read_content(DotReader(content)))
    for byte in b"Hi\r\n..\r\n.\r\n":
        connection.writer.write(bytes([byte]))
        await connection.writer.drain()
        await asyncio.sleep(0)
    await reading
    assert content.take() == b"Hi\r\n.\r\n"


async def test_chunk_of_no_octets_waits_for_nothing(connection: Connection) -> None:
    content = new_content()
    await asyncio.wait_for(connection.read_content(ChunkReader(content, 0, is_last=True)), 1)
    assert content.take() == b""


async def test_content_larger_than_the_input_buffer_flows_through_it(connection: Connection) -> None:
    line = b"x" * 76 + b"\r\n"
    connection.writer.write(line * 100_000 + b".\r\n")
    content = new_content(max_bytes=10_000_000)
    await connection.read_content(DotReader(content))
    assert content.take() == line * 100_000


async def test_bare_newline_in_content_reaches_who_reads_it(connection: Connection) -> None:
    connection.writer.write(b"Hi\n.\n")
    with pytest.raises(BareNewline):
        await connection.read_content(DotReader(new_content()))


async def test_much_that_came_behind_a_large_content_in_one_read_keeps_the_reading_paused(
    connection: Connection,
) -> None:
    transport, content = connection.stream._transport, new_content()
    assert transport is not None
    reading = asyncio.create_task(connection.read_content(DotReader(content)))
    await asyncio.sleep(0)
    commands = [b"NOOP\r\n"] * (INPUT_HIGH_BYTES // 6 + 1)
    connection.stream.data_received(b"x" * 98 + b"\r\n" + b"y\r\n" * 22_000 + b".\r\n" + b"".join(commands))
    await reading
    assert not transport.is_reading()
    for command in commands:
        assert await connection.next_line() == command
    assert connection.stream.take_line() is None
    assert transport.is_reading()


async def test_client_that_goes_within_content_is_peer_gone(connection: Connection) -> None:
    connection.writer.write(b"Hi\r\n")
    connection.writer.write_eof()
    with pytest.raises(PeerGone):
        await connection.read_content(DotReader(new_content()))


async def test_content_complete_before_a_half_close_is_taken(connection: Connection) -> None:
    connection.writer.write(b"Hi\r\n.\r\n")
    connection.writer.write_eof()
    content = new_content()
    await connection.read_content(DotReader(content))
    assert content.take() == b"Hi\r\n"


async def test_content_that_stops_coming_passes_the_deadline(connection: Connection) -> None:
    connection.writer.write(b"Hi\r\n")
    with pytest.raises(DeadlinePassed):
        await connection.read_content(DotReader(new_content()), timeout_s=0.05)


async def test_content_that_drips_below_the_rate_passes_the_deadline(connection: Connection) -> None:
    reading = connection.read_content(DotReader(new_content()), timeout_s=0.1, rate=100_000)
    with dripping(connection.writer), pytest.raises(DeadlinePassed):
        await asyncio.wait_for(reading, 5)


async def test_content_that_comes_slowly_but_above_the_rate_is_taken(connection: Connection) -> None:
    content = new_content()
    with dripping(connection.writer):
        reading = asyncio.create_task(connection.read_content(DotReader(content), timeout_s=0.4, rate=1))
        asyncio.get_running_loop().call_later(0.9, connection.writer.write, b"\r\n.\r\n")
        await asyncio.wait_for(reading, 5)
    assert set(content.take()) == set(b"x\r\n")


async def test_client_that_reset_the_connection_a_moment_ago_is_closed_without_a_fault() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as sock, socket.create_connection(sock.getsockname()) as client:
        accepted, _ = sock.accept()
        _, owner = await loop.connect_accepted_socket(Owner, accepted)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await owner.stream.close_in_order()  # the loop has had no turn to hear of the reset
    assert owner.stream.is_lost


# STARTTLS.


class TlsClient:
    """A TLS client whose bytes leave when told to: it can put what it likes into one segment."""

    def __init__(self, connection: Connection, certificate: Path) -> None:
        context = ssl.create_default_context(cafile=str(certificate))
        self._connection = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="mx.example.org")

    async def shake_hands(self) -> None:
        """Wait for the go-ahead and run the handshake; its last flight stays unsent."""
        assert await self._connection.reader.readline() == READY
        while True:
            try:
                self.tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                self.send()
                await self._receive()

    def send(self) -> None:
        """Send all that is waiting, in one write."""
        self._connection.writer.write(self._outgoing.read())

    async def read(self) -> bytes:
        """Read some decrypted bytes."""
        while True:
            try:
                return self.tls.read(65536)
            except ssl.SSLWantReadError:
                await self._receive()

    async def _receive(self) -> None:
        data = await self._connection.reader.read(65536)
        assert data, "the server closed"
        self._incoming.write(data)


async def start_tls(connection: Connection, folder: Path, *, timeout_s: float = 5) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*write_pair(folder))
    connection.stream.push(READY)
    await connection.stream.start_tls(connection.owner, context, timeout_s)


async def test_command_that_shares_a_segment_with_the_end_of_the_handshake_is_heard(
    connection: Connection, tmp_path: Path
) -> None:
    starting = asyncio.create_task(start_tls(connection, tmp_path))
    await asyncio.sleep(0)
    client = TlsClient(connection, tmp_path / "tls.crt")
    await client.shake_hands()
    client.tls.write(b"EHLO after.example\r\n")
    client.send()
    await starting
    assert await connection.next_line() == b"EHLO after.example\r\n"


async def test_flood_that_shares_a_segment_with_the_end_of_the_handshake_stalls_nothing(
    connection: Connection, tmp_path: Path
) -> None:
    starting = asyncio.create_task(start_tls(connection, tmp_path))
    await asyncio.sleep(0)
    client = TlsClient(connection, tmp_path / "tls.crt")
    await client.shake_hands()
    connection.client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1_000_000)
    for _ in range(20_000):
        client.tls.write(b"NOOP\r\n")
    client.send()
    await starting
    for _ in range(20_000):
        assert await connection.next_line() == b"NOOP\r\n"


async def test_what_was_said_before_the_handshake_is_never_heard_after_it(
    connection: Connection, tmp_path: Path
) -> None:
    connection.writer.write(b"STARTTLS\r\nEHLO injected\r\nhalf a comm")
    assert await connection.next_line() == b"STARTTLS\r\n"
    starting = asyncio.create_task(start_tls(connection, tmp_path))
    await asyncio.sleep(0)
    client = TlsClient(connection, tmp_path / "tls.crt")
    await client.shake_hands()
    client.send()
    await starting
    client.tls.write(b"EHLO after.example\r\n")
    client.send()
    assert await connection.next_line() == b"EHLO after.example\r\n"
    connection.stream.push(b"250 Ok\r\n")
    connection.stream.flush()
    assert await client.read() == b"250 Ok\r\n"


async def test_plain_text_in_place_of_a_handshake_is_peer_gone(connection: Connection, tmp_path: Path) -> None:
    connection.writer.write(b"EHLO I never meant it\r\n")
    with pytest.raises(PeerGone):
        await start_tls(connection, tmp_path)
    assert connection.stream.is_lost


async def test_handshake_that_never_comes_is_peer_gone_at_its_deadline(connection: Connection, tmp_path: Path) -> None:
    with pytest.raises(PeerGone):
        await start_tls(connection, tmp_path, timeout_s=0.05)


async def test_client_that_goes_within_the_handshake_is_peer_gone(connection: Connection, tmp_path: Path) -> None:
    starting = asyncio.create_task(start_tls(connection, tmp_path))
    connection.writer.close()
    with pytest.raises(PeerGone):
        await asyncio.wait_for(starting, 2)
