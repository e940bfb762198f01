"""The files that routes name, aliases and maps of users: read and checked with the configuration.

Looks at the configuration file's own values, as contradiction.py does, so that faults inside these
files are told with all others. What is not of the right type is passed over here. What was read
travels with the settings: a worker that starts while a file is faulty or gone uses it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailflow.config.fault import Fault, show_value
from mailflow.config.value import parse_route_domain, parse_subaddress
from mailflow.mail.address_book import AddressBook, AddressRules
from mailflow.mail.address_map import (
    MAX_FILE_BYTES,
    AddressMap,
    AddressMapFaults,
    MapFault,
    parse_aliases,
    parse_user_map,
)
from mailflow.mail.domain_table import DomainTable
from mailflow.observe.file_stamp import read_bounded

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Use:
    """A file as a key of a route names it."""

    key: str
    path: Path
    is_map: bool


def read_address_files(document: Document, folder: Path) -> tuple[dict[Path, AddressMap], list[Fault]]:
    """Read every file of addresses that the routes of a parsed configuration name; paths are from `folder`.

    Gives the contents by path, and the faults of them all. Never raises.
    """
    maps: dict[Path, AddressMap] = {}
    faults: list[Fault] = []
    first: dict[Path, _Use] = {}
    for use in _uses(document, folder):
        before = first.setdefault(use.path, use)
        if before is not use:
            if before.is_map != use.is_map:
                faults.append(Fault(use.key, show_value(str(use.path)), f"another file than {before.key}"))
            continue
        try:
            maps[use.path] = _read(use, document)
        except AddressMapFaults as exc:
            faults += [_place(use, fault) for fault in exc.faults]
            maps[use.path] = exc.readable
        except (OSError, ValueError) as exc:  # ValueError: no path at all
            reason = exc.strerror if isinstance(exc, OSError) else "no path"
            faults.append(Fault(use.key, show_value(str(use.path)), f"a file that can be read ({reason})"))
    book = AddressBook(DomainTable(_rules(document, folder)), maps)
    for path in maps:
        try:
            book.check(path)
        except AddressMapFaults as exc:
            faults += [_place(first[path], fault) for fault in exc.faults]
    return maps, faults


def _read(use: _Use, document: Document) -> AddressMap:
    content = read_bounded(use.path, MAX_FILE_BYTES)
    return parse_user_map(content, _backend_names(document)) if use.is_map else parse_aliases(content)


def _place(use: _Use, fault: MapFault) -> Fault:
    """Give a fault inside a file with the key that names the file."""
    where = f"{use.key} ({use.path}{f', line {fault.line}' if fault.line else ''})"
    if not fault.key:
        return Fault(where, "", fault.allowed)
    return Fault(f"{where} {show_value(fault.key)}", show_value(fault.value), fault.allowed)


def _uses(document: Document, folder: Path) -> Iterator[_Use]:
    for index, table in _routes(document):
        for name in ("aliases", "map"):
            path = _path(table, name, folder)
            if path is not None:
                yield _Use(f"route[{index}].{name}", path, name == "map")


def _rules(document: Document, folder: Path) -> Iterator[tuple[str, AddressRules]]:
    for _, table in _routes(document):
        try:
            separator = parse_subaddress(table.get("subaddress", "+"))
        except ValueError:
            separator = "+"
        rules = AddressRules(_path(table, "aliases", folder), _path(table, "map", folder), separator)
        domains = table.get("domains")
        for text in domains if isinstance(domains, list) else []:
            try:
                yield parse_route_domain(text), rules
            except ValueError:
                continue


def _path(table: Mapping[str, Any], name: str, folder: Path) -> Path | None:
    text = table.get(name)
    return folder / text if isinstance(text, str) and text and "\0" not in text else None


def _backend_names(document: Document) -> list[str]:
    tables = document.get("backend")
    names = [table.get("name") for table in tables if isinstance(table, dict)] if isinstance(tables, list) else []
    return [name for name in names if isinstance(name, str)]


def _routes(document: Document) -> Iterator[tuple[int, Mapping[str, Any]]]:
    tables = document.get("route")
    for index, table in enumerate(tables if isinstance(tables, list) else []):
        if isinstance(table, dict):
            yield index, table
