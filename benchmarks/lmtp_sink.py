"""Postfix's smtp-sink as the mailbox server that all deliver to: it costs little and takes everything."""

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.servers import free_port, require_program, wait_for_port, wait_until

COUNTER = re.compile(rb"mesg=(\d+)")


class LmtpSink:
    """A running sink on `port` of 127.0.0.1."""

    def __init__(self, port: int, counters: Path) -> None:
        self.port = port
        self._counters = counters

    @property
    def messages(self) -> int:
        """How many messages have come."""
        found = COUNTER.findall(self._counters.read_bytes()[-400:])
        return int(found[-1]) if found else 0

    def wait_for(self, messages: int, deadline_s: float = 60) -> None:
        """Wait until as many have come."""
        wait_until(lambda: self.messages >= messages, what=f"{messages} messages", deadline_s=deadline_s)


@contextlib.contextmanager
def run_sink() -> Iterator[LmtpSink]:
    """Serve LMTP until the block ends."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        counters = Path(folder) / "counters"
        user = ["-u", "nobody"] if os.getuid() == 0 else []
        with counters.open("wb") as output:
            process = subprocess.Popen(
                [require_program("smtp-sink"), "-c", "-L", *user, "-h", "sink.example", f"127.0.0.1:{port}", "1024"],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_for_port(port, what="smtp-sink")
            yield LmtpSink(port, counters)
        finally:
            process.terminate()
            process.wait()
