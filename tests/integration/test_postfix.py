"""A real Postfix hands 10,000 messages through mailflow to an LMTP server: in peace, through restarts, through kills.

Promise 1: a message answered 250 is never lost, and a double happens only where a peer failed to confirm. What Postfix
heard is in its log, what arrived is on the sink's record, and the two are held against each other, pair by pair of
message and recipient. Each test prints its figures however pytest is run.
"""

import asyncio
import collections
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.certificates import write_pair
from tests.integration.lmtp_sink_process import LmtpSinkProcess, run_lmtp_sink
from tests.integration.mailflow_process import MailflowProcess
from tests.integration.postfix_log import Results, read_results
from tests.integration.postfix_server import Postfix, run_postfix
from tests.integration.smtp_source import Message, make_messages, send_all
from tests.servers import wait_until

MESSAGES = 10_000
BODY_BYTES = 4096
SOURCE_CONNECTIONS = 10
RESTARTS = 10
KILLS = 6
WORKERS = 2
RUN_S = 180
EMPTY_S = 90  # Postfix puts off by 60 s what it finds still locked by a delivery
POSTFIX_GIVES_UP_S = 330  # the longest of its timeouts that a connection can die under unseen, and a retry
DOMAINS = ("one.example", "two.example")
CONFIG = """\
[tls]
certificate = "tls.crt"
key = "tls.key"

[[backend]]
name = "sink"
lmtp = ["127.0.0.1:{port}"]

[[route]]
domains = ["one.example", "two.example"]
backend = "sink"
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(RUN_S + EMPTY_S + POSTFIX_GIVES_UP_S + 30)]


@dataclass(slots=True)
class Line:
    """The whole way: Postfix, mailflow, sink; and what mailflow's ended processes have used of the CPU."""

    postfix: Postfix
    mailflow: MailflowProcess
    sink: LmtpSinkProcess
    ended_cpu_s: float = 0.0

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all mailflow processes so far, their start included."""
        return self.ended_cpu_s + self._running_cpu_s()

    async def restart(self) -> None:
        """SIGTERM, wait for the end of the drain, serve again."""
        self.ended_cpu_s += self._running_cpu_s()
        assert await self.mailflow.terminate() == 0, "the drain was cut"
        await self.mailflow.start()

    def _running_cpu_s(self) -> float:
        return sum(_cpu_s(pid) for pid in (self.mailflow.pid, *self.mailflow.worker_pids))

    async def kill_worker(self) -> None:
        """SIGKILL to one worker, which the supervisor replaces."""
        pid = self.mailflow.worker_pids[0]
        self.ended_cpu_s += _cpu_s(pid)
        os.kill(pid, signal.SIGKILL)
        await self.mailflow.wait_event("worker_restarts", len(self.mailflow.named("worker_restarts")) + 1)

    async def reload(self) -> None:
        """SIGHUP with another certificate and another route."""
        write_pair(self.mailflow.folder)
        self._rewrite('"two.example"', f'"two.example", "new{len(self.mailflow.named("reload"))}.example"')
        count = len(self.mailflow.named("worker_reloaded"))
        self.mailflow.send_signal(signal.SIGHUP)
        await self.mailflow.wait_event("worker_reloaded", count + 1)

    async def reload_faulty(self) -> None:
        """SIGHUP with a configuration that nobody can use; then it is put right again."""
        self._rewrite("[mx]", "[mx]\nmax_errors = 0")
        self.mailflow.send_signal(signal.SIGHUP)
        await self.mailflow.wait_event("reload_refused", len(self.mailflow.named("reload_refused")) + 1)
        self._rewrite("\nmax_errors = 0", "")

    def _rewrite(self, old: str, new: str) -> None:
        file = self.mailflow.folder / "mailflow.toml"
        file.write_text(file.read_text().replace(old, new))

    async def kill(self) -> None:
        """SIGKILL to all, serve again."""
        self.ended_cpu_s += self._running_cpu_s()
        await self.mailflow.kill()
        await self.mailflow.start()


@dataclass(frozen=True, slots=True)
class Run:
    """What came of all messages: by Postfix's log, and how long it took."""

    results: Results
    seconds: float
    late: str = ""  # what the queue held after EMPTY_S, and who was connected to whom

    def describe(self, line: Line, messages: list[Message]) -> str:
        """The figures of the run, for people."""
        deferred = "".join(f"\n    {count:6d} x {text}" for text, count in self.results.deferred.most_common(8))
        doubled = sorted(line.sink.doubled.items())
        copies = "".join(
            f"\n    {n} copies of {pair}, {self.results.no_final_reply[pair]} final replies unheard"
            for pair, n in doubled[:5]
        )
        replies = collections.Counter(
            f"{event['reply']:.9}" for event in line.mailflow.events if event["event"] in {"message", "command"}
        )
        return (
            f"\n  {len(messages)} messages, {len(_pairs(messages))} deliveries in {self.seconds:.1f} s:"
            f" {len(messages) / self.seconds:.0f} messages/s"
            f"\n  mailflow used {line.cpu_s:.1f} CPU s: {1000 * line.cpu_s / len(messages):.2f} ms a message"
            f" (starts included: {len(line.mailflow.named('ready'))})"
            f"\n  final replies that never reached Postfix: {self.results.no_final_reply.total()}"
            f"\n  doubled: {len(doubled)}{copies}"
            f"\n  left in the queue: {len(messages) - line.postfix.count_removed()}"
            f"\n  mailflow's decisions: {dict(replies.most_common(8))}"
            f"\n  deferred attempts: {self.results.deferred.total()}{deferred}"
            + (f"\n  NOT EMPTY after {EMPTY_S} s:\n{self.late}" if self.late else "")
        )


@pytest.fixture
async def line(tmp_path: Path) -> AsyncIterator[Line]:
    async with run_lmtp_sink() as sink:
        config = CONFIG.format(port=sink.port)
        write_pair(tmp_path)
        async with MailflowProcess(tmp_path, config=config, workers=WORKERS) as mailflow:
            with run_postfix(relay_port=mailflow.mx_port) as postfix:
                yield Line(postfix, mailflow, sink)


async def test_ten_thousand_messages_arrive_once_each(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    messages = make_messages(MESSAGES, domains=DOMAINS, seed=1)
    run = await carry(line, messages)
    print_figures(capsys, run.describe(line, messages))
    assert_all_arrived(line, run, messages)
    assert not line.sink.doubled


async def test_restarts_lose_and_double_nothing(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    messages = make_messages(MESSAGES, domains=DOMAINS, seed=2)
    run = await carry(line, messages, disturb=line.restart, times=RESTARTS)
    print_figures(capsys, run.describe(line, messages))
    assert_all_arrived(line, run, messages)
    assert not line.sink.doubled
    assert not +run.results.no_final_reply
    assert len(line.mailflow.named("drain_ends", is_clean=True)) == RESTARTS


async def test_kills_double_only_what_was_never_confirmed(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    messages = make_messages(MESSAGES, domains=DOMAINS, seed=3)
    run = await carry(line, messages, disturb=line.kill, times=KILLS)
    print_figures(capsys, run.describe(line, messages))
    assert_all_arrived(line, run, messages)
    assert +run.results.no_final_reply, "no kill met a transaction"
    assert_doubles_are_unconfirmed(line, run)


async def test_every_disturbance_in_turn_loses_nothing(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    steps = [line.restart, line.kill_worker, line.reload, line.reload_faulty]

    async def disturb() -> None:
        steps.append(steps.pop(0))
        await steps[-1]()

    messages = make_messages(MESSAGES, domains=DOMAINS, seed=4)
    run = await carry(line, messages, disturb=disturb, times=2 * len(steps))
    print_figures(capsys, run.describe(line, messages))
    assert_all_arrived(line, run, messages, faults={"reload_refused"})
    assert len(line.mailflow.named("worker_restarts")) == len(line.mailflow.named("reload_refused")) == 2
    assert_doubles_are_unconfirmed(line, run)


async def carry(
    line: Line, messages: list[Message], *, disturb: Callable[[], Awaitable[None]] | None = None, times: int = 0
) -> Run:
    """Send everything, disturb at even steps of the progress, wait until Postfix has nothing left; read its log."""
    began = time.monotonic()
    async with asyncio.timeout(RUN_S), asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(
            send_all(messages, port=line.postfix.port, connections=SOURCE_CONNECTIONS, size_bytes=BODY_BYTES)
        )
        for step in range(1, times + 1):
            await line.sink.wait_for(len(_pairs(messages)) * step // (times + 1))
            assert disturb is not None
            await disturb()
    late = ""
    if not await _wait_queue_empty(line, messages, EMPTY_S):
        late = line.postfix.describe_rest(sending.result().values())
        # What hangs here would be our fault; what Postfix keeps without a session is in its hands, and not lost yet.
        assert await line.mailflow.metric("mailflow_sessions") == 0, f"a session hangs\n{late}"
        await _wait_queue_empty(line, messages, POSTFIX_GIVES_UP_S)
    seconds = time.monotonic() - began
    await line.sink.end()
    tokens = {queue_id: token for token, queue_id in sending.result().items()}
    log = line.postfix.log.read_text(encoding="utf-8", errors="replace")
    return Run(read_results(log.splitlines(), tokens=tokens), seconds, late)


async def _wait_queue_empty(line: Line, messages: list[Message], seconds: float) -> bool:
    """Wait until Postfix has nothing left; False where it has: the figures show it, and assert_all_arrived fails."""
    with contextlib.suppress(pytest.fail.Exception):
        await asyncio.to_thread(
            wait_until, lambda: line.postfix.count_removed() >= len(messages), what="an empty queue", deadline_s=seconds
        )
    return line.postfix.count_removed() >= len(messages)


def assert_doubles_are_unconfirmed(line: Line, run: Run) -> None:
    """A second copy only where Postfix did not hear the final reply."""
    unexplained = {
        pair: copies for pair, copies in line.sink.doubled.items() if copies > 1 + run.results.no_final_reply[pair]
    }
    assert not unexplained


def assert_all_arrived(line: Line, run: Run, messages: list[Message], *, faults: Collection[str] = frozenset()) -> None:
    """Every pair arrived whole and was confirmed to Postfix once, nothing else arrived, nothing came back."""
    expected, arrived = _pairs(messages), set(line.sink.copies)
    lost, strange = sorted(expected - arrived), sorted(arrived - expected)
    assert not lost
    assert not strange
    assert not {pair: run.results.sent[pair] for pair in expected if run.results.sent[pair] != 1}
    assert not run.results.bounced
    # A fault of our own is answered 451 and tried again: Postfix alone would not tell of it.
    assert not [
        event for event in line.mailflow.events if event.get("level") == "error" and event["event"] not in faults
    ]
    assert line.mailflow.stderr == ""


def print_figures(capsys: pytest.CaptureFixture[str], figures: str) -> None:
    with capsys.disabled():
        print(figures)


def _pairs(messages: list[Message]) -> set[tuple[str, str]]:
    return {(message.token, recipient) for message in messages for recipient in message.recipients}


def _cpu_s(pid: int) -> float:
    """User and system time of a living process (proc(5): fields 14 and 15, counted from behind the name)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
