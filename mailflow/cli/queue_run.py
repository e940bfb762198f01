"""What `mailflow queue` does: asks in pages, changes in batches, and says how far it has got."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mailflow.cli.queue_access import Access, QueueFault, open_access
from mailflow.cli.queue_report import Report
from mailflow.cli.usage import UsageFault
from mailflow.config import ConfigFaults, load_settings
from mailflow.store import Change
from mailflow.store.desk import MAX_ENTRIES, BadQuestion, Json, read_filter

BATCH = 500

Task = Callable[[Access, Report], Awaitable[int]]


def run(config: Path, task: Task, report: Report) -> int:
    """Do a task on the queue of a configuration; give the exit code. Raises UsageFault; ConfigFaults become one."""
    try:
        settings = load_settings(config, os.environ)
    except ConfigFaults as faults:
        raise UsageFault(str(faults)) from faults

    async def work() -> int:
        async with open_access(settings) as access:
            return await task(access, report)

    try:
        return asyncio.run(work())
    except BadQuestion as exc:
        raise UsageFault(str(exc)) from exc
    except QueueFault as exc:
        report.complain(str(exc))
        return 1


def check_filter(given: Mapping[str, str]) -> None:
    """Raise UsageFault where a filter is none."""
    try:
        read_filter(given)
    except BadQuestion as exc:
        raise UsageFault(str(exc)) from exc


async def list_entries(access: Access, report: Report, *, given: Mapping[str, str], limit: int) -> int:
    """Show entries."""
    entries: list[Json] = []
    async for page in _pages(access, report, given, limit):
        entries += page
    report.show_entries(entries)
    return report.exit_code


async def show_entry(access: Access, report: Report, *, id: str, with_body: bool) -> int:
    """Show one entry and its header, or all of it."""
    entry = (await _ask(access, report, {"ask": "find", "id": id}))["entry"]
    if entry is None:
        report.complain(f"no message {id} is in the queue")
        return 1
    content = await _read_content(access, report, id)
    head = content.partition(b"\r\n\r\n")[0] + b"\r\n"
    report.show_entry(entry, content if with_body else head)
    return report.exit_code


async def change_ids(access: Access, report: Report, *, ids: Sequence[str], change: Change) -> int:
    """Change the entries that are named; exit 1 where one of them could not be."""
    changed: list[str] = []
    for at in range(0, len(ids), BATCH):
        changed += await _change(access, report, ids[at : at + BATCH], change)
    for id in ids:
        if id not in changed:
            report.complain(f"{id}: not there, or nothing that {change.value} could be done to")
    report.show_changed(changed, change)
    return report.exit_code


async def change_matching(access: Access, report: Report, *, given: Mapping[str, str], change: Change) -> int:
    """Change all entries that match."""
    changed: list[str] = []
    total = sum((await _ask(access, report, {"ask": "count"}))["messages"].values())
    with report.progress(change.value, total) as advance:
        async for page in _pages(access, report, given, None):
            changed += await _change(access, report, [entry["id"] for entry in page], change)
            advance(len(page))
    report.show_changed(changed, change)
    return report.exit_code


async def show_statistics(access: Access, report: Report) -> int:
    """Show the queue in figures."""
    report.show_statistics(await _ask(access, report, {"ask": "count"}))
    return report.exit_code


async def _pages(
    access: Access, report: Report, given: Mapping[str, str], limit: int | None
) -> AsyncIterator[list[Json]]:
    """Give the matching entries in pages."""
    after, left = "", limit
    while left is None or left > 0:
        size = BATCH if left is None else min(left, MAX_ENTRIES)
        question = {"ask": "list", "filter": dict(given), "limit": size, "after": after}
        page = (await _ask(access, report, question))["entries"]
        if page:
            yield page
            after = page[-1]["id"]
        if len(page) < size:
            return
        left = None if left is None else left - len(page)


async def _change(access: Access, report: Report, ids: Sequence[str], change: Change) -> list[str]:
    question = {"ask": "change", "ids": list(ids), "change": change.value}
    changed: list[str] = (await _ask(access, report, question))["changed"]
    return changed


async def _read_content(access: Access, report: Report, id: str) -> bytes:
    content = b""
    while True:
        part = await _ask(access, report, {"ask": "content", "id": id, "offset": len(content)})
        piece = base64.b64decode(part.get("content") or "")
        content += piece
        if not piece or len(content) >= part["size_bytes"]:
            return content


async def _ask(access: Access, report: Report, question: dict[str, Any]) -> Json:
    """Give the answer, what it lacks told. Raises QueueFault where there is nothing else in it."""
    found = await access.ask(question)
    if "error" in found:
        if len(found) == 1:
            raise QueueFault(found["error"])
        report.complain(found["error"])
    return found
