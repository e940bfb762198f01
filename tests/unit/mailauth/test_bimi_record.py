"""BIMI records: present or not, valid or what is wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.mailauth.bimi_record import MAX_PROBLEMS, BimiRecord, read_bimi_records

LOGO = "https://example.com/logo.svg"


@pytest.mark.parametrize(
    ("text", "record"),
    [
        (f"v=BIMI1; l={LOGO}", BimiRecord(True, LOGO)),
        (f"v=BIMI1;l={LOGO};a=;", BimiRecord(True, LOGO)),
        (f" v = BIMI1 ; a = https://x.example/a.pem ; l = {LOGO} ; avp=Personal; lps=x; new=1".lstrip(), None),
        (
            "v=BIMI1; l=HTTPS://example.com:8443/a%20b.SVG?x=1;",
            BimiRecord(True, "HTTPS://example.com:8443/a%20b.SVG?x=1"),
        ),
    ],
)
def test_good_record_is_valid(text: str, record: BimiRecord | None) -> None:
    read = read_bimi_records([b"v=spf1 -all", text.encode()])
    assert read == (record or BimiRecord(True, LOGO, "https://x.example/a.pem"))
    assert read.is_valid
    assert not read.is_declined


@pytest.mark.parametrize("text", [b"v=BIMI1; l=; a=;", b"v=BIMI1; l=", b"v=BIMI1;a=;l= "])
def test_empty_locations_decline(text: bytes) -> None:
    assert read_bimi_records([text]).is_declined


@pytest.mark.parametrize("text", [b"", b"v=bimi1; l=", b"v=BIMI11; l=", b"l=; v=BIMI1", b" v=BIMI1; l=", b"v=DMARC1"])
def test_text_that_does_not_begin_with_the_version_is_no_record(text: bytes) -> None:
    assert read_bimi_records([text]) == BimiRecord(is_present=False)
    assert not read_bimi_records([text]).is_valid


def test_two_records_are_a_problem() -> None:
    read = read_bimi_records([b"v=BIMI1; l=", b"v=BIMI1; l="])
    assert read.problems == ("there are 2 BIMI records, so that none counts",)
    assert (read.is_present, read.is_valid, read.is_declined) == (True, False, False)


@pytest.mark.parametrize(
    ("tags", "problem"),
    [
        ("", "l= is missing"),
        ("a=https://x.example/a.pem", "l= is missing"),
        ("l=; a=https://x.example/a.pem", "l= names none"),
        (f"l={LOGO}; L={LOGO}", "l= stands there twice"),
        (f"l={LOGO}; v=BIMI1", "v= stands there twice"),
        (f"l={LOGO}; nonsense", "'nonsense' is no tag"),
        ("l=http://example.com/logo.svg", "https URI"),
        ("l=https://example/logo.svg", "https URI"),
        ("l=https://192.0.2.1]/logo.svg", "https URI"),
        ("l=https://joe@example.com/logo.svg", "https URI"),
        ("l=https://example.com/a.svg,https://example.com/b.svg", "https URI"),
        ("l=https://example.com/logo.png", "does not end in .svg"),
        ("l=https://example.com", "does not end in .svg"),
        ("l=https://example.com/x?logo.svg", "does not end in .svg"),
        (f"l={LOGO}; a=self", "https URI"),
        (f"l={LOGO}; a=https://example.com/a.crt", "does not end in .pem"),
        (f"l={LOGO}; avp=none", "allowed is brand or personal"),
    ],
)
def test_fault_is_named(tags: str, problem: str) -> None:
    (said,) = read_bimi_records([f"v=BIMI1; {tags}".encode()]).problems
    assert problem in said


@given(
    st.lists(st.sampled_from(["v=BIMI1", "l=", "a=", ";", " ", LOGO, "\xff", "\0", "é", ",", "%", "x"])).map("".join)
)
def test_any_record_is_read_and_its_problems_are_plain_ascii(text: str) -> None:
    read = read_bimi_records([b"v=BIMI1;" + text.encode("latin-1")])
    assert read.is_present
    assert all(problem.isascii() and problem.isprintable() for problem in read.problems)


def test_hostile_record_costs_little_and_says_little() -> None:
    assert len(read_bimi_records([b"v=BIMI1;" + b"x;" * 30_000]).problems) == MAX_PROBLEMS
    assert len(str(read_bimi_records([b"v=BIMI1;l=https://" + b"a." * 30_000 + b"!"]).problems)) < 400
