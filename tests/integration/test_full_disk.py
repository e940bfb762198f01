"""A disk that runs full under a Maildir: 452, nothing half-written, and the other disks go on."""

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.integration.mail_client import MailClient
from tests.integration.mailflow_process import MailflowProcess, route
from tests.servers import leave_out, require_root

BODY = (b"x" * 78 + b"\r\n") * 7500  # 600 KB: one of these fits on the disk, two do not


@contextlib.contextmanager
def mounted_disk(folder: Path, size: str = "1m") -> Iterator[Path]:
    """A disk of this size on `folder`, which is made. Only root may mount."""
    require_root()
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "mailflow-test", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        leave_out(f"cannot mount a disk of its own: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_full_disk_is_452_for_its_mailboxes_alone_until_there_is_room_again(tmp_path: Path) -> None:
    with mounted_disk(tmp_path / "small"):
        config = route("small.example", maildir="small", create=True)
        config += route("large.example", maildir="large", create=True)
        async with MailflowProcess(tmp_path, config=config) as mailflow:
            client = await MailClient.greeted(mailflow.mx_port)
            small, large = "a@small.example", "a@large.example"
            assert (await client.deliver(small, "first", BODY)).startswith("250 2.0.0 ")
            assert (await client.deliver(small, "second", BODY)).startswith("452 4.3.1 ")

            others = [await MailClient.greeted(mailflow.mx_port) for _ in range(10)]
            addresses = [small, large] * 5
            replies = await asyncio.gather(
                *(other.deliver(address, "both", BODY) for other, address in zip(others, addresses, strict=True))
            )
            assert [reply[:9] for reply in replies] == ["452 4.3.1", "250 2.0.0"] * 5

            mailbox = tmp_path / "small/small.example/a"
            [first] = (mailbox / "new").iterdir()
            assert list((mailbox / "tmp").iterdir()) == []
            assert first.read_bytes().endswith(BODY)
            assert (
                await mailflow.metric("mailflow_handoff_seconds_count", backend="small.example", outcome="deferred")
                == 6
            )

            first.unlink()
            assert (await client.deliver(small, "second", BODY)).startswith("250 2.0.0 ")
            [second] = (mailbox / "new").iterdir()
            assert second.read_bytes().endswith(BODY)
            assert await mailflow.terminate() == 0
        large_mail = [file.read_bytes() for file in (tmp_path / "large/large.example/a/new").iterdir()]
        assert [mail.endswith(BODY) for mail in large_mail] == [True] * 5
        assert {event["reply"] for event in mailflow.named("message", action="defer")} == {
            "452 4.3.1 Insufficient storage, try again later"
        }
        assert mailflow.stderr == ""


async def test_a_disk_too_full_for_a_new_mailbox_is_452_too(tmp_path: Path) -> None:
    with mounted_disk(tmp_path / "small") as disk:
        async with MailflowProcess(tmp_path, config=route("small.example", maildir="small", create=True)) as mailflow:
            with contextlib.suppress(OSError), (disk / "ballast").open("wb") as ballast:
                while True:
                    ballast.write(b"x" * 4096)
            client = await MailClient.greeted(mailflow.mx_port)
            # Folders take no room on this disk, the message does.
            assert (await client.deliver("new@small.example", "token")).startswith("452 4.3.1 ")
            (disk / "ballast").unlink()
            assert (await client.deliver("new@small.example", "token")).startswith("250 2.0.0 ")
