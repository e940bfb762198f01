"""DMARC records: what each tag says, what a fault costs, and what the owner is told."""

import pytest

from mailflow.mailauth.dmarc_record import (
    MAX_PROBLEMS,
    MAX_RECORD_OCTETS,
    MAX_URIS,
    DmarcRecord,
    Psd,
    is_dmarc_record,
    parse_dmarc_record,
    select_records,
)
from mailflow.mailauth.result import DmarcPolicy

NONE, QUARANTINE, REJECT = DmarcPolicy
RUA = "rua=mailto:a@b.example"


def parse(text: str) -> DmarcRecord:
    record = parse_dmarc_record(text.encode("latin-1"))
    assert record is not None
    return record


@pytest.mark.parametrize(
    "text",
    [
        "v=DMARC1",
        "v=DMARC1;",
        "V=DMARC1; p=none",
        "v = DMARC1 ;p=none",
        "v\t=\tDMARC1\t;",
        "v=DMARC1;p=none",
        "v=DMARC1 ",
    ],
)
def test_text_that_begins_with_the_version_is_a_record(text: str) -> None:
    assert is_dmarc_record(text.encode())
    assert parse(text).text == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "v",
            "v=",
            "v=DMARC",
            "v=DMARC1x; p=none",
            "v=DMARC11",
            "v=dmarc1; p=none",
            "v=Dmarc1",
            "v=DMARC2; p=none",
        ),
        *(
            "p=none; v=DMARC1",
            " v=DMARC1; p=none",
            ";v=DMARC1",
            "v=DMARC1 p=none",
            "v=DMARC1,p=none",
            "v=DMARC1\n; p=none",
        ),
        *("v=spf1 -all", "v=DKIM1; p=abc", "vv=DMARC1", "v==DMARC1", "\xa0v=DMARC1", "v=DMARC1\0"),
    ],
)
def test_text_that_does_not_is_none(text: str) -> None:
    assert not is_dmarc_record(text.encode("latin-1"))
    assert parse_dmarc_record(text.encode("latin-1")) is None


def test_only_dmarc_records_of_a_name_are_selected() -> None:
    records = [b"v=spf1 -all", b"v=DMARC1; p=none", b"v=dmarc1", b"v=DMARC1"]
    assert select_records(records) == [b"v=DMARC1; p=none", b"v=DMARC1"]


@pytest.mark.parametrize("tag", ["p", "sp", "np"])
@pytest.mark.parametrize(
    ("value", "policy"),
    [("none", NONE), ("quarantine", QUARANTINE), ("reject", REJECT), ("Reject", REJECT), ("NONE", NONE)]
    + [(bad, None) for bad in ("", "rejec", "rejectt", "re ject", "reject,none", "r\xe9ject", "reject\t!", '"reject"')],
)
def test_policy_tags(tag: str, value: str, policy: DmarcPolicy | None) -> None:
    record = parse(f"v=DMARC1; {tag}={value}; {RUA}")
    assert getattr(record, tag) is policy
    assert record.has_invalid_policy is (policy is None)


@pytest.mark.parametrize(
    ("value", "psd"), [("y", "y"), ("Y", "y"), ("n", "n"), ("u", "u"), ("x", "u"), ("", "u"), ("yes", "u")]
)
def test_psd_tag(value: str, psd: str) -> None:
    assert parse(f"v=DMARC1; psd={value}").psd is Psd(psd)


@pytest.mark.parametrize(
    ("tag", "attribute"), [("t", "is_testing"), ("adkim", "is_dkim_strict"), ("aspf", "is_spf_strict")]
)
def test_flags(tag: str, attribute: str) -> None:
    on, off = ("y", "n") if tag == "t" else ("s", "r")
    for value, is_on in [(on, True), (on.upper(), True), (off, False), ("", False), ("x", False), (on + on, False)]:
        assert getattr(parse(f"v=DMARC1; p=none; {tag}={value}"), attribute) is is_on
    assert getattr(parse("v=DMARC1; p=none"), attribute) is False


@pytest.mark.parametrize("tag", ["rua", "ruf"])
@pytest.mark.parametrize(
    ("value", "uris"),
    [
        ("mailto:a@b.example", ["mailto:a@b.example"]),
        ("MAILTO:A@B.example", ["MAILTO:A@B.example"]),
        ("mailto:a@b.example , mailto:c@d.example", ["mailto:a@b.example", "mailto:c@d.example"]),
        ("mailto:a@b.example!10m", ["mailto:a@b.example"]),
        ("mailto:a@b.example!1", ["mailto:a@b.example"]),
        ("mailto:a@b.example!x", []),
        ("mailto:a%21b@c.example?subject=x", ["mailto:a%21b@c.example?subject=x"]),
        ("https://example.com/report?x=y#z", ["https://example.com/report?x=y#z"]),
        ("a@b.example", []),
        ("mailto:", []),
        ("mailto:a", []),
        ("mailto:@b", []),
        ("mailto:a@", []),
        ("mailto:?to=a@b", []),
        ("mailto:a%4@b", []),
        ("mailto: a@b.example", []),
        ("ma_ilto:a@b", []),
        ("1mailto:a@b", []),
        ("mailto:a@b.ex\xe4mple", []),
        ("bogus, mailto:a@b.example", ["mailto:a@b.example"]),
        ("", []),
        (",", []),
    ],
)
def test_report_addresses(tag: str, value: str, uris: list[str]) -> None:
    assert list(getattr(parse(f"v=DMARC1; p=none; {tag}={value}"), tag)) == uris


def test_report_addresses_are_bounded() -> None:
    assert len(parse("v=DMARC1; p=none; rua=" + ",".join(["x:y"] * (MAX_URIS + 1))).rua) == MAX_URIS


@pytest.mark.parametrize(
    ("value", "options"),
    [
        ("0", "0"),
        ("1", "1"),
        ("d", "d"),
        ("s", "s"),
        ("0:d:s", "0 d s"),
        ("d:1", "d 1"),
        ("S:D", "s d"),
        ("1 : s", "1 s"),
    ]
    + [(bad, "0") for bad in ("0:1", "d:d", "x", "", ":", "d:", "0:d:s:1", "ds", "2")],
)
def test_failure_options(value: str, options: str) -> None:
    assert parse(f"v=DMARC1; p=none; ruf=mailto:a@b; fo={value}").fo == tuple(options.split())


def test_failure_options_say_nothing_without_an_address() -> None:
    assert parse("v=DMARC1; p=none; fo=1").fo == ("0",)
    assert parse("v=DMARC1; p=none; fo=1; ruf=a@b").fo == ("1",)  # the tag is there


@pytest.mark.parametrize(
    "text",
    [
        "v=DMARC1;p=reject",
        "v=DMARC1;;;p=reject;;",
        "v=DMARC1; P=reject",
        "v=DMARC1; p = reject ;",
        "v=DMARC1; p\t=\treject\t",
        "v=DMARC1; unknown=x; p=reject",
        "v=DMARC1; pct=50; rf=afrf; ri=3600; p=reject",
        "v=DMARC1; p=reject; p=none",
        "v=DMARC1; garbage; p=reject",
        "v=DMARC1; =x; p=reject",
        "v=DMARC1; p2=none; p=reject",
        "v=DMARC1; p=reject; v=DMARC2",
        "v=DMARC1; x=\xff\0; p=reject",
        "v=DMARC1; adkim=\xff; psd=\0; t=; p=reject",
        "v=DMARC1; p=reject; " + "x=y;" * 10_000,
    ],
)
def test_what_is_unknown_or_broken_leaves_the_rest(text: str) -> None:
    record = parse(text)
    assert (record.p, record.has_invalid_policy, record.is_testing, record.psd) == (REJECT, False, False, Psd.UNKNOWN)


def test_tags_behind_so_many_octets_say_nothing() -> None:
    padding = "x=y;" * (MAX_RECORD_OCTETS // 4)
    record = parse(f"v=DMARC1; p=none; {padding}p=reject; sp=reject")
    assert (record.p, record.sp) == (DmarcPolicy.NONE, None)
    assert len(record.problems) == MAX_PROBLEMS
    assert record.problems[0] == "what stands behind the first 8192 octets is ignored"


@pytest.mark.parametrize(
    ("tags", "own", "existing", "missing"),
    [
        ("p=reject", "reject p", "reject p", "reject p"),
        ("p=reject; sp=none", "reject p", "none sp", "none sp"),
        ("p=reject; np=none", "reject p", "reject p", "none np"),
        ("p=none; sp=quarantine; np=reject", "none p", "quarantine sp", "reject np"),
        (f"p=reject; sp=none; np=reject; {RUA}", "reject p", "none sp", "reject np"),
        # s4.7: a p that is missing is p=none; the others are still there
        (RUA, "none p", "none p", "none p"),
        (f"sp=reject; {RUA}", "none p", "reject sp", "reject sp"),
        # s4.10.1: an invalid p, sp or np is p=none for the whole
        (f"p=bogus; {RUA}", "none p", "none p", "none p"),
        (f"p=bogus; sp=reject; {RUA}", "none p", "none p", "none p"),
        (f"p=reject; sp=bogus; {RUA}", "none p", "none p", "none p"),
        (f"p=reject; np=bogus; {RUA}", "none p", "none p", "none p"),
        (f"p=reject; sp=; {RUA}", "none p", "none p", "none p"),
        # and without anybody to tell there is no DMARC
        ("", "", "", ""),
        ("adkim=s", "", "", ""),
        ("sp=reject", "", "", ""),
        ("p=bogus", "", "", ""),
        ("p=reject; sp=bogus", "", "", ""),
        ("p=reject; np=bogus; rua=a@b.example", "", "", ""),
        ("p=reject; np=bogus; ruf=mailto:a@b.example", "", "", ""),
        ("psd=y", "", "", ""),
    ],
)
def test_policy_for_a_name(tags: str, own: str, existing: str, missing: str) -> None:
    record = parse(f"v=DMARC1; {tags}")
    found = [
        record.policy_for(is_subdomain=False),
        record.policy_for(is_subdomain=True),
        record.policy_for(is_subdomain=True, exists=False),
    ]
    assert [" ".join(policy or ()) for policy in found] == [own, existing, missing]


def test_own_name_has_the_policy_of_p_whether_it_exists_or_not() -> None:
    record = parse("v=DMARC1; p=none; sp=reject; np=reject")
    assert record.policy_for(is_subdomain=False, exists=False) == (NONE, "p")


def test_policy_that_is_tested_is_lowered_by_one_step() -> None:
    tested, meant = parse("v=DMARC1; p=none; t=y"), parse("v=DMARC1; p=none; t=n")
    assert [tested.disposition_of(policy) for policy in DmarcPolicy] == [NONE, NONE, QUARANTINE]
    assert [meant.disposition_of(policy) for policy in DmarcPolicy] == [NONE, QUARANTINE, REJECT]


@pytest.mark.parametrize(
    ("tags", "problem"),
    [
        ("p=none; pct=50", "pct= was removed by RFC 9989 and is ignored, t= took its place"),
        ("p=none; rf=afrf", "rf= was removed by RFC 9989 and is ignored"),
        ("p=none; ri=1", "ri= was removed by RFC 9989 and is ignored"),
        ("p=none; p=none", "p= is there more than once, and only the first counts"),
        ("p=none; v=DMARC1", "v= is there more than once, and only the first counts"),
        ("p=none; x=y", "unknown tag, ignored: x"),
        ("p=none; \xe4;", "not a tag: \\xe4"),
        ("p=none; sp=x; rua=mailto:a@b", "sp= must be one of none, quarantine, reject"),
        ("p=none; psd=x", "psd= must be one of y, n, u"),
        ("p=none; t=x", "t= must be y or n, and counts as n"),
        ("p=none; adkim=x", "adkim= must be s or r, and counts as r"),
        ("p=none; aspf=", "aspf= must be s or r, and counts as r"),
        ("p=none; rua=a@b", "rua= has what is no URI: a@b"),
        ("p=none; ruf=mailto:a@b!1k", "ruf= has a size limit, which RFC 9989 made obsolete"),
        (
            "p=none; ruf=mailto:a@b; fo=2",
            "fo= must be 0 or 1, d and s, each once, with colons between, and counts as 0",
        ),
        ("p=none; fo=1", "fo= says nothing without ruf="),
        ("rua=mailto:a@b", "the record has no p= and counts as p=none"),
        ("", "the record has no p= and does nothing, as it has no valid rua= either"),
        ("p=x; rua=mailto:a@b", "the record has an invalid policy and counts as p=none"),
    ],
)
def test_owner_is_told_of_a_problem(tags: str, problem: str) -> None:
    assert problem in parse(f"v=DMARC1; {tags}").problems


def test_owner_of_a_good_record_is_told_of_none() -> None:
    text = (
        "v=DMARC1; p=reject; sp=none; np=reject; psd=n; t=n; adkim=s; aspf=r; rua=mailto:a@b; ruf=mailto:a@b; fo=1:d:s"
    )
    assert parse(text).problems == ()


def test_problems_are_bounded() -> None:
    problems = parse("v=DMARC1; p=none; " + "\xe4" * 1000 + ";" + "y;" * 50).problems
    assert len(problems) == MAX_PROBLEMS
    assert all(len(problem) < 250 and problem.isprintable() for problem in problems)


def test_text_is_kept_with_octets_outside_ascii_escaped() -> None:
    assert parse("v=DMARC1; p=none; x=\xff").text == "v=DMARC1; p=none; x=\\xff"
