"""The reference: every key with its meaning, default, unit and range, made from the model.

Two readings of one list: annotated TOML, itself a configuration that loads, and the page
docs/configuration.md around it. Nothing is written here that the model says already.
"""

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mailflow.config.model import LmtpBackend, MaildirBackend, RouteTable, Settings, describe_allowed

_WIDTH = 110

_INTRODUCTION = """\
# Configuration

This page is made by `mailflow config-reference --markdown`; a test keeps it current.

mailflow reads one TOML file (`-c`, by default `mailflow.toml`). `mailflow check-config -c FILE` exits 0, or 2 with
every fault, one a line: the key, its value, what is allowed. `mailflow serve` refuses whatever `check-config` refuses.

- An unknown key is a fault.
- Every key of a `[section]` is also read from the environment as `MAILFLOW_SECTION__KEY`, such as
  `MAILFLOW_MX__MAX_ERRORS=5`, and the top-level keys as `MAILFLOW_HOSTNAME`, `MAILFLOW_ROLES` and `MAILFLOW_WORKERS`.
  The environment goes before the file.
- `MAILFLOW_SECTION__KEY_FILE` names a file whose content, less one newline at its end, is the value: for secrets
  mounted as files. Such a value is never shown.
- Lists in the environment are separated by commas (`MAILFLOW_MX__LISTEN=0.0.0.0:2525,[::]:2525`) or are JSON.
- A variable with `__` that names no key is a fault; other variables are ignored, such as the ones Kubernetes makes of
  Services.
- `[[backend]]` and `[[route]]` are set in the file alone.
- Relative paths are from the configuration file's folder.
- Durations take fractions. Listeners take port 0: any free port, said in the `ready` line.

All keys, with their defaults or, where there is none, an example:

"""


def render_toml() -> str:
    """Give the annotated TOML of every key; it loads as it stands."""
    lines = ["# mailflow: every key, with its default or, where it is required, an example.", ""]
    for name, info in Settings.model_fields.items():
        table = info.annotation
        is_table = isinstance(table, type) and issubclass(table, BaseModel)
        if not is_table and name not in ("backend", "route"):
            lines += [*_describe_key(name, info), ""]
    for name, info in Settings.model_fields.items():
        if name == "backend":
            lines += _describe_table("[[backend]]", LmtpBackend)
            lines += _describe_table("[[backend]]", MaildirBackend)
        elif name == "route":
            lines += _describe_table("[[route]]", RouteTable)
        elif isinstance(table := info.annotation, type) and issubclass(table, BaseModel):
            lines += _describe_table(f"[{name}]", table)
    return "\n".join(lines).rstrip() + "\n"


def render_markdown() -> str:
    """Give the page docs/configuration.md."""
    return f"{_INTRODUCTION}```toml\n{render_toml()}```\n"


def _describe_table(header: str, table: type[BaseModel]) -> Iterator[str]:
    yield from _comment(str(table.__doc__))
    yield header
    for name, info in table.model_fields.items():
        yield from _describe_key(name, info)
        yield ""


def _describe_key(name: str, info: FieldInfo) -> Iterator[str]:
    extra = info.json_schema_extra
    assert isinstance(extra, dict), "every key is declared by model.declare"
    facts = ["required" if info.is_required() else f"default {_format(info.default)}"]
    if extra["unit"]:
        facts.append(f"unit: {extra['unit']}")
    facts.append(f"range: {describe_allowed(info)}")
    yield from _comment(str(info.description))
    yield from _comment("; ".join(facts))
    yield f"{name} = {_format(extra['example'])}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False)


def _format(value: Any) -> str:
    """Give a default as TOML: strings, numbers, booleans and flat lists are written as JSON writes them."""
    return json.dumps(value, ensure_ascii=False)
