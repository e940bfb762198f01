"""The LMTP backend against a real server that is well, down, frozen or mad: which outcome, which connection next."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from mailflow.deliver.mailbox import LmtpBackend
from mailflow.mail.address import parse_mailbox
from mailflow.mail.envelope import Envelope, Recipient
from mailflow.mail.handoff import DeliveryStatus, FinalDot, Outcome, RecipientStatus, Verification
from mailflow.mail.reply import Reply
from mailflow.observe.nursery import Nursery
from mailflow.smtp.lmtp_connect import parse_server
from mailflow.testing import FakeClock
from tests.lmtp_server import (
    CAPABILITIES,
    Action,
    LmtpTestServer,
    close,
    close_mid_reply,
    extra,
    late,
    never_accepting,
    not_reading,
    once,
    reset_connection,
    say,
    silent,
)

DELIVERED, REFUSED = DeliveryStatus.DELIVERED, DeliveryStatus.REFUSED
DEFERRED, IN_DOUBT = DeliveryStatus.DEFERRED, DeliveryStatus.IN_DOUBT
GOOD, UNVERIFIABLE = RecipientStatus.GOOD, RecipientStatus.UNVERIFIABLE

Make = Callable[..., LmtpBackend]


@pytest.fixture
def make(nursery: Nursery) -> Make:
    """Make a backend before a server, with short deadlines where a test says so."""

    def make(server: object, **options: object) -> LmtpBackend:
        return LmtpBackend(
            "mailbox",
            [parse_server(str(server))],
            hostname="mx.example.org",
            nursery=nursery,
            **options,  # type: ignore[arg-type]
        )

    return make


def envelope_to(*recipients: str, message_id: str = "m", is_smtputf8: bool = False) -> Envelope:
    addresses = [parse_mailbox(text) for text in recipients or ("alice@example.org",)]
    return Envelope(message_id, None, tuple(Recipient(a, a) for a in addresses), is_smtputf8=is_smtputf8)


def body_of(message_id: str = "m", size_bytes: int = 0) -> list[bytes]:
    return [f"Message-ID: {message_id}\r\n\r\n".encode(), b"x" * 998 + b"\r\n", b"y\r\n" * (size_bytes // 3)]


async def deliver(backend: LmtpBackend, *recipients: str, **options: bool) -> Outcome:
    return (await backend.deliver(envelope_to(*recipients, **options), body_of(), FinalDot()))[0]  # type: ignore[arg-type]


async def verify(backend: LmtpBackend, address: str = "alice@example.org", is_smtputf8: bool = False) -> Verification:
    return await backend.verify(parse_mailbox(address), is_smtputf8=is_smtputf8)


async def test_a_delivered_message_is_confirmed_and_the_servers_words_go_to_the_log_only(make: Make) -> None:
    heard: list[tuple[str, str, float]] = []
    async with LmtpTestServer() as server:
        backend = make(server, on_handoff=lambda *what: heard.append(what))
        outcome = await deliver(backend)
        assert outcome == Outcome(
            DELIVERED,
            Reply(250, "2.0.0", "Ok"),
            "mailbox",
            "final dot: 250 2.0.0 <alice@example.org> saved m",
            remote_reply=Reply(250, "2.0.0", "<alice@example.org> saved m"),
            server=str(server),
        )
        assert [(backend_name, status) for backend_name, status, _ in heard] == [("mailbox", "delivered")]
        assert heard[0][2] >= 0
        await backend.close()
        await server.reached("QUIT")


async def test_one_connection_serves_one_message_after_another(make: Make) -> None:
    async with LmtpTestServer() as server:
        backend = make(server)
        for _ in range(3):
            assert (await deliver(backend)).status is DELIVERED
        assert server.sessions == 1
        await backend.close()


async def test_each_recipient_has_its_own_outcome(make: Make) -> None:
    async with LmtpTestServer(known=["b@x.org", "c@x.org", "d@x.org"]) as server:
        server.at["DOT", "c@x.org"] = say("452 4.2.2 over quota in /var/vmail")
        server.at["DOT", "d@x.org"] = close_mid_reply()
        outcomes = await make(server).deliver(
            envelope_to("a@x.org", "b@x.org", "c@x.org", "d@x.org"), body_of(), FinalDot()
        )
        assert [(o.status, str(o.reply)) for o in outcomes] == [
            (REFUSED, "550 5.1.1 No such user here"),
            (DELIVERED, "250 2.0.0 Ok"),
            (REFUSED, "452 4.2.2 Mailbox full"),
            (IN_DOUBT, "451 4.4.2 The mailbox server did not confirm the message, try again later"),
        ]


BROKEN: dict[str, Action] = {
    "silent": silent(),
    "closes": close(),
    "closes in the middle of a reply": close_mid_reply(),
    "resets": reset_connection(),
    "garbage": say("<html>"),
    "an extra reply": extra(),
    "1xx": say("199 what"),
}


@pytest.mark.parametrize("stage", ["CONNECT", "LHLO", "MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("how", BROKEN)
async def test_whatever_breaks_before_the_final_dot_defers_and_the_connection_is_not_used_again(
    stage: str, how: str, make: Make
) -> None:
    async with LmtpTestServer() as server:
        server.at[stage] = once(BROKEN[how])
        backend = make(server, handoff_deadline_s=0.2 if how == "silent" else 5)
        outcome = await deliver(backend)
        assert outcome.status is DEFERRED
        assert str(outcome.reply).startswith("451 4.4.1 ")
        assert server.messages == []
        assert (await deliver(backend)).status is DELIVERED
        assert server.sessions == 2


@pytest.mark.parametrize("how", BROKEN)
async def test_whatever_breaks_after_the_final_dot_leaves_the_mail_in_doubt(how: str, make: Make) -> None:
    async with LmtpTestServer() as server:
        server.at["DOT"] = once(BROKEN[how])
        backend = make(server, reply_timeout_s=0.2 if how == "silent" else 5)
        outcome = await deliver(backend)
        assert outcome.status is IN_DOUBT
        assert str(outcome.reply).startswith("451 4.4.2 ")
        assert (await deliver(backend)).status is DELIVERED
        assert server.sessions == 2


@pytest.mark.parametrize("code", [220, 221, 252])
@pytest.mark.parametrize(
    ("stage", "expected"),
    [("MAIL", (DEFERRED, "451 4.4.1")), ("RCPT", (DEFERRED, "451 4.4.1")), ("DOT", (IN_DOUBT, "451 4.4.2"))],
)
async def test_a_2xx_that_answers_another_command_delivers_nothing(
    stage: str, expected: tuple[DeliveryStatus, str], code: int, make: Make
) -> None:
    async with LmtpTestServer() as server:
        server.at[stage] = once(say(f"{code} 2.0.0 what"))
        backend = make(server)
        outcome = await deliver(backend)
        assert (outcome.status, str(outcome.reply)[:9]) == expected
        assert (await deliver(backend)).status is DELIVERED
        assert server.sessions == 2


@pytest.mark.parametrize("action", [close("421 4.3.2 shutting down"), say("421 4.3.2 shutting down")])
async def test_a_server_that_shuts_down_after_the_final_dot_leaves_the_mail_in_doubt(
    action: Action, make: Make
) -> None:
    async with LmtpTestServer() as server:
        server.at["DOT"] = once(action)
        backend = make(server)
        outcome = await deliver(backend)
        assert (outcome.status, str(outcome.reply)[:9]) == (IN_DOUBT, "451 4.4.2")
        assert outcome.detail == "final dot: 421 4.3.2 shutting down"
        assert (await deliver(backend)).status is DELIVERED
        assert server.sessions == 2


async def test_an_answer_that_comes_after_the_hand_off_deadline_still_counts(make: Make) -> None:
    async with LmtpTestServer() as server:
        server.at["DOT"] = late()
        backend = make(server, handoff_deadline_s=0.1)
        delivery = asyncio.create_task(deliver(backend))
        await server.reached("DOT")
        asyncio.get_running_loop().call_later(0.2, server.release.set)
        assert (await delivery).status is DELIVERED


async def test_a_server_that_stops_reading_the_content_is_given_up_at_the_deadline(make: Make) -> None:
    async with LmtpTestServer() as server:
        server.at["DATA"] = not_reading()
        backend = make(server, handoff_deadline_s=0.5)
        (outcome,) = await backend.deliver(envelope_to(), [b"x" * 98 + b"\r\n"] * 200_000, FinalDot())
        assert outcome.status is DEFERRED
        server.release.set()


@pytest.mark.parametrize("seconds", [0.1, 5.0])
async def test_a_dead_server_defers_within_the_connect_timeout(make: Make, seconds: float) -> None:
    with never_accepting() as address:
        backend = make(address, connect_timeout_s=0.1, handoff_deadline_s=seconds)
        async with asyncio.timeout(3):
            assert (await deliver(backend)).status is DEFERRED
    assert (await deliver(make("127.0.0.1:1"))).status is DEFERRED


async def test_waiting_for_a_free_connection_counts_within_the_deadline(make: Make) -> None:
    async with LmtpTestServer() as server:
        server.at["DOT"] = once(late())
        backend = make(server, connections=1, handoff_deadline_s=0.2)
        first = asyncio.create_task(deliver(backend))
        await server.reached("DOT")
        second = await deliver(backend)
        assert second.status is DEFERRED
        assert "free connection" in second.detail
        server.release.set()
        assert (await first).status is DELIVERED
        assert server.sessions == 1


async def test_more_messages_than_connections_wait_their_turn(make: Make) -> None:
    async with LmtpTestServer() as server:
        backend = make(server, connections=3)
        outcomes = await asyncio.gather(*(deliver(backend) for _ in range(20)))
        assert [o.status for o in outcomes] == [DELIVERED] * 20
        assert server.sessions == 3


@pytest.mark.parametrize("farewell", ["", "421 4.4.2 idle for too long"])
async def test_an_idle_connection_that_died_unseen_is_replaced_once(make: Make, farewell: str) -> None:
    async with LmtpTestServer() as server:
        backend = make(server)
        await deliver(backend)
        server.at["MAIL"] = once(close(farewell))
        assert (await deliver(backend)).status is DELIVERED
        assert server.sessions == 2
        assert len(server.messages) == 2


async def test_a_fresh_connection_that_dies_is_not_replaced_again(make: Make) -> None:
    async with LmtpTestServer() as server:
        backend = make(server)
        await deliver(backend)
        server.at["MAIL"] = close()
        assert (await deliver(backend)).status is DEFERRED
        assert server.sessions == 2


async def test_a_connection_that_died_in_the_middle_of_its_replies_is_not_replaced(make: Make) -> None:
    async with LmtpTestServer() as server:
        backend = make(server)
        await deliver(backend)
        server.at["RCPT"] = close()
        assert (await deliver(backend)).status is DEFERRED
        assert server.sessions == 1


async def test_an_idle_connection_on_which_the_server_spoke_or_closed_is_not_used(make: Make) -> None:
    async with LmtpTestServer() as server:
        backend = make(server)
        await deliver(backend)
        server.push(b"250 2.0.0 surprise\r\n")
        await server.reached("CLOSED")
        assert (await deliver(backend)).status is DELIVERED
        server.hang_up()
        await server.reached("CLOSED", 2)
        assert (await deliver(backend)).status is DELIVERED
        assert server.sessions == 3


async def test_nobody_gets_anothers_answer_while_others_are_cancelled_and_time_out(make: Make) -> None:
    """Many deliveries through a small pool: each answer names its message, whatever becomes of the neighbours."""
    async with LmtpTestServer() as server:
        for victim, action in {"silent": silent(), "closed": close_mid_reply(), "extra": extra()}.items():
            server.at["RCPT", f"{victim}@x.org"] = action
        server.at["DOT", "doubt@x.org"] = silent()
        server.at["DOT", "late@x.org"] = late()
        backend = make(server, connections=10, handoff_deadline_s=1, reply_timeout_s=1)

        async def send(number: int, recipient: str) -> None:
            token = f"{number}.{recipient}"
            (outcome,) = await backend.deliver(
                envelope_to(recipient, message_id=token), body_of(token, number * 3000), FinalDot()
            )
            if outcome.status is DELIVERED:
                assert outcome.detail == f"final dot: 250 2.0.0 <{recipient}> saved {token}"
                delivered.add(token)
            else:
                assert recipient.split("@", maxsplit=1)[0] in {"silent", "closed", "extra", "doubt"}

        delivered: set[str] = set()
        names = ["good", "silent", "good", "late", "closed", "good", "extra", "doubt", "good", "gone"]
        tasks = [asyncio.create_task(send(n, f"{name}@x.org")) for n, name in enumerate(names * 3)]
        await server.reached("MAIL", 5)
        for task, name in zip(tasks, names * 3, strict=True):
            if name == "gone":
                task.cancel()
        await server.reached("DOT", 3)
        server.release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [r for r in results if r is not None and not isinstance(r, asyncio.CancelledError)] == []
        assert {token.split(".", 1)[1] for token in delivered} >= {"good@x.org", "late@x.org"}
        assert len(delivered) >= 15


async def test_cancelled_before_the_final_dot_nothing_arrives_and_the_connection_is_closed(make: Make) -> None:
    async with LmtpTestServer() as server:
        server.at["DATA"] = once(late())
        backend = make(server)
        delivery = asyncio.create_task(deliver(backend))
        await server.reached("DATA")
        delivery.cancel()
        await asyncio.wait([delivery])
        assert delivery.cancelled()
        server.release.set()
        await server.reached("CLOSED")
        assert server.messages == []
        assert (await deliver(backend)).status is DELIVERED


async def test_cancelled_after_the_final_dot_the_answer_is_still_read(make: Make, nursery: Nursery) -> None:
    heard: list[str] = []
    async with LmtpTestServer() as server:
        server.at["DOT"] = once(late())
        backend = make(server, on_handoff=lambda backend, outcome, seconds: heard.append(outcome))
        delivery = asyncio.create_task(deliver(backend))
        await server.reached("DOT")
        delivery.cancel()
        await asyncio.wait([delivery])
        server.release.set()
        assert await nursery.wait_empty(5)
        assert heard == ["delivered"]
        assert (await deliver(backend)).status is DELIVERED
        assert server.sessions == 1  # in step, so it came back to the pool


async def test_cut_while_the_answer_is_owed_the_connection_is_closed_and_its_place_is_free(
    make: Make, nursery: Nursery
) -> None:
    async with LmtpTestServer() as server:
        server.at["DOT"] = once(silent())
        backend = make(server, connections=1)
        delivery = asyncio.create_task(deliver(backend))
        await server.reached("DOT")
        delivery.cancel()
        await asyncio.wait([delivery])
        await nursery.cancel_all()
        await server.reached("CLOSED")
        assert (await deliver(backend)).status is DELIVERED


async def test_a_final_dot_that_may_not_leave_defers_and_no_connection_goes_on(make: Make) -> None:
    async with LmtpTestServer() as server:
        backend, asked = make(server), []
        dot = FinalDot(lambda: bool(asked.append(server.count("DOT"))))  # type: ignore[func-returns-value]
        (outcome,) = await backend.deliver(envelope_to(), body_of(), dot)
        assert (outcome.status, outcome.detail) == (DEFERRED, "the final dot was withheld")
        await server.reached("CLOSED")
        assert (server.messages, asked, dot.has_left) == ([], [0], False)
        assert (await deliver(backend)).status is DELIVERED


async def test_the_final_dot_has_left_where_the_server_hears_of_it_and_not_before(make: Make) -> None:
    async with LmtpTestServer() as server:
        server.at["DATA"] = once(late())
        backend, dot = make(server), FinalDot()
        delivery = asyncio.create_task(backend.deliver(envelope_to(), body_of(), dot))
        await server.reached("DATA")
        seen = [dot.has_left]
        server.release.set()
        await server.reached("DOT")
        assert [*seen, dot.has_left] == [False, True]
        assert (await delivery)[0].status is DELIVERED


async def test_without_a_recipient_left_no_final_dot_leaves(make: Make) -> None:
    async with LmtpTestServer(known=[]) as server:
        dot = FinalDot()
        (outcome,) = await make(server).deliver(envelope_to(), body_of(), dot)
        assert (outcome.status, dot.has_left) == (REFUSED, False)


class Body(list[bytes]):
    """A body that a weak reference can watch."""


async def test_a_message_that_could_not_be_handed_over_is_freed_without_the_garbage_collector(make: Make) -> None:
    async with LmtpTestServer() as server:
        server.at["RCPT"] = silent()
        backend, body = make(server, handoff_deadline_s=0.1), Body(body_of())
        delivery, is_kept = backend.deliver(envelope_to(), body, FinalDot()), weakref.ref(body)
        del body
        gc.disable()
        try:
            assert (await delivery)[0].status is DEFERRED
            del delivery
            assert is_kept() is None
        finally:
            gc.enable()


async def test_unsafe_content_is_our_fault_and_never_leaves(make: Make) -> None:
    async with LmtpTestServer() as server:
        (outcome,) = await make(server).deliver(envelope_to(), [b"a\r\n", b"b\n.\n"], FinalDot())
        assert (outcome.status, str(outcome.reply)[:9]) == (DEFERRED, "451 4.3.0")
        await server.reached("CLOSED")
        assert server.messages == []


async def test_a_message_over_the_servers_size_limit_is_refused_before_it_is_sent(make: Make) -> None:
    async with LmtpTestServer(capabilities=["PIPELINING", "SIZE 1000"]) as server:
        backend = make(server)
        outcome = await deliver(backend)
        assert str(outcome.reply) == "552 5.3.4 Message too large for this mailbox"
        assert server.count("MAIL") == 0
        assert (await verify(backend)).status is GOOD


async def test_smtputf8_goes_only_to_a_server_that_offers_it(make: Make) -> None:
    async with LmtpTestServer() as server:
        assert (await deliver(make(server), "jörg@example.org", is_smtputf8=True)).status is DELIVERED
        assert "SMTPUTF8" in server.messages[0].parameters
    async with LmtpTestServer(capabilities=["PIPELINING"]) as server:
        backend = make(server)
        outcome = await deliver(backend, is_smtputf8=True)
        assert str(outcome.reply).startswith("550 5.6.7 ")
        assert server.count("MAIL") == 0
        assert (await deliver(backend)).status is DELIVERED  # the mailbox itself is good


async def test_a_smtputf8_recipient_is_refused_at_rcpt_where_the_server_cannot_carry_it(make: Make) -> None:
    async with LmtpTestServer(capabilities=["PIPELINING"]) as server:
        for address in ("alice@example.org", "jörg@example.org"):
            verification = await verify(make(server), address, is_smtputf8=True)
            assert str(verification.reply).startswith("550 5.6.7 ")
            assert not verification.is_unknown_user
    async with LmtpTestServer() as server:
        backend = make(server)
        assert (await verify(backend, "jörg@example.org", is_smtputf8=True)).status is GOOD
        assert (await verify(backend, "alice@example.org", is_smtputf8=True)).status is GOOD


async def test_that_the_server_learnt_smtputf8_is_seen_after_a_minute(make: Make) -> None:
    clock = FakeClock()
    async with LmtpTestServer(capabilities=["PIPELINING"]) as server:
        backend = make(server, clock=clock)
        assert (await verify(backend, is_smtputf8=True)).status is RecipientStatus.REFUSED
        server.capabilities = list(CAPABILITIES)
        server.hang_up()
        await server.reached("CLOSED")
        clock.advance(60)
        assert (await verify(backend, is_smtputf8=True)).status is GOOD


async def test_an_unreachable_server_refuses_no_smtputf8_address(make: Make) -> None:
    assert (await verify(make("127.0.0.1:1"), "jörg@example.org", is_smtputf8=True)).status is UNVERIFIABLE


async def test_a_recipient_is_verified_on_a_pooled_connection_and_remembered(make: Make) -> None:
    async with LmtpTestServer(known=["alice@example.org"]) as server:
        backend = make(server)
        assert (await verify(backend)).status is GOOD
        assert (await verify(backend, "bob@example.org")).is_unknown_user
        await verify(backend)
        assert (server.count("RCPT"), server.sessions) == (2, 1)


async def test_a_recipient_refused_in_a_delivery_is_refused_at_the_next_rcpt(make: Make) -> None:
    async with LmtpTestServer(known=["alice@example.org"]) as server:
        backend = make(server)
        assert (await verify(backend)).status is GOOD
        server.known = set()
        assert (await deliver(backend)).status is REFUSED
        assert (await verify(backend)).is_unknown_user


async def test_a_mailbox_full_after_the_content_is_still_verified_as_good(make: Make) -> None:
    async with LmtpTestServer() as server:
        server.at["DOT"] = say("552 5.2.2 full")
        backend = make(server)
        assert (await deliver(backend)).status is REFUSED
        assert (await verify(backend)).status is GOOD


async def test_a_frozen_server_holds_rcpt_up_briefly_and_leaves_the_pool_to_deliveries(make: Make) -> None:
    async with LmtpTestServer() as server:
        server.at["RCPT"] = silent()
        server.at["RCPT", "alice@example.org"] = say("250 2.1.5 ok")
        backend = make(server, connections=2, handoff_deadline_s=0.5)
        questions = [asyncio.create_task(verify(backend, f"other{n}@x.org")) for n in range(6)]
        await server.reached("RCPT")
        assert (await deliver(backend)).status is DELIVERED
        assert {v.status for v in await asyncio.gather(*questions)} == {UNVERIFIABLE}


@pytest.mark.parametrize("broken", [silent(), close(), say("<html>"), close("421 4.3.2 crashed"), say("220 hello")])
async def test_a_recipient_that_breaks_its_session_silences_no_other(broken: Action, make: Make) -> None:
    async with LmtpTestServer() as server:
        server.at["RCPT", "cursed@x.org"] = broken
        backend = make(server, handoff_deadline_s=0.3)
        assert (await verify(backend, "cursed@x.org")).status is UNVERIFIABLE
        assert (await verify(backend)).status is GOOD
        assert (await verify(backend, "cursed@x.org")).status is UNVERIFIABLE
        assert [line for _, line in server.commands if "cursed" in line] == ["RCPT TO:<cursed@x.org>"]


@pytest.mark.parametrize("stage", ["CONNECT", "RCPT"])
async def test_a_storm_of_recipients_at_a_frozen_server_is_over_in_time_with_few_questions(
    stage: str, make: Make
) -> None:
    async with LmtpTestServer() as server:
        server.at[stage] = silent()
        backend = make(server, connections=6, handoff_deadline_s=0.4)
        loop = asyncio.get_running_loop()
        started = loop.time()
        storm = await asyncio.gather(*(verify(backend, f"user{n % 100}@x.org") for n in range(200)))
        assert {v.status for v in storm} == {UNVERIFIABLE}
        assert loop.time() - started < 2
        assert server.sessions == 3


async def test_waiting_behind_a_hanging_question_is_no_sign_that_the_server_is_unreachable(make: Make) -> None:
    async with LmtpTestServer() as server:
        server.at["CONNECT"] = late()
        server.at["RCPT", "cursed@x.org"] = silent()
        backend = make(server, connections=2, handoff_deadline_s=0.6)
        asyncio.get_running_loop().call_later(0.1, server.release.set)
        cursed = asyncio.create_task(verify(backend, "cursed@x.org"))
        await server.reached("RCPT")
        server.at["CONNECT"] = silent()  # to whoever dials with the instant that is left when the slot is free
        assert (await verify(backend, "waiting@x.org")).status is UNVERIFIABLE
        assert (await cursed).status is UNVERIFIABLE
        server.at.clear()
        assert (await verify(backend, "well@x.org")).status is GOOD


async def test_a_storm_of_recipients_dials_a_dead_server_once(make: Make) -> None:
    async with LmtpTestServer() as server:
        server.at["CONNECT"] = close("421 4.3.2 not now")
        backend = make(server)
        for number in range(20):
            assert (await verify(backend, f"user{number}@x.org")).status is UNVERIFIABLE
        assert server.sessions == 1


async def test_an_idle_connection_that_died_is_replaced_for_a_question_too(make: Make) -> None:
    async with LmtpTestServer() as server:
        backend = make(server)
        await deliver(backend)
        server.at["MAIL"] = once(close())
        assert (await verify(backend, "bob@example.org")).status is GOOD
        assert server.sessions == 2


async def test_a_server_that_comes_back_is_used_at_once(make: Make, tmp_path: Path) -> None:
    server = LmtpTestServer(unix_path=str(tmp_path / "lmtp"))
    backend = make(server)
    assert (await deliver(backend)).status is DEFERRED
    async with server:
        assert (await deliver(backend)).status is DELIVERED
