"""Log lines: valid JSON of at most 4,096 bytes whatever is in them, in a buffer that never holds the loop up."""

import asyncio
import json
import logging
import os
import re
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from mailflow.observe.log import log_decision, open_log
from mailflow.observe.log_line import MAX_LINE_BYTES, encode_line
from mailflow.observe.log_writer import LINE_OVERHEAD_BYTES, LineClass, LogWriter

OpenLog = Callable[..., LogWriter]


class Unprintable:
    """An object none of whose texts can be had."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class BadDict(dict[str, int]):
    """A mapping that breaks while it is read."""

    def items(self) -> Any:
        raise KeyError("gone")


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def to_file(log_path: Path) -> Iterator[OpenLog]:
    """Open the log to `log_path`."""
    fd = os.open(log_path, os.O_WRONLY | os.O_CREAT)
    writers: list[LogWriter] = []

    def start(**options: Any) -> LogWriter:
        writers.append(open_log(fd=fd, **options))
        return writers[-1]

    yield start
    for writer in writers:
        writer.close()
    os.close(fd)
    structlog.reset_defaults()


@pytest.fixture
def stalled_pipe() -> Iterator[tuple[int, int]]:
    """A full pipe nobody reads: (read end, write end)."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"\n" * 4096)
    except BlockingIOError:
        pass
    os.set_blocking(writer, True)
    yield reader, writer
    os.close(reader)  # an abandoned thread then ends by EPIPE


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def read_pipe(fd: int) -> bytes:
    """Read all that comes until the write end is closed."""
    content = b""
    while chunk := os.read(fd, 65536):
        content += chunk
    return content


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.binary(max_size=60),
    st.text(st.characters(), max_size=60),
    st.text(st.characters(categories=["Cs"]), max_size=10),
    st.builds(Unprintable),
    st.builds(lambda: BadDict(a=1)),
    st.sampled_from(["x" * 9000, b"\xff" * 9000, Path("/x"), LineClass.INFO, object]),
)
FIELDS = st.dictionaries(
    st.text(max_size=90),
    st.recursive(
        ODD,
        lambda inner: (
            st.lists(inner, max_size=5) | st.dictionaries(st.integers() | st.text(max_size=9), inner, max_size=5)
        ),
        max_leaves=30,
    ),
    max_size=40,
)


@given(FIELDS)
def test_every_line_is_valid_json_of_at_most_4096_bytes(fields: dict[str, Any]) -> None:
    line = encode_line(fields)
    assert len(line) <= MAX_LINE_BYTES
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert all(octet == 0x0A or 0x20 <= octet < 0x80 for octet in line)
    assert isinstance(json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON")), dict)


def test_a_line_that_fits_is_not_marked() -> None:
    assert json.loads(encode_line({"a": "x" * 4000})) == {"a": "x" * 4000}


def test_a_long_value_is_shortened_and_the_line_marked() -> None:
    decoded = json.loads(encode_line({"event": "message", "why": "é" * 3000, "reply": "250 2.0.0 Ok"}))
    assert decoded["truncated"] is True
    assert (decoded["event"], decoded["reply"]) == ("message", "250 2.0.0 Ok")
    assert len(decoded["why"]) > 500
    assert set(decoded["why"]) == {"é"}


def test_only_the_long_value_is_shortened() -> None:
    decoded = json.loads(encode_line({"event": "message", "long": "x" * 10**6, "other": ["a" * 500]}))
    assert len(decoded["long"]) > 2000
    assert decoded["other"] == ["a" * 500]


def test_more_fields_than_fit_leave_the_first_ones() -> None:
    decoded = json.loads(encode_line({"ts": "now", "event": "message"} | {f"field{n}": "x" * 50 for n in range(500)}))
    assert (decoded["ts"], decoded["event"], decoded["truncated"]) == ("now", "message", True)


def test_a_list_that_holds_itself_is_written() -> None:
    circle: list[Any] = ["a"]
    circle.append(circle)
    assert json.loads(encode_line({"event": "x", "circle": circle}))["event"] == "x"


def test_a_number_python_will_not_print_is_named_by_its_type() -> None:
    assert json.loads(encode_line({"number": 10**6000})) == {"number": "<int>"}


def test_bytes_come_out_as_text() -> None:
    assert json.loads(encode_line({"line": b"RSET \xff", "names": {b"a"}})) == {"line": "RSET \\xff", "names": "{b'a'}"}


def test_an_event_has_time_level_and_fields_in_order(to_file: OpenLog, log_path: Path) -> None:
    writer = to_file()
    structlog.get_logger().bind(session="s1").warning("slow_client", seconds=1.5)
    assert writer.close()
    (line,) = read_lines(log_path)
    assert list(line) == ["ts", "level", "event", "session", "seconds"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("ts"))
    assert line == {"level": "warning", "event": "slow_client", "session": "s1", "seconds": 1.5}


def test_lines_come_out_in_the_order_they_went_in(to_file: OpenLog, log_path: Path) -> None:
    writer = to_file(level="debug")
    log = structlog.get_logger()
    for number in range(300):
        (log.debug, log.info, log.error, log_decision)[number % 4]("n", number=number)
    assert writer.close()
    assert [line["number"] for line in read_lines(log_path)] == list(range(300))


def test_events_below_the_level_are_not_written_and_decisions_always_are(to_file: OpenLog, log_path: Path) -> None:
    writer = to_file(level="error")
    log = structlog.get_logger()
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    log_decision("message", action="accept")
    assert writer.close()
    assert [line["event"] for line in read_lines(log_path)] == ["d", "message"]


def test_a_logger_made_before_the_log_was_opened_writes_to_it(to_file: OpenLog, log_path: Path) -> None:
    log = structlog.get_logger()
    writer = to_file()
    log.info("late")
    assert writer.close()
    assert [line["event"] for line in read_lines(log_path)] == ["late"]


def test_write_line_adds_nothing(to_file: OpenLog, log_path: Path) -> None:
    writer = to_file()
    writer.write_line({"event": "ready", "workers": 1})
    assert writer.close()
    assert log_path.read_bytes() == b'{"event":"ready","workers":1}\n'


def test_an_exception_carries_the_end_of_its_traceback(to_file: OpenLog, log_path: Path) -> None:
    writer = to_file()
    log = structlog.get_logger()
    try:
        raise ValueError("x" * 9000 + " the end")
    except ValueError as exc:
        log.exception("internal_error")
        caught = exc
    log.error("task_failed", exc_info=caught.with_traceback(None))
    log.exception("outside")
    assert writer.close()
    handled, given_exc, outside = read_lines(log_path)
    assert handled["level"] == "error"
    assert handled["truncated"] is True
    assert handled["traceback"].endswith("the end\n")
    assert given_exc["traceback"].endswith("the end\n")
    assert "traceback" not in outside


def test_pythons_own_logging_comes_out_here_from_warnings_up(
    to_file: OpenLog, log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own raise where ours must not
    writer = to_file()
    logging.getLogger("asyncio").info("no")
    logging.getLogger("asyncio").warning("took %s", Unprintable())
    try:
        raise OSError("gone")
    except OSError:
        logging.getLogger("uvicorn.error").exception("failed")
    logging.getLogger("mail.log").warning("%r unrecognised: %s", "peer", "FOO")
    assert writer.close()
    logging.getLogger("asyncio").warning("after close")
    first, second = read_lines(log_path)
    assert (first["logger"], first["message"]) == ("asyncio", "took %s")
    assert (second["logger"], second["level"], second["message"]) == ("uvicorn.error", "error", "failed")
    assert second["traceback"].endswith("OSError: gone\n")


async def test_a_stalled_reader_does_not_block_the_loop_and_memory_stays_bounded(stalled_pipe: tuple[int, int]) -> None:
    dropped: Counter[str] = Counter()
    writer = LogWriter(stalled_pipe[1], buffer_bytes=100_000, on_drop=lambda label: dropped.update([label]))
    line = encode_line({"event": "x" * 1000})
    loop = asyncio.get_running_loop()
    ticks = []
    loop.call_later(0.001, lambda: ticks.append(loop.time()))
    for _number in range(2000):
        writer.info(line)
        assert writer.held_bytes <= 100_000
        await asyncio.sleep(0)
    assert ticks
    assert dropped.total() >= 2000 - 100_000 // len(line) - 1
    assert dropped.keys() == {"info"}
    begun = time.monotonic()
    assert not await asyncio.to_thread(writer.close, 0.05)
    assert time.monotonic() - begun < 1


def test_lines_of_less_worth_are_dropped_first_and_decisions_last(stalled_pipe: tuple[int, int]) -> None:
    reader, fd = stalled_pipe
    dropped: Counter[str] = Counter()
    line = {c: encode_line({"class": c.label, "pad": "x" * 900}) for c in LineClass}
    capacity = 40
    cost = max(map(len, line.values())) + LINE_OVERHEAD_BYTES
    writer = LogWriter(fd, buffer_bytes=capacity * cost, on_drop=lambda label: dropped.update([label]))
    # 20 of each class from the least, then decisions enough to fill the buffer alone.
    for line_class in LineClass:
        for _number in range(20):
            writer.write(line[line_class], line_class)
    in_hand = 1  # the thread may hold one line in its hand
    assert dropped["debug"] >= 20 - in_hand
    assert dropped["warning"] == dropped["decision"] == 0
    for _number in range(capacity):
        writer.decision(line[LineClass.DECISION])
    assert dropped["info"] >= 20 - in_hand
    assert dropped["warning"] >= 20 - in_hand
    assert 20 - in_hand <= dropped["decision"] <= 20
    writer.debug(line[LineClass.DEBUG])  # nothing of less worth is held
    assert dropped["debug"] >= 21 - in_hand
    # The reader comes back: every line held is written.
    with ThreadPoolExecutor(1) as pool:
        content = pool.submit(read_pipe, reader)
        assert writer.close(10)
        os.close(fd)
        written = Counter(json.loads(text)["class"] for text in content.result(10).split(b"\n") if text)
    assert written["decision"] == 60 - dropped["decision"]
    assert written.total() + dropped.total() == 4 * 20 + capacity + 1


def test_a_reader_that_went_away_costs_lines_and_nothing_else() -> None:
    reader, fd = os.pipe()
    os.close(reader)
    dropped: Counter[str] = Counter()
    writer = LogWriter(fd, buffer_bytes=100_000, on_drop=lambda label: dropped.update([label]))
    writer.info(b"a\n")
    writer.decision(b"b\n")
    assert writer.close()
    assert dropped == {"info": 1, "decision": 1}
    writer.info(b"c\n")
    assert dropped["info"] == 2
    os.close(fd)


def test_each_write_has_whole_lines_and_no_more_than_a_pipe_keeps_together() -> None:
    # A packet socket keeps the writes apart.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        writer = LogWriter(ours.fileno(), buffer_bytes=1_000_000, on_drop=lambda label: None)
        lines = [encode_line({"number": number, "pad": "x" * (number * 100)}) for number in range(50)]
        for line in lines:
            writer.info(line)
        assert writer.close(10)
        ours.shutdown(socket.SHUT_WR)
        writes = list(iter(lambda: theirs.recv(65536), b""))
    assert b"".join(writes) == b"".join(lines)
    assert all(write.endswith(b"\n") and len(write) <= select.PIPE_BUF for write in writes)
    assert len(writes) < len(lines), "short lines go together"


def test_the_descriptor_stays_blocking() -> None:
    reader, fd = os.pipe()
    writer = LogWriter(fd, buffer_bytes=100_000, on_drop=lambda label: None)
    writer.info(b"a\n")
    assert writer.close()
    assert os.get_blocking(fd)
    os.close(reader)
    os.close(fd)


def test_a_pipe_made_non_blocking_by_another_loses_nothing(stalled_pipe: tuple[int, int]) -> None:
    reader, fd = stalled_pipe
    os.set_blocking(fd, False)
    dropped: Counter[str] = Counter()
    writer = LogWriter(fd, buffer_bytes=1_000_000, on_drop=lambda label: dropped.update([label]))
    for number in range(200):
        writer.decision(b"%d %s\n" % (number, b"x" * 1000))
    with ThreadPoolExecutor(1) as pool:
        content = pool.submit(read_pipe, reader)
        assert writer.close(10)
        os.close(fd)
        numbers = [int(line.split()[0]) for line in content.result(10).split(b"\n") if line]
    assert numbers == list(range(200))
    assert not dropped
