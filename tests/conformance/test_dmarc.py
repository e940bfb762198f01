"""The DMARC cases of mailauth, and what a co-author of RFC 9989 says about its tree walk.

mailauth's results are put in our words by `READINGS`. What it gives beyond ours (`info`, the comment with the result of
ARC) is text for an Authentication-Results field, made elsewhere: such a case still has to reach its status. Its
`policy` is what remains after t=y, our disposition. A signature that covers less than the body (`underSized`) is
`policy` with us, and does not count.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest

from mailflow.mailauth import evaluate_dmarc
from mailflow.mailauth.author import Author, read_from_field
from mailflow.mailauth.dmarc_record import DmarcRecord, parse_dmarc_record
from mailflow.mailauth.result import AuthStatus, DkimResult, DmarcPolicy, DmarcResult, SpfResult
from mailflow.testing import ZoneResolver
from tests.conformance.vectors import mark, vectors

SUITE = "dmarc-mailauth"
RULINGS = "dmarc-walk-clarified"
CASES: list[dict[str, Any]] = json.loads((vectors(SUITE) / "cases.json").read_text())
FACTS = json.loads((vectors(RULINGS) / "facts.json").read_text())
# In the order of `asserts`: how many of them are about the first of two calls.
ABOUT_FIRST_CALL = {
    "Should report an undersized DKIM signature even when strict alignment rejects it": 1,
    "does not let pct change the pass/fail outcome (#6: pct is historic in RFC 9989 §A.6)": 1,
}


class Outcome:
    """What a call gave: our result, what was asked for it, and the signatures that went in."""

    def __init__(self, result: DmarcResult, resolver: ZoneResolver, dkim: list[DkimResult]) -> None:
        self.result = result
        self.queries = [name for name, _ in resolver.queries]
        self.dkim = dkim

    @property
    def record(self) -> DmarcRecord:
        record = parse_dmarc_record(self.result.record.encode())
        assert record is not None
        return record

    def published(self, tag: str) -> str:
        """Give what the record says of a tag that we do not read, as our result still has its text."""
        return dict(part.split("=") for part in self.result.record.replace(" ", "").split(";") if part)[tag]

    def undersized(self) -> int:
        assert [result.status for result in self.dkim] == [AuthStatus.POLICY]
        assert not self.result.aligned_dkim
        return int(self.dkim[0].auid)


READINGS: dict[str, Callable[[Outcome], object]] = {
    "": lambda o: o.result,
    "$queries": lambda o: o.queries,
    "status.result": lambda o: o.result.status,
    "status.header.from": lambda o: o.result.author_domain,
    "status.header.d": lambda o: o.result.record_domain,
    "policy": lambda o: o.result.disposition,
    "domain": lambda o: o.result.domain,
    "rr": lambda o: o.result.record,
    "p": lambda o: o.record.p,
    "sp": lambda o: o.record.sp,
    "pct": lambda o: int(o.published("pct")),
    "error": lambda o: "DNS timeout" if o.result.reason and o.result.reason.endswith(": timeout") else o.result.reason,
    "alignment.dkim.strict": lambda o: o.record.is_dkim_strict,
    "alignment.spf.strict": lambda o: o.record.is_spf_strict,
    "alignment.dkim.result": lambda o: o.result.dkim_domains[0] if o.result.aligned_dkim else None,
    "alignment.spf.result": lambda o: o.result.domain if o.result.aligned_spf else None,
    "alignment.dkim.underSized": lambda o: o.undersized(),
    "status.comment": lambda o: f"arc=pass {o.result.status}",
    "info": lambda o: f"dmarc={o.result.status}",
}
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "to.equal": lambda found, value: found == value,
    "to.deep.equal": lambda found, value: found == value,
    "to.be.true": lambda found, _: found is True,
    "to.be.false": lambda found, _: found is False,
    "to.be.undefined": lambda found, _: found is None,
    "to.not.be.ok": lambda found, _: not found,
    "to.include": lambda found, value: value in found,
    "to.contain": lambda found, value: value in found,
    "to.be.a": lambda found, value: value == "string" and isinstance(found, str),
    "to.not.have.property": lambda found, value: getattr(found, value, None) is None,
}


async def call(args: dict[str, Any], zone: dict[str, Any]) -> Outcome | bool:
    """Make one call; False where the From field has no author."""
    header_from = args["headerFrom"]
    text = header_from if isinstance(header_from, str) else ", ".join(header_from)
    author = read_from_field(text.encode()) if "@" in text else Author(text, text)
    if not isinstance(author, Author):
        return False
    dkim = [to_dkim_result(item) for item in args["dkimDomains"]]
    spf = next((SpfResult(AuthStatus.PASS, item["domain"]) for item in args["spfDomains"]), None)
    resolver = ZoneResolver({name: rows for name, answer in zone.items() if (rows := to_rows(answer))})
    return Outcome(await evaluate_dmarc(author.domain, spf, dkim, resolver=resolver), resolver, dkim)


def to_dkim_result(item: str | dict[str, Any]) -> DkimResult:
    if isinstance(item, str):
        return DkimResult(AuthStatus.PASS, item)
    missing = item.get("underSized", 0)
    return DkimResult(AuthStatus.POLICY if missing else AuthStatus.PASS, item["domain"], auid=str(missing))


def to_rows(answer: dict[str, Any]) -> list[dict[str, Any] | str]:
    """Put what a name answers into rows of our zone; ENOTFOUND has none."""
    match answer:
        case {"error": "ENOTFOUND"}:
            return []
        case {"error": "ETIMEOUT"}:
            return ["TIMEOUT"]
        case {"TXT": records}:
            return [{"TXT": strings} for strings in records]
        case {"A": addresses}:
            return [{"A": address} for address in addresses]
        case {"MX": exchangers}:
            return [{"MX": [mx["priority"], mx["exchange"]]} for mx in exchangers]
    raise AssertionError(answer)


def test_suites_are_complete() -> None:
    assert len(CASES) == 63
    assert len({case["name"] for case in CASES}) == 63
    assert len(FACTS) == 4


@pytest.mark.suite(SUITE)
@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case["name"], marks=mark(SUITE, case["name"])) for case in CASES]
)
async def test_dmarc_is_evaluated_as_the_case_says(case: dict[str, Any]) -> None:
    outcomes = [await call(item["args"], item["zone"]) for item in case["calls"]]
    is_first = ABOUT_FIRST_CALL.get(case["name"], len(case["asserts"]))
    for i, (path, operator, value) in enumerate(case["asserts"]):
        outcome = outcomes[i >= is_first]
        found = READINGS[path](outcome) if isinstance(outcome, Outcome) else outcome
        assert OPERATORS[operator](found, value), (path, operator, value, found)


async def evaluate(zone: dict[str, str], author: str, *, spf: str = "", dkim: str = "") -> DmarcResult:
    resolver = ZoneResolver({f"_dmarc.{name}": [{"TXT": f"v=DMARC1; {text}"}] for name, text in zone.items()})
    spf_result = SpfResult(AuthStatus.PASS, spf) if spf else None
    dkim_results = [DkimResult(AuthStatus.PASS, dkim)] if dkim else []
    return await evaluate_dmarc(author, spf_result, dkim_results, resolver=resolver)


@pytest.mark.suite(RULINGS)
async def test_records_without_psd_count_where_the_walk_ends_without_one() -> None:
    result = await evaluate({"example.com": "p=reject"}, "a.b.example.com", dkim="c.example.com")
    assert (result.status, result.domain, result.policy) == (AuthStatus.PASS, "example.com", DmarcPolicy.REJECT)


@pytest.mark.suite(RULINGS)
async def test_spf_and_dkim_identifiers_have_walks_of_their_own() -> None:
    zone = {"example.com": "p=reject", "own.example.com": "p=none; psd=n"}
    result = await evaluate(zone, "example.com", spf="a.own.example.com", dkim="b.example.com")
    assert (result.aligned_spf, result.aligned_dkim) == (False, True)


@pytest.mark.suite(RULINGS)
async def test_one_label_below_a_public_suffix_is_taken_from_the_first_name_where_it_was_never_asked() -> None:
    # The eighth label from the right is skipped: the walk goes from 9 labels to 7, and finds psd=y there.
    zone = {"g.f.e.d.c.b.a": "p=reject; psd=y"}
    result = await evaluate(zone, "i.h.g.f.e.d.c.b.a", dkim="j.h.g.f.e.d.c.b.a")
    assert (result.status, result.domain) == (AuthStatus.PASS, "h.g.f.e.d.c.b.a")
    other = await evaluate(zone, "i.h.g.f.e.d.c.b.a", dkim="j.k.g.f.e.d.c.b.a")
    assert (other.status, other.domain) == (AuthStatus.FAIL, "h.g.f.e.d.c.b.a")


@pytest.mark.suite(RULINGS)
async def test_every_record_on_the_way_is_kept_until_the_choice_is_made() -> None:
    zone = {"a.example.com": "p=none", "example.com": "p=quarantine", "com": "p=none; psd=y"}
    assert (await evaluate(zone, "b.a.example.com")).domain == "example.com"
    del zone["com"]
    assert (await evaluate(zone, "b.a.example.com")).domain == "example.com"
    zone["a.example.com"] = "p=reject; psd=n"
    result = await evaluate(zone, "b.a.example.com")
    assert (result.domain, result.policy) == ("a.example.com", DmarcPolicy.REJECT)
