"""A real unbound on loopback that serves a zone in ZoneResolver's shape.

Names whose rows are just "TIMEOUT" become zones whose queries are dropped, "SERVFAIL" zones whose only server may not
be asked. Everything else is static local data under one SOA per zone. Runs as root and as an ordinary user.
"""

import contextlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.query

from tests.servers import free_port, require_program, wait_until

SETTINGS = """\
server:
  interface: 127.0.0.1
  port: {port}
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: "{folder}/pid"
  logfile: ""
  use-syslog: no
  do-daemonize: no
  do-ip6: no
  num-threads: 1
  module-config: "iterator"
  access-control: 127.0.0.0/8 allow
  local-zone: "." static
"""


@contextlib.contextmanager
def run_unbound(folder: Path, zone: Mapping[str, Sequence[Any]], *, apexes: Sequence[str], ttl_s: int) -> Iterator[str]:
    """Serve `zone` under its `apexes` until the block ends; yields "HOST:PORT"."""
    program, port = require_program("unbound"), free_port()
    config = folder / "unbound.conf"
    config.write_text(_settings(folder, port, zone, apexes, ttl_s), encoding="ascii")
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen([program, "-d", "-p", "-c", str(config)], stdout=log, stderr=log) as process,
    ):
        try:
            wait_until(lambda: _answers(port, apexes[0]), what=f"unbound, see {folder}/log")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def _answers(port: int, name: str) -> bool:
    try:
        dns.query.udp(dns.message.make_query(name, "SOA"), "127.0.0.1", timeout=0.2, port=port)
    except (dns.exception.Timeout, OSError):
        return False
    return True


def _settings(folder: Path, port: int, zone: Mapping[str, Sequence[Any]], apexes: Sequence[str], ttl_s: int) -> str:
    lines, forwards = [], []
    for apex in apexes:
        lines.append(f'local-zone: "{apex}." static')
        lines.append(f'local-data: "{apex}. {ttl_s} IN SOA ns.{apex}. hostmaster.{apex}. 1 3600 600 86400 {ttl_s}"')
    for name, rows in zone.items():
        for row in rows:
            match row:
                case "TIMEOUT":
                    lines.append(f'local-zone: "{name}." deny')
                case "SERVFAIL":
                    lines.append(f'local-zone: "{name}." transparent')
                    # Asking localhost is forbidden by default, so nobody is left to ask.
                    forwards.append(f'forward-zone:\n  name: "{name}."\n  forward-addr: 127.0.0.1@1\n')
                case dict():
                    [(rdtype, value)] = row.items()
                    lines.append(f"local-data: '{name}. {ttl_s} IN {rdtype} {_presented(rdtype, value)}'")
    settings = SETTINGS.format(port=port, folder=folder) + "".join(f"  {line}\n" for line in lines)
    return settings + "".join(forwards)


def _presented(rdtype: str, value: Any) -> str:
    match rdtype:
        case "MX" | "TLSA":
            return " ".join(map(str, value)) + ("." if rdtype == "MX" and value[-1] != "." else "")
        case "TXT":
            strings = [value] if isinstance(value, str | bytes) else value
            return " ".join('"' + "".join(map(_escaped, _octets(string))) + '"' for string in strings)
        case "CNAME" | "NS" | "PTR":
            return f"{value}."
        case _:
            return str(value)


def _octets(string: str | bytes) -> bytes:
    return string if isinstance(string, bytes) else string.encode("ascii")


def _escaped(octet: int) -> str:
    return chr(octet) if chr(octet).isalnum() and octet < 128 else f"\\{octet:03d}"
