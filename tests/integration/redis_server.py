"""A real redis-server on a loopback port, without persistence, that can be killed, frozen and started again."""

import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from tests.servers import free_port, require_program, wait_for_port

PASSWORD = "s3cret-of-the-test"


class RedisProcess:
    """Serves inside `with`; always on the same port, and empty after each `start`."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/1"
        self._program = require_program("redis-server")
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Serve; return when it answers."""
        options = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--requirepass", PASSWORD, *self._options)
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "--port", str(self.port), *options],
                cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        wait_for_port(self.port, what="redis-server")

    def kill(self) -> None:
        """Kill it, frozen or not."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def freeze(self) -> None:
        """Let it accept connections, as the kernel does, and answer nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def client(self) -> Any:
        """Connect to the database that `url` names."""
        return redis.Redis(port=self.port, db=1, password=PASSWORD, decode_responses=True)

    def sessions(self) -> dict[str, int]:
        """How many sessions each network has, over all Pods, whatever their lease says."""
        client = self.client()
        return {
            key: sum(int(value.partition(":")[0]) for value in client.hgetall(key).values())
            for key in client.scan_iter("*:sessions")
        }
