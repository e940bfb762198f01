"""An exception of ours ends one command, never its siblings: a hundred others are inside DATA meanwhile."""

import asyncio
from pathlib import Path

from mailflow.dns import Answer, RdType, Record
from mailflow.testing import ZoneResolver
from tests.scenario.client import SmtpClient
from tests.scenario.service import serve

OTHERS = 100
CONFIG = "[mx]\nmax_connections_per_client = 200\n"


class BrokenForOne(ZoneResolver):
    """A resolver with a fault of ours that one sender's domain meets."""

    async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
        """Raise what nobody expects where that domain is asked for."""
        if name.rstrip(".") == "poison.example":
            raise RuntimeError("injected")
        return await super().resolve(name, rdtype)


async def begin(client: SmtpClient, number: int) -> None:
    """Bring a client into the middle of its message."""
    for command in (f"MAIL FROM:<a{number}@sender.example>", "RCPT TO:<alice@example.org>", "DATA"):
        reply = await client.command(command)
        assert reply[0] in "23", reply
    await client.send_all(b"Subject: %d\r\n\r\nhalf of it\r\n" % number)


async def test_a_fault_in_one_session_harms_none_of_a_hundred_others(tmp_path: Path) -> None:
    async with serve(tmp_path, config=CONFIG, resolver=BrokenForOne({}), expects_faults=True) as service:
        others = [await service.greeted() for _ in range(OTHERS)]
        await asyncio.gather(*(begin(client, number) for number, client in enumerate(others)))
        poisoned = await service.greeted()
        for _ in range(5):
            assert (await poisoned.command("MAIL FROM:<a@poison.example>")).startswith("451 4.3.0 ")
        for client in others:
            client.send(b"the other half\r\n.\r\n")
        replies = await asyncio.gather(*(client.reply() for client in others))
        assert [reply for reply in replies if not reply.startswith("250 2.0.0 ")] == []
        subjects = {line for mail in service.delivered() for line in mail.splitlines() if line.startswith(b"Subject: ")}
        assert subjects == {b"Subject: %d" % number for number in range(OTHERS)}
        assert (await poisoned.command("MAIL FROM:<a@sender.example>")).startswith("250 ")
