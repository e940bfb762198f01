"""The tree walk of RFC 9989 s4.10: the names, where it stops, and the domain it chooses."""

import pytest

from mailflow.dns import RdType
from mailflow.mailauth.dmarc_record import Psd
from mailflow.mailauth.dmarc_walk import (
    Finding,
    TreeWalks,
    domain_of_walk,
    is_same_organization,
    names_to_ask,
    one_label_below,
    organizational_domain,
)
from mailflow.testing import ZoneResolver
from mailflow.testing.zone import Row


def zone_of(records: dict[str, str]) -> ZoneResolver:
    """Make a zone of DMARC records; "TIMEOUT" fails, "|" stands between several."""
    rows: dict[str, list[Row]] = {}
    for name, text in records.items():
        rows[f"_dmarc.{name}"] = [text] if text == "TIMEOUT" else [{"TXT": part} for part in text.split("|")]
    return ZoneResolver(rows)


@pytest.mark.parametrize(
    ("domain", "names"),
    [
        ("com", "com"),
        ("b.com", "b.com com"),
        ("g.f.e.d.c.b.a", "g.f.e.d.c.b.a f.e.d.c.b.a e.d.c.b.a d.c.b.a c.b.a b.a a"),
        ("h.g.f.e.d.c.b.a", "h.g.f.e.d.c.b.a g.f.e.d.c.b.a f.e.d.c.b.a e.d.c.b.a d.c.b.a c.b.a b.a a"),
        ("i.h.g.f.e.d.c.b.a", "i.h.g.f.e.d.c.b.a g.f.e.d.c.b.a f.e.d.c.b.a e.d.c.b.a d.c.b.a c.b.a b.a a"),
        # the example of s4.10
        (
            "a.b.c.d.e.f.g.h.i.j.mail.example.com",
            "a.b.c.d.e.f.g.h.i.j.mail.example.com g.h.i.j.mail.example.com h.i.j.mail.example.com "
            "i.j.mail.example.com j.mail.example.com mail.example.com example.com com",
        ),
    ],
)
def test_names_of_a_whole_walk(domain: str, names: str) -> None:
    assert list(names_to_ask(domain)) == names.split()


def test_no_walk_takes_more_than_eight_queries() -> None:
    counts = [len(names_to_ask(".".join("x" * labels))) for labels in range(1, 127)]
    assert counts[:9] == [1, 2, 3, 4, 5, 6, 7, 8, 8]
    assert set(counts[7:]) == {8}


async def test_walk_asks_txt_of_each_name_in_order() -> None:
    resolver = zone_of({})
    await TreeWalks(resolver).walk("a.example.com")
    names = ["_dmarc.a.example.com", "_dmarc.example.com", "_dmarc.com"]
    assert resolver.queries == [(name, RdType.TXT) for name in names]


@pytest.mark.parametrize("psd", ["y", "n"])
@pytest.mark.parametrize(("at", "count"), [("a.example.com", 1), ("example.com", 2), ("com", 3)])
async def test_walk_stops_at_a_record_that_says_who_is_who(psd: str, at: str, count: int) -> None:
    resolver = zone_of({at: f"v=DMARC1; psd={psd}"})
    steps = await TreeWalks(resolver).walk("a.example.com")
    assert (len(resolver.queries), steps[-1].domain) == (count, at)


@pytest.mark.parametrize("text", ["v=DMARC1; p=none", "v=DMARC1; psd=u", "v=DMARC1; psd=x", "v=DMARC1; psd=y|v=DMARC1"])
async def test_walk_goes_on_over_other_records(text: str) -> None:
    resolver = zone_of({"a.example.com": text})
    assert len(await TreeWalks(resolver).walk("a.example.com")) == 3


async def test_findings_at_each_name() -> None:
    resolver = zone_of(
        {
            "f.e.d.c.b.a": "v=DMARC1; p=none",
            "e.d.c.b.a": "v=DMARC1; p=none|v=DMARC1; p=reject",
            "d.c.b.a": "v=spf1 -all|v=DMARC1; p=reject",
            "c.b.a": "v=spf1 -all",
            "b.a": "TIMEOUT",
        }
    )
    steps = await TreeWalks(resolver).walk("f.e.d.c.b.a")
    assert [step.finding for step in steps] == [
        Finding.RECORD,
        Finding.SEVERAL,
        Finding.RECORD,
        Finding.NOTHING,
        Finding.FAILURE,
    ]
    assert [step.record is not None for step in steps] == [True, False, True, False, False]


async def test_no_name_is_asked_twice_in_one_message() -> None:
    resolver = zone_of({"example.com": "v=DMARC1; p=none", "fails.com": "TIMEOUT"})
    walks = TreeWalks(resolver)
    for domain in ("a.example.com", "b.example.com", "x.fails.com", "fails.com"):
        await walks.walk(domain)
    names = [name for name, _ in resolver.queries]
    assert len(names) == len(set(names))
    again = TreeWalks(resolver, await walks.walk("a.example.com"))
    await again.walk("a.example.com")
    assert len(resolver.queries) == len(names)


@pytest.mark.parametrize(
    ("start", "records", "domain"),
    [
        ("a.example.com", "", "a.example.com"),
        ("a.example.com", "a.example.com:u", "a.example.com"),
        ("a.example.com", "a.example.com:u example.com:u", "example.com"),
        ("a.example.com", "a.example.com:u com:u", "com"),
        ("a.example.com", "a.example.com:n", "a.example.com"),
        ("b.a.example.com", "b.a.example.com:u a.example.com:n", "a.example.com"),
        ("a.example.com", "com:y", "example.com"),
        ("a.example.com", "a.example.com:u com:y", "example.com"),
        ("a.example.com", "example.com:y", "a.example.com"),
        ("a.example.com", "a.example.com:y", "a.example.com"),
        ("com", "com:y", "com"),
        ("i.h.g.f.e.d.c.b.a", "g.f.e.d.c.b.a:y", "h.g.f.e.d.c.b.a"),
    ],
)
def test_organizational_domain_is_chosen_from_the_records(start: str, records: str, domain: str) -> None:
    found = [(name, Psd(psd)) for name, psd in (item.split(":") for item in records.split())]
    assert organizational_domain(start, found) == domain


def test_one_label_below() -> None:
    assert one_label_below("com", "a.b.example.com") == "example.com"
    assert one_label_below("b.example.com", "a.b.example.com") == "a.b.example.com"


@pytest.mark.parametrize(
    ("records", "other", "is_same"),
    [
        ({"example.com": "v=DMARC1"}, "b.example.com", True),
        ({"example.com": "v=DMARC1"}, "example.com", True),
        ({"example.com": "v=DMARC1"}, "b.example.net", False),
        ({}, "b.example.com", False),
        # Whatever _dmarc.com would have said, these two have one domain: example.com, or com
        ({"example.com": "v=DMARC1", "com": "TIMEOUT"}, "b.example.com", True),
        # Were there a record at com, or above example.com, they would; else not
        ({"com": "TIMEOUT"}, "b.example.com", None),
        ({"example.com": "TIMEOUT"}, "b.example.com", None),
        ({"a.example.com": "TIMEOUT"}, "b.example.com", None),
        ({"b.example.com": "TIMEOUT"}, "b.example.com", None),
        ({"a.example.com": "v=DMARC1; psd=n", "com": "TIMEOUT"}, "b.example.com", None),
        ({"a.example.com": "v=DMARC1", "b.example.com": "v=DMARC1", "example.com": "TIMEOUT"}, "b.example.com", None),
    ],
)
async def test_walks_are_compared_under_every_answer_that_is_missing(
    records: dict[str, str], other: str, *, is_same: bool | None
) -> None:
    walks = TreeWalks(zone_of(records))
    assert is_same_organization(await walks.walk("a.example.com"), await walks.walk(other)) is is_same


async def test_walk_that_broke_off_gives_what_it_knew() -> None:
    walks = TreeWalks(zone_of({"example.com": "v=DMARC1", "com": "TIMEOUT"}))
    assert domain_of_walk(await walks.walk("a.example.com")) == "example.com"


@pytest.mark.parametrize(
    ("rows", "is_known"),
    [
        ({}, False),
        ({"a.example.com": [{"A": "192.0.2.1"}]}, False),
        ({"_dmarc.a.example.com": [{"A": "192.0.2.1"}]}, True),
        ({"x._dmarc.a.example.com": [{"A": "192.0.2.1"}]}, True),
        ({"_dmarc.a.example.com": [{"CNAME": "nowhere.example"}]}, True),
    ],
)
async def test_name_below_which_something_is_found_exists(rows: dict[str, list[Row]], *, is_known: bool) -> None:
    step = await TreeWalks(ZoneResolver(rows)).ask("a.example.com")
    assert step.is_name_known is is_known
