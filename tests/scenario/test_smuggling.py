"""SMTP smuggling: a sequence that some server takes for the end of DATA hides a second message behind it.

The sequences are those of the public scanners (SEC Consult's SMTP-Smuggling-Tools, smtpsmug); where $MAILFLOW_VECTORS
is set, the copy there must hold none that is not tried here.
"""

import json
import os
from pathlib import Path

import pytest

from mailflow.smtp.server import SmtpSession
from tests.scenario.client import SmtpClient
from tests.scenario.memory import MemoryClient
from tests.scenario.service import RunningService, serve

SEQUENCES = [
    b"\n.\n",
    b"\n.\r",
    b"\n.\r\n",
    b"\r.\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\n",
    b"\r\n.\r",
    b"\r\n.\r\r\n",
    b"\r\r\n.\r\r\n",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
]
BEHIND = (
    b"MAIL FROM:<evil@client.test>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\n"
    b"Subject: smuggled\r\n\r\nsmuggled\r\n.\r\nQUIT\r\n"
)
NAMES = [repr(sequence)[2:-1] for sequence in SEQUENCES]


async def connect(service: RunningService, mode: str) -> SmtpClient | MemoryClient:
    return await service.connect() if mode == "tcp" else MemoryClient(SmtpSession(service.worker._mx))


async def smuggle(client: SmtpClient | MemoryClient, sequence: bytes) -> bytes:
    """Send a message with `sequence` and a second message inside; give all that is answered to it."""
    await client.send_all(b"EHLO client.test\r\nMAIL FROM:<bob@client.test>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\n")
    while not (await client.line()).startswith(b"354"):
        pass
    await client.send_all(b"Subject: first\r\n\r\nfirst" + sequence + BEHIND)
    replies = await client.rest()
    client.close()
    return replies


@pytest.mark.parametrize("mode", ["tcp", "bytes"])
@pytest.mark.parametrize("sequence", SEQUENCES, ids=NAMES)
async def test_sequence_ends_the_session_and_nothing_is_delivered(sequence: bytes, mode: str, tmp_path: Path) -> None:
    async with serve(tmp_path) as service:
        replies = await smuggle(await connect(service, mode), sequence)
    assert replies == b"521 5.5.2 Bare CR, bare LF or NUL received, see RFC 5321 section 2.3.8\r\n"
    assert service.all_delivered() == []


@pytest.mark.parametrize("mode", ["tcp", "bytes"])
@pytest.mark.parametrize("sequence", SEQUENCES, ids=NAMES)
async def test_normalized_sequence_ends_nothing(sequence: bytes, mode: str, tmp_path: Path) -> None:
    async with serve(tmp_path, config='[mx]\nbare_newline = "normalize"\n') as service:
        replies = await smuggle(await connect(service, mode), sequence)
    if b"\0" in sequence:
        assert replies.startswith(b"521 5.5.2 ")
        assert service.all_delivered() == []
        return
    accepted, quit_reply = replies.splitlines()
    assert accepted.startswith(b"250 2.0.0 Ok ")
    assert quit_reply.startswith(b"221 ")
    (message,) = service.all_delivered()
    assert message.startswith(b"Return-Path: <bob@client.test>\r\n")
    assert message.endswith(b"\r\nSubject: smuggled\r\n\r\nsmuggled\r\n")
    assert message.count(b"\r") == message.count(b"\n") == message.count(b"\r\n")


@pytest.mark.skipif("MAILFLOW_VECTORS" not in os.environ, reason="MAILFLOW_VECTORS is not set")
def test_public_sequences_are_all_tried() -> None:
    vectors = json.loads((Path(os.environ["MAILFLOW_VECTORS"]) / "smtp-smuggling" / "sequences.json").read_text())
    public = {*vectors["inbound_eod"], *vectors["outbound_eod"], *vectors["smtpsmug"].values()}
    assert len(public) > 10
    assert {sequence.encode() for sequence in public} <= set(SEQUENCES)
