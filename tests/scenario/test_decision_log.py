"""One event per decision, with what was known by then and nothing of an earlier transaction."""

from pathlib import Path

from structlog.testing import capture_logs

from tests.scenario.service import BrokenResolver, serve


async def test_events_of_one_session_keep_their_transactions_apart(tmp_path: Path) -> None:
    with capture_logs() as events:
        async with serve(tmp_path) as service:
            client = await service.greeted()
            for line in (
                "MAIL FROM:<bob@client.test>",
                "RCPT TO:<alice@example.org>",
                "DATA",
                "hello\r\n.",
                "MAIL FROM:<bad",
                "MAIL FROM:<carol@client.test>",
                "RCPT TO:<nobody@example.org>",
                "RSET",
                "MAIL FROM:<bad",
                "MAIL FROM:<dave@client.test>",
                "RCPT TO:<alice@example.org>",
                "DATA",
                "Delivered-To: alice@example.org\r\n.",
                "RCPT TO:<alice@example.org>",
            ):
                await client.command(line)
    decisions = [e for e in events if e["event"] in {"message", "command"}]
    accepted, bad_sender, unknown, bad_again, looping, out_of_order = decisions

    assert accepted["action"] == "accept"
    assert (accepted["mail_from"], accepted["rcpt_to"]) == ("bob@client.test", "alice@example.org")
    assert accepted["reply"] == f"250 2.0.0 Ok {accepted['id']}"
    assert unknown["action"] == "reject"
    assert (unknown["mail_from"], unknown["rcpt_to"]) == ("carol@client.test", "nobody@example.org")
    for event in (bad_sender, bad_again):
        assert event["reply"] == "501 5.5.4 Syntax: MAIL FROM:<address>"
        assert not {"id", "rcpt_to", "outcome"} & event.keys()
        assert "bad" in event["mail_from"]
    assert "id" not in unknown
    assert (looping["mail_from"], looping["action"]) == ("dave@client.test", "reject")
    assert looping["id"] != accepted["id"]
    assert not {"id", "mail_from", "size"} & out_of_order.keys()


async def test_fault_of_ours_is_logged_with_its_traceback(tmp_path: Path) -> None:
    with capture_logs() as events:
        async with serve(tmp_path, resolver=BrokenResolver({}), expects_faults=True) as service:
            client = await service.greeted()
            assert await client.command("MAIL FROM:<bob@client.test>") == (
                "451 4.3.0 Local error in processing, try again later"
            )
    (fault,) = (e for e in events if e["event"] == "internal_error")
    assert fault["exc_info"] is True
    assert fault["command"] == "MAIL"
    assert [e["action"] for e in events if e["event"] == "command"] == ["defer"]
