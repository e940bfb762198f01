"""`mailflow doctor`, MX: each fault is seen, and what is said to mend it does."""

from typing import Any

import pytest

from mailflow.cli.doctor_finding import Check
from tests.unit.cli.doctor_zones import codes, faults, find, paste, run, section, varied

SPF = {"TXT": "v=spf1 -all"}
LOST: list[Any] = [{"TXT": "nothing here"}]

CASES: dict[str, tuple[dict[str, list[Any]], str, str, bool]] = {
    "no MX, but an address": ({"at": [{"A": "192.0.2.1"}, SPF]}, "mx-implicit", "warn", True),
    "neither MX nor address": ({"at": [SPF]}, "mx-none", "warn", True),
    "null MX of another preference": ({"at": [{"MX": (10, ".")}, SPF]}, "mx-null-form", "warn", True),
    "null MX beside another": (
        {"at": [{"MX": (0, ".")}, {"MX": (10, "mx.example.com")}]},
        "mx-null-beside-others",
        "bad",
        True,
    ),
    "duplicate": (
        {"at": [{"MX": (10, "mx.example.com")}, {"MX": (20, "mx.example.com")}]},
        "mx-duplicate",
        "warn",
        True,
    ),
    "only host without address": ({"mx_example_com": LOST}, "mx-no-address", "bad", False),
    "one host without address": (
        {"at": [{"MX": (10, "mx.example.com")}, {"MX": (20, "mx.example.net")}], "mx_example_com": LOST},
        "mx-no-address",
        "bad",
        True,
    ),
    "alias": ({"mx_example_com": [{"CNAME": "mx.example.net"}]}, "mx-alias", "warn", True),
    "alias of another MX": (
        {
            "at": [{"MX": (10, "mx.example.com")}, {"MX": (20, "mx.example.net")}],
            "mx_example_com": [{"CNAME": "mx.example.net"}],
        },
        "mx-alias",
        "warn",
        True,
    ),
    "alias that leads nowhere": ({"mx_example_com": [{"CNAME": "no.example.net"}]}, "mx-no-address", "bad", False),
    "address for a name": ({"at": [{"MX": (10, "192.0.2.1")}]}, "mx-literal", "bad", True),
    "IPv6 only": ({"mx_example_com": [{"AAAA": "2001:db8::1"}]}, "mx-ipv6-only", "bad", False),
    "one of two IPv6 only": (
        {
            "at": [{"MX": (10, "mx.example.com")}, {"MX": (20, "mx.example.net")}],
            "mx_example_com": [{"AAAA": "2001:db8::1"}],
        },
        "mx-ipv6-only",
        "warn",
        False,
    ),
    "private address": ({"mx_example_com": [{"A": "10.0.0.1"}]}, "mx-private-address", "bad", False),
    "private address beside another": (
        {"mx_example_com": [{"A": "10.0.0.1"}, {"A": "192.0.2.1"}]},
        "mx-private-address",
        "bad",
        True,
    ),
    "21 hosts": ({"at": [{"MX": (n, f"mx{n}.example.com")} for n in range(21)]}, "mx-too-many", "warn", False),
    "silent": ({"at": ["TIMEOUT"]}, "mx-no-answer", "warn", False),
    "host that is silent": ({"mx_example_com": ["SERVFAIL"]}, "mx-no-answer", "warn", False),
}


@pytest.mark.parametrize("name", CASES)
def test_fault_is_found_and_what_mends_it_does(name: str) -> None:
    names, code, severity, is_mended = CASES[name]
    zone = varied(**names)
    if name == "address for a name":
        # ZoneResolver would take the address for its reverse name
        zone["example.com"] = [{"MX": (10, "192.0.2.1.")}]
    report = run(zone)
    assert codes(section(report, Check.MX)).get(code) == severity
    finding = find(report, code)
    assert bool(finding.changes) is is_mended
    assert finding.changes or finding.advice
    if is_mended:
        assert code not in faults(section(run(paste(zone, finding.changes)), Check.MX))


def test_domain_that_does_not_exist_is_bad() -> None:
    report = run(varied(), domain="no.example.org")
    assert codes(section(report, Check.MX)) == {"mx-no-domain": "bad"}


def test_null_mx_is_good() -> None:
    assert codes(section(run(varied(at=[{"MX": (0, ".")}, SPF])), Check.MX)) == {"mx-null": "good"}


@pytest.mark.parametrize("count", [1, 20])
def test_hosts_with_addresses_are_good(count: int) -> None:
    zone = varied(at=[{"MX": (n, f"mx{n}.example.com")} for n in range(count)])
    zone |= {f"mx{n}.example.com": [{"A": f"192.0.2.{n}"}] for n in range(count)}
    assert faults(section(run(zone), Check.MX)) == {}
