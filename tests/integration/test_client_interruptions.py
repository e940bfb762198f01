"""A client that goes away at any point of a message, while ten others use the same three backend connections.

Nobody gets another's reply, and nothing confirmed is lost. Each message has a token of its own: the backend's reply,
which the log keeps beside the id that the client was told, names the token whose content it answers.
"""

import asyncio
import collections
import contextlib
import itertools
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.integration.dovecot_server import Dovecot
from tests.integration.mail_client import MailClient, content
from tests.integration.mailflow_process import MailflowProcess, route
from tests.lmtp_server import Action, LmtpTestServer, Session, late

ALICE = "alice@example.org"
OTHERS = 10
MESSAGES_EACH = 8
CONFIRMED = re.compile(r"250 2\.0\.0 Ok (\w+)")
SAVED_BY_DOVECOT = re.compile(r"lmtp\(\S+\)<\d+><([^>]+)>: Info: msgid=<([^@]+)@\S+: saved mail")
LEAVE: dict[str, Callable[[MailClient], None]] = {
    "half-close": MailClient.half_close,
    "close": MailClient.close,
    "reset": MailClient.reset,
    "silence": lambda client: None,
}
# What a client has said when it goes.
POINTS = {
    "MAIL": b"MAIL FROM:<a@sender.example>\r\n",
    "RCPT": b"MAIL FROM:<a@sender.example>\r\nRCPT TO:<alice@example.org>\r\n",
    "DATA": b"MAIL FROM:<a@sender.example>\r\nRCPT TO:<alice@example.org>\r\nDATA\r\n",
}


def slowly(seconds: float) -> Action:
    """Answer as usual, after a while: the backend is slow, so that many messages are under way at once."""

    async def action(session: Session, usual: bytes) -> None:
        await asyncio.sleep(seconds)
        session.send(usual)

    return action


def slowly_at_times(seconds: float, *, every: int) -> Action:
    """Answer as usual, but late one time in `every`."""
    slow, count = slowly(seconds), itertools.count(1)

    async def action(session: Session, usual: bytes) -> None:
        if next(count) % every:
            session.send(usual)
        else:
            await slow(session, usual)

    return action


@contextlib.asynccontextmanager
async def run_mailflow(folder: Path, server: object) -> AsyncIterator[MailflowProcess]:
    """Serve example.org by `server` over three connections; a client may be silent for a second."""
    config = route("example.org", lmtp=[str(server)], connections=3)
    async with MailflowProcess(folder, config=config, mx="command_timeout_s = 1.0\ndata_timeout_s = 1.0\n") as mailflow:
        yield mailflow


class Others:
    """Ten clients that send one message after another and note what each was told."""

    def __init__(self, mailflow: MailflowProcess) -> None:
        self.replies: dict[str, str] = {}
        self._mailflow = mailflow
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Others":
        self._tasks = [asyncio.create_task(self._send_all(number)) for number in range(OTHERS)]
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.gather(*self._tasks)

    async def _send_all(self, number: int) -> None:
        client = await MailClient.greeted(self._mailflow.mx_port)
        for count in range(MESSAGES_EACH):
            token = f"other-{number}-{count}."
            self.replies[token] = await client.deliver(ALICE, token, f"body of {token}\r\n".encode() * 50)


def tokens_by_id(mailflow: MailflowProcess, token_of: Callable[[str], str]) -> dict[str, str]:
    """Whose content the backend's reply was about, for each id that mailflow confirmed."""
    return {event["id"]: token_of(event["detail"]) for event in mailflow.named("message", action="accept")}


def assert_each_heard_its_own(replies: dict[str, str], tokens: dict[str, str]) -> None:
    """Every message was confirmed, on the word of the backend about that message and no other."""
    confirmed = {token: CONFIRMED.fullmatch(reply) for token, reply in replies.items()}
    assert {token: replies[token] for token, match in confirmed.items() if match is None} == {}
    assert {token: tokens[match[1]] for token, match in confirmed.items() if match} == {t: t for t in replies}


def token_in(text: str) -> str:
    """The token that the reply of LmtpTestServer names."""
    found = re.search(r"saved <(\S+)@", text)
    assert found, text
    return found[1]


async def go_away_everywhere(mailflow: MailflowProcess) -> None:
    """One client for every point before the final dot and every way to leave, all at once."""

    async def leave(point: str, said: bytes, way: str) -> None:
        client = await MailClient.greeted(mailflow.mx_port)
        client.send(said)
        await client.replies(len(said.splitlines()))
        if point == "BODY":
            client.send(content(f"gone-{way}", b"line\r\n" * 5000))
        LEAVE[way](client)
        if way in ("half-close", "silence"):
            ending = await client.rest()
            assert ending == b"" or ending.startswith(b"421 4.4.2 "), ending

    points = POINTS | {"BODY": POINTS["DATA"]}
    await asyncio.gather(*(leave(point, said, way) for point, said in points.items() for way in LEAVE))


async def test_clients_that_go_before_the_final_dot_disturb_no_other(tmp_path: Path) -> None:
    async with LmtpTestServer() as server, run_mailflow(tmp_path, server) as mailflow:
        for stage in ("MAIL", "RCPT", "DATA", "DOT"):
            server.at[stage] = slowly(0.01)
        async with Others(mailflow) as others:
            await go_away_everywhere(mailflow)
        assert await mailflow.terminate() == 0
    assert len(others.replies) == OTHERS * MESSAGES_EACH
    assert_each_heard_its_own(others.replies, tokens_by_id(mailflow, token_in))
    delivered = b"".join(message.content for message in server.messages)
    assert {token: delivered.count(f"ID: <{token}@".encode()) for token in others.replies} == dict.fromkeys(
        others.replies, 1
    )
    assert b"ID: <gone-" not in delivered
    assert mailflow.stderr == ""


@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA", "DOT"])
async def test_clients_that_go_inside_the_hand_off_disturb_no_other(tmp_path: Path, stage: str) -> None:
    """The backend holds its reply at `stage` back on all three connections; meanwhile their clients leave."""
    ways = ("half-close", "close", "reset")
    async with LmtpTestServer() as server, run_mailflow(tmp_path, server) as mailflow:
        await (await MailClient.greeted(mailflow.mx_port)).deliver(ALICE, "warm")  # so that RCPT asks no more
        leaving = {way: await MailClient.greeted(mailflow.mx_port) for way in ways}
        server.at[stage] = late()
        reached = server.count(stage)
        for way, client in leaving.items():
            assert await client.begin(ALICE) == ""
            client.send(content(f"left-{way}") + b".\r\n")
        await server.reached(stage, reached + len(ways))
        for way, client in leaving.items():
            LEAVE[way](client)
        async with Others(mailflow) as others:
            server.release.set()
        others.replies["left-half-close"] = await leaving["half-close"].reply()
        assert await mailflow.terminate() == 0
    assert_each_heard_its_own(others.replies, tokens_by_id(mailflow, token_in))
    # The client is gone, its message is not: the final dot was read, so the hand-off went on to its end.
    everybody = {*others.replies, *(f"left-{way}" for way in ways)}
    delivered = b"".join(message.content for message in server.messages)
    assert {token: delivered.count(f"ID: <{token}@".encode()) for token in everybody} == dict.fromkeys(everybody, 1)
    assert server.sessions == 3
    assert mailflow.stderr == ""


async def test_a_reply_that_comes_after_the_deadline_is_heard_by_nobody(tmp_path: Path) -> None:
    """The backend's late replies run into hand-offs given up, on connections that ten clients take turns with."""
    replies: dict[str, str] = {}

    async def send_until_confirmed(mailflow: MailflowProcess, number: int) -> None:
        client = await MailClient.greeted(mailflow.mx_port)
        for count in range(MESSAGES_EACH):
            for attempt in itertools.count():
                token = f"late-{number}-{count}-{attempt}."
                replies[token] = await client.deliver(ALICE, token)
                if replies[token].startswith("250 "):
                    break

    async with LmtpTestServer() as server:
        keys = {"connections": 3, "handoff_deadline_s": 0.3, "reply_timeout_s": 0.3}
        async with MailflowProcess(tmp_path, config=route("example.org", lmtp=[str(server)], **keys)) as mailflow:
            await (await MailClient.greeted(mailflow.mx_port)).deliver(ALICE, "warm")
            for stage in ("MAIL", "RCPT", "DATA", "DOT"):
                server.at[stage] = slowly_at_times(0.6, every=17)
            await asyncio.gather(*(send_until_confirmed(mailflow, number) for number in range(OTHERS)))
            assert await mailflow.terminate() == 0
    confirmed = {token: reply for token, reply in replies.items() if reply.startswith("250 ")}
    assert_each_heard_its_own(confirmed, tokens_by_id(mailflow, token_in))
    assert {reply[:9] for reply in replies.values()} == {"250 2.0.0", "451 4.4.1", "451 4.4.2"}
    copies = collections.Counter(
        re.findall(rb"^Message-ID: <(\S+)@", b"".join(m.content for m in server.messages), re.M)
    )
    assert {token: copies[token.encode()] for token in confirmed} == dict.fromkeys(confirmed, 1)
    # An attempt that was told 451 4.4.1 had sent no final dot.
    assert [t for t, reply in replies.items() if reply.startswith("451 4.4.1 ") and copies[t.encode()]] == []


async def test_clients_that_go_anywhere_lose_nothing_that_a_real_dovecot_confirmed(
    tmp_path: Path, dovecot: Dovecot
) -> None:
    async def leave_behind_the_dot(number: int, way: str) -> None:
        client = await MailClient.greeted(mailflow.mx_port)
        assert await client.begin(ALICE) == ""
        client.send(content(f"left-{number}-{way}", b"line\r\n" * 20_000) + b".\r\n")
        await client.writer.drain()
        LEAVE[way](client)
        if way == "half-close":
            others.replies[f"left-{number}-{way}"] = await client.reply()

    async with run_mailflow(tmp_path, dovecot.server) as mailflow:
        async with Others(mailflow) as others:
            ways = [way for way in LEAVE if way != "silence"]
            async with asyncio.TaskGroup() as leaving:
                leaving.create_task(go_away_everywhere(mailflow))
                for number in range(5):
                    for way in ways:
                        leaving.create_task(leave_behind_the_dot(number, way))
        assert await mailflow.terminate() == 0
    saved = dict(SAVED_BY_DOVECOT.findall(dovecot.log))

    def token_saved(detail: str) -> str:
        found = re.search(r"<alice@example\.org> (\S+) Saved", detail)
        assert found, detail
        return saved[found[1]]

    assert len(others.replies) == OTHERS * MESSAGES_EACH + 5
    assert_each_heard_its_own(others.replies, tokens_by_id(mailflow, token_saved))
    mail = b"".join(await asyncio.to_thread(dovecot.mail))
    assert {token: mail.count(f"ID: <{token}@".encode()) for token in others.replies} == dict.fromkeys(
        others.replies, 1
    )
    assert b"ID: <gone-" not in mail
    assert mailflow.stderr == ""
