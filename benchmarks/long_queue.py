"""A queue of a million messages: a worker's memory, how soon new mail is delivered, how soon the queue command answers.

All of it waits for one destination whose server is down, and a tenth is due at any time. New mail goes to another one.
"""

import asyncio
import sys
import tempfile
import time
import zlib
from pathlib import Path

import apsw

from benchmarks.process import ROOT, read_rss_bytes
from benchmarks.report import Bar, show
from mailflow.mail.address import parse_mailbox
from mailflow.mail.envelope import Envelope, Recipient
from mailflow.store.record import encode_envelope, encode_recipients
from tests.integration.mail_client import SENDER, MailClient, content
from tests.integration.mailflow_process import MailflowProcess
from tests.lmtp_server import LmtpTestServer
from tests.postgres_server import PostgresServer

MESSAGES = 1_000_000
BODY = b"From: <a@sender.example>\r\n\r\n" + b"A line of text like any other.\r\n" * 8
MAX_RSS_MB = 200
MAX_ANSWER_S = 1.0
CONFIG = """\
[store]
url = "{url}"

[[backend]]
name = "down"
lmtp = ["127.0.0.1:1"]

[[backend]]
name = "up"
lmtp = ["{server}"]

[[route]]
domains = ["down.example"]
backend = "down"

[[route]]
domains = ["up.example"]
backend = "up"
"""


async def run() -> list[Bar]:
    """Measure; give the bars."""
    bars = []
    with PostgresServer() as postgres:
        for name, server in (("SQLite", None), ("PostgreSQL", postgres)):
            with tempfile.TemporaryDirectory(dir=ROOT, prefix=".bench-") as folder:  # not in memory, as /tmp may be
                bars += await _measure(name, Path(folder), server)
    return bars


async def _measure(name: str, folder: Path, postgres: PostgresServer | None) -> list[Bar]:
    url = postgres.new_database() if postgres else f"sqlite://{folder}/queue.db"
    async with LmtpTestServer() as server:
        config = CONFIG.format(url=url, server=server)
        async with MailflowProcess(folder, config=config) as mailflow:  # makes the schema
            await mailflow.terminate()
            if postgres:
                _fill_postgres(postgres, url)
            else:
                await _fill_sqlite(folder / "queue.db")
            await mailflow.start()
            rss_mb, delivered_s = await _watch(mailflow, server)
            listed_s = await _time_command(folder, "ls", "--limit", "50")
            counted_s = await _time_command(folder, "stats")
    show(
        f"a queue of {MESSAGES:,} messages, {name}",
        [
            f"a worker's memory at most {rss_mb:.0f} MB",
            f"new mail for two delivered after {1000 * delivered_s:.0f} ms at the latest",
            f"queue ls --limit 50 {listed_s:.2f} s, queue stats {counted_s:.2f} s, each with the start of the command",
        ],
    )
    return [
        Bar(f"{name}, long queue, memory of a worker", rss_mb, MAX_RSS_MB, "MB", is_ceiling=True),
        Bar(f"{name}, long queue, new mail", delivered_s, MAX_ANSWER_S, "s", is_ceiling=True),
        Bar(f"{name}, long queue, queue ls --limit 50", listed_s, MAX_ANSWER_S, "s", is_ceiling=True),
        Bar(f"{name}, long queue, queue stats", counted_s, MAX_ANSWER_S, "s", is_ceiling=True),
    ]


async def _watch(mailflow: MailflowProcess, server: LmtpTestServer) -> tuple[float, float]:
    """Give the most memory in MB and the longest time until new mail was delivered, over ten messages."""
    client = await MailClient.greeted(mailflow.mx_port)
    rss_mb = longest_s = 0.0
    for number in range(10):
        began, before = time.monotonic(), len(server.messages)
        assert (await client.command(f"MAIL FROM:<{SENDER}>")).startswith("250")
        for user in ("a", "b"):
            assert (await client.command(f"RCPT TO:<{user}@up.example>")).startswith("250")
        assert (await client.command("DATA")).startswith("354")
        client.send(content(f"m{number}") + b".\r\n")
        assert (await client.reply()).startswith("250")
        while len(server.messages) == before:
            await server.reached("DOT", server.count("DOT") + 1)
        longest_s = max(longest_s, time.monotonic() - began)
        rss_mb = max(rss_mb, *(read_rss_bytes(pid) / 1e6 for pid in mailflow.worker_pids))
        await asyncio.sleep(0.5)
    client.close()
    return rss_mb, longest_s


async def _time_command(folder: Path, *arguments: str) -> float:
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mailflow", "queue", *arguments, "-c", str(folder / "mailflow.toml")),
        cwd=ROOT,
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == 0
    return time.monotonic() - began


def _columns() -> tuple[bytes, bytes]:
    to = parse_mailbox("user@down.example")
    recipients = (Recipient(to, to, destination="down"),)
    return encode_envelope(Envelope("", parse_mailbox(SENDER), recipients)), encode_recipients(recipients)


async def _fill_sqlite(path: Path) -> None:
    envelope, recipients = _columns()
    connection = apsw.Connection(str(path))
    now = time.time()
    connection.execute("PRAGMA synchronous=OFF")
    with connection:
        connection.execute(
            "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)"
            " INSERT INTO entry (seq, id, lane, destination, next_try, attempts, arrived_at, size, crc, last_error,"
            " envelope, recipients) SELECT n, printf('%011x%010x', n, n), 1, 'down', ?2 + (n % 10) * 3600, 1, ?2 - 60,"
            " ?3, ?4, 'connection refused', ?5, ?6 FROM n",
            (MESSAGES, now, len(BODY), zlib.crc32(BODY), envelope, recipients),
        )
        connection.execute("INSERT INTO body (seq, content) SELECT seq, ?1 FROM entry", (BODY,))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def _fill_postgres(postgres: PostgresServer, url: str) -> None:
    envelope, recipients = _columns()
    postgres.execute(
        f"""
        INSERT INTO mailflow.entry (id, state, lane, destination, next_try, is_begun, is_in_doubt, attempts, crashes,
            arrived_at, size, crc, last_error, is_delay_told, envelope, recipients)
        SELECT lpad(to_hex(n), 21, '0'), 'queued', 1, 'down', clock_timestamp() + (n % 10) * interval '1 hour', false,
            false, 1, 0, clock_timestamp() - interval '1 minute', {len(BODY)}, {zlib.crc32(BODY)}, 'connection refused',
            false, '\\x{envelope.hex()}', '\\x{recipients.hex()}'
        FROM generate_series(1, {MESSAGES}) AS n;
        INSERT INTO mailflow.body (id, part, data)
        SELECT id, 0, '\\x{BODY.hex()}' FROM mailflow.entry;
        ANALYZE
        """,
        database=url.rpartition("/")[2],
    )
