"""DMARC: discovery of the policy, alignment, and what a missing answer leaves open."""

import pytest

from mailflow.dns import DnsFailure, RdType
from mailflow.mailauth import evaluate_dmarc
from mailflow.mailauth.dmarc import discover_policy
from mailflow.mailauth.result import AuthStatus, DkimResult, DmarcPolicy, DmarcResult, SpfIdentity, SpfResult
from mailflow.testing import ZoneResolver
from mailflow.testing.zone import Row

NONE, QUARANTINE, REJECT = DmarcPolicy
PASS, FAIL = AuthStatus.PASS, AuthStatus.FAIL
NO_RECORD, TEMPERROR, PERMERROR = AuthStatus.NONE, AuthStatus.TEMPERROR, AuthStatus.PERMERROR


def zone_of(records: dict[str, str], **names: Row) -> ZoneResolver:
    """Make a zone of DMARC records without their version; "TIMEOUT" fails. `names` are other rows, _ for a dot."""
    rows: dict[str, list[Row]] = {
        f"_dmarc.{name}": [text] if text == "TIMEOUT" else [{"TXT": f"v=DMARC1; {text}"}]
        for name, text in records.items()
    }
    return ZoneResolver(rows | {name.replace("_", "."): [row] for name, row in names.items()})


async def evaluate(
    resolver: ZoneResolver, author: str, *, spf: str | SpfResult = "", dkim: str | list[DkimResult] = ""
) -> DmarcResult:
    """Judge by one SPF and some DKIM domains that passed, or by results."""
    spf_result = SpfResult(PASS, spf) if isinstance(spf, str) and spf else spf or None
    dkim_results = [DkimResult(PASS, domain) for domain in dkim.split()] if isinstance(dkim, str) else dkim
    assert not isinstance(spf_result, str)
    return await evaluate_dmarc(author, spf_result, dkim_results, resolver=resolver)


def asked(resolver: ZoneResolver) -> str:
    return " ".join(name.removeprefix("_dmarc.") for name, rdtype in resolver.queries if rdtype is RdType.TXT)


# The record and its policy


async def test_record_of_the_author_domain_applies_by_its_p() -> None:
    resolver = zone_of({"a.example.com": "p=quarantine; sp=none; np=none", "example.com": "p=reject"})
    result = await evaluate(resolver, "a.example.com")
    assert (result.status, result.policy, result.disposition, result.tag) == (FAIL, QUARANTINE, QUARANTINE, "p")
    assert (result.record_domain, result.author_domain, result.domain) == ("a.example.com",) * 2 + ("example.com",)
    assert result.record == "v=DMARC1; p=quarantine; sp=none; np=none"


async def test_record_of_the_organizational_domain_applies_by_its_sp() -> None:
    resolver = zone_of({"example.com": "p=reject; sp=quarantine"}, a_example_com={"A": "192.0.2.1"})
    result = await evaluate(resolver, "b.a.example.com")
    assert (result.policy, result.tag, result.record_domain) == (QUARANTINE, "sp", "example.com")


async def test_record_between_author_and_organizational_domain_does_not_apply() -> None:
    resolver = zone_of({"a.example.com": "p=none", "example.com": "p=reject"})
    result = await evaluate(resolver, "b.a.example.com")
    assert (result.policy, result.record_domain) == (REJECT, "example.com")


async def test_record_of_the_public_suffix_applies_where_the_organizational_domain_has_none() -> None:
    resolver = zone_of({"b.example.com": "p=none", "com": "p=none; sp=reject; psd=y"})
    result = await evaluate(resolver, "a.b.example.com")
    assert (result.policy, result.tag, result.record_domain, result.domain) == (REJECT, "sp", "com", "example.com")


async def test_public_suffix_as_the_author_is_an_organizational_domain_of_its_own() -> None:
    resolver = zone_of({"bank.example": "p=reject; sp=none; psd=y", "example": "p=none"})
    result = await evaluate(resolver, "bank.example", dkim="giant.bank.example")
    assert (result.status, result.policy, result.domain) == (FAIL, REJECT, "bank.example")


async def test_several_records_at_a_name_are_none_there() -> None:
    resolver = ZoneResolver(
        {
            "_dmarc.a.example.com": [{"TXT": "v=DMARC1; p=reject"}, {"TXT": "v=DMARC1; p=none"}],
            "_dmarc.example.com": [{"TXT": "v=DMARC1; p=quarantine"}, {"TXT": "v=spf1 -all"}],
        }
    )
    assert (await evaluate(resolver, "a.example.com")).policy is QUARANTINE


async def test_no_record_is_none() -> None:
    result = await evaluate(zone_of({}), "a.example.com", dkim="a.example.com", spf="a.example.com")
    assert (result.status, result.policy, result.disposition) == (NO_RECORD, None, None)
    assert (result.aligned_spf, result.aligned_dkim, result.domain) == (False, False, "a.example.com")


async def test_record_that_asks_for_nothing_is_none_and_hides_those_above() -> None:
    resolver = zone_of({"a.example.com": "adkim=s", "example.com": "p=reject"})
    result = await evaluate(resolver, "a.example.com", dkim="a.example.com")
    assert (result.status, result.policy, result.record_domain) == (NO_RECORD, None, "a.example.com")
    assert result.reason == "the DMARC record has no valid policy and no valid rua=, and asks for nothing"


@pytest.mark.parametrize(
    ("policy", "disposition"), [("none", NONE), ("quarantine", NONE), ("reject", QUARANTINE)], ids=str
)
async def test_policy_under_test_is_one_step_less(policy: str, disposition: DmarcPolicy) -> None:
    result = await evaluate(zone_of({"example.com": f"p={policy}; t=y"}), "example.com")
    assert (result.policy, result.disposition) == (policy, disposition)


@pytest.mark.parametrize("author", ["BÜCHER.example.", "xn--bcher-kva.EXAMPLE", "bücher.example"])
async def test_author_domain_may_be_written_in_every_way(author: str) -> None:
    resolver = zone_of({"xn--bcher-kva.example": "p=reject; adkim=s"})
    result = await evaluate(resolver, author, dkim="XN--bcher-kva.example.")
    assert (result.status, result.author_domain) == (PASS, "xn--bcher-kva.example")


@pytest.mark.parametrize("author", ["", ".", "a..b", "x" * 64 + ".example", "\u0378.example"])
async def test_what_is_no_domain_name_is_permerror_and_asks_nothing(author: str) -> None:
    resolver = zone_of({"example": "p=reject"})
    result = await evaluate(resolver, author, dkim="example")
    assert (result.status, result.policy, resolver.queries) == (PERMERROR, None, [])


async def test_address_literal_has_no_record() -> None:
    resolver = zone_of({})
    result = await evaluate(resolver, "[192.0.2.1]", spf="[192.0.2.1]")
    assert (result.status, result.aligned_spf, resolver.queries) == (NO_RECORD, False, [])


# np


NP = "p=reject; sp=none; np=quarantine"


@pytest.mark.parametrize(
    ("rows", "tag"),
    [
        ({}, "np"),
        ({"other.example.com": {"A": "192.0.2.1"}}, "np"),
        ({"a.example.com": {"A": "192.0.2.1"}}, "sp"),
        ({"a.example.com": {"MX": [0, "mx.example.com"]}}, "sp"),
        ({"a.example.com": {"TXT": "text"}}, "sp"),
        ({"b.a.example.com": {"A": "192.0.2.1"}}, "sp"),
        ({"_dmarc.a.example.com": {"A": "192.0.2.1"}}, "sp"),
        ({"_dmarc.a.example.com": {"TXT": "text"}}, "sp"),
        ({"a.example.com": {"CNAME": "nowhere.example"}}, "sp"),
    ],
)
async def test_np_applies_to_names_that_do_not_exist(rows: dict[str, Row], tag: str) -> None:
    zone: dict[str, list[Row]] = {name: [row] for name, row in rows.items()}
    resolver = ZoneResolver({"_dmarc.example.com": [{"TXT": f"v=DMARC1; {NP}"}], **zone})
    result = await evaluate(resolver, "a.example.com")
    assert (result.tag, result.policy) == (tag, {"np": QUARANTINE, "sp": NONE}[tag])


@pytest.mark.parametrize(
    ("record", "count"),
    [(NP, 1), ("p=reject; sp=none", 0), ("p=reject", 0), ("p=reject; np=reject", 0), ("p=reject; sp=none; np=none", 0)],
)
async def test_existence_is_asked_only_where_it_makes_a_difference(record: str, count: int) -> None:
    resolver = zone_of({"example.com": record})
    await evaluate(resolver, "a.example.com")
    assert [rdtype for _, rdtype in resolver.queries].count(RdType.MX) == count


async def test_np_of_a_public_suffix_applies_to_a_domain_that_does_not_exist() -> None:
    result = await evaluate(zone_of({"com": "p=none; np=reject; psd=y"}), "made-up.com")
    assert (result.policy, result.tag, result.domain) == (REJECT, "np", "made-up.com")


# Alignment


@pytest.mark.parametrize(
    ("record", "author", "identifier", "is_aligned"),
    [
        ("p=reject", "example.com", "example.com", True),
        ("p=reject", "example.com", "a.example.com", True),
        ("p=reject", "a.example.com", "example.com", True),
        ("p=reject", "a.example.com", "b.example.com", True),
        ("p=reject; adkim=s; aspf=s", "example.com", "example.com", True),
        ("p=reject; adkim=s; aspf=s", "example.com", "a.example.com", False),
        ("p=reject; adkim=s; aspf=s", "a.example.com", "example.com", False),
        ("p=reject; adkim=s; aspf=s", "a.example.com", "a.example.com", True),
        ("p=reject", "example.com", "example.net", False),
        ("p=reject", "example.com", "notexample.com", False),
        ("p=reject", "example.com", "com", False),
        ("p=reject", "example.com", "example.com.evil.net", False),
        ("p=reject", "example.com", "EXAMPLE.com.", True),
        ("p=reject", "example.com", "", False),
        ("p=reject", "example.com", "not a..name", False),
    ],
)
async def test_identifier_aligns(record: str, author: str, identifier: str, *, is_aligned: bool) -> None:
    by_dkim = await evaluate(zone_of({"example.com": record}), author, dkim=[DkimResult(PASS, identifier)])
    by_spf = await evaluate(zone_of({"example.com": record}), author, spf=SpfResult(PASS, identifier))
    assert (by_dkim.aligned_dkim, by_dkim.aligned_spf) == (is_aligned, False)
    assert (by_spf.aligned_dkim, by_spf.aligned_spf) == (False, is_aligned)
    assert by_dkim.status is by_spf.status is (PASS if is_aligned else FAIL)


async def test_mode_of_one_method_does_not_bind_the_other() -> None:
    resolver = zone_of({"example.com": "p=reject; adkim=s; aspf=r"})
    result = await evaluate(resolver, "example.com", spf="a.example.com", dkim="a.example.com")
    assert (result.aligned_spf, result.aligned_dkim, result.status) == (True, False, PASS)


@pytest.mark.parametrize("status", [status for status in AuthStatus if status not in {PASS, TEMPERROR}])
async def test_only_what_passed_counts(status: AuthStatus) -> None:
    resolver = zone_of({"example.com": "p=reject"})
    result = await evaluate(
        resolver, "example.com", spf=SpfResult(status, "example.com"), dkim=[DkimResult(status, "example.com")]
    )
    assert (result.status, result.aligned_spf, result.aligned_dkim) == (FAIL, False, False)


async def test_helo_of_the_null_sender_can_align() -> None:
    spf = SpfResult(PASS, "mail.example.com", SpfIdentity.HELO)
    assert (await evaluate(zone_of({"example.com": "p=reject"}), "example.com", spf=spf)).status is PASS


async def test_any_signature_that_aligns_is_enough_and_all_that_do_are_named() -> None:
    resolver = zone_of({"example.com": "p=reject"})
    dkim = "other.net a.example.com example.com a.example.com"
    result = await evaluate(resolver, "example.com", dkim=dkim)
    assert (result.status, result.dkim_domains) == (PASS, ("a.example.com", "example.com"))


async def test_subdomain_that_is_its_own_organization_does_not_align() -> None:
    zone = {"example.com": "p=reject", "own.example.com": "p=reject; psd=n"}
    assert (await evaluate(zone_of(zone), "example.com", dkim="own.example.com")).status is FAIL
    assert (await evaluate(zone_of(zone), "own.example.com", dkim="example.com")).status is FAIL
    assert (await evaluate(zone_of(zone), "a.own.example.com", dkim="b.own.example.com")).status is PASS


async def test_name_skipped_by_the_walk_decides_nothing() -> None:
    # Of nine labels, the name of eight is not asked, whatever it says.
    zone = {"h.g.f.e.d.c.b.a": "p=none; psd=n", "b.a": "p=reject"}
    result = await evaluate(zone_of(zone), "i.h.g.f.e.d.c.b.a", dkim="x.b.a")
    assert (result.status, result.domain) == (PASS, "b.a")
    result = await evaluate(zone_of(zone), "h.g.f.e.d.c.b.a", dkim="x.b.a")
    assert (result.status, result.domain) == (FAIL, "h.g.f.e.d.c.b.a")


# The examples of Appendix B.4


async def test_example_b_4_1_simple_organization() -> None:
    resolver = zone_of({"example.com": "p=reject", "signing.example.com": "p=reject"})
    result = await evaluate(resolver, "example.com", spf="example.com", dkim="signing.example.com")
    assert (result.domain, result.aligned_spf, result.aligned_dkim) == ("example.com", True, True)


async def test_example_b_4_2_deep_walk() -> None:
    resolver = zone_of({"example.com": "p=reject", "signing.example.com": "p=reject"})
    author = "a.b.c.d.e.f.g.h.i.j.k.example.com"
    result = await evaluate(resolver, author, spf="example.com", dkim="signing.example.com")
    assert (result.domain, result.aligned_spf, result.aligned_dkim) == ("example.com", True, True)
    assert result.record_domain == "example.com"
    assert asked(resolver) == (
        f"{author} g.h.i.j.k.example.com h.i.j.k.example.com i.j.k.example.com j.k.example.com k.example.com "
        "example.com com signing.example.com"
    )


async def test_example_b_4_3_public_suffix() -> None:
    resolver = zone_of({"bank.example": "p=reject; psd=y", "giant.bank.example": "p=quarantine"})
    result = await evaluate(
        resolver, "giant.bank.example", spf="mail.giant.bank.example", dkim="mail.mega.bank.example"
    )
    assert (result.domain, result.aligned_spf, result.aligned_dkim) == ("giant.bank.example", True, False)
    assert result.record_domain == "giant.bank.example"
    assert asked(resolver) == "giant.bank.example bank.example mail.giant.bank.example"


# What is asked


@pytest.mark.parametrize(
    ("record", "author", "spf", "dkim", "names"),
    [
        # from the author domain, always: its organizational domain is part of the answer
        ("p=reject", "example.com", "example.com", "example.com", "example.com com"),
        ("p=reject", "example.com", "", "example.com", "example.com com"),
        # an identifier that cannot share the organizational domain is not walked from
        ("p=reject", "example.com", "other.net", "example.com", "example.com com"),
        ("p=reject", "example.com", "a.example.com", "", "example.com com a.example.com"),
        ("p=reject; aspf=s", "example.com", "a.example.com", "", "example.com com"),
        ("p=reject; psd=n", "example.com", "a.example.com", "", "example.com a.example.com"),
        ("p=reject", "b.example.com", "a.example.com", "b.example.com", "b.example.com example.com com a.example.com"),
    ],
)
async def test_no_more_is_asked_than_matters(record: str, author: str, spf: str, dkim: str, names: str) -> None:
    resolver = zone_of({"example.com": record})
    await evaluate(resolver, author, spf=spf, dkim=dkim)
    assert asked(resolver) == names


async def test_discovery_shows_the_walk_and_is_not_repeated() -> None:
    resolver = zone_of({"example.com": "p=reject; sp=none; t=y", "a.example.com": "p=none"})
    discovery = await discover_policy("b.a.example.com", resolver)
    assert [(step.domain, step.finding.value) for step in discovery.steps] == [
        ("b.a.example.com", "no DMARC record"),
        ("a.example.com", "a DMARC record"),
        ("example.com", "a DMARC record"),
        ("com", "no DMARC record"),
    ]
    assert (discovery.record_domain, discovery.policy, discovery.tag) == ("example.com", NONE, "sp")
    assert discovery.disposition is NONE
    count = len(resolver.queries)
    dkim = [DkimResult(PASS, "example.com")]
    result = await evaluate_dmarc("b.a.example.com", None, dkim, resolver=resolver, discovery=discovery)
    assert (result.status, len(resolver.queries)) == (PASS, count)
    assert result == await evaluate(resolver, "b.a.example.com", dkim="example.com")


async def test_discovery_without_a_record_has_no_disposition() -> None:
    assert (await discover_policy("example.com", zone_of({}))).disposition is None


# DNS failures


@pytest.mark.parametrize("failing", ["c.b.example.com", "b.example.com", "example.com", "com"])
async def test_failure_at_any_step_of_the_search_is_temperror(failing: str) -> None:
    zone = {"example.com": "p=reject", failing: "TIMEOUT"}
    result = await evaluate(zone_of(zone), "c.b.example.com", spf="example.com", dkim="x.example.com")
    assert (result.status, result.policy, result.disposition) == (TEMPERROR, None, None)
    assert (result.aligned_spf, result.aligned_dkim) == (False, False)
    assert result.reason == f"DNS failure: _dmarc.{failing} TXT: timeout"


async def test_discovery_says_which_answer_is_missing() -> None:
    discovery = await discover_policy("a.example.com", zone_of({"example.com": "TIMEOUT"}))
    assert discovery.failure is not None
    assert (discovery.failure.kind, discovery.failure.name) == (DnsFailure.TIMEOUT, "_dmarc.example.com")
    assert [step.domain for step in discovery.steps] == ["a.example.com", "example.com"]


async def test_what_is_equal_to_the_author_domain_aligns_whatever_the_record_is() -> None:
    resolver = zone_of({"example.com": "TIMEOUT"})
    result = await evaluate(resolver, "example.com", spf="example.com", dkim="a.example.com example.com")
    assert (result.status, result.aligned_spf, result.aligned_dkim) == (TEMPERROR, True, True)
    assert result.dkim_domains == ("example.com",)


async def test_failure_above_the_record_of_the_author_is_no_matter_where_all_are_the_same_domain() -> None:
    resolver = zone_of({"example.com": "p=reject", "com": "TIMEOUT"})
    assert (await evaluate(resolver, "example.com", dkim="example.com")).status is PASS


@pytest.mark.parametrize(
    ("zone", "spf", "dkim", "status"),
    [
        # the top-level domain fails: those below example.com have one domain with it under every answer
        ({"com": "TIMEOUT"}, "a.example.com", "", PASS),
        ({"com": "TIMEOUT"}, "", "a.example.com", PASS),
        # whether others have, hangs on the answer
        ({"com": "TIMEOUT"}, "", "other.com", TEMPERROR),
        ({"com": "TIMEOUT"}, "", "other.net", FAIL),
        ({"com": "TIMEOUT"}, "", "", FAIL),
        ({"com": "TIMEOUT"}, "", "other.com example.com", PASS),
        # the walk of the identifier fails
        ({"a.example.com": "TIMEOUT"}, "a.example.com", "", TEMPERROR),
        ({"a.example.com": "TIMEOUT"}, "b.a.example.com", "", TEMPERROR),
        ({"a.example.com": "TIMEOUT"}, "a.example.com", "example.com", PASS),
        ({"a.example.com": "TIMEOUT"}, "a.example.com", "b.example.com", PASS),
        ({"a.example.net": "TIMEOUT"}, "a.example.net", "", FAIL),
    ],
)
async def test_failure_of_a_walk_for_alignment_counts_where_it_could_change_the_result(
    zone: dict[str, str], spf: str, dkim: str, status: AuthStatus
) -> None:
    result = await evaluate(zone_of({"example.com": "p=reject", **zone}), "example.com", spf=spf, dkim=dkim)
    assert result.status is status
    assert (result.policy, result.disposition) == (REJECT, REJECT)
    assert (result.reason is not None) is (status is TEMPERROR)


@pytest.mark.parametrize(
    ("record", "spf", "dkim", "status"),
    [
        # "cannot be considered to pass or fail" (s5.4)
        ("p=reject", "example.com", "", TEMPERROR),
        ("p=reject", "", "example.com", TEMPERROR),
        ("p=none", "example.com", "", TEMPERROR),
        ("p=reject", "a.example.com", "", TEMPERROR),
        ("p=reject", "", "other.net a.example.com", TEMPERROR),
        # what would not align is no required query
        ("p=reject", "example.net", "example.net", FAIL),
        ("p=reject; aspf=s", "a.example.com", "", FAIL),
        ("p=reject; adkim=s", "", "a.example.com", FAIL),
        ("p=reject; adkim=s", "a.example.com", "", TEMPERROR),
        ("p=reject", "", "", FAIL),
        ("", "example.com", "example.com", NO_RECORD),
    ],
)
async def test_check_without_an_answer_leaves_open_what_it_could_have_decided(
    record: str, spf: str, dkim: str, status: AuthStatus
) -> None:
    result = await evaluate(
        zone_of({"example.com": record} if record else {}),
        "example.com",
        spf=SpfResult(TEMPERROR, spf) if spf else "",
        dkim=[DkimResult(TEMPERROR, domain) for domain in dkim.split()],
    )
    assert (result.status, result.aligned_spf, result.aligned_dkim, result.dkim_domains) == (status, False, False, ())
    assert result.disposition is (DmarcPolicy(record[2:].partition(";")[0]) if record else None)
    assert (result.reason is not None) is (status is not FAIL)


async def test_pass_makes_up_for_a_check_without_an_answer() -> None:
    resolver = zone_of({"example.com": "p=reject"})
    unanswered = SpfResult(TEMPERROR, "example.com")
    assert (await evaluate(resolver, "example.com", spf=unanswered, dkim="example.com")).status is PASS
    dkim = [DkimResult(TEMPERROR, "example.com"), DkimResult(PASS, "a.example.com")]
    assert (await evaluate(resolver, "example.com", spf=unanswered, dkim=dkim)).status is PASS


async def test_strict_mode_needs_no_walk_that_could_fail() -> None:
    zone = {"example.com": "p=reject; adkim=s; aspf=s", "com": "TIMEOUT", "a.example.com": "TIMEOUT"}
    assert (await evaluate(zone_of(zone), "example.com", spf="a.example.com", dkim="a.example.com")).status is FAIL


@pytest.mark.parametrize(
    ("record", "dkim", "status", "policy"),
    [
        ("p=reject; sp=none; np=reject", "", TEMPERROR, REJECT),
        ("p=reject; sp=reject; np=none", "", TEMPERROR, REJECT),
        ("p=reject; sp=quarantine; np=none", "", TEMPERROR, QUARANTINE),
        ("p=reject; sp=none; np=reject", "example.com", PASS, REJECT),
        # no policy that is left would be another one
        ("p=reject; sp=none; np=quarantine; t=y", "", FAIL, NONE),
        ("p=reject; sp=quarantine; np=none; t=y", "", FAIL, QUARANTINE),
        ("p=reject; np=reject", "", FAIL, REJECT),
    ],
)
async def test_failure_to_learn_whether_the_author_domain_exists(
    record: str, dkim: str, status: AuthStatus, policy: DmarcPolicy
) -> None:
    # A name of its own, so that nothing else tells that the author domain is there.
    resolver = FailingMx({"_dmarc.example.com": [{"TXT": f"v=DMARC1; {record}"}]})
    result = await evaluate(resolver, "a.example.com", dkim=dkim)
    assert (result.status, result.policy) == (status, policy)


class FailingMx(ZoneResolver):
    """A zone in which MX is never answered."""

    async def resolve(self, name, rdtype):  # type: ignore[no-untyped-def]
        if rdtype == RdType.MX:
            return await ZoneResolver({name: ["TIMEOUT"]}).resolve(name, rdtype)
        return await super().resolve(name, rdtype)


async def test_unexpected_error_of_a_resolver_is_not_taken_for_an_answer() -> None:
    class Broken(ZoneResolver):
        async def resolve(self, name, rdtype):  # type: ignore[no-untyped-def]
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        await evaluate(Broken({}), "example.com")
