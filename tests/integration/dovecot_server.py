"""A real Dovecot of its own in a folder: LMTP over TCP and over a unix socket, IMAP to read back what came.

It shares nothing with a Dovecot of the machine, and runs as root (its parts then drop to Debian's users) and as an
ordinary user. Mailboxes of example.org: alice and bob without a limit, full with room for one message, postmaster, and
MANY more. `freeze` stops every process of it: the kernel still accepts connections, nobody answers.
"""

import contextlib
import grp
import imaplib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.servers import free_port, leave_out, require_program, wait_for_port, wait_until

PASSWORD = "secret"
MANY = [f"user{number}@example.org" for number in range(24)]
SETTINGS = """\
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
instance_name = mailflow-test
protocols = imap lmtp
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
default_internal_user = {internal_user}
default_internal_group = {internal_group}
default_login_user = {login_user}
mail_location = maildir:~/Maildir
mail_plugins = quota
mail_fsync = always
plugin {{
  quota = maildir:q
  quota_vsizes = yes
}}
quota_full_tempfail = {full_tempfail}
lmtp_rcpt_check_quota = {rcpt_check}
first_valid_uid = 1
passdb {{
  driver = passwd-file
  args = scheme=PLAIN username_format=%u {folder}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {folder}/users
  default_fields = uid={mail_user} gid={mail_group} home={folder}/mail/%d/%n
}}
protocol lmtp {{
  postmaster_address = postmaster@example.org
}}
service anvil {{
  chroot =
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    address = 127.0.0.1
    port = {imap_port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {lmtp_port}
  }}
  unix_listener {folder}/lmtp {{
    mode = 0600
  }}
}}
"""
USERS = """\
alice@example.org:{{PLAIN}}{password}::::::
bob@example.org:{{PLAIN}}{password}::::::
full@example.org:{{PLAIN}}{password}::::::userdb_quota_rule=*:messages=1
postmaster@example.org:{{PLAIN}}{password}::::::
"""


class Dovecot:
    """The server; use `run_dovecot`. `server` and `unix_server` are its addresses as the configuration writes them."""

    def __init__(self, folder: Path, *, checks_quota_at_rcpt: bool, full_is_temporary: bool) -> None:
        self._program = require_program("dovecot")
        require_program("lmtp")
        require_program("imap")
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.lmtp_port = free_port()
        self.imap_port = free_port()
        self.server = f"127.0.0.1:{self.lmtp_port}"
        self.unix_server = f"unix:{folder}/lmtp"
        self._write_settings(checks_quota_at_rcpt=checks_quota_at_rcpt, full_is_temporary=full_is_temporary)

    @property
    def log(self) -> str:
        """All it has logged."""
        return (self._folder / "log").read_text()

    def start(self) -> None:
        """Serve; after `stop` or `kill` on the same ports, with the mail it had."""
        with (self._folder / "output").open("ab") as output:
            # A process group of its own, so that all of its processes can be stopped and killed at once.
            self._process = subprocess.Popen(
                [self._program, "-F", "-c", str(self._folder / "dovecot.conf")],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0,
            )  # fmt: skip
        for port in (self.lmtp_port, self.imap_port):
            wait_for_port(port, what=f"dovecot, see {self._folder}")

    def stop(self) -> None:
        """End in an orderly way; then connections are refused."""
        self._signal(signal.SIGCONT)
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End all of its processes at once, in the middle of whatever they do."""
        self._end(signal.SIGKILL)
        for lock in (self._folder / "mail").glob("**/*.lock"):  # Dovecot would wait two minutes for the dead
            lock.unlink()

    def freeze(self) -> None:
        """Stop all of its processes; connections still stand and are accepted, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after `freeze`."""
        self._signal(signal.SIGCONT)

    def mail(self, user: str = "alice@example.org") -> list[bytes]:
        """The messages in the INBOX of `user`, read over IMAP, in the order of arrival."""
        with imaplib.IMAP4("127.0.0.1", self.imap_port, timeout=10) as imap:
            imap.login(user, PASSWORD)
            _, count = imap.select(readonly=True)
            if count == [b"0"]:
                return []
            _, found = imap.fetch("1:*", "(BODY.PEEK[])")
        return [part[1] for part in found if isinstance(part, tuple)]

    def mail_with(self, token: bytes, user: str = "alice@example.org") -> list[bytes]:
        """The messages of `user` that hold `token`."""
        return [message for message in self.mail(user) if token in message]

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        if number is signal.SIGKILL:
            self._signal(number)
        self._process.wait(10)
        wait_until(self._is_gone, what="end of dovecot")

    def _is_gone(self) -> bool:
        # Not the process group: who is dead stays in it until init, which a container may not have, has noticed.
        with socket.socket() as lmtp, socket.socket() as imap:
            return 0 not in (
                lmtp.connect_ex(("127.0.0.1", self.lmtp_port)),
                imap.connect_ex(("127.0.0.1", self.imap_port)),
            )

    def _write_settings(self, *, checks_quota_at_rcpt: bool, full_is_temporary: bool) -> None:
        is_root = os.geteuid() == 0
        try:
            me, my_group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
        except KeyError:
            leave_out("Dovecot needs a user that has a name")
        settings = SETTINGS.format(
            folder=self._folder,
            lmtp_port=self.lmtp_port,
            imap_port=self.imap_port,
            internal_user="dovecot" if is_root else me,
            internal_group="dovecot" if is_root else my_group,
            login_user="dovenull" if is_root else me,
            mail_user="mail" if is_root else me,
            mail_group="mail" if is_root else my_group,
            full_tempfail="yes" if full_is_temporary else "no",
            rcpt_check="yes" if checks_quota_at_rcpt else "no",
        )
        (self._folder / "dovecot.conf").write_text(settings)
        many = "".join(f"{user}:{{PLAIN}}{PASSWORD}::::::\n" for user in MANY)
        (self._folder / "users").write_text(USERS.format(password=PASSWORD) + many)
        (self._folder / "mail").mkdir()
        if is_root:
            shutil.chown(self._folder / "mail", "mail", "mail")


@contextlib.contextmanager
def run_dovecot(*, checks_quota_at_rcpt: bool = True, full_is_temporary: bool = False) -> Iterator[Dovecot]:
    """Serve until the block ends. Without mail at the start."""
    # Not pytest's folder: its parents are closed to Dovecot's users, and its path is long for a unix socket.
    with tempfile.TemporaryDirectory(prefix="dovecot-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        dovecot = Dovecot(folder, checks_quota_at_rcpt=checks_quota_at_rcpt, full_is_temporary=full_is_temporary)
        dovecot.start()
        try:
            yield dovecot
        finally:
            dovecot.thaw()
            dovecot.kill()
