"""Stores or delivers one message, and says on stdout when that begins and when it is answered for (test_durability)."""

import asyncio
import os
import sys
from pathlib import Path

from mailflow.deliver.maildir import MaildirBackend
from mailflow.mail.address import parse_mailbox
from mailflow.mail.envelope import Envelope, Recipient
from mailflow.mail.handoff import DeliveryStatus, FinalDot
from mailflow.store.sqlite import SqliteStore

TO = parse_mailbox("user@example.org")


async def main(what: str, size_bytes: int, folder: Path) -> None:
    """Do it once."""
    envelope, body = Envelope("m1", None, (Recipient(TO, TO),)), [b"x" * size_bytes + b"\r\n"]
    if what == "maildir":
        backend = MaildirBackend("m", folder / "mail", create=True, hostname="mx.test")
        await backend.open()
        os.write(1, b"BEGIN\n")
        [outcome] = await backend.deliver(envelope, body, FinalDot())
        assert outcome.status is DeliveryStatus.DELIVERED
        os.write(1, b"DONE\n")
        await backend.close()
        return
    store = SqliteStore(folder / "queue.db")
    await store.open()
    os.write(1, b"BEGIN\n")
    await store.accept(envelope, body, deadline=asyncio.get_running_loop().time() + 10)
    os.write(1, b"DONE\n")
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))
