"""LMTP servers that are dead, silent or wrong, each behind a domain of one mailflow: the right 4xx, in time, alone.

All of them are used at once, together with one that is well: what is wrong with one must not be felt at another.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from tests.integration.mail_client import MailClient
from tests.integration.mailflow_process import MailflowProcess, route
from tests.lmtp_server import (
    Action,
    LmtpTestServer,
    close,
    close_mid_reply,
    extra,
    never_accepting,
    reset_connection,
    say,
    send,
    silent,
)
from tests.servers import free_port

HANDOFF_S = 1.0
REPLY_S = 2.0
SLACK_S = 2.0  # of a loaded machine
GARBAGE = b"\x00\xff\x80 what is this\r\nhello\r\n"
ENDLESS = b"250-" + b"x" * 200_000

# What is done at a stage, and what the client hears once RCPT was verified before.
AFTER_RCPT: dict[str, tuple[str, Action, str]] = {
    "silent-mail": ("MAIL", silent(), "451 4.4.1"),
    "silent-rcpt": ("RCPT", silent(), "451 4.4.1"),
    "silent-data": ("DATA", silent(), "451 4.4.1"),
    "silent-dot": ("DOT", silent(), "451 4.4.2"),
    "closes-mail": ("MAIL", close(), "451 4.4.1"),
    "closes-dot": ("DOT", close(), "451 4.4.2"),
    "half-reply-mail": ("MAIL", close_mid_reply(), "451 4.4.1"),
    "half-reply-data": ("DATA", close_mid_reply(), "451 4.4.1"),
    "half-reply-dot": ("DOT", close_mid_reply(), "451 4.4.2"),
    "reset-rcpt": ("RCPT", reset_connection(), "451 4.4.1"),
    "reset-dot": ("DOT", reset_connection(), "451 4.4.2"),
    "garbage-mail": ("MAIL", send(GARBAGE), "451 4.4.1"),
    "garbage-rcpt": ("RCPT", send(GARBAGE), "451 4.4.1"),
    "garbage-dot": ("DOT", send(GARBAGE), "451 4.4.2"),
    "endless-rcpt": ("RCPT", send(ENDLESS), "451 4.4.1"),
    "endless-dot": ("DOT", send(ENDLESS), "451 4.4.2"),
    "other-command-mail": ("MAIL", say("354 go ahead"), "451 4.4.1"),
    "other-command-rcpt": ("RCPT", extra("354 go ahead"), "451 4.4.1"),
    "other-command-data": ("DATA", say("250 2.0.0 saved"), "451 4.4.1"),
    "other-command-dot": ("DOT", say("354 go ahead"), "451 4.4.2"),
    "one-too-many-dot": ("DOT", extra(), "451 4.4.2"),
    "closing-mail": ("MAIL", close("421 4.3.2 shutting down"), "451 4.4.1"),
    "closing-dot": ("DOT", close("421 4.3.2 shutting down"), "451 4.4.2"),
    "trouble-dot": ("DOT", say("451 4.3.0 disk on fire at /srv/mail"), "451 4.4.0"),
    "refuses-dot": ("DOT", say("554 5.6.0 we do not like it"), "554 5.6.0"),
    "wants-auth-mail": ("MAIL", say("530 5.7.0 authenticate first"), "451 4.4.0"),
}
# What is done at a stage of verification, where nothing is known of the recipient.
AT_RCPT: dict[str, tuple[str, Action, str]] = {
    "v-silent-connect": ("CONNECT", silent(), "451 4.4.1"),
    "v-silent-lhlo": ("LHLO", silent(), "451 4.4.1"),
    "v-silent-rcpt": ("RCPT", silent(), "451 4.4.1"),
    "v-closes-connect": ("CONNECT", close(), "451 4.4.1"),
    "v-refuses-connect": ("CONNECT", close("554 5.3.2 no service"), "451 4.4.1"),
    "v-closing-connect": ("CONNECT", close("421 4.3.2 too busy"), "451 4.4.1"),
    "v-half-reply-lhlo": ("LHLO", close_mid_reply(), "451 4.4.1"),
    "v-garbage-connect": ("CONNECT", send(GARBAGE), "451 4.4.1"),
    "v-garbage-rcpt": ("RCPT", send(GARBAGE), "451 4.4.1"),
    "v-one-too-many-rcpt": ("RCPT", extra(), "451 4.4.1"),
    "v-reset-mail": ("MAIL", reset_connection(), "451 4.4.1"),
    "v-trouble-rcpt": ("RCPT", say("451 4.3.0 no disk"), "451 4.4.1"),
}


def route_to(name: str, server: object) -> str:
    return route(
        f"{name}.example",
        lmtp=[str(server)],
        connections=2,
        connect_timeout_s=HANDOFF_S,
        handoff_deadline_s=HANDOFF_S,
        reply_timeout_s=REPLY_S,
    )


@contextlib.asynccontextmanager
async def run_servers(*names: str) -> AsyncIterator[dict[str, LmtpTestServer]]:
    """A server for each name."""
    async with contextlib.AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(LmtpTestServer()) for name in names}


async def deliver_to(mailflow: MailflowProcess, name: str, token: str) -> str:
    """The reply that settles one message to `name`, whose code and enhanced code suffice."""
    client = await MailClient.greeted(mailflow.mx_port)
    reply = await client.deliver(f"user@{name}.example", token, b"line\r\n" * 100)
    client.close()
    return reply[:9]


async def test_each_backend_that_misbehaves_gets_the_right_reply_in_time_and_harms_no_other(tmp_path: Path) -> None:
    cases = AFTER_RCPT | AT_RCPT
    async with run_servers("well", *cases) as servers:
        config = "".join(route_to(name, server) for name, server in servers.items())
        async with MailflowProcess(tmp_path, config=config) as mailflow:
            warm = await asyncio.gather(*(deliver_to(mailflow, name, "warm") for name in ("well", *AFTER_RCPT)))
            assert set(warm) == {"250 2.0.0"}
            for name, (stage, action, _) in cases.items():
                servers[name].at[stage] = action
            loop = asyncio.get_running_loop()
            started = loop.time()
            wrong = [asyncio.create_task(deliver_to(mailflow, name, "wrong")) for name in cases]
            well = [await deliver_to(mailflow, "well", f"well-{number}") for number in range(20)]
            replies = dict(zip(cases, await asyncio.gather(*wrong), strict=True))
            seconds = loop.time() - started

            # Well again, all of them are used again: nothing that was wrong with a connection is left behind.
            for server in servers.values():
                server.at.clear()
            again = dict(
                zip(
                    AFTER_RCPT,
                    await asyncio.gather(*(deliver_to(mailflow, n, "again") for n in AFTER_RCPT)),
                    strict=True,
                )
            )
            assert await mailflow.metric("mailflow_internal_errors_total") == 0
    assert replies == {name: reply for name, (_, _, reply) in cases.items()}
    assert well == ["250 2.0.0"] * 20
    assert seconds < HANDOFF_S + REPLY_S + SLACK_S
    assert again == dict.fromkeys(AFTER_RCPT, "250 2.0.0")
    # A refusal is in our words, a trouble of the backend names nothing of it.
    told = {event["reply"] for event in mailflow.named("message")}
    assert not any("disk" in reply or "like it" in reply or "authenticate" in reply for reply in told)
    assert mailflow.stderr == ""


async def test_a_dead_backend_and_one_that_never_accepts_are_451_and_the_other_route_delivers(tmp_path: Path) -> None:
    async with LmtpTestServer() as server:
        with never_accepting() as deaf:
            config = route_to("dead", f"127.0.0.1:{free_port()}") + route_to("deaf", deaf) + route_to("well", server)
            async with MailflowProcess(tmp_path, config=config) as mailflow:
                replies = await asyncio.gather(*(deliver_to(mailflow, name, "x") for name in ("dead", "deaf", "well")))
                results = {r: await mailflow.metric("mailflow_rcpt_total", result=r) for r in ("good", "unverifiable")}
                ready, _ = await mailflow.get("/readyz")
    assert replies == ["451 4.4.1", "451 4.4.1", "250 2.0.0"]
    assert results == {"good": 1, "unverifiable": 2}
    assert ready == 200  # a backend that is down takes no Pod out


async def test_a_full_accept_queue_of_the_backend_is_451_within_connect_timeout(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        held = [socket.socket() for _ in range(4)]
        for sock in held:
            sock.setblocking(False)
            sock.connect_ex(address)
        config = route_to("deaf", f"127.0.0.1:{address[1]}")
        async with MailflowProcess(tmp_path, config=config) as mailflow:
            loop = asyncio.get_running_loop()
            started = loop.time()
            assert await deliver_to(mailflow, "deaf", "x") == "451 4.4.1"
            assert loop.time() - started < HANDOFF_S + SLACK_S
        for sock in held:
            sock.close()
