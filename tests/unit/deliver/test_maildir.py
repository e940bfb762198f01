"""The Maildir backend on a real disk, a full one included."""

import asyncio
import os
import resource
import shutil
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailflow.deliver.maildir import THREADS, MaildirBackend, encode_name
from mailflow.mail.address import Address, parse_mailbox
from mailflow.mail.envelope import Envelope, Recipient
from mailflow.mail.handoff import DeliveryStatus, FinalDot, Outcome, RecipientStatus, Verification
from mailflow.mail.subaddress import split_detail

ALICE = parse_mailbox("alice@example.org")
SENDER = parse_mailbox("sender@example.net")
BODY = [b"Received: from x\r\n", b"Subject: a\r\n\r\n.dot\r\n\xff\r\n"]
HOURS = 3600


def make(root: Path, **options: object) -> MaildirBackend:
    return MaildirBackend("embedded", root, hostname="mx.example.org", **({"create": False} | options))  # type: ignore[arg-type]


async def deliver(
    backend: MaildirBackend,
    address: Address = ALICE,
    sender: Address | None = SENDER,
    body: list[bytes] = BODY,
    dot: FinalDot | None = None,
) -> Outcome:
    (outcome,) = await backend.deliver(Envelope("m", sender, (Recipient(address, address),)), body, dot or FinalDot())
    return outcome


def files(root: Path, folder: str = "new") -> list[Path]:
    return sorted(root.glob(f"*/*/{folder}/*"))


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("Alice.Smith_1-2@Example.ORG", "example.org/alice.smith_1-2"),
        ("a+b@example.org", "example.org/a%2Bb"),
        ('"a/b"@example.org', "example.org/a%2Fb"),
        ('".."@example.org', "example.org/%2E."),
        ('"."@example.org', "example.org/%2E"),
        ('".hidden"@example.org', "example.org/%2Ehidden"),
        ('"../../etc/passwd"@example.org', "example.org/%2E.%2F..%2Fetc%2Fpasswd"),
        ('""@example.org', "example.org/%"),
        ('"%2e"@example.org', "example.org/%252e"),
        ('"a b"@example.org', "example.org/a%20b"),
        ("Jörg@bücher.example", "xn--bcher-kva.example/j%C3%B6rg"),
        ("a@[192.0.2.1]", "%5B192.0.2.1%5D/a"),
    ],
)
def test_an_address_has_one_folder_below_the_root(text: str, folder: str, tmp_path: Path) -> None:
    assert make(tmp_path).mailbox_folder(parse_mailbox(text)) == tmp_path / folder


async def test_a_detail_leads_to_the_users_folder_and_stays_in_delivered_to(tmp_path: Path) -> None:
    backend = make(tmp_path, user_of=lambda address: split_detail(address, "+")[0])
    await make(tmp_path, create=True).create_mailbox(ALICE)
    detailed = parse_mailbox("alice+lists@example.org")
    expected = Verification(RecipientStatus.GOOD, deliver_to=detailed)
    assert await backend.verify(detailed, is_smtputf8=False) == expected
    assert (await deliver(backend, detailed)).status is DeliveryStatus.DELIVERED
    (file,) = files(tmp_path)
    assert file.parent == tmp_path / "example.org/alice/new"
    assert b"\r\nDelivered-To: alice+lists@example.org\r\n" in b"\r\n" + file.read_bytes()


def test_no_name_leads_out_of_its_folder_and_no_two_addresses_share_one() -> None:
    names = ["", ".", "..", "%", "%2e", "%2E", "/", "a/b", "a%2Fb", "a\\b", "\u2025", "é", "e\u0301"]
    encoded = [encode_name(name) for name in names]
    assert not [name for name in encoded if not name or name.startswith(".") or "/" in name]
    assert len(set(encoded)) == len(names) - 1  # %2e and %2E differ in case only


async def test_a_message_lies_in_new_behind_its_two_trace_fields_byte_for_byte(tmp_path: Path) -> None:
    heard: list[tuple[str, str, float]] = []
    backend = make(tmp_path, on_handoff=lambda *what: heard.append(what))
    await backend.create_mailbox(ALICE)
    outcome = await deliver(backend)
    (file,) = files(tmp_path)
    assert (outcome.status, outcome.detail) == (DeliveryStatus.DELIVERED, file.name)
    assert file.read_bytes() == (
        b"Return-Path: <sender@example.net>\r\nDelivered-To: alice@example.org\r\n" + b"".join(BODY)
    )
    assert files(tmp_path, "tmp") == []
    assert [what[:2] for what in heard] == [("embedded", "delivered")]


async def test_the_null_sender_has_an_empty_return_path(tmp_path: Path) -> None:
    await deliver(make(tmp_path, create=True), sender=None)
    assert files(tmp_path)[0].read_bytes().startswith(b"Return-Path: <>\r\n")


async def test_only_the_owner_may_read_mail(tmp_path: Path) -> None:
    await deliver(make(tmp_path / "mail", create=True))
    for folder in ("mail", "mail/example.org", "mail/example.org/alice", "mail/example.org/alice/new"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o700
    assert stat.S_IMODE(files(tmp_path / "mail")[0].stat().st_mode) == 0o600


async def test_a_recipient_exists_if_and_only_if_its_folder_does(tmp_path: Path) -> None:
    backend = make(tmp_path)
    unknown = await backend.verify(ALICE, is_smtputf8=False)
    assert (unknown.status, unknown.is_unknown_user) == (RecipientStatus.REFUSED, True)
    assert str(unknown.reply) == "550 5.1.1 No such user here"
    assert (await deliver(backend)).status is DeliveryStatus.REFUSED
    (tmp_path / "example.org" / "alice").mkdir(parents=True)  # nothing in it yet
    assert await backend.verify(ALICE, is_smtputf8=True) == Verification(RecipientStatus.GOOD, deliver_to=ALICE)
    assert (await deliver(backend)).status is DeliveryStatus.DELIVERED


async def test_a_file_in_the_place_of_a_mailbox_is_none(tmp_path: Path) -> None:
    (tmp_path / "example.org").mkdir()
    (tmp_path / "example.org" / "alice").touch()
    assert (await make(tmp_path).verify(ALICE, is_smtputf8=False)).status is RecipientStatus.REFUSED


async def test_with_create_everybody_has_a_mailbox(tmp_path: Path) -> None:
    backend = make(tmp_path / "mail", create=True)
    await backend.open()
    jorg = parse_mailbox("jörg@example.org")
    assert (await backend.verify(jorg, is_smtputf8=True)).status is RecipientStatus.GOOD
    assert (await deliver(backend, jorg)).status is DeliveryStatus.DELIVERED
    assert b"Delivered-To: j\xc3\xb6rg@example.org\r\n" in files(tmp_path / "mail")[0].read_bytes()


async def test_a_root_that_is_gone_makes_nobody_unknown(tmp_path: Path) -> None:
    backend = make(tmp_path / "not mounted")
    await backend.open()
    assert (await backend.verify(ALICE, is_smtputf8=False)).status is RecipientStatus.UNVERIFIABLE
    assert (await deliver(backend)).status is DeliveryStatus.DEFERRED


async def test_each_message_has_a_name_of_its_own_in_every_process(tmp_path: Path) -> None:
    backends = [make(tmp_path, create=True, now=lambda: 1_000.5) for _ in range(2)]
    outcomes = await asyncio.gather(*(deliver(backend) for backend in backends for _ in range(50)))
    assert {outcome.status for outcome in outcomes} == {DeliveryStatus.DELIVERED}
    assert len(files(tmp_path)) == 100


def test_a_host_name_can_put_no_slash_or_colon_into_a_file_name(tmp_path: Path) -> None:
    backend = MaildirBackend("embedded", tmp_path, create=True, hostname="a/b:c")
    asyncio.run(deliver(backend))
    assert files(tmp_path)[0].name.endswith(".a\\057b\\072c")


async def test_what_a_crash_left_in_tmp_is_removed_after_a_day_and_a_half(tmp_path: Path) -> None:
    backend = make(tmp_path, now=lambda: 1_000_000.0)
    await backend.create_mailbox(ALICE)
    tmp = tmp_path / "example.org" / "alice" / "tmp"
    for name, age in {"old": 37 * HOURS, "young": 35 * HOURS}.items():
        (tmp / name).touch()
        os.utime(tmp / name, (1_000_000 - age, 1_000_000 - age))
    await backend.open()
    assert [file.name for file in files(tmp_path, "tmp")] == ["young"]


async def test_a_cancelled_delivery_stops_before_the_rename_and_is_still_counted(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    counted: asyncio.Future[str] = loop.create_future()

    def count(backend: str, outcome: str, seconds: float) -> None:
        loop.call_soon_threadsafe(counted.set_result, outcome)

    backend = make(tmp_path, create=True, on_handoff=count)
    gate = threading.Event()
    busy = [loop.run_in_executor(backend._threads, gate.wait) for _ in range(THREADS)]
    delivery = asyncio.create_task(deliver(backend))
    loop.call_soon(delivery.cancel)  # after the delivery's first step, which leaves it waiting for a thread
    await asyncio.wait([delivery])
    gate.set()
    await asyncio.wait(busy)
    assert delivery.cancelled()
    assert await counted == "deferred"
    assert files(tmp_path) == files(tmp_path, "tmp") == []


async def test_a_final_dot_that_may_not_leave_defers_and_leaves_nothing_behind(tmp_path: Path) -> None:
    backend = make(tmp_path, create=True)
    seen: list[list[Path]] = []
    dot = FinalDot(lambda: bool(seen.append(files(tmp_path))))  # type: ignore[func-returns-value]
    outcome = await deliver(backend, dot=dot)
    assert (outcome.status, outcome.detail) == (DeliveryStatus.DEFERRED, "the final dot was withheld")
    assert (seen, files(tmp_path), files(tmp_path, "tmp"), dot.has_left) == ([[]], [], [], False)


async def test_each_of_several_recipients_has_a_message_and_an_outcome_of_his_own(tmp_path: Path) -> None:
    backend = make(tmp_path)
    users = [parse_mailbox(f"{name}@example.org") for name in ("alice", "nobody", "bob")]
    for user in (users[0], users[2]):
        await make(tmp_path, create=True).create_mailbox(user)
    envelope = Envelope("m", SENDER, tuple(Recipient(user, user) for user in users))
    outcomes = await backend.deliver(envelope, BODY, FinalDot())
    assert [o.reply.code for o in outcomes] == [250, 550, 250]
    assert [file.read_bytes().split(b"\r\n")[1] for file in files(tmp_path)] == [
        b"Delivered-To: alice@example.org",
        b"Delivered-To: bob@example.org",
    ]


async def test_a_delivery_cancelled_after_its_final_dot_left_is_finished(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    left, goes_on, done = asyncio.Event(), threading.Event(), asyncio.Event()

    def may_leave() -> bool:
        loop.call_soon_threadsafe(left.set)
        return goes_on.wait(5)

    backend = make(tmp_path, create=True, on_handoff=lambda *what: loop.call_soon_threadsafe(done.set))
    dot = FinalDot(may_leave)
    delivery = asyncio.create_task(deliver(backend, dot=dot))
    await left.wait()
    goes_on.set()
    delivery.cancel()
    await asyncio.wait([delivery])
    assert dot.has_left
    await done.wait()
    assert len(files(tmp_path)) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KB."""
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("needs root to mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("may not mount")
    yield disk
    subprocess.run(["umount", disk], check=True)


async def test_a_full_disk_defers_and_leaves_nothing_behind(small_disk: Path) -> None:
    backend = make(small_disk, create=True)
    assert (await deliver(backend)).status is DeliveryStatus.DELIVERED
    outcome = await deliver(backend, body=[b"x" * 998 + b"\r\n"] * 100)
    assert (outcome.status, str(outcome.reply)[:9]) == (DeliveryStatus.DEFERRED, "452 4.3.1")
    assert len(files(small_disk)) == 1
    assert files(small_disk, "tmp") == []
    assert (await deliver(backend)).status is DeliveryStatus.DELIVERED


async def test_a_write_that_fails_in_the_middle_defers_and_leaves_nothing_behind(tmp_path: Path) -> None:
    backend = make(tmp_path, create=True)
    await backend.create_mailbox(ALICE)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))
    try:
        outcome = await deliver(backend, body=[b"x" * 998 + b"\r\n"] * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (outcome.status, str(outcome.reply)[:9]) == (DeliveryStatus.DEFERRED, "451 4.3.0")
    assert str(tmp_path) not in str(outcome.reply)
    assert files(tmp_path) == files(tmp_path, "tmp") == []


async def test_a_mailbox_that_cannot_be_written_defers(tmp_path: Path) -> None:
    (tmp_path / "example.org" / "alice").mkdir(parents=True)
    (tmp_path / "example.org" / "alice" / "new").touch()
    outcome = await deliver(make(tmp_path))
    assert (outcome.status, str(outcome.reply)[:9]) == (DeliveryStatus.DEFERRED, "451 4.3.0")


async def test_no_postmaster_is_made_on_a_volume_that_is_not_mounted(tmp_path: Path) -> None:
    root = tmp_path / "not-mounted"
    backend = MaildirBackend("mail", root, create=False, hostname="mx.test")
    await backend.create_mailbox(parse_mailbox("postmaster@example.org"))
    assert not root.exists()
    verification = await backend.verify(parse_mailbox("alice@example.org"), is_smtputf8=False)
    assert verification.status is RecipientStatus.UNVERIFIABLE


async def test_a_transaction_that_began_before_a_reload_is_delivered_by_the_backend_that_was_closed(
    tmp_path: Path,
) -> None:
    backend = make(tmp_path, create=True)
    await backend.open()
    await backend.close()
    assert (await deliver(backend)).status is DeliveryStatus.DELIVERED
    assert len(files(tmp_path)) == 1
