"""`mailflow doctor`, SPF: each fault is seen, and what is said to mend it does."""

from typing import Any

import pytest

from mailflow.cli.doctor_finding import Check
from tests.unit.cli.doctor_zones import codes, faults, find, good_zone, paste, run, section, spf, varied

TEN = " ".join(f"include:i{n}.example.net" for n in range(10))
INCLUDED = {f"i{n}.example.net": [{"TXT": f"v=spf1 ip4:198.51.100.{n} -all"}] for n in range(12)}
HOSTS = {f"h{n}.example.net": [{"A": f"198.51.100.{n}"}, {"AAAA": f"2001:db8::{n}"}] for n in range(12)}
V4_HOSTS = {f"v{n}.example.net": [{"A": f"198.51.100.{n}"}] for n in range(4)}

# name -> rows of the domain, other names, code, severity, and whether a record is named that mends it
CASES: dict[str, tuple[list[Any], dict[str, Any], str, str, bool]] = {
    "none": ([{"MX": (10, "mx.example.com")}], {}, "spf-none", "bad", True),
    "none, and the domain takes no mail": ([{"MX": (0, ".")}], {}, "spf-none", "bad", True),
    "quoted": (spf('"v=spf1 ip4:192.0.2.1 -all"'), {}, "spf-none", "bad", True),
    "no blank": (spf("v=spf1include:i0.example.net -all"), INCLUDED, "spf-none", "bad", True),
    "two": ([*spf("v=spf1 mx -all"), {"TXT": "v=spf1 ip4:192.0.2.9 ~all"}], {}, "spf-several", "bad", True),
    "two, one faulty": ([*spf("v=spf1 mx -all"), {"TXT": "v=spf1 ip4:x"}], {}, "spf-several", "bad", True),
    "one that is none beside": ([*spf("v=spf1 mx -all"), {"TXT": "v=spf1; a"}], {}, "spf-near-miss", "warn", True),
    "unknown mechanism": (spf("v=spf1 mx foo:bar -all"), {}, "spf-syntax", "bad", True),
    "misspelt mechanism": (spf("v=spf1 ipv4:192.0.2.7 -all"), {}, "spf-syntax", "bad", True),
    "wrong family": (spf("v=spf1 ip4:2001:db8::7 -all"), {}, "spf-syntax", "bad", True),
    "comma": (spf("v=spf1 ip4:192.0.2.7, -all"), {}, "spf-syntax", "bad", True),
    "not ASCII": (spf("v=spf1 mx\u00a0-all".encode()), {}, "spf-syntax", "bad", True),
    "redirect= twice": (
        spf("v=spf1 redirect=i0.example.net redirect=i1.example.net"),
        INCLUDED,
        "spf-syntax",
        "bad",
        True,
    ),
    "equals sign": (spf("v=spf1 ip4=192.0.2.7 -all"), {}, "spf-modifier", "bad", True),
    "eleven includes": (spf(f"v=spf1 {TEN} include:i10.example.net -all"), INCLUDED, "spf-lookups", "bad", True),
    "eleven hosts": (
        spf("v=spf1 " + " ".join(f"a:h{n}.example.net/24" for n in range(11)) + " -all"),
        HOSTS,
        "spf-lookups",
        "bad",
        True,
    ),
    "eleven with macros": (
        spf("v=spf1 " + " ".join(f"exists:%{{i}}.l{n}.example.net" for n in range(11)) + " -all"),
        {},
        "spf-lookups",
        "bad",
        False,
    ),
    "eleven below an include": (
        spf("v=spf1 include:big.example.net -all"),
        INCLUDED | {"big.example.net": [{"TXT": f"v=spf1 {TEN} -all"}]},
        "spf-lookups",
        "bad",
        True,
    ),
    "three void": (
        spf("v=spf1 a:n1.example.net mx:n2.example.net exists:n3.example.net -all"),
        {},
        "spf-voids",
        "bad",
        True,
    ),
    "three void below an include": (
        spf("v=spf1 include:v.example.net -all"),
        {"v.example.net": [{"TXT": "v=spf1 a:n1.example.net a:n2.example.net a:n3.example.net -all"}]},
        "spf-voids",
        "bad",
        False,
    ),
    "three without IPv6": (
        spf("v=spf1 a:v1.example.net a:v2.example.net a:v3.example.net -all"),
        V4_HOSTS,
        "spf-voids-one-family",
        "warn",
        True,
    ),
    "+all": (spf("v=spf1 mx +all"), {}, "spf-plus-all", "bad", True),
    "bare all": (spf("v=spf1 all"), {}, "spf-plus-all", "bad", True),
    "?all": (spf("v=spf1 mx ?all"), {}, "spf-neutral-all", "warn", True),
    "no all": (spf("v=spf1 mx"), {}, "spf-no-end", "warn", True),
    "+all behind redirect=": (
        spf("v=spf1 redirect=open.example.net"),
        {"open.example.net": [{"TXT": "v=spf1 +all"}]},
        "spf-plus-all",
        "bad",
        True,
    ),
    "no all behind redirect=": (
        spf("v=spf1 redirect=r.example.net"),
        {"r.example.net": [{"TXT": "v=spf1 ip4:192.0.2.1"}]},
        "spf-no-end",
        "warn",
        False,
    ),
    "term behind all": (spf("v=spf1 -all mx"), {}, "spf-behind-all", "warn", True),
    "redirect= beside all": (
        spf("v=spf1 mx -all redirect=i0.example.net"),
        INCLUDED,
        "spf-redirect-ignored",
        "warn",
        True,
    ),
    "ptr": (spf("v=spf1 mx ptr -all"), {}, "spf-ptr", "warn", True),
    "%{p}": (spf("v=spf1 mx exists:%{p}.example.net -all"), {}, "spf-macro-p", "warn", False),
    "include without record": (spf("v=spf1 mx include:no.example.net -all"), {}, "spf-broken-include", "bad", True),
    "include of itself": (spf("v=spf1 mx include:example.com -all"), {}, "spf-broken-include", "bad", True),
    "redirect= without record": (spf("v=spf1 Redirect=no.example.net"), {}, "spf-broken-include", "bad", True),
    "include with +all": (
        spf("v=spf1 mx include:open.example.net -all"),
        {"open.example.net": [{"TXT": "v=spf1 +all"}]},
        "spf-open-include",
        "bad",
        True,
    ),
    "include with ptr": (
        spf("v=spf1 mx include:p.example.net -all"),
        {"p.example.net": [{"TXT": "v=spf1 ptr -all"}]},
        "spf-included-ptr",
        "warn",
        False,
    ),
    "include that is silent": (
        spf("v=spf1 mx include:slow.example.net -all"),
        {"slow.example.net": ["TIMEOUT"]},
        "spf-include-no-answer",
        "warn",
        False,
    ),
    "host that is silent": (
        spf("v=spf1 a:slow.example.net -all"),
        {"slow.example.net": ["SERVFAIL"]},
        "spf-term-no-answer",
        "warn",
        False,
    ),
    "eleven MX names": (
        spf("v=spf1 mx:many.example.net -all"),
        {"many.example.net": [{"MX": (10, f"h{n}.example.net")} for n in range(11)]},
        "spf-mx-names",
        "bad",
        False,
    ),
    "silent": (["TIMEOUT"], {}, "spf-no-answer", "warn", False),
}


@pytest.mark.parametrize("name", CASES)
def test_fault_is_found_and_what_mends_it_does(name: str) -> None:
    rows, others, code, severity, is_mended = CASES[name]
    zone = varied(at=rows) | others
    report = run(zone)
    assert codes(section(report, Check.SPF)).get(code) == severity
    finding = find(report, code)
    assert bool(finding.changes) is is_mended
    assert finding.changes or finding.advice
    if is_mended:
        assert code not in faults(section(run(paste(zone, finding.changes)), Check.SPF))


@pytest.mark.parametrize(
    "record",
    [
        "v=spf1 -all",
        "V=SPF1 MX -ALL",
        "v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 ~all",
        "v=spf1 mx exp=why.example.com unknown=%{d} -all",
        "v=spf1 redirect=i0.example.net",
        f"v=spf1 {TEN} -all",
        "v=spf1 mx:ten.example.net -all",
        "v=spf1 a:n1.example.net a:n2.example.net -all",
    ],
)
def test_record_without_fault_is_good(record: str) -> None:
    ten = {"ten.example.net": [{"MX": (10, f"h{n}.example.net")} for n in range(10)]}
    found = section(run(varied(at=spf(record)) | INCLUDED | HOSTS | ten), Check.SPF)
    assert faults(found) == {}


def test_other_records_of_the_name_stay() -> None:
    zone = varied(at=spf("v=spf1 +all"))
    pasted = paste(zone, find(run(zone), "spf-plus-all").changes)
    assert {"TXT": "token=1"} in pasted["example.com"]
    assert len(pasted["example.com"]) == 3


@pytest.mark.parametrize(
    ("record", "mended"),
    [
        ("v=spf1 ipv4:192.0.2.7 ip6:192.0.2.8 mx, -all", b"v=spf1 ip4:192.0.2.7 ip4:192.0.2.8 mx -all"),
        ("v=spf1 include=i0.example.net ?all", b"v=spf1 include:i0.example.net ~all"),
        ("v=spf1 mx +all ip4:192.0.2.7", b"v=spf1 mx ip4:192.0.2.7 ~all"),
        ("v=spf1 mx ptr:x.example MX", b"v=spf1 mx ~all"),
    ],
)
def test_repair_keeps_what_was_meant(record: str, mended: bytes) -> None:
    report = run(varied(at=spf(record)) | INCLUDED)
    (change,) = next(f.changes for f in section(report, Check.SPF).findings if f.changes)
    assert change.publish == (mended,)


def test_mildest_end_of_several_records_stays() -> None:
    report = run(varied(at=[{"TXT": "v=spf1 mx -all"}, {"TXT": "v=spf1 a:h1.example.net ?all"}]) | HOSTS)
    assert find(report, "spf-several").changes[0].publish == (b"v=spf1 mx a:h1.example.net ~all",)


def test_hosts_are_written_out_with_their_prefix_lengths() -> None:
    hosts = " ".join(f"a:h{n}.example.net/24" for n in range(11))
    report = run(varied(at=spf(f"v=spf1 {hosts} -all")) | HOSTS)
    (record,) = find(report, "spf-lookups").changes[0].publish
    assert isinstance(record, bytes)
    assert record.startswith(b"v=spf1 ip4:198.51.100.0/24 ip6:2001:db8:: ")


def test_tree_has_each_includes_own_count() -> None:
    zone = varied(at=spf("v=spf1 mx include:a.example.net -all")) | {
        "a.example.net": [{"TXT": "v=spf1 include:b.example.net a:h1.example.net -all"}],
        "b.example.net": [{"TXT": "v=spf1 ip4:192.0.2.1 -all"}],
    }
    found = section(run(zone | HOSTS), Check.SPF)
    assert found.outline == (
        "example.com (4): v=spf1 mx include:a.example.net -all",
        "  include:a.example.net (2): v=spf1 include:b.example.net a:h1.example.net -all",
        "    include:b.example.net (0): v=spf1 ip4:192.0.2.1 -all",
    )
    assert (found.facts["lookups"], found.facts["tree"]["includes"][0]["lookups"]) == (4, 2)


def test_record_behind_a_cname_is_mended_where_it_stands() -> None:
    zone = good_zone() | {
        "mail.example.com": [{"CNAME": "hosted.example.net"}],
        "hosted.example.net": [{"TXT": "v=spf1 +all"}],
    }
    assert find(run(zone, domain="mail.example.com"), "spf-plus-all").changes[0].name == "hosted.example.net"


def test_record_too_long_to_be_mended_gets_advice_alone() -> None:
    finding = find(run(varied(at=spf("v=spf1 " + "ptr " * 2000))), "spf-ptr")
    assert (finding.changes, bool(finding.advice)) == ((), True)
