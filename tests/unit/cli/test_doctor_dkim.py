"""`mailflow doctor`, DKIM: each fault is seen, and what is said to mend it does."""

from typing import Any

import pytest

from mailflow.cli.doctor_dkim import COMMON_SELECTORS, UNLIKELY_SELECTOR
from mailflow.cli.doctor_finding import Check
from tests.unit.cli.doctor_zones import codes, faults, find, good_zone, paste, public_key, run, section

# A key of 512 bits, which nothing makes any more.
SHORT = (
    "MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAL51kKVJJSTbXhFwM3Ok1UYbXWKkdA4sCZb9m8Ua7q9CSx8TXQH2pMIhDyeYPWxSf3Wo+CkAP2XfkTf1"
    "Nyr1ZhECAwEAAQ=="
)
ED25519 = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="


def zone_of(*records: Any, selector: str = "s1") -> dict[str, list[Any]]:
    zone = good_zone()
    del zone["s1._domainkey.example.com"]
    if records:
        zone[f"{selector}._domainkey.example.com"] = list(records)
    return zone


def txt(record: str | bytes) -> dict[str, Any]:
    return {"TXT": record}


CASES: dict[str, tuple[list[Any], str, str, bool]] = {
    "none": ([], "dkim-none", "warn", False),
    "512 bits": ([txt(f"v=DKIM1; p={SHORT}")], "dkim-unusable", "bad", False),
    "1024 bits": ([txt(f"v=DKIM1; p={public_key(1024)}")], "dkim-short-key", "warn", False),
    "2047 bits": ([txt(f"v=DKIM1; p={public_key(2047)}")], "dkim-short-key", "warn", False),
    "testing": ([txt(f"v=DKIM1; t=y:s; p={public_key()}")], "dkim-testing", "warn", True),
    "SHA-1 alone": ([txt(f"v=DKIM1; h=sha1; p={public_key()}")], "dkim-unusable", "bad", True),
    "not for mail": ([txt(f"v=DKIM1; s=tlsrpt; p={public_key()}")], "dkim-unusable", "bad", True),
    "v= behind": ([txt(f"p={public_key()}; v=DKIM1")], "dkim-unusable", "bad", True),
    "quoted": ([txt(f'"v=DKIM1; p={public_key()}"')], "dkim-unusable", "bad", True),
    "unknown type": ([txt("v=DKIM1; k=dsa; p=AAAA")], "dkim-unusable", "bad", False),
    "not base64": ([txt("v=DKIM1; p=!!!")], "dkim-unusable", "bad", False),
    "cut": ([txt(f"v=DKIM1; p={public_key()[:200]}")], "dkim-unusable", "bad", False),
    "hostile": ([txt(b"v=DKIM1; p=\x00\x1b[31m\xff")], "dkim-unusable", "bad", False),
    "two, of which one is a key": ([txt(f"p={public_key()}"), txt("v=DKIM1; p=!")], "dkim-several", "warn", True),
    "two keys": ([txt(f"p={public_key()}"), txt(ED25519)], "dkim-several", "warn", False),
    "two, of which none is a key": ([txt("p=!"), txt("p=?")], "dkim-several", "bad", False),
    "alias that leads nowhere": ([{"CNAME": "gone.example.net"}], "dkim-dangling", "bad", False),
    "silent": (["TIMEOUT"], "dkim-no-answer", "warn", False),
}


@pytest.mark.parametrize("name", CASES)
def test_fault_is_found_and_what_mends_it_does(name: str) -> None:
    records, code, severity, is_mended = CASES[name]
    zone = zone_of(*records)
    report = run(zone)
    assert codes(section(report, Check.DKIM)).get(code) == severity
    finding = find(report, code)
    assert bool(finding.changes) is is_mended
    assert finding.changes or finding.advice
    if is_mended:
        assert faults(section(run(paste(zone, finding.changes)), Check.DKIM)) == {}


@pytest.mark.parametrize("record", [ED25519, f"p={public_key()}", f"v=DKIM1; t=s; n=x; p={public_key()}"])
def test_key_that_verifiers_take_is_good(record: str) -> None:
    assert codes(section(run(zone_of(txt(record))), Check.DKIM)) == {"dkim-key": "good"}


def test_length_of_a_short_key_is_told() -> None:
    assert "512 bits" in find(run(zone_of(txt(f"p={SHORT}"))), "dkim-unusable").text
    assert "1024 bits" in find(run(zone_of(txt(f"p={public_key(1024)}"))), "dkim-short-key").text


def test_revoked_key_is_told_and_good() -> None:
    assert codes(section(run(zone_of(txt("v=DKIM1; p="))), Check.DKIM)) == {"dkim-revoked": "good"}


def test_selector_of_another_name_is_found_where_it_is_named() -> None:
    zone = zone_of(txt(ED25519), selector="odd")
    assert codes(section(run(zone), Check.DKIM)) == {"dkim-none": "warn"}
    assert codes(section(run(zone, "odd"), Check.DKIM)) == {"dkim-key": "good"}


def test_named_selector_without_key_is_bad() -> None:
    assert codes(section(run(good_zone(), "odd"), Check.DKIM)) == {"dkim-no-key": "bad", "dkim-key": "good"}


def test_domain_that_sends_nothing_needs_no_key() -> None:
    zone = zone_of() | {"example.com": [{"MX": (0, ".")}, {"TXT": "v=spf1 -all"}]}
    assert codes(section(run(zone), Check.DKIM)) == {"dkim-none-needed": "good"}


def test_text_at_a_selector_that_is_no_key_record_is_no_selector() -> None:
    assert codes(section(run(zone_of(txt("v=spf1 -all"))), Check.DKIM)) == {"dkim-none": "warn"}


def test_all_common_selectors_are_asked_once() -> None:
    assert len(set(COMMON_SELECTORS)) == len(COMMON_SELECTORS)
    assert {"default", "dkim", "mail", "google", "selector1", "k1", "mandrill", "mxvault"} <= set(COMMON_SELECTORS)


def with_wildcard(record: str, zone: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Give a zone whose every name below _domainkey that is asked for has a record, but for those it lists."""
    names = [f"{selector}._domainkey.example.com" for selector in (*COMMON_SELECTORS, UNLIKELY_SELECTOR)]
    return {name: [txt(record)] for name in names} | zone


def test_wildcard_is_one_finding_and_no_selector() -> None:
    zone = with_wildcard("v=spf1 -all p=", zone_of())
    assert codes(section(run(zone), Check.DKIM)) == {"dkim-wildcard": "warn", "dkim-none": "warn"}
    assert find(run(zone), "dkim-wildcard").changes[0].zone_lines() == [
        '*._domainkey.example.com. IN TXT "v=DKIM1; p="'
    ]


def test_selector_beside_a_wildcard_is_found() -> None:
    zone = with_wildcard("v=spf1 -all", zone_of(txt(ED25519)))
    assert codes(section(run(zone), Check.DKIM)) == {"dkim-wildcard": "warn", "dkim-key": "good"}


def test_wildcard_that_revokes_all_keys_is_good() -> None:
    zone = with_wildcard("v=DKIM1; p=", zone_of(txt(ED25519)))
    assert codes(section(run(zone), Check.DKIM)) == {"dkim-wildcard-revoked": "good", "dkim-key": "good"}


def test_key_elsewhere_is_mended_there() -> None:
    zone = zone_of({"CNAME": "s1.dkim.example.net"})
    zone["s1.dkim.example.net"] = [txt(f"v=DKIM1; t=y; p={public_key()}")]
    assert find(run(zone), "dkim-testing").changes[0].name == "s1.dkim.example.net"


def test_silent_selectors_are_one_finding() -> None:
    zone = zone_of(txt(ED25519)) | {f"{name}._domainkey.example.com": ["TIMEOUT"] for name in ("k1", "k2")}
    assert codes(section(run(zone), Check.DKIM)) == {"dkim-key": "good", "dkim-no-answer": "warn"}
    assert "2 selectors" in find(run(zone), "dkim-no-answer").text
