"""Mailboxes as Maildir folders on this machine's disk: `<root>/<domain>/<local part>/{tmp,new,cur}`.

A mailbox exists if and only if its folder does; with `create` every address has one. A message is
written to tmp, synced, renamed into new, and new is synced: only then is it delivered. It is never
reported as not delivered once the rename happened. File I/O runs in threads, never on the event
loop. The surprise is the empty local part `""@example.org`, whose folder is `%`.
"""

import asyncio
import contextlib
import errno
import itertools
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from mailflow.deliver.answers import DELIVERED, NO_SUCH_USER, OWN_FAULT, UNCONFIRMED, WITHHELD
from mailflow.mail.address import Address
from mailflow.mail.envelope import Envelope, Recipient
from mailflow.mail.handoff import DeliveryStatus, DotWithheld, FinalDot, Outcome, RecipientStatus, Verification
from mailflow.mail.reply import Reply
from mailflow.mail.trace import delivered_to_field, return_path_field

DISK_FULL = Reply(452, "4.3.1", "Insufficient storage, try again later")
THREADS = 8
LEFTOVER_S = 36 * 3600  # what lies longer in tmp was left by a crash
HANDOFF_DEADLINE_S = 20.0

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._-")

T = TypeVar("T")


class _Delivery:
    """One call of `deliver`, seen from its thread: either its final dot leaves or it was given up before, never both.

    Cancelling cannot wait for a disk, so the two meet at a lock that is held for no I/O.
    """

    def __init__(self, dot: FinalDot) -> None:
        self._dot = dot
        self._lock = threading.Lock()
        self._is_given_up = False

    def give_up(self) -> None:
        """Let no further final dot leave."""
        with self._lock:
            self._is_given_up = True

    def leave(self) -> None:
        """Note that a final dot leaves now. Raises DotWithheld."""
        with self._lock:
            if self._is_given_up:
                raise DotWithheld
            self._dot.leave()


class MaildirBackend:
    """Mailboxes below `root`. `user_of` takes the detail off an address, `now` gives Unix time in seconds.

    `on_handoff(backend, outcome, seconds)` hears each outcome, in a thread.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        *,
        create: bool,
        hostname: str,
        user_of: Callable[[Address], Address] = lambda address: address,
        now: Callable[[], float] = time.time,
        on_handoff: Callable[[str, str, float], object] = lambda backend, outcome, seconds: None,
    ) -> None:
        self.name = name
        self.handoff_deadline_s = HANDOFF_DEADLINE_S
        self._root = root
        self._creates = create
        self._user_of = user_of
        self._now = now
        self._on_handoff = on_handoff
        self._threads: ThreadPoolExecutor | None = ThreadPoolExecutor(THREADS, thread_name_prefix=f"maildir-{name}")
        self._making = threading.Lock()
        self._counter = itertools.count()
        # The host name is the service's, which Pods share, and all may be process 1: the random part tells them apart.
        host = hostname.replace("/", "\\057").replace(":", "\\072")
        self._unique_end = f"P{os.getpid()}R{secrets.token_hex(8)}.{host}"

    async def open(self) -> None:
        """Make the root, where mailboxes may be made, and remove what crashes left in tmp. Raises OSError."""
        await self._run(self._prepare)

    async def close(self) -> None:
        """Let the threads go; what transactions that began before still ask is done by the loop's own."""
        if self._threads is not None:
            self._threads.shutdown(wait=False)
            self._threads = None

    async def create_mailbox(self, address: Address) -> None:
        """Make the folder of `address`, if it is not there yet. Raises OSError.

        Without a root that is not ours to make nothing is made: a volume that is not mounted must stay noticeable.
        """
        if self._creates or await self._run(self._root.is_dir):
            await self._run(lambda: make_mailbox(self.mailbox_folder(address)))

    def mailbox_folder(self, address: Address) -> Path:
        """Give the folder of an address's mailbox, the same whatever the detail."""
        address = self._user_of(address)
        return self._root / encode_name(address.ascii_domain) / encode_name(address.local)

    async def verify(self, address: Address, *, is_smtputf8: bool) -> Verification:
        """Tell whether the mailbox exists; a disk that cannot be read, or a missing root, is no answer."""
        if self._creates:
            return Verification(RecipientStatus.GOOD, deliver_to=address)
        try:
            exists = await self._run(lambda: self._exists(address))
        except OSError:
            return Verification(RecipientStatus.UNVERIFIABLE, reply=OWN_FAULT)
        if exists:
            return Verification(RecipientStatus.GOOD, deliver_to=address)
        return Verification(RecipientStatus.REFUSED, reply=NO_SUCH_USER, is_unknown_user=True)

    async def deliver(self, envelope: Envelope, body: Sequence[bytes], dot: FinalDot) -> list[Outcome]:
        """Write the message into each recipient's mailbox. Cancelled, it stops before the next rename."""
        delivery = _Delivery(dot)
        loop = asyncio.get_running_loop()
        write = loop.run_in_executor(self._threads, self._deliver_all, envelope, body, delivery)
        try:
            # The thread counts what it did, so that nothing done goes unreported when the caller is gone.
            return await asyncio.shield(write)
        except asyncio.CancelledError:
            delivery.give_up()
            raise

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    # Below here: in a thread.

    def _prepare(self) -> None:
        if self._creates:
            make_folders(self._root)
        oldest = self._now() - LEFTOVER_S
        for leftover in self._root.glob("*/*/tmp/*"):
            with contextlib.suppress(FileNotFoundError):
                if leftover.stat().st_mtime < oldest:
                    leftover.unlink()

    def _exists(self, address: Address) -> bool:
        try:
            return stat.S_ISDIR(self.mailbox_folder(address).stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            # A volume that is not mounted must not make every user unknown: without a root there is no answer.
            self._root.stat()
            return False

    def _deliver_all(self, envelope: Envelope, body: Sequence[bytes], delivery: _Delivery) -> list[Outcome]:
        outcomes = []
        for recipient in envelope.recipients:
            started = time.monotonic()
            outcome = self._deliver_one(envelope, recipient, body, delivery)
            self._on_handoff(self.name, outcome.status.value, time.monotonic() - started)
            outcomes.append(outcome)
        return outcomes

    def _deliver_one(
        self, envelope: Envelope, recipient: Recipient, body: Sequence[bytes], delivery: _Delivery
    ) -> Outcome:
        address = recipient.deliver_to
        folder = self.mailbox_folder(address)
        content = [return_path_field(envelope.reverse_path), delivered_to_field(address), *body]
        try:
            if not self._creates and not self._exists(address):
                return Outcome(DeliveryStatus.REFUSED, NO_SUCH_USER, self.name, "no folder")
            with self._making:  # a folder that another delivery has just made counts once its parent is synced
                make_mailbox(folder)
            temporary = folder / "tmp" / self._unique_name()
            write_synced(temporary, content)
        except OSError as exc:
            return self._defer(exc)
        return self._publish(temporary, folder / "new", delivery)

    def _publish(self, temporary: Path, new: Path, delivery: _Delivery) -> Outcome:
        """Make the written message visible: the rename is the delivery, the sync makes it last."""
        final = new / temporary.name
        try:
            delivery.leave()
            temporary.rename(final)
        except DotWithheld:
            temporary.unlink(missing_ok=True)
            return Outcome(DeliveryStatus.DEFERRED, OWN_FAULT, self.name, WITHHELD)
        except OSError as exc:
            temporary.unlink(missing_ok=True)
            return self._defer(exc)
        try:
            sync_folder(new)
        except OSError as exc:
            return Outcome(DeliveryStatus.IN_DOUBT, UNCONFIRMED, self.name, f"sync of new: {exc}")
        return Outcome(DeliveryStatus.DELIVERED, DELIVERED, self.name, final.name)

    def _defer(self, exc: OSError) -> Outcome:
        reply = DISK_FULL if exc.errno in (errno.ENOSPC, errno.EDQUOT) else OWN_FAULT
        return Outcome(DeliveryStatus.DEFERRED, reply, self.name, str(exc))

    def _unique_name(self) -> str:
        now = self._now()
        return f"{int(now)}.M{int(now % 1 * 1_000_000)}Q{next(self._counter)}{self._unique_end}"


def encode_name(name: str) -> str:
    """Give the folder name of a domain or local part: lower case, UTF-8 octets other than a-z 0-9 . _ - as %XX.

    Never empty, never beginning with a dot, without a slash: no address leads out of its root.
    """
    octets = name.lower().encode()
    encoded = "".join(chr(octet) if octet in _PLAIN else f"%{octet:02X}" for octet in octets)
    if encoded.startswith("."):
        encoded = f"%2E{encoded[1:]}"
    return encoded or "%"


def make_mailbox(folder: Path) -> None:
    """Make a mailbox's folders, those above included, where they are missing; each lasts before this returns."""
    for name in ("tmp", "new", "cur"):
        make_folders(folder / name)


def make_folders(folder: Path) -> None:
    """Make a folder, mode 0700, and those above it; sync each new one's parent, or it may be gone after a crash."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_folders(folder.parent)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:  # by another delivery, meanwhile
        if not folder.is_dir():
            raise
    sync_folder(folder.parent)


def write_synced(path: Path, content: Sequence[bytes]) -> None:
    """Write a new file, mode 0600, and sync it; on failure nothing is left of it. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb", buffering=0) as file:
            for piece in content:
                rest = memoryview(piece)
                while rest:
                    rest = rest[file.write(rest) :]
            os.fsync(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last (fsync of the directory)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
