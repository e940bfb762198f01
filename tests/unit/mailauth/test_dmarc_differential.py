"""DMARC against a second reading of RFC 9989 s4.10, over many small zones."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailflow.mailauth import evaluate_dmarc
from mailflow.mailauth.result import AuthStatus, DkimResult, SpfResult
from mailflow.testing import ZoneResolver
from mailflow.testing.zone import Row
from tests.unit.mailauth.dmarc_oracle import Zone, judge

# Few labels, so that names meet; up to ten of them, so that walks are cut short.
NAMES = st.lists(st.sampled_from("ab"), min_size=1, max_size=10).map(".".join)
LONG = "a.b.a.b.a.b.a.b.a.b"
SUFFIXES = st.integers(0, 9).map(lambda cut: ".".join(LONG.split(".")[cut:]))
NEARBY = st.builds(lambda label, name: f"{label}.{name}", st.sampled_from(["x", "y", "x.y"]), SUFFIXES)
DOMAINS = st.one_of(SUFFIXES, NEARBY, NAMES)
POLICIES = st.sampled_from(["none", "quarantine", "reject"])
RECORDS = st.fixed_dictionaries(
    {"p": POLICIES},
    optional={
        "sp": POLICIES,
        "np": POLICIES,
        "psd": st.sampled_from("ynu"),
        "t": st.sampled_from("yn"),
        "adkim": st.sampled_from("rs"),
        "aspf": st.sampled_from("rs"),
    },
)
ZONES = st.dictionaries(DOMAINS, RECORDS, max_size=6)


@settings(max_examples=400, deadline=None)
@given(ZONES, DOMAINS, st.one_of(st.just(""), DOMAINS), st.lists(DOMAINS, max_size=3, unique=True), st.booleans())
@example({"a.b": {"p": "none", "psd": "y"}}, "x.a.b", "a.b", ["y.x.a.b"], False)
@example({LONG[-15:]: {"p": "reject"}, LONG[-13:]: {"p": "none", "psd": "y"}}, LONG, "", [], False)
@example({"b.a": {"p": "none"}, "a": {"p": "none"}}, "b.a", "b.a", [], False)
async def test_both_readings_agree(zone: Zone, author: str, spf: str, dkim: list[str], is_made: bool) -> None:
    rows: dict[str, list[Row]] = {
        f"_dmarc.{name}": [{"TXT": "v=DMARC1; " + "; ".join(f"{tag}={value}" for tag, value in tags.items())}]
        for name, tags in zone.items()
    }
    if is_made:
        rows[author] = [{"A": "192.0.2.1"}]
    exists = is_made or any(name == author or name.endswith(f".{author}") for name in rows)
    result = await evaluate_dmarc(
        author,
        SpfResult(AuthStatus.PASS, spf) if spf else None,
        [DkimResult(AuthStatus.PASS, domain) for domain in dkim],
        resolver=ZoneResolver(rows),
    )
    expected = judge(zone, author, spf, dkim, exists=exists)
    assert (
        result.status,
        result.policy,
        result.disposition,
        result.domain,
        result.aligned_spf,
        result.dkim_domains,
    ) == expected
