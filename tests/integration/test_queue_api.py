"""The queue over HTTP: who is answered, and what."""

import json
from pathlib import Path
from typing import Any

from tests.integration.mail_client import MailClient
from tests.integration.mailflow_process import MailflowProcess
from tests.lmtp_server import LmtpTestServer, say

CONFIG = """\
[store]
url = "sqlite://queue.db"

[[backend]]
name = "mailbox"
lmtp = ["{server}"]

[[route]]
domains = ["one.example"]
backend = "mailbox"
"""


JSON = {"Content-Type": "application/json"}


def parse(answer: tuple[int, bytes]) -> tuple[int, Any]:
    return answer[0], json.loads(answer[1])


async def test_lists_shows_changes_and_counts(tmp_path: Path) -> None:
    async with LmtpTestServer() as server:
        server.at["DOT"] = say("451 4.3.0 not now")
        async with MailflowProcess(tmp_path, config=CONFIG.format(server=server), workers=2) as mailflow:
            client = await MailClient.greeted(mailflow.mx_port)
            for name in ("a", "b"):
                assert (await client.deliver(f"{name}@one.example", f"m-{name}")).startswith("250 ")
            status, listed = parse(await mailflow.get("/api/queue?limit=1"))
            assert (status, len(listed["entries"])) == (200, 1)
            id = listed["entries"][0]["id"]
            _, others = parse(await mailflow.get(f"/api/queue?after={id}&recipient=b@one.example"))
            assert [entry["recipients"] for entry in others["entries"]] == [["b@one.example"]]
            assert parse(await mailflow.get(f"/api/queue/{id}"))[1]["entry"]["recipients"] == ["a@one.example"]
            assert parse(await mailflow.get(f"/api/queue/{id}/content"))[1]["size_bytes"] > 0
            change = json.dumps({"ids": [id], "change": "hold"}).encode()
            held = await mailflow.request("POST", "/api/queue/change", change, JSON)
            assert parse(held) == (200, {"changed": [id]})
            _, counted = parse(await mailflow.get("/api/queue/stats"))
            assert (counted["messages"]["held"], counted["messages"]["deferred"]) == (1, 1)


async def test_what_cannot_be_asked_is_told(tmp_path: Path) -> None:
    async with LmtpTestServer() as server:
        config = CONFIG.format(server=server)
        async with MailflowProcess(tmp_path, config=config) as mailflow:
            assert (await mailflow.get("/api/queue/nobody"))[0] == 404
            assert (await mailflow.get("/api/queue?state=odd"))[0] == 400
            assert (await mailflow.get("/api/queue?colour=red"))[0] == 400
            assert (await mailflow.get("/api/queue?limit=many"))[0] == 400
            assert (await mailflow.request("POST", "/api/queue/change", b"{}", {}))[0] == 415
            for body in (b"{", b"[]", b'{"ids": [], "change": "burn"}'):
                answer = await mailflow.request("POST", "/api/queue/change", body, JSON)
                assert answer[0] == 400, body
            assert mailflow.stderr == ""
            assert await mailflow.metric("mailflow_internal_errors_total") == 0


async def test_without_a_token_only_a_loopback_name_is_answered(tmp_path: Path) -> None:
    async with LmtpTestServer() as server:
        config = CONFIG.format(server=server)
        async with MailflowProcess(tmp_path, config=config) as mailflow:
            assert (await mailflow.get("/api/queue"))[0] == 200
            assert (await mailflow.get("/api/queue", Host="evil.example"))[0] == 403
            assert (await mailflow.get("/readyz", Host="evil.example"))[0] == 200


async def test_with_a_token_nobody_else_is_answered(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    async with LmtpTestServer() as server:
        config = CONFIG.format(server=server)
        async with MailflowProcess(tmp_path, config=config, admin='token_file = "token"') as mailflow:
            assert (await mailflow.get("/api/queue"))[0] == 401
            assert (await mailflow.get("/api/queue", Authorization="Bearer wrong"))[0] == 401
            assert (await mailflow.get("/api/queue", Authorization="Bearer s3cret", Host="mx.example"))[0] == 200
            assert (await mailflow.get("/metrics"))[0] == 200


async def test_without_a_store_there_is_nothing_to_ask(tmp_path: Path) -> None:
    async with LmtpTestServer() as server:
        config = CONFIG.format(server=server).partition("\n\n")[2]
        async with MailflowProcess(tmp_path, config=config) as mailflow:
            assert parse(await mailflow.get("/api/queue")) == (503, {"error": "no store is configured"})
