"""Which keys may change while the service runs (SIGHUP).

Everything that a worker can take up between two transactions may. What was bound, started or
divided at the start stays as it was: the reload says so by name and applies the rest.
"""

from typing import Any

from pydantic import BaseModel

from mailflow.config import Settings

FIXED = (
    *("hostname", "roles", "workers", "dns", "store", "admin"),
    *("mx.listen", "mx.proxy_protocol_from", "log.buffer_bytes"),
)


def merge_reloaded(old: Settings, new: Settings) -> tuple[Settings, list[str]]:
    """Give the new settings with the fixed keys as they were, and the names of fixed keys that were to change."""
    refused = []
    for key in FIXED:
        table, dot, name = key.partition(".")
        before, after = getattr(old, table), getattr(new, table)
        if dot:
            before, after = getattr(before, name), getattr(after, name)
        if before != after:
            refused.append(key)
            new = _put(new, table, name, before)
    return new, refused


def _put(settings: Settings, table: str, name: str, value: Any) -> Settings:
    if name:
        part: BaseModel = getattr(settings, table)
        value = part.model_copy(update={name: value})
    return settings.model_copy(update={table: value})
