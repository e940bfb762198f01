"""A real Postfix of its own in a folder: takes mail by SMTP on loopback, hands all of it on as its settings say.

It shares nothing with a Postfix of the machine: configuration, queue, data and log are in the folder. No DNS. Needs
root, as Postfix does.
"""

import contextlib
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.servers import free_port, require_program, require_root

MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file_prefixes = {folder}
maillog_file = {folder}/log
syslog_name = postfix
# Short ids are used again, and a queue id is what a message is known by here.
enable_long_queue_ids = yes
myhostname = client.example
mydomain = client.example
mydestination =
local_transport = error:nothing is local
alias_maps =
alias_database =
local_recipient_maps =
inet_protocols = ipv4
inet_interfaces = loopback-only
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
smtpd_tls_security_level = none
smtp_tls_security_level = none
smtp_dns_support_level = disabled
notify_classes =
in_flow_delay = 0
initial_destination_concurrency = 20
default_destination_concurrency_limit = 20
"""
# All mail to one relay host, retries after a second.
RELAY = """\
relayhost = [127.0.0.1]:{relay_port}
# A restart of the relay host must cost a retry of what was tried meanwhile, not a pause for all of the mail.
default_destination_concurrency_failed_cohort_limit = 0
transport_retry_time = 1s
queue_run_delay = 1s
minimal_backoff_time = 1s
maximal_backoff_time = 2s
"""
# Nothing is chrooted; no pickup, as mail comes by SMTP alone (so no sendmail, which needs /etc/postfix/main.cf).
# qmgr is woken every 10 s, not every 300: what it finds locked by a delivery ("skipped, still being delivered") it puts
# into incoming for 60 s, and there it looks only when it is woken or new mail comes.
MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
cleanup    unix  n - n - 0 cleanup
qmgr       unix  n - n 10 1 qmgr
rewrite    unix  - - n - - trivial-rewrite
bounce     unix  - - n - 0 bounce
defer      unix  - - n - 0 bounce
trace      unix  - - n - 0 bounce
verify     unix  - - n - 1 verify
flush      unix  n - n 1000? 0 flush
proxymap   unix  - - n - - proxymap
proxywrite unix  - - n - 1 proxymap
smtp       unix  - - n - - smtp
lmtp       unix  - - n - - lmtp
showq      unix  n - n - - showq
error      unix  - - n - - error
retry      unix  - - n - - error
discard    unix  - - n - - discard
anvil      unix  - - n - 1 anvil
scache     unix  - - n - 1 scache
postlog    unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """A running Postfix: the port of 127.0.0.1 where it takes mail, its log, and its master process."""

    def __init__(self, port: int, log: Path, pid: int) -> None:
        self.port = port
        self.pid = pid
        self.log = log
        self._read_bytes = 0
        self._removed = 0

    def count_removed(self) -> int:
        """How many messages have left the queue, as the log tells so far."""
        with self.log.open("rb") as log:
            log.seek(self._read_bytes)
            whole_lines, newline, _ = log.read().rpartition(b"\n")
        self._read_bytes += len(whole_lines) + len(newline)
        self._removed += (whole_lines + newline).count(b": removed\n")
        return self._removed

    def describe_rest(self, queue_ids: Iterable[str]) -> str:
        """What is left in the queue, for people: the log's last lines of each message, and who is connected to whom."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        removed = {line.split(": ")[1] for line in lines if line.endswith(": removed")}
        rest = [line for queue_id in set(queue_ids) - removed for line in lines if queue_id in line]
        sockets = subprocess.run(["ss", "-tanop"], capture_output=True, text=True, check=False).stdout
        return "\n".join([*rest[-40:], *(line for line in sockets.splitlines() if "TIME-WAIT" not in line)])


@contextlib.contextmanager
def run_postfix(*, relay_port: int, settings: str = RELAY) -> Iterator[Postfix]:
    """Serve until the block ends; all mail goes to this port of 127.0.0.1. `settings` are for main.cf."""
    require_root()
    program = require_program("postfix")
    # Not pytest's folder: its parents are closed to the user that Postfix runs as.
    with tempfile.TemporaryDirectory(prefix="postfix-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        command = [program, "-c", str(folder / "etc")]
        port = _write_settings(folder, settings.format(relay_port=relay_port))
        started = subprocess.run([*command, "start"], capture_output=True, text=True, check=False)
        log = folder / "log"
        assert started.returncode == 0, f"{started.stdout}{started.stderr}{log.read_text() if log.exists() else ''}"
        try:
            yield Postfix(port, log, int((folder / "queue/pid/master.pid").read_text(encoding="ascii")))
        finally:
            subprocess.run([*command, "stop"], capture_output=True, check=False)


def _write_settings(folder: Path, settings: str) -> int:
    port = free_port()
    for name in ("etc", "queue", "data"):
        (folder / name).mkdir()
    subprocess.run(["chown", "postfix:", folder / "data"], check=True)
    (folder / "etc/main.cf").write_text(MAIN.format(folder=folder) + settings, encoding="ascii")
    (folder / "etc/master.cf").write_text(MASTER.format(port=port), encoding="ascii")
    return port
