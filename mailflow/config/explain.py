"""Explaining: what pydantic found becomes a Fault in words of the file, not of Python.

The text of what is allowed comes from the key's own declaration, so faults and reference never
disagree. Values of unknown keys, of secret keys and of secret files are not shown.
"""

from collections.abc import Iterable
from difflib import get_close_matches

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from mailflow.config.environment import Overlay
from mailflow.config.fault import HIDDEN, Fault, show_value
from mailflow.config.model import LmtpBackend, MaildirBackend, RouteTable, Settings, describe_allowed

Location = tuple[int | str, ...]


def explain_error(error: ErrorDetails, overlay: Overlay) -> Fault:
    """Give one finding of pydantic as a fault; `overlay` tells which values the environment set."""
    loc = _strip_kind(error["loc"])
    value: object = error["input"]
    if error["type"] == "contradiction":  # model.py blames one key of a table
        blamed = error["ctx"]["field"]
        loc = (*loc, blamed)
        value = value.get(blamed, "") if isinstance(value, dict) else ""
    key = _format_key(loc)
    whole_key = ".".join(str(part) for part in loc[:2] if isinstance(part, str))
    source = overlay.sources.get(whole_key)
    allowed = _explain_allowed(error, loc) + (f" (set by {source})" if source else "")
    if error["type"] == "missing":
        return Fault(key, "", f"required: {allowed}")
    if error["type"] == "extra_forbidden":
        return Fault(key, "", allowed)
    is_hidden = whole_key in overlay.hidden or _is_secret(loc)
    return Fault(key, HIDDEN if is_hidden else show_value(value), allowed)


def _is_secret(loc: Location) -> bool:
    """Tell whether a key is secret, or what stands in the place of its table."""
    for table in _tables_at(loc[:1]):
        for name, info in table.model_fields.items():
            extra = info.json_schema_extra
            if loc[1:2] in ((), (name,)) and isinstance(extra, dict) and extra["is_secret"]:
                return True
    return False


def _explain_allowed(error: ErrorDetails, loc: Location) -> str:
    match error["type"]:
        case "extra_forbidden":
            return _explain_unknown(error["loc"], loc)
        case "contradiction":
            return str(error["ctx"]["allowed"])
        case "value_error":
            return str(error["ctx"]["error"])
        case "missing" if loc[:1] == ("backend",) and loc[-1] == "lmtp":
            return "lmtp, or maildir instead"
    if len(loc) < 3 and loc[0] in ("backend", "route"):
        return f"an array of tables, each begun by [[{loc[0]}]]"
    if len(loc) == 1 and _tables_at(loc):
        return f"a table, begun by [{loc[0]}]"
    # The key itself, or an element of its list.
    key = loc[:-1] if isinstance(loc[-1], int) else loc
    for table in _tables_at(key[:-1]):
        if key[-1] in table.model_fields:
            return describe_allowed(table.model_fields[str(key[-1])])
    return error["msg"]


def _explain_unknown(raw_loc: Location, loc: Location) -> str:
    """Tell why there is no such key here, and which one may have been meant."""
    name = str(loc[-1])
    if loc[0] == "backend":
        if name == "maildir":
            return "one of lmtp and maildir, not both"
        if name in LmtpBackend.model_fields or name in MaildirBackend.model_fields:
            return f"no such key: only a backend with {'lmtp' if 'maildir' in raw_loc else 'maildir'} has it"
    close = get_close_matches(name, _names_at(loc[:-1]), n=1)
    if not close and len(loc) == 1:  # a key written above the first table, or in the wrong one
        close = [f"{table}.{name}" for table in Settings.model_fields if name in _names_at((table,))]
    return "no such key" + (f"; did you mean {close[0]}?" if close else "")


def _names_at(loc: Location) -> Iterable[str]:
    return list(dict.fromkeys(name for table in _tables_at(loc) for name in table.model_fields))


def _tables_at(loc: Location) -> tuple[type[BaseModel], ...]:
    """Give the models whose keys live at `loc`; a backend has two."""
    match loc:
        case ():
            return (Settings,)
        case ("backend", int()):
            return (LmtpBackend, MaildirBackend)
        case ("route", int()):
            return (RouteTable,)
        case (str(name),) if name in Settings.model_fields:
            annotation = Settings.model_fields[name].annotation
            return (annotation,) if isinstance(annotation, type) and issubclass(annotation, BaseModel) else ()
    return ()


def _strip_kind(loc: Location) -> Location:
    """Take the kind of backend, which no file has, out of pydantic's path."""
    return loc[:2] + loc[3:] if loc[0] == "backend" and len(loc) > 2 else loc


def _format_key(loc: Location) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
