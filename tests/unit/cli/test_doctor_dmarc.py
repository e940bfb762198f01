"""`mailflow doctor`, DMARC and BIMI: each fault is seen, and what is said to mend it does."""

from typing import Any

import pytest

from mailflow.cli.doctor_finding import Check
from tests.unit.cli.doctor_zones import codes, faults, find, good_zone, paste, run, section

RUA = "rua=mailto:dmarc@example.com"
LOGO = "v=BIMI1; l=https://example.com/logo.svg"


def zone_of(*records: str | bytes) -> dict[str, list[Any]]:
    """Give the good zone with these TXT records at _dmarc.example.com."""
    zone = good_zone()
    del zone["_dmarc.example.com"]
    if records:
        zone["_dmarc.example.com"] = [{"TXT": record} for record in records]
    return zone


CASES: dict[str, tuple[dict[str, list[Any]], str, str, bool]] = {
    "none": (zone_of(), "dmarc-none", "bad", True),
    "none, and the domain takes no mail": (zone_of() | {"example.com": [{"MX": (0, ".")}]}, "dmarc-none", "bad", True),
    "two": (zone_of(f"v=DMARC1; p=reject; {RUA}", "v=DMARC1; p=none"), "dmarc-several", "bad", True),
    "lower case": (zone_of(f"v=dmarc1; p=reject; {RUA}"), "dmarc-near-miss", "bad", True),
    "quoted": (zone_of(f'"v=DMARC1; p=reject; {RUA}"'), "dmarc-near-miss", "bad", True),
    "v= behind": (zone_of("p=reject; v=DMARC1"), "dmarc-near-miss", "bad", True),
    "one that is none beside": (zone_of(f"v=DMARC1; p=reject; {RUA}", "DMARC: soon"), "dmarc-near-miss", "warn", True),
    "misspelt policy": (zone_of(f"v=DMARC1; p=quarentine; {RUA}"), "dmarc-invalid-policy", "bad", True),
    "no policy, but rua": (zone_of(f"v=DMARC1; {RUA}"), "dmarc-invalid-policy", "bad", True),
    "neither policy nor rua": (zone_of("v=DMARC1; sp=reject"), "dmarc-asks-nothing", "bad", True),
    "invalid sp": (zone_of(f"v=DMARC1; p=reject; sp=never; {RUA}"), "dmarc-invalid-policy", "bad", True),
    "pct": (zone_of(f"v=DMARC1; p=reject; pct=100; {RUA}"), "dmarc-removed-tag", "warn", True),
    "rf and ri": (zone_of(f"v=DMARC1; p=reject; rf=afrf; ri=86400; {RUA}"), "dmarc-removed-tag", "warn", True),
    "unknown tag": (zone_of(f"v=DMARC1; p=reject; x=1; {RUA}"), "dmarc-syntax", "warn", True),
    "no tag": (zone_of(f"v=DMARC1; p=reject; \x1b[2J; {RUA}"), "dmarc-syntax", "warn", True),
    "no semicolon": (zone_of(f"v=DMARC1; p=reject {RUA}"), "dmarc-asks-nothing", "bad", True),
    "p=none": (zone_of(f"v=DMARC1; p=none; {RUA}"), "dmarc-policy-none", "warn", True),
    "sp weaker": (zone_of(f"v=DMARC1; p=reject; sp=none; {RUA}"), "dmarc-weak-sp", "warn", True),
    "np weaker": (zone_of(f"v=DMARC1; p=reject; np=quarantine; {RUA}"), "dmarc-weak-np", "warn", True),
    "testing": (zone_of(f"v=DMARC1; p=reject; t=y; {RUA}"), "dmarc-testing", "warn", True),
    "no rua": (zone_of("v=DMARC1; p=reject"), "dmarc-no-rua", "warn", True),
    "rua without mailto": (zone_of("v=DMARC1; p=reject; rua=dmarc@example.com"), "dmarc-syntax", "warn", True),
    "rua elsewhere, not agreed": (
        zone_of("v=DMARC1; p=reject; rua=mailto:x@reports.example.org"),
        "dmarc-destination",
        "warn",
        True,
    ),
    "rua elsewhere, silent": (
        zone_of("v=DMARC1; p=reject; rua=mailto:x@reports.example.org")
        | {"example.com._report._dmarc.reports.example.org": ["TIMEOUT"]},
        "dmarc-no-answer",
        "warn",
        False,
    ),
    "silent": (zone_of() | {"_dmarc.example.com": ["TIMEOUT"]}, "dmarc-no-answer", "warn", False),
}


@pytest.mark.parametrize("name", CASES)
def test_fault_is_found_and_what_mends_it_does(name: str) -> None:
    zone, code, severity, is_mended = CASES[name]
    report = run(zone)
    assert codes(section(report, Check.DMARC)).get(code) == severity
    finding = find(report, code)
    assert bool(finding.changes) is is_mended
    assert finding.changes or finding.advice
    if is_mended:
        assert code not in faults(section(run(paste(zone, finding.changes)), Check.DMARC))


@pytest.mark.parametrize(
    "record",
    [
        f"v=DMARC1; p=reject; {RUA}",
        f"v=DMARC1;p=quarantine;sp=reject;np=reject;adkim=s;aspf=s;psd=n;{RUA};ruf=mailto:f@mx.example.com;fo=1:d:s",
        f"V = DMARC1 ; P = REJECT ; {RUA}",
    ],
)
def test_record_without_fault_is_good(record: str) -> None:
    assert faults(section(run(zone_of(record)), Check.DMARC)) == {}


@pytest.mark.parametrize(
    ("record", "mended"),
    [
        (
            "v=DMARC1; p=rejct; adkim=s; pct=50; rua=dmarc@example.com!10m",
            "p=reject; adkim=s; rua=mailto:dmarc@example.com",
        ),
        ("v=DMARC1; p=reject; pct=0; rua=mailto:a@example.com", "p=reject; t=y; rua=mailto:a@example.com"),
        ("v=DMARC1; p=none; x", "p=none; rua=mailto:postmaster@example.com"),
    ],
)
def test_repair_keeps_what_was_meant(record: str, mended: str) -> None:
    report = run(zone_of(record))
    published = {change.publish for finding in section(report, Check.DMARC).findings for change in finding.changes}
    assert (f"v=DMARC1; {mended}".encode(),) in published


def test_next_step_is_named_apart_from_the_repair() -> None:
    report = run(zone_of("v=DMARC1; p=none; pct=10; sp=none; rua=mailto:a@example.com"))
    repaired, stepped = find(report, "dmarc-removed-tag"), find(report, "dmarc-policy-none")
    assert repaired.changes[0].publish == (b"v=DMARC1; p=none; sp=none; rua=mailto:a@example.com",)
    assert stepped.changes[0].publish == (b"v=DMARC1; p=quarantine; rua=mailto:a@example.com",)


def test_domain_that_takes_no_mail_is_told_to_refuse_all() -> None:
    report = run(CASES["none, and the domain takes no mail"][0])
    assert find(report, "dmarc-none").changes[0].publish == (b"v=DMARC1; p=reject",)


def test_domain_that_takes_no_mail_needs_no_rua() -> None:
    zone = zone_of("v=DMARC1; p=reject") | {"example.com": [{"MX": (0, ".")}]}
    assert faults(section(run(zone), Check.DMARC)) == {}


def test_destination_that_agreed_is_good() -> None:
    zone = zone_of("v=DMARC1; p=reject; rua=mailto:x@reports.example.org")
    zone["example.com._report._dmarc.reports.example.org"] = [{"TXT": "v=DMARC1"}]
    assert codes(section(run(zone), Check.DMARC))["dmarc-destination"] == "good"


def test_destination_below_the_domain_needs_no_agreement() -> None:
    zone = zone_of("v=DMARC1; p=reject; rua=mailto:x@reports.example.com")
    assert "dmarc-destination" not in codes(section(run(zone), Check.DMARC))


def test_destination_below_that_is_an_organization_of_its_own_must_agree() -> None:
    zone = zone_of("v=DMARC1; p=reject; rua=mailto:x@reports.example.com")
    zone["_dmarc.reports.example.com"] = [{"TXT": "v=DMARC1; p=none; psd=n"}]
    assert codes(section(run(zone), Check.DMARC))["dmarc-destination"] == "warn"


def test_policy_of_a_domain_without_record_is_that_above_it() -> None:
    zone = zone_of(f"v=DMARC1; p=reject; sp=none; {RUA}") | {"news.example.com": [{"A": "192.0.2.1"}]}
    report = run(zone, domain="news.example.com")
    found = section(report, Check.DMARC)
    assert faults(found) == {"dmarc-policy-none": "warn", "dmarc-weak-sp": "warn"}
    assert find(report, "dmarc-policy-none").changes[0].name == "_dmarc.example.com"
    assert found.outline == (
        "_dmarc.news.example.com: no DMARC record",
        "_dmarc.example.com: a DMARC record",
        "_dmarc.com: no DMARC record",
        "organizational domain: example.com",
    )


def test_several_records_below_a_good_one_are_bad() -> None:
    zone = zone_of(f"v=DMARC1; p=reject; {RUA}")
    zone["_dmarc.news.example.com"] = [{"TXT": "v=DMARC1; p=none"}, {"TXT": "v=DMARC1; p=reject"}]
    report = run(zone, domain="news.example.com")
    assert codes(section(report, Check.DMARC))["dmarc-several"] == "bad"
    pasted = paste(zone, find(report, "dmarc-several").changes)
    assert "dmarc-several" not in codes(section(run(pasted, domain="news.example.com"), Check.DMARC))


def test_walk_that_ends_at_psd_says_so() -> None:
    zone = zone_of(f"v=DMARC1; p=reject; {RUA}") | {"_dmarc.com": [{"TXT": "v=DMARC1; p=none; psd=y"}]}
    found = section(run(zone), Check.DMARC)
    assert "_dmarc.com: a DMARC record with psd=y, where the walk ends" in found.outline
    assert found.facts["organizational_domain"] == "example.com"


def test_silent_parent_costs_no_finding_of_a_domain_with_a_record() -> None:
    zone = good_zone() | {"_dmarc.com": ["TIMEOUT"]}
    found = section(run(zone), Check.DMARC)
    assert faults(found) == {}
    assert "_dmarc.com: no answer (timeout)" in found.outline


def with_bimi(*records: str, name: str = "default._bimi.example.com") -> dict[str, list[Any]]:
    return good_zone() | {name: [{"TXT": record} for record in records]}


BIMI_CASES: dict[str, tuple[dict[str, list[Any]], str, bool]] = {
    "http": (with_bimi("v=BIMI1; l=http://example.com/logo.svg"), "bimi-fault", True),
    "no SVG": (with_bimi("v=BIMI1; l=https://example.com/logo.png"), "bimi-fault", False),
    "no l=": (with_bimi("v=BIMI1; a=https://example.com/vmc.pem"), "bimi-fault", False),
    "no certificate": (with_bimi(f"{LOGO}; a=https://example.com/vmc.crt"), "bimi-fault", True),
    "no tag": (with_bimi(f"{LOGO}; \x1b[2J"), "bimi-fault", True),
    "two": (with_bimi(LOGO, f"{LOGO}; a="), "bimi-fault", True),
    "p=none": (with_bimi(LOGO) | zone_of(f"v=DMARC1; p=none; {RUA}"), "bimi-policy", True),
    "tested policy": (with_bimi(LOGO) | zone_of(f"v=DMARC1; p=quarantine; t=y; {RUA}"), "bimi-policy", True),
    "two DMARC records": (with_bimi(LOGO) | zone_of("v=DMARC1; p=none", "v=DMARC1; p=reject"), "bimi-policy", True),
    "DMARC misspelt": (with_bimi(LOGO) | zone_of("v=dmarc1; p=none"), "bimi-policy", True),
    "silent": (good_zone() | {"default._bimi.example.com": ["SERVFAIL"]}, "bimi-no-answer", False),
}


@pytest.mark.parametrize("name", BIMI_CASES)
def test_fault_of_bimi_is_found_and_what_mends_it_does(name: str) -> None:
    zone, code, is_mended = BIMI_CASES[name]
    report = run(zone)
    assert codes(section(report, Check.BIMI)).get(code) == "warn"
    finding = find(report, code)
    assert bool(finding.changes) is is_mended
    assert finding.changes or finding.advice
    if is_mended:
        assert code not in faults(section(run(paste(zone, finding.changes)), Check.BIMI))


def test_logo_without_dmarc_wants_a_policy() -> None:
    zone = with_bimi(LOGO)
    del zone["_dmarc.example.com"]
    report = run(zone)
    pasted = paste(zone, find(report, "bimi-policy").changes)
    assert faults(section(run(pasted), Check.BIMI)) == {}


@pytest.mark.parametrize(
    ("records", "code"),
    [((LOGO,), "bimi-record"), (("v=BIMI1; l=; a=",), "bimi-declined"), ((), "bimi-none"), (("other",), "bimi-none")],
)
def test_bimi_without_fault_is_good(records: tuple[str, ...], code: str) -> None:
    assert codes(section(run(with_bimi(*records)), Check.BIMI)) == {code: "good"}


def test_bimi_of_a_domain_without_record_is_that_of_its_organization() -> None:
    report = run(with_bimi(LOGO), domain="news.example.com")
    assert section(report, Check.BIMI).facts["domain"] == "example.com"
