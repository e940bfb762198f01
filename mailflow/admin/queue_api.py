"""The queue over HTTP, as JSON: list, look, change, count.

    GET  /api/queue?sender=&recipient=&domain=&error=&state=&min_age_s=&limit=&after=
    GET  /api/queue/stats
    GET  /api/queue/ID          GET /api/queue/ID/content?offset=
    POST /api/queue/change      {"ids": [...], "change": "retry"}

Mail is private: off loopback it takes the token of `[admin] token_file`, and with a token set it takes that everywhere.
Without one only a loopback name is answered, so that no web page can have a browser ask for it under another.
"""

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mailflow.store.desk import BadQuestion, Json, read_change, read_filter

MAX_BODY_BYTES = 1 << 20
DEFAULT_LIMIT = 100

Ask = Callable[[Json], Awaitable[Json]]


class QueueApi:
    """The routes. `ask(question)` gives the answer; `token_file` holds the token, read at each request."""

    def __init__(self, ask: Ask, *, is_loopback: bool, token_file: Path | None) -> None:
        self._ask = ask
        self._is_loopback = is_loopback
        self._token_file = token_file
        self.routes = [
            Route("/api/queue", self._list),
            Route("/api/queue/stats", self._count),
            Route("/api/queue/change", self._change, methods=["POST"]),
            Route("/api/queue/{id}", self._find),
            Route("/api/queue/{id}/content", self._content),
        ]

    async def _list(self, request: Request) -> Response:
        given = dict(request.query_params)
        limit, after = given.pop("limit", str(DEFAULT_LIMIT)), given.pop("after", "")
        if not limit.isdecimal():
            return _fault(400, "limit is a whole number")
        return await self._answer(request, {"ask": "list", "filter": given, "limit": int(limit), "after": after})

    async def _count(self, request: Request) -> Response:
        return await self._answer(request, {"ask": "count"})

    async def _find(self, request: Request) -> Response:
        return await self._answer(request, {"ask": "find", "id": request.path_params["id"]}, is_there="entry")

    async def _content(self, request: Request) -> Response:
        offset = request.query_params.get("offset", "0")
        if not offset.isdecimal():
            return _fault(400, "offset is a whole number")
        question = {"ask": "content", "id": request.path_params["id"], "offset": int(offset)}
        return await self._answer(request, question, is_there="content")

    async def _change(self, request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return _fault(415, "a change comes as application/json")
        if int(request.headers.get("content-length", MAX_BODY_BYTES + 1)) > MAX_BODY_BYTES:
            return _fault(413, f"at most {MAX_BODY_BYTES} bytes")
        try:
            given = await request.json()
            question = {"ask": "change", "ids": [str(id) for id in given["ids"]], "change": str(given["change"])}
        except (ValueError, KeyError, TypeError):
            return _fault(400, 'a change is {"ids": [...], "change": "retry"}')
        return await self._answer(request, question)

    async def _answer(self, request: Request, question: Json, *, is_there: str | None = None) -> Response:
        if (refusal := self._refuse(request)) is not None:
            return refusal
        try:
            if question["ask"] == "list":
                read_filter(question["filter"])
            if question["ask"] == "change":
                read_change(question["change"])
            answer = await self._ask(question)
        except BadQuestion as exc:
            return _fault(400, str(exc))
        if is_there is not None and answer.get(is_there) is None and "error" not in answer:
            return _fault(404, "no such message")
        return JSONResponse(answer, status_code=503 if "error" in answer and len(answer) == 1 else 200)

    def _refuse(self, request: Request) -> Response | None:
        """Tell why this request is not answered, None where it is."""
        if self._token_file is None:
            if not self._is_loopback:
                return _fault(403, "off loopback the API needs [admin] token_file")
            return (
                None if _is_loopback_name(request.url.hostname or "") else _fault(403, "not asked by a loopback name")
            )
        try:
            token = self._token_file.read_text(encoding="utf-8").strip()
        except OSError as exc:
            return _fault(503, f"the token file cannot be read: {exc.strerror}")
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not token or not hmac.compare_digest(given.encode(), token.encode()):
            return _fault(401, "a Bearer token is needed")
        return None


def _is_loopback_name(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _fault(status: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status_code=status)
