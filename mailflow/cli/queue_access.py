"""Where `mailflow queue` asks: the running service over its admin listener, else the store itself.

A question and its answer are those of store.desk. An SQLite store belongs to the service while that runs; a PostgreSQL
can be asked at any time.
"""

import asyncio
import contextlib
import http.client
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Protocol
from urllib.parse import quote, urlencode

from mailflow.config import Settings
from mailflow.store import MessageStore, StoreUnavailable
from mailflow.store.choose import make_whole_store
from mailflow.store.desk import Json, answer

ANSWER_S = 60.0


class QueueFault(Exception):
    """The queue could not be asked; the text says why."""


class Access(Protocol):
    """A way to ask."""

    async def ask(self, question: Json) -> Json:
        """Give the answer. Raises QueueFault."""
        ...


@contextlib.asynccontextmanager
async def open_access(settings: Settings) -> AsyncIterator[Access]:
    """Open the way that leads to the queue now. Raises QueueFault."""
    if settings.store.url is None:
        raise QueueFault("no store is configured: [store] url is empty")
    remote = _Remote(settings)
    if "admin" in settings.roles and await remote.is_there():
        yield remote
        return
    store = make_whole_store(settings.store.url)
    try:
        await store.open()
    except StoreUnavailable as exc:
        raise QueueFault(f"nothing answers on {settings.admin.listen}, and the store cannot be opened: {exc}") from exc
    try:
        yield _Direct(store)
    finally:
        await store.close()


class _Direct:
    """The store itself."""

    def __init__(self, store: MessageStore) -> None:
        self._store = store

    async def ask(self, question: Json) -> Json:
        """See Access."""
        return await answer(self._store, question)


class _Remote:
    """The admin listener of a running service."""

    def __init__(self, settings: Settings) -> None:
        listen = settings.admin.listen
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)  # noqa: S104 - asked, not bound
        self._connect = partial(http.client.HTTPConnection, host, listen.port, timeout=ANSWER_S)
        self._token = settings.admin.token_file

    async def is_there(self) -> bool:
        """Tell whether a service answers."""
        try:
            status, _ = await asyncio.to_thread(self._call, "GET", "/startupz")
        except (OSError, http.client.HTTPException):
            return False
        return status in (200, 503)

    async def ask(self, question: Json) -> Json:
        """See Access."""
        try:
            status, body = await asyncio.to_thread(self._call, *_as_request(question))
            found: Json = json.loads(body)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise QueueFault(f"the service does not answer: {exc}") from exc
        if status == 404:
            return {"entry": None, "content": None}
        if status not in (200, 503):
            raise QueueFault(str(found.get("error", f"HTTP status {status}")))
        return found

    def _call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = self._connect()
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.read_text(encoding='utf-8').strip()}"
        try:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


def _as_request(question: Json) -> tuple[str, str] | tuple[str, str, bytes]:
    match question["ask"]:
        case "list":
            query = question["filter"] | {"limit": question["limit"], "after": question["after"]}
            return "GET", f"/api/queue?{urlencode(query)}"
        case "find":
            return "GET", f"/api/queue/{quote(question['id'], safe='')}"
        case "content":
            return "GET", f"/api/queue/{quote(question['id'], safe='')}/content?offset={question['offset']}"
        case "change":
            body = {"ids": question["ids"], "change": question["change"]}
            return "POST", "/api/queue/change", json.dumps(body).encode()
        case _:
            return "GET", "/api/queue/stats"
