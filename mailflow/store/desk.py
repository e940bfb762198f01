"""What an operator asks of a store, as JSON: one question, one answer, whoever carries them.

The command on a stopped service asks the store itself; on a running one its question goes by HTTP to the supervisor and
from there to the workers, whose answers are merged. Text of others in an answer is as it came: whoever shows it to a
terminal makes it safe.
"""

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from mailflow.mail.envelope import Notify, Recipient
from mailflow.store.store import (
    Change,
    Corrupt,
    Entry,
    Filter,
    MessageStore,
    State,
    Statistics,
    StoreUnavailable,
    add_statistics,
)

MAX_ENTRIES = 1000
CONTENT_BYTES = 262_144  # of a message in one answer

Json = dict[str, Any]


class BadQuestion(Exception):
    """The question is none that can be asked; the text says what is allowed."""


def read_filter(given: Mapping[str, str]) -> Filter:
    """Read a filter as it stands in a query. Raises BadQuestion."""
    known = {"sender", "recipient", "domain", "error", "state", "min_age_s"}
    if unknown := set(given) - known:
        raise BadQuestion(f"no filter is called {min(unknown)!r}; allowed are {', '.join(sorted(known))}")
    try:
        min_age_s = float(given["min_age_s"]) if "min_age_s" in given else None
        state = State(given["state"]) if "state" in given else None
    except ValueError as exc:
        states = ", ".join(state.value for state in State)
        raise BadQuestion(f"min_age_s is a number of seconds, state one of {states}") from exc
    return Filter(
        given.get("sender"), given.get("recipient"), given.get("domain"), min_age_s, given.get("error"), state
    )


async def answer(store: MessageStore, question: Json) -> Json:
    """Answer one question. A store that does not answer is an `error` in the answer. Raises BadQuestion."""
    try:
        match question:
            case {"ask": "list", "filter": dict(given), "limit": int(limit), "after": str(after)}:
                wanted = read_filter(given)
                found = await store.list_entries(wanted, limit=min(limit, MAX_ENTRIES), after=after)
                return {"entries": [describe_entry(entry) for entry in found]}
            case {"ask": "find", "id": str(id)}:
                entry = await store.find(id)
                return {"entry": None if entry is None else describe_entry(entry)}
            case {"ask": "content", "id": str(id), "offset": int(offset)}:
                return await _read_content(store, id, offset)
            case {"ask": "change", "ids": list(ids), "change": str(change)}:
                return {"changed": list(await store.change([str(id) for id in ids], read_change(change)))}
            case {"ask": "count"}:
                return describe_statistics(await store.count())
            case _:
                raise BadQuestion("a question is one of list, find, content, change, count")
    except StoreUnavailable as exc:
        return {"error": str(exc)}


def merge_answers(question: Json, answers: Sequence[Json]) -> Json:
    """Make one answer of those of several stores; an error in any of them is kept."""
    good = [a for a in answers if "error" not in a]
    errors = [a["error"] for a in answers if "error" in a]
    if not good:
        return {"error": "; ".join(errors)}
    merged: Json
    match question["ask"]:
        case "list":
            entries = [entry for a in good for entry in a["entries"]]
            merged = {"entries": sorted(entries, key=lambda entry: entry["id"])[: question["limit"]]}
        case "change":
            merged = {"changed": [id for a in good for id in a["changed"]]}
        case "count":
            merged = describe_statistics(add_statistics(_read_statistics(a) for a in good))
        case _:
            merged = next((a for a in good if a.get("entry") or a.get("content") is not None), good[0])
    return merged | ({"error": "; ".join(errors)} if errors else {})


def describe_entry(entry: Entry | Corrupt) -> Json:
    """Give what is known of an entry."""
    if isinstance(entry, Corrupt):
        unknown: Json = {"sender": None, "recipients": [], "state": State.SET_ASIDE.value, "next_try": None}
        return {"id": entry.id, **unknown, "last_error": entry.reason, "is_corrupt": True}
    envelope, now = entry.envelope, datetime.now(UTC)
    return {
        "id": entry.id,
        "sender": "" if envelope.reverse_path is None else str(envelope.reverse_path),
        "recipients": [str(recipient.address) for recipient in envelope.recipients],
        "state": entry.state.value,
        "next_try": None if entry.next_try_s is None else _iso(now + timedelta(seconds=entry.next_try_s)),
        "last_error": entry.last_error,
        "arrived": _iso(now - timedelta(seconds=entry.age_s)),
        "age_s": round(entry.age_s, 1),
        "size_bytes": entry.size_bytes,
        "attempts": entry.attempts,
        "crashes": entry.crashes,
        "is_quarantined": envelope.is_quarantined,
        "may_report": envelope.may_report,
        "envelope_id": envelope.envelope_id,
        "owed": [_describe_recipient(recipient) for recipient in envelope.recipients],
    }


def describe_statistics(found: Statistics) -> Json:
    """Give the queue in figures."""
    messages = {state.value: found.messages.get(state, 0) for state in State}
    return {"messages": messages, "size_bytes": found.size_bytes, "oldest_s": round(found.oldest_s, 1)}


def _read_statistics(given: Json) -> Statistics:
    messages = {State(state): int(count) for state, count in given["messages"].items()}
    return Statistics(messages, int(given["size_bytes"]), float(given["oldest_s"]))


def _describe_recipient(recipient: Recipient) -> Json:
    return {
        "address": str(recipient.address),
        "deliver_to": str(recipient.deliver_to),
        "destination": recipient.destination,
        "notify": None if recipient.notify is None else _describe_notify(recipient.notify),
        "original_recipient": recipient.original_recipient,
    }


def _describe_notify(notify: Notify) -> list[str]:
    return [str(flag.name) for flag in Notify if flag in notify] or ["NEVER"]


async def _read_content(store: MessageStore, id: str, offset: int) -> Json:
    body = await store.open_body(id)
    if body is None:
        return {"content": None}
    if isinstance(body, Corrupt):
        return {"content": None, "error": body.reason}
    whole = b"".join(body)
    return {
        "content": base64.b64encode(whole[offset : offset + CONTENT_BYTES]).decode("ascii"),
        "size_bytes": len(whole),
    }


def read_change(text: str) -> Change:
    """Read the name of a change. Raises BadQuestion."""
    try:
        return Change(text)
    except ValueError as exc:
        raise BadQuestion(f"a change is one of {', '.join(change.value for change in Change)}") from exc


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")
