"""Contradictions: faults that no single key has, only several together.

Looks at the file's own values, not at checked ones, so that these faults are found even while other
keys are faulty: all of them are told at once. What is not of the right type is somebody else's
fault to name (model.py) and is passed over here. Never raises.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from mailflow.config.fault import Fault, show_value
from mailflow.config.model import AdminTable, MxTable, Settings
from mailflow.config.value import parse_listen, parse_mailbox, parse_quarantine, parse_route_domain

Document = Mapping[str, Any]


def find_contradictions(document: Document) -> list[Fault]:
    """Find what keys say against each other in a parsed file; empty where nothing is wrong."""
    return [
        *_find_missing_for_mx(document),
        *_find_backend_faults(document),
        *_find_double_domains(document),
        *_find_double_listeners(document),
        *_find_postmaster_faults(document),
        *_find_catch_all_faults(document),
        *_find_relay_faults(document),
        *_find_quarantine_faults(document),
        *_find_missing_store(document),
    ]


def _find_missing_for_mx(document: Document) -> Iterator[Fault]:
    if not _has_role(document, "mx"):
        return
    for name in ("backend", "route"):
        if document.get(name, []) == []:
            yield Fault(name, "", f'required: at least one [[{name}]], since roles has "mx"')


def _find_backend_faults(document: Document) -> Iterator[Fault]:
    names: list[object] = []
    for index, table in _tables(document, "backend"):
        name = table.get("name")
        if isinstance(name, str) and name in names:
            yield Fault(f"backend[{index}].name", show_value(name), "a name no other backend has")
        names.append(name)
    for index, table in _tables(document, "route"):
        backend = table.get("backend")
        if isinstance(backend, str) and backend not in names:
            known = ", ".join(dict.fromkeys(show_value(name) for name in names if isinstance(name, str)))
            yield Fault(
                f"route[{index}].backend", show_value(backend), f"the name of a backend ({known or 'there is none'})"
            )


def _find_double_domains(document: Document) -> Iterator[Fault]:
    seen: dict[str, str] = {}
    for key, text, domain in _route_domains(document):
        if domain in seen:
            yield Fault(key, show_value(text), f"a domain no other route has (it is in {seen[domain]})")
        seen.setdefault(domain, key)


def _find_double_listeners(document: Document) -> Iterator[Fault]:
    """One address bound twice is no error to the kernel under SO_REUSEPORT: half the connections would go astray."""
    seen: dict[object, str] = {}
    for key, text in _listeners(document):
        try:
            address = parse_listen(text)
        except ValueError:
            continue
        if address.port and address in seen:
            yield Fault(key, show_value(text), f"an address not listened on already (by {seen[address]})")
        seen.setdefault(address, key)


def _find_postmaster_faults(document: Document) -> Iterator[Fault]:
    """RFC 5321 s4.5.1: mail to postmaster must be taken, so its address must lead to a backend."""
    routes = [domain for _key, _text, domain in _route_domains(document)]
    if not routes or not _has_role(document, "mx"):
        return
    domains = [domain for domain in routes if domain != "*"]
    if not domains:
        yield Fault("route", "", 'required: a domain of ours beside "*", where the postmaster has a mailbox')
        return
    text = _value(document, "mx", "postmaster", "")
    try:
        address = parse_mailbox(text)
    except ValueError:
        return
    if not address:
        if all(domain.startswith(".") for domain in domains):
            yield Fault(
                "mx.postmaster", '""', "an address in a domain of the routes, since no route has an exact domain"
            )
        return
    postmaster_domain = address.rpartition("@")[2]
    if not any(_covers(domain, postmaster_domain) for domain in domains):
        yield Fault("mx.postmaster", show_value(text), "an address in a domain of the routes")


def _find_catch_all_faults(document: Document) -> Iterator[Fault]:
    """Mail for a catch-all address goes to a backend now; the way out comes later. Of "*" no user is ours to know."""
    domains = [domain for _key, _text, domain in _route_domains(document)]
    for index, table in _tables(document, "route"):
        text = table.get("catch_all", "")
        try:
            address = parse_mailbox(text)
        except ValueError:
            continue
        if address and table.get("domains") == ["*"]:
            yield Fault(f"route[{index}].catch_all", show_value(text), '"" in a route of "*" alone')
        elif address and not any(_covers(domain, address.rpartition("@")[2]) for domain in domains):
            yield Fault(f"route[{index}].catch_all", show_value(text), "an address in a domain of the routes")


def _find_relay_faults(document: Document) -> Iterator[Fault]:
    """Who may relay needs a way out."""
    networks = _value(document, "mx", "relay_from", [])
    if networks and not any(domain == "*" for _key, _text, domain in _route_domains(document)):
        yield Fault("mx.relay_from", show_value(networks), 'a list of networks only with a [[route]] of the domain "*"')


def _find_quarantine_faults(document: Document) -> Iterator[Fault]:
    """A detail behind a separator that the domain does not have would make a user whom nobody knows."""
    for index, table in _tables(document, "backend"):
        text = table.get("quarantine", "header")
        try:
            detail = parse_quarantine(text)
        except ValueError:
            continue
        for route_index, route in _tables(document, "route"):
            separator = route.get("subaddress", "+")
            if detail and route.get("backend") == table.get("name") and separator != detail[0]:
                yield Fault(
                    f"backend[{index}].quarantine",
                    show_value(text),
                    f'"header", or a subaddress that begins as those of route[{route_index}] do, whose subaddress is '
                    f"{show_value(separator)}",
                )


def _find_missing_store(document: Document) -> Iterator[Fault]:
    """A process that was made for delivery has something to deliver from."""
    roles = document.get("roles")
    is_asked = isinstance(roles, list) and "delivery" in roles and "mx" not in roles
    if is_asked and not _value(document, "store", "url", ""):
        yield Fault("store.url", '""', 'a store, since roles has "delivery" without "mx"')


def _covers(route_domain: str, domain: str) -> bool:
    return domain.endswith(route_domain) if route_domain.startswith(".") else domain == route_domain


def _has_role(document: Document, role: str) -> bool:
    roles = document.get("roles", Settings.model_fields["roles"].default)
    return isinstance(roles, list) and role in roles


def _listeners(document: Document) -> Iterator[tuple[str, object]]:
    roles_and_values = (
        ("mx", _value(document, "mx", "listen", MxTable.model_fields["listen"].default)),
        ("admin", [_value(document, "admin", "listen", AdminTable.model_fields["listen"].default)]),
    )
    for role, values in roles_and_values:
        if _has_role(document, role) and isinstance(values, list):
            for index, text in enumerate(values):
                yield (f"{role}.listen[{index}]" if role == "mx" else f"{role}.listen"), text


def _route_domains(document: Document) -> Iterator[tuple[str, object, str]]:
    """Give (key, text as written, A-label form) of every route domain that can be read."""
    for route_index, table in _tables(document, "route"):
        domains = table.get("domains")
        for index, text in enumerate(domains if isinstance(domains, list) else []):
            try:
                yield f"route[{route_index}].domains[{index}]", text, parse_route_domain(text)
            except ValueError:
                continue


def _tables(document: Document, name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    tables = document.get(name)
    for index, table in enumerate(tables if isinstance(tables, list) else []):
        if isinstance(table, dict):
            yield index, table


def _value(document: Document, table: str, key: str, default: object) -> object:
    content = document.get(table, {})
    return content.get(key, default) if isinstance(content, dict) else default
