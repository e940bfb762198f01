"""A disk that runs full under the store: 452 before the content comes, deliveries go on, and it recovers by itself."""

import contextlib
from collections import Counter
from pathlib import Path

from tests.integration.mail_client import SENDER, MailClient, content
from tests.integration.mailflow_process import MailflowProcess
from tests.integration.test_full_disk import mounted_disk
from tests.integration.test_store import becomes, queue
from tests.lmtp_server import LmtpTestServer, say

MIN_FREE_BYTES = 6_000_000
CONFIG = """\
[store]
url = "sqlite://small/queue.db"
min_free_bytes = {min_free}
first_retry_s = 300

[[backend]]
name = "mailbox"
lmtp = ["{server}"]

[[route]]
domains = ["one.example"]
backend = "mailbox"
"""
BODIES = ((b"x" * 76 + b"\r\n") * 50, (b"y" * 76 + b"\r\n") * 2_500)  # a row of the database, a file beside it


async def fill(client: MailClient) -> tuple[list[str], str]:
    """Send until a message is refused before its content; give what was taken, and the refusal."""
    taken: list[str] = []
    for number in range(1_000):
        assert (await client.command(f"MAIL FROM:<{SENDER}>")).startswith("250 ")
        assert (await client.command("RCPT TO:<alice@one.example>")).startswith("250 ")
        reply = await client.command("DATA")
        if not reply.startswith("354 "):
            return taken, reply
        client.send(content(f"m{number}", BODIES[number % 2]) + b".\r\n")
        reply = await client.reply()
        assert reply.startswith(("250 ", "452 4.3.1 "))  # the room went while the message came
        if reply.startswith("250 "):
            taken.append(f"m{number}")
    raise AssertionError("the disk never ran full")


async def test_below_the_room_that_is_asked_for_mail_is_452_and_the_queue_is_emptied(tmp_path: Path) -> None:
    async with LmtpTestServer() as server:
        with mounted_disk(tmp_path / "small", "32m") as disk:
            server.at["DOT"] = say("451 4.3.0 not now")
            config = CONFIG.format(server=server, min_free=MIN_FREE_BYTES)
            async with MailflowProcess(tmp_path, config=config) as mailflow:
                client = await MailClient.greeted(mailflow.mx_port)
                taken, refusal = await fill(client)
                client.close()
                assert refusal.startswith("452 4.3.1 ")
                assert len(taken) > 20
                await becomes(mailflow, 503)

                with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
                    while True:  # to the last byte
                        ballast.write(b"x" * 4096)
                before = len(server.messages)
                del server.at["DOT"]
                assert (await queue(tmp_path, "retry", "--all"))[0] == 0
                await mailflow.wait_event("delivery", count=len(taken), outcome="delivered")
                copies = Counter(
                    message.content.partition(b"Subject: ")[2].split()[0] for message in server.messages[before:]
                )
                assert copies == {token.encode(): 1 for token in taken}

                (disk / "ballast").unlink()
                await becomes(mailflow, 200)
                client = await MailClient.greeted(mailflow.mx_port)
                assert (await client.deliver("alice@one.example", "after")).startswith("250 ")
                assert (await queue(tmp_path, "ls"))[1] == []
                assert await mailflow.terminate() == 0
            assert mailflow.stderr == ""
