"""One event becomes one line: JSON, ASCII, at most 4,096 bytes with its newline.

4,096 is Linux's PIPE_BUF: several processes share the pipe to the collector, and only a write of no
more is not torn apart by the others'. Values come from the peer and from crashes, so nothing may
raise here: bytes, NaN, lone surrogates, circular lists and objects without a usable repr all become
something. ASCII, so that what a peer sends cannot steer the terminal of who reads the log.
"""

import itertools
import json
from collections.abc import Mapping
from enum import Enum
from typing import Any

MAX_LINE_BYTES = 4096

# What may be kept of each value, in octets of JSON, until the line fits.
_CAPS = (3600, 2400, 1600, 1000, 600, 300, 150, 75, 40)
_MAX_DEPTH = 6
_MAX_KEY_CHARS = 64


def encode_line(fields: Mapping[str, Any]) -> bytes:
    """Give the fields as one line that ends in a newline; never raises.

    Where values had to be shortened, the line says `"truncated":true`; the first fields go last.
    """
    try:
        for value in fields.values():
            # Not worth encoding megabytes only to cut them.
            if type(value) is str and len(value) > MAX_LINE_BYTES:
                return _shorten(fields)
        text = _ENCODER.encode(fields)
    except Exception:  # a value's own methods may raise anything
        return _shorten(fields)
    if len(text) < MAX_LINE_BYTES:
        return text.encode("ascii") + b"\n"
    return _shorten(fields)


def _shorten(fields: Mapping[str, Any]) -> bytes:
    clean = _clean(dict(fields), 0, [MAX_LINE_BYTES])
    line = _dump(clean)
    if line is not None:
        return line
    for cap in _CAPS:
        line = _dump({key: _cut(value, cap) for key, value in clean.items()} | {"truncated": True})
        if line is not None:
            return line
    # So many fields that even short they are too long: the first ones say what happened.
    first = {key: _cut(value, _CAPS[-1]) for key, value in list(clean.items())[:5]}
    return _dump(first | {"truncated": True}) or b'{"event":"unprintable","truncated":true}\n'


def _dump(fields: Mapping[str, Any]) -> bytes | None:
    text = _ENCODER.encode(fields)
    return text.encode("ascii") + b"\n" if len(text) < MAX_LINE_BYTES else None


def _cut(value: Any, cap: int) -> Any:
    """Shorten one clean value to at most `cap` octets of JSON; what is not text becomes its JSON as text."""
    encoded = _ENCODER.encode(value)
    if len(encoded) <= cap:
        return value
    text = value if isinstance(value, str) else encoded
    while text and (size := len(_ENCODER.encode(text))) > cap:
        text = text[: len(text) * cap // size - 1] if size < 2 * cap else text[: max(len(text) // 2, 1) - 1]
    return text


def _clean(value: Any, depth: int, budget: list[int]) -> Any:
    """Rebuild a value of nothing but what JSON has, of bounded depth.

    `budget[0]` counts values down: more than a line has octets are not worth looking at.
    """
    budget[0] -= 1
    if value is None or value is True or value is False:
        return value
    if type(value) is int and value.bit_length() <= 64:
        return value
    if type(value) is float and value - value == 0:  # NaN and the infinities are no JSON
        return value
    if type(value) is str:
        return value[:MAX_LINE_BYTES]
    if depth < _MAX_DEPTH and type(value) is dict:
        items = itertools.takewhile(lambda _item: budget[0] > 0, value.items())
        return {_describe(key)[:_MAX_KEY_CHARS]: _clean(item, depth + 1, budget) for key, item in items}
    if depth < _MAX_DEPTH and type(value) in (list, tuple):
        return [_clean(item, depth + 1, budget) for item in itertools.takewhile(lambda _item: budget[0] > 0, value)]
    return _describe(value)


def _describe(value: Any) -> str:
    """Give any value as text; one whose own text cannot be had is named by its type."""
    try:
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value[:MAX_LINE_BYTES]).decode("utf-8", "backslashreplace")
        if isinstance(value, Enum):
            value = value.value
        return str(str(value)[:MAX_LINE_BYTES])
    except Exception:  # __str__ may be anybody's
        return f"<{type(value).__name__}>"


_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_describe)
