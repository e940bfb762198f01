"""Faults of a configuration: which key, what it holds, what is allowed.

A configuration is refused whole and with every fault at once: an operator who mends one key per
restart loses an evening. Values read from secret files are never shown, and neither are those of
unknown keys, which may be a misspelled secret.
"""

import json
from dataclasses import dataclass

_SHOWN_CHARS = 120
HIDDEN = "(not shown)"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `key` is written as in `mx.max_errors` or `backend[0].tls`; `value` is printable,
    "" where it is missing or, being that of an unknown key, not shown.
    """

    key: str
    value: str
    allowed: str

    def __str__(self) -> str:
        """Give the fault as one printable line."""
        return f"{self.key} = {self.value}: allowed is {self.allowed}" if self.value else f"{self.key}: {self.allowed}"


class ConfigFaults(Exception):
    """The configuration is not usable; `faults` has every reason. A retry helps only after a change."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


def show_value(value: object) -> str:
    """Give a value as one short printable line, whatever it is."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a thousand tables in one another
        return "(too large to show)"
    # The environment may hold bytes that are no UTF-8 (lone surrogates here); C1 codes are commands to a terminal.
    shown = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text[: _SHOWN_CHARS + 1])
    return shown if len(text) <= _SHOWN_CHARS else shown[:_SHOWN_CHARS] + "…"
