"""The environment over the file: MAILFLOW_SECTION__KEY, and MAILFLOW_SECTION__KEY_FILE for a file with the value.

Kubernetes puts variables of its own into every Pod (a Service "mailflow-mx" gives
MAILFLOW_MX_PORT_25_TCP): those have no `__`, and whatever has none is ignored but for the top-level
keys. A variable with `__` that names no key is a fault, because it is a misspelled one. Arrays of
tables are for the file alone. pydantic-settings is not used: it ignores unknown variables silently
and reads the process's own environment, where this reads the mapping it is given.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mailflow.config.fault import Fault, show_value
from mailflow.config.model import Settings

PREFIX = "MAILFLOW_"
_MAX_FILE_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Overlay:
    """What the environment says: values by key (`mx.max_errors`), where each came from, and what was wrong.

    `hidden` are the keys whose value came from a secret file and is shown nowhere.
    """

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)


def list_variables() -> dict[str, tuple[str, FieldInfo]]:
    """Give every variable's name with its key and field; the arrays of tables have none."""
    variables: dict[str, tuple[str, FieldInfo]] = {}
    for name, info in Settings.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            for key, key_info in info.annotation.model_fields.items():
                variables[f"{PREFIX}{name}__{key}".upper()] = (f"{name}.{key}", key_info)
        elif name not in ("backend", "route"):
            variables[f"{PREFIX}{name}".upper()] = (name, info)
    return variables


def read_environment(environ: Mapping[str, str], folder: Path) -> Overlay:
    """Read every variable of ours; paths of `_FILE` variables are from `folder`. Faults are collected, never raised."""
    overlay = Overlay()
    known = list_variables()
    for variable in sorted(name for name in environ if name.startswith(PREFIX)):
        text = environ[variable]
        plain = variable.removesuffix("_FILE")
        if variable in known:
            key, info = known[variable]
            _put(overlay, variable, key, _convert(text, info))
        elif "__" not in variable:
            continue
        elif plain != variable and plain in known:
            _read_secret(overlay, variable, folder / text, known[plain])
        else:
            overlay.faults.append(Fault(variable, "", _explain_unknown(variable, known)))
    return overlay


def _put(overlay: Overlay, variable: str, key: str, value: Any) -> None:
    if key in overlay.values:
        other = overlay.sources[key]
        overlay.faults.append(Fault(variable, "", f"only one of {other} and {variable}"))
        return
    overlay.values[key] = value
    overlay.sources[key] = variable


def _read_secret(overlay: Overlay, variable: str, path: Path, known: tuple[str, FieldInfo]) -> None:
    key, info = known
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        text = content.decode()
    except (OSError, ValueError) as exc:  # ValueError: not UTF-8, or a NUL in the path
        reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
        overlay.faults.append(Fault(variable, show_value(str(path)), f"a text file that can be read ({reason})"))
        return
    if len(content) > _MAX_FILE_BYTES:
        overlay.faults.append(Fault(variable, show_value(str(path)), f"a file of at most {_MAX_FILE_BYTES} bytes"))
        return
    overlay.hidden.add(key)
    _put(overlay, variable, key, _convert(text.removesuffix("\n").removesuffix("\r"), info))


def _convert(text: str, info: FieldInfo) -> Any:
    """Give the text the key's type; where that fails it stays text, which the key's own check then refuses."""
    if info.annotation is bool:
        return {"true": True, "false": False}.get(text, text)
    try:
        if get_origin(info.annotation) is tuple:
            return _convert_list(text)
        if info.annotation is int:
            return int(text) if text.strip() == text else text
        if info.annotation is float:
            return float(text) if text.strip() == text else text
    except (ValueError, RecursionError):
        return text
    return text


def _convert_list(text: str) -> Any:
    if text.lstrip().startswith("[") and text.rstrip().endswith("]") and '"' in text:
        return json.loads(text)
    # "[::]:25, 0.0.0.0:25" begins like JSON and is none.
    return [item.strip() for item in text.split(",")] if text.strip() not in ("", "[]") else []


def _explain_unknown(variable: str, known: Mapping[str, object]) -> str:
    if variable.startswith((f"{PREFIX}BACKEND__", f"{PREFIX}ROUTE__")):
        return "no such variable: [[backend]] and [[route]] are set in the file alone"
    close = get_close_matches(variable, known, n=1)
    return "no such variable" + (f"; did you mean {close[0]}?" if close else "")
