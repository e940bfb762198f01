"""A real PostgreSQL on a loopback port and a socket of its own, that can be killed, frozen and started again.

Durable as in production: fsync is on. Runs under the user `postgres` where the tests run as root, as PostgreSQL does
not run as root; under the own user elsewhere.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers import free_port, require_program, wait_until

SETTINGS = """\
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = '{folder}'
max_connections = 200
shared_buffers = '64MB'
max_wal_size = '256MB'
fsync = {fsync}
log_min_messages = warning
"""


class PostgresServer:
    """Serves inside `with`; always on the same port, with what it had when it was killed."""

    def __init__(self, *, fsync: bool = True) -> None:
        self.port = free_port()
        self._fsync = fsync
        self._program = Path(require_program("postgres")).resolve()  # its other programs lie beside it
        self._folder = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
        if os.geteuid() == 0:
            shutil.chown(self._folder, "postgres")
        self._run("initdb", "-D", f"{self._folder}/data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync",
                  "--locale=C.UTF-8")  # fmt: skip
        settings = SETTINGS.format(port=self.port, folder=self._folder, fsync="on" if self._fsync else "off")
        with (self._folder / "data/postgresql.conf").open("a", encoding="ascii") as file:
            file.write(settings)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Serve; return when it answers, after what recovery it needs. It ends with the thread that calls this."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_as_postgres(), str(self._program), "-D", f"{self._folder}/data"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder, start_new_session=True,
            )  # fmt: skip
        wait_until(self._answers, what=f"PostgreSQL, see {self._folder}/log", deadline_s=30)

    def stop(self) -> None:
        """Stop as for an update: sessions are told, then cut."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)

    def kill(self) -> None:
        """Kill all its processes at once, frozen or not, as a power loss would."""
        assert self._process is not None
        if self._process.poll() is None:
            for pid in (self._process.pid, *self._children()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait(10)
        # Its shared memory is found again by the next start, which waits until all that used it are gone.

    def start_as_standby(self) -> None:
        """Serve again, reading only: as the standby of a primary that is not there."""
        (self._folder / "data/standby.signal").touch()
        self.start()

    def freeze(self) -> None:
        """Let it accept connections, as the kernel does, and answer nothing."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal_all(signal.SIGCONT)

    def new_database(self) -> str:
        """Make an empty database; give its url."""
        self._databases += 1
        name = f"mail{self._databases}"
        self.execute(f"CREATE DATABASE {name}", database="postgres")
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def execute(self, statement: str, *, database: str) -> str:
        """Run a statement by psql; give its rows, columns parted by `|`."""
        return self._run("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", str(self._folder),
                         "-p", str(self.port), "-U", "postgres", "-d", database, "-c", statement).strip()  # fmt: skip

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        for pid in (self._process.pid, *self._children()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _children(self) -> list[int]:
        assert self._process is not None
        pid = self._process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text(encoding="utf-8")
        ready = [str(self._program.with_name("pg_isready")), "-q", "-h", str(self._folder), "-p", str(self.port)]
        return subprocess.run(ready, check=False).returncode == 0

    def _run(self, program: str, *arguments: str) -> str:
        command = [*_as_postgres(), str(self._program.with_name(program)), *arguments]
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


def _as_postgres() -> list[str]:
    """Give the words that run a command as an ordinary user, and that end it with the tests, however those end."""
    user = ["--reuid=postgres", "--regid=postgres", "--init-groups"] if os.geteuid() == 0 else []
    return [require_program("setpriv"), *user, "--pdeathsig=KILL"]
