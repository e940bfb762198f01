"""Files of addresses: flat TOML pairs `"address" = "value"`, one per user (aliases, maps of users).

    "info@example.org" = "alice@example.org"

Pure. Addresses are compared by A-label domain and by local part without case, the way mailboxes are
named. Every fault is told, by line where there is one, and a file with a fault is not used at all.
The surprise: files of a hundred thousand lines are read by a pattern, as tomllib takes seconds for
them; what the pattern does not cover (lists, escapes, other quotes) goes to tomllib whole. Both
readings give the same pairs.
"""

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from mailflow.mail.address import Address, AddressSyntaxError, parse_mailbox

MAX_FILE_BYTES = 1 << 25
MAX_FAULTS = 100  # of one file; the rest are counted
ADDRESS = 'an address such as "alice@example.org"'
ONE_TARGET = f"{ADDRESS}; several targets are not supported yet"
PAIRS = 'pairs such as "info@example.org" = "alice@example.org"'

_SHOWN_CHARS = 120
_TEXT = r'"([^"\\\x00-\x1f\x7f]*)"'
_LINE = re.compile(rf"[ \t]*(?:{_TEXT}[ \t]*=[ \t]*{_TEXT}[ \t]*)?(?:#[^\x00-\x08\x0a-\x1f\x7f]*)?\r?")
_PLAIN_LOCAL = re.compile(r"[A-Za-z0-9_+\-]+(?:\.[A-Za-z0-9_+\-]+)*")
_MAX_LOCAL_OCTETS = 64
_MAX_PLAIN_DOMAIN_OCTETS = 180  # with any local part still below the path's limit


@dataclass(frozen=True, slots=True)
class MapFault:
    """One fault of a file. `line` is 0 where only the key is known, `key` "" where it is of the file as a whole."""

    line: int
    key: str
    value: object
    allowed: str

    def __str__(self) -> str:
        """Give the fault as one printable line."""
        shown = f"{_show(self.key)} = {_show(self.value)}: allowed is {self.allowed}" if self.key else self.allowed
        return f"line {self.line}: {shown}" if self.line else shown


@dataclass(frozen=True, slots=True)
class AddressMap:
    """What a file says: `entries` by `map_key` of the address; `lines` of those keys, where they are known."""

    entries: Mapping[str, str] = field(default_factory=dict)
    lines: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)

    def find(self, address: Address) -> str | None:
        """Give the value of exactly this address."""
        return self.entries.get(map_key(address))

    def blame(self, key: str, allowed: str) -> MapFault:
        """Give a fault of the entry `key`."""
        return MapFault(self.lines.get(key, 0), key, self.entries[key], allowed)


class AddressMapFaults(ValueError):
    """A file cannot be used; `faults` has every reason, bounded by MAX_FAULTS. A retry helps only after a change.

    `readable` has the entries without a fault, in which others may look for more faults.
    """

    def __init__(self, faults: Iterable[MapFault], readable: AddressMap | None = None) -> None:
        found = list(faults)
        if len(found) > MAX_FAULTS:
            found[MAX_FAULTS:] = [MapFault(0, "", None, f"and {len(found) - MAX_FAULTS} more faults")]
        super().__init__("; ".join(map(str, found)))
        self.faults = tuple(found)
        self.readable = readable or AddressMap()


def map_key(address: Address) -> str:
    """Give the form in which addresses are compared: two spellings of one mailbox give one key."""
    return f"{address.local.lower()}@{address.ascii_domain}"


def parse_aliases(content: bytes) -> AddressMap:
    """Read a file of aliases: address -> one address, or a list of one. Raises AddressMapFaults."""
    normalize = _AddressReader()

    def read_target(value: object) -> str:
        target = value[0] if isinstance(value, list) and len(value) == 1 else value
        if not isinstance(target, str):
            raise ValueError(ONE_TARGET if isinstance(target, list) else ADDRESS)
        normalize(target)
        return target

    return _parse(content, normalize, read_target)


def parse_user_map(content: bytes, backends: Iterable[str]) -> AddressMap:
    """Read a map of users: address -> the name of one of `backends`. Raises AddressMapFaults."""
    known = {name: name for name in backends}

    def read_backend(value: object) -> str:
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"the name of a backend ({', '.join(map(_show, known)) or 'there is none'})")
        return known[value]  # one text for all its users

    return _parse(content, _AddressReader(), read_backend)


class _AddressReader:
    """Gives the key of an address. Plain ones in a domain seen before, nearly all of a file, take a short way."""

    def __init__(self) -> None:
        self._domains: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        local, _, domain = text.rpartition("@")
        known = self._domains.get(domain)
        if known and len(local) <= _MAX_LOCAL_OCTETS and _PLAIN_LOCAL.fullmatch(local):
            return f"{local.lower()}@{known}"
        try:
            address = parse_mailbox(text)
        except AddressSyntaxError as exc:
            raise ValueError(f"{ADDRESS} ({exc})") from exc
        if domain.isascii() and len(domain) <= _MAX_PLAIN_DOMAIN_OCTETS:
            self._domains[domain] = address.ascii_domain
        return map_key(address)


def _parse(content: bytes, read_key: Callable[[str], str], read_value: Callable[[object], str]) -> AddressMap:
    if len(content) > MAX_FILE_BYTES:
        raise _whole_file_fault(f"the file is larger than {MAX_FILE_BYTES} octets")
    try:
        text = content.decode()
    except UnicodeDecodeError as exc:
        raise _whole_file_fault(f"the file is not UTF-8 (octet {exc.start})") from exc
    entries: dict[str, str] = {}
    lines: dict[str, int] = {}
    faults: list[MapFault] = []
    for line, written, value in read_pairs(text):
        try:
            key = read_key(written)
        except ValueError as exc:
            faults.append(MapFault(line, written, value, f"{PAIRS}: the key is {exc}"))
            continue
        if key in lines:
            before = f" (line {lines[key]})" if lines[key] else ""
            faults.append(MapFault(line, written, value, f"one entry for each address, and there is one above{before}"))
            continue
        lines[key] = line
        try:
            entries[key] = read_value(value)
        except ValueError as exc:
            faults.append(MapFault(line, written, value, str(exc)))
    if faults:
        raise AddressMapFaults(faults, AddressMap(entries, lines))
    return AddressMap(entries, lines)


def read_pairs(text: str) -> Iterable[tuple[int, str, object]]:
    """Give (line, key, value) of every pair, line 0 where tomllib read them. Raises AddressMapFaults for no TOML."""
    try:
        return list(_read_plain_lines(text))
    except _NotPlain:
        return [(0, key, value) for key, value in _read_toml(text).items()]


class _NotPlain(Exception):
    """A line is not of the form that nearly all are of."""


def _read_plain_lines(text: str) -> Iterator[tuple[int, str, object]]:
    if text.endswith("\r"):  # no line end in TOML
        raise _NotPlain
    match_line = _LINE.fullmatch
    for number, line in enumerate(text.split("\n"), 1):
        match = match_line(line)
        if match is None:
            raise _NotPlain
        if match[1] is not None:
            yield number, match[1], match[2]


def _read_toml(text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except ValueError as exc:  # TOMLDecodeError says line and column; an integer may also have too many digits
        raise _whole_file_fault(f"the file is not TOML of {PAIRS}: {exc}") from exc
    except RecursionError as exc:
        raise _whole_file_fault("the file is nested too deep") from exc


def _whole_file_fault(words: str) -> AddressMapFaults:
    return AddressMapFaults([MapFault(0, "", None, words)])


def _show(value: object) -> str:
    """Give a value as one short printable line."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return "(too large to show)"
    shown = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text[:_SHOWN_CHARS])
    return shown if len(text) <= _SHOWN_CHARS else f"{shown}…"
