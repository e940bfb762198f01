"""The foreign servers and clients that integration tests run: where they are, and what is missing.

Debian packages are named here and nowhere else: `make test` asks `python tests/servers.py` what to install.
A missing program skips its test on a laptop and fails it with CI=true: a green run there means that everything ran.
Servers started by tests listen on loopback only, on ports of `free_port()`.
"""

import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

# program -> the Debian package that has it
PACKAGES = {
    "dovecot": "dovecot-imapd",
    "haproxy": "haproxy",
    "imap": "dovecot-imapd",
    "lmtp": "dovecot-lmtpd",
    "Net/SSLeay.pm": "libnet-ssleay-perl",  # STARTTLS in swaks
    "postfix": "postfix",
    "postgres": "postgresql",
    "redis-server": "redis-server",
    "strace": "strace",
    "swaks": "swaks",
    "unbound": "unbound",
}
# Debian keeps daemons where an ordinary user's PATH does not reach; of several PostgreSQL the newest is taken
POSTGRES_FOLDERS = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
DAEMON_FOLDERS = ("/usr/sbin", "/usr/lib/dovecot", "/usr/lib/postfix/sbin", *POSTGRES_FOLDERS)
PERL_FOLDERS = ("usr/lib/*/perl5/*", "usr/share/perl5")


def is_ci() -> bool:
    """True where nothing may be left out: CI=true."""
    return os.environ.get("CI", "").lower() in {"true", "1"}


def find_program(name: str) -> str | None:
    """The absolute path of a program on PATH or among the daemons, or of a Perl module; None where there is none."""
    if name.endswith(".pm"):
        return next((str(path) for folder in PERL_FOLDERS for path in Path("/").glob(f"{folder}/{name}")), None)
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *DAEMON_FOLDERS)))


def missing_packages() -> list[str]:
    """The Debian packages whose programs are not here, sorted."""
    return sorted({package for program, package in PACKAGES.items() if find_program(program) is None})


def require_program(name: str) -> str:
    """The absolute path of `name`; where it is not installed the test is skipped, with CI=true it fails."""
    path = find_program(name)
    if path is None:
        leave_out(f"{name} is not installed")
    return path


def require_root() -> None:
    """Skip (with CI=true fail) the test of a server that only root can start."""
    if os.geteuid() != 0:
        leave_out("needs root")


def leave_out(reason: str) -> NoReturn:
    """Skip the running test for `reason`; with CI=true fail it."""
    if is_ci():
        pytest.fail(f"{reason}, and CI=true allows no gap", pytrace=False)
    pytest.skip(reason)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago. Our own listeners take port 0 instead."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(is_ready: Callable[[], bool], *, what: str, deadline_s: float = 10.0) -> None:
    """Return once `is_ready()`; fail the test, naming `what`, after `deadline_s`.

    Polls, as foreign servers tell nobody when they are up. For our own code wait on an event.
    """
    end = time.monotonic() + deadline_s
    while not is_ready():
        if time.monotonic() > end:
            pytest.fail(f"{what}: not ready after {deadline_s:g} s")
        time.sleep(0.02)


def wait_for_port(port: int, *, what: str, deadline_s: float = 10.0) -> None:
    """Return once something accepts connections on this port of 127.0.0.1; fail the test after `deadline_s`."""

    def accepts() -> bool:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(accepts, what=what, deadline_s=deadline_s)


if __name__ == "__main__":
    print(*missing_packages())
