import asyncio
import time
from typing import Any

import pytest

from mailflow.dns import Answer, DnsFailure, DnsTemporary, RdType, Record
from mailflow.mailauth import check_spf
from mailflow.mailauth.result import SpfIdentity, SpfResult
from mailflow.testing import ZoneResolver

CLIENT = "192.0.2.1"
REVERSE = "1.2.0.192.in-addr.arpa"


async def judge(zone: dict[str, Any], *, sender: str = "joe@example.com", ip: str = CLIENT, **more: Any) -> SpfResult:
    resolver = more.pop("resolver", None) or ZoneResolver(zone)
    return await check_spf(ip=ip, helo=more.pop("helo", "mail.example.com"), sender=sender, resolver=resolver, **more)


async def status(record: str, *, sender: str = "joe@example.com", ip: str = CLIENT, **others: Any) -> str:
    """The status under this record at example.com; others are rows, or a record, at NAME.example.com."""
    zone = {f"{name}.example.com": [{"TXT": rows}] if isinstance(rows, str) else rows for name, rows in others.items()}
    return (await judge({"example.com": [{"TXT": record}, {"A": CLIENT}], **zone}, sender=sender, ip=ip)).status


# Identities and initial processing (s2.4, s4.1, s4.3)


@pytest.mark.parametrize("sender", ["", "<>"])
async def test_null_sender_is_postmaster_at_helo(sender: str) -> None:
    zone = {"Mail.Example.com": [{"TXT": "v=spf1 exists:%{s}.x.example -all"}]}
    zone["postmaster@Mail.Example.com.x.example"] = [{"A": "127.0.0.2"}]
    result = await judge(zone, sender=sender, helo="Mail.Example.com")
    assert (result.status, result.identity, result.domain) == ("pass", SpfIdentity.HELO, "mail.example.com")


async def test_sender_is_judged_and_helo_is_not() -> None:
    zone = {"mail.example.com": [{"TXT": "v=spf1 -all"}], "example.com": [{"TXT": "v=spf1 +all"}]}
    result = await judge(zone, sender="joe@Example.COM")
    assert (result.status, result.identity, result.domain) == ("pass", SpfIdentity.MAILFROM, "example.com")


@pytest.mark.parametrize(
    "domain",
    [
        *("", ".", "localhost", "localhost.", "[192.0.2.1]", "a..example.com", ".example.com", "example.com.."),
        *("a" * 64 + ".example.com", ".".join(["a" * 60] * 5), "xn--\udc80.com", "\u0660\u06f0.example"),
    ],
)
async def test_what_is_no_domain_name_of_several_labels_has_no_policy_and_nothing_is_asked(domain: str) -> None:
    resolver = ZoneResolver({})
    for identity in ({"sender": f"joe@{domain}"}, {"sender": "", "helo": domain}):
        result = await judge({}, resolver=resolver, **identity)
        assert result.status == "none"
        assert result.reason is not None
        assert result.reason.isprintable()
    assert resolver.queries == []


@pytest.mark.parametrize(
    ("domain", "is_asked"),
    [
        (f"{'a' * 63}.example.com", True),
        (f"{'a' * 64}.example.com", False),
        (".".join(["a" * 61, *["b" * 63] * 3]), True),  # 253 characters
        (".".join(["a" * 62, *["b" * 63] * 3]), False),
    ],
)
async def test_labels_have_63_octets_and_names_253_characters_at_most(domain: str, *, is_asked: bool) -> None:
    for identity in ({"sender": f"joe@{domain}"}, {"sender": "", "helo": domain}):
        resolver = ZoneResolver({})
        assert (await judge({}, resolver=resolver, **identity)).status == "none"
        assert bool(resolver.queries) is is_asked


async def test_domain_without_record_is_none() -> None:
    result = await judge({"example.com": [{"TXT": "v=spf10"}, {"A": CLIENT}]})
    assert (result.status, result.reason) == ("none", "example.com publishes no SPF record")


async def test_u_label_domain_is_judged_by_its_a_labels() -> None:
    zone = {"xn--bcher-kva.example": [{"TXT": "v=spf1 exists:%{d}.%{o}.x.example -all"}]}
    zone["xn--bcher-kva.example.xn--bcher-kva.example.x.example"] = [{"A": "127.0.0.2"}]
    result = await judge(zone, sender="jö@BÜCHER.example")
    assert (result.status, result.domain) == ("pass", "xn--bcher-kva.example")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ("v=spf1 exists:%{l}.example.com all", "pass"),
        ("v=spf1 -a:%{S}.example.com include:%{L}.example.com ?all", "neutral"),
        ("v=spf1 redirect=%{l}.example.com", "permerror"),
        ("v=spf1 exists:%{o} all", "pass"),
    ],
)
async def test_terms_with_a_non_ascii_local_part_match_nothing(record: str, expected: str) -> None:
    assert await status(record, sender="jö@example.com") == expected


@pytest.mark.parametrize("ip", ["::ffff:192.0.2.1", "::FFFF:C000:201", "192.0.2.1"])
async def test_mapped_address_is_the_ipv4_address(ip: str) -> None:
    assert await status("v=spf1 ip6:::/0 a -all", ip=ip) == "pass"
    assert await status("v=spf1 ip4:192.0.2.1 -all", ip=ip) == "pass"
    assert await status("v=spf1 ip6:::ffff:192.0.2.1 -all", ip=ip) == "fail"


async def test_zone_of_an_address_is_no_part_of_it() -> None:
    assert await status("v=spf1 ip6:fe80::1 -all", ip="fe80::1%eth0") == "pass"


async def test_text_that_is_no_address_is_the_callers_fault() -> None:
    with pytest.raises(ValueError, match="address"):
        await status("v=spf1 -all", ip="mail.example.com")


# What the result tells


async def test_result_names_the_term_and_whose_record_it_stands_in() -> None:
    zone = {
        "example.com": [{"TXT": "v=spf1 a:b.example.com include:c.example.com redirect=d.example.com"}],
        "b.example.com": [{"A": "192.0.2.9"}],
        "c.example.com": [{"TXT": "v=spf1 ip4:198.51.100.0/24 -all"}],
        "d.example.com": [{"TXT": "v=spf1 ~ip4:192.0.2.0/24"}],
    }
    include = await judge(zone, ip="198.51.100.7")
    assert (include.term, include.record_domain, include.lookups) == ("ip4:198.51.100.0/24", "c.example.com", 2)
    redirect = await judge(zone)
    assert (redirect.status, redirect.term, redirect.record_domain) == (
        "softfail",
        "~ip4:192.0.2.0/24",
        "d.example.com",
    )
    assert redirect.lookups == 3
    default = await judge(zone, ip="203.0.113.1")
    assert (default.status, default.term, default.record_domain) == ("neutral", "", "d.example.com")


async def test_include_that_is_no_pass_decides_itself() -> None:
    zone = {"example.com": [{"TXT": "v=spf1 -include:c.example.com"}], "c.example.com": [{"TXT": "v=spf1 +all"}]}
    result = await judge(zone)
    assert (result.status, result.term, result.record_domain) == ("fail", "-include:c.example.com", "example.com")


@pytest.mark.parametrize(
    ("rows", "status", "reason"),
    [
        ([{"TXT": "v=spf1 -all"}, {"TXT": "V=SPF1"}], "permerror", "example.com publishes 2 SPF records"),
        ([{"TXT": "v=spf1 moo"}], "permerror", 'record of example.com: "moo" is no mechanism'),
        ([{"TXT": "v=spf1 \xff"}], "permerror", "record of example.com: the record is not ASCII"),
        ([{"TXT": "v=spf1 include:no.example"}], "permerror", "no.example is included and has no SPF record"),
        ([{"TXT": "v=spf1 redirect=no.example"}], "permerror", "redirect=no.example leads to no SPF record"),
        ([{"TXT": "v=spf1 redirect=%{h}"}], "permerror", "redirect=%{h} leads to no SPF record"),
        (["TIMEOUT"], "temperror", "DNS lookup of example.com failed: timeout"),
        (["SERVFAIL"], "temperror", "DNS lookup of example.com failed: servfail"),
    ],
)
async def test_reason_is_given_in_plain_words(rows: list[Any], status: str, reason: str) -> None:
    result = await judge({"example.com": rows}, helo="a b")
    assert (result.status, result.reason, result.term, result.explanation) == (status, reason, "", None)


async def test_error_names_the_domain_whose_record_it_stands_in() -> None:
    zone: dict[str, Any] = {
        "example.com": [{"TXT": "v=spf1 include:b.example.com a:slow.example.com"}],
        "b.example.com": [{"TXT": "v=spf1 ip4:192.0.2.9"}],
        "slow.example.com": ["TIMEOUT"],
    }
    assert (await judge(zone)).record_domain == "example.com"
    zone["b.example.com"] = [{"TXT": "v=spf1 a:slow.example.com"}]
    assert (await judge(zone)).record_domain == "b.example.com"
    del zone["b.example.com"]
    assert (await judge(zone)).record_domain == "example.com"


# Limits (s4.6.4)


@pytest.mark.parametrize(("count", "expected"), [(10, "pass"), (11, "permerror")])
async def test_ten_terms_may_need_dns(count: int, expected: str) -> None:
    assert await status("v=spf1" + " a:b.example.com" * count + " all", b=[{"A": "192.0.2.9"}]) == expected


@pytest.mark.parametrize(("count", "expected"), [(4, "pass"), (5, "permerror")])
async def test_terms_are_counted_across_include_and_redirect(count: int, expected: str) -> None:
    others: dict[str, Any] = {
        "b": [{"A": "192.0.2.9"}, {"MX": [0, "b.example.com"]}],
        "c": "v=spf1 mx:b.example.com a:b.example.com ?all",
        "d": "v=spf1" + " a:b.example.com" * count + " all",
    }
    record = "v=spf1 include:c.example.com a:b.example.com mx:b.example.com redirect=d.example.com"  # 4, and 2 inside
    assert await status(record, **others) == expected


async def test_terms_that_are_not_reached_do_not_count() -> None:
    assert await status("v=spf1 a" + " mx" * 20 + " redirect=b.example.com") == "pass"
    assert await status("v=spf1" + " ip4:192.0.2.9" * 50 + " exp=b.example.com all") == "pass"


@pytest.mark.parametrize("link", ["include:example.com", "redirect=example.com", "include:%{d}", "redirect=%{o}"])
async def test_loop_ends_at_the_limit(link: str) -> None:
    result = await judge({"example.com": [{"TXT": f"v=spf1 {link}"}]})
    assert (result.status, result.lookups, result.reason) == ("permerror", 10, "more than 10 terms need DNS")


@pytest.mark.parametrize("term", ["a:no{}.example.com", "exists:no{}.example.com", "mx:no{}.example.com"])
@pytest.mark.parametrize(("count", "expected"), [(2, "pass"), (3, "permerror")])
async def test_two_terms_may_find_nothing(term: str, count: int, expected: str) -> None:
    terms = " ".join(term.format(number) for number in range(count))
    assert await status(f"v=spf1 {terms} all") == expected
    assert await status("v=spf1 include:b.example.com all", b=f"v=spf1 {terms} -all") == expected
    assert await status("v=spf1 redirect=b.example.com", b=f"v=spf1 {terms} all") == expected


async def test_reverse_name_that_is_not_there_is_one_of_the_two() -> None:
    assert await status("v=spf1 ptr a:no.example.com all") == "pass"
    assert await status("v=spf1 ptr a:no.example.com a:no.example.com all") == "permerror"


async def test_name_without_addresses_is_a_term_that_finds_nothing_too() -> None:
    assert (
        await status("v=spf1 a:b.example.com a:b.example.com a:b.example.com all", b=[{"MX": [0, "."]}]) == "permerror"
    )


async def test_names_that_cannot_be_asked_are_not_found_to_be_missing() -> None:
    assert await status("v=spf1" + " a:a..example.com" * 10 + " all") == "pass"


async def test_hosts_without_address_count_once_for_their_term() -> None:
    rows = [{"MX": [0, f"no{number}.example.com"]} for number in range(10)]
    assert await status("v=spf1 mx:b.example.com mx:b.example.com all", b=rows) == "pass"
    assert await status("v=spf1 mx:b.example.com mx:b.example.com mx:b.example.com all", b=rows) == "permerror"


@pytest.mark.parametrize(("count", "expected"), [(10, "pass"), (11, "permerror")])
@pytest.mark.parametrize("place", [0, -1])
async def test_ten_mx_names_are_looked_up(count: int, expected: str, place: int) -> None:
    hosts = [f"h{number}.example.com" for number in range(count)]
    zone: dict[str, Any] = {host: [{"A": "192.0.2.9"}] for host in hosts}
    zone["example.com"] = [{"TXT": "v=spf1 mx -all"}, *({"MX": [0, host]} for host in hosts)]
    zone[hosts[place]] = [{"A": CLIENT}]
    assert (await judge(zone)).status == expected


@pytest.mark.parametrize(("count", "expected"), [(10, "pass"), (11, "fail")])
async def test_ten_reverse_names_are_looked_at_and_more_are_ignored(count: int, expected: str) -> None:
    names = [f"h{number}.example.com" for number in range(count)]
    zone: dict[str, Any] = {name: [{"A": "192.0.2.9"}] for name in names}
    zone[names[-1]] = [{"A": CLIENT}]
    zone["example.com"] = [{"TXT": "v=spf1 ptr -all"}]
    zone[REVERSE] = [{"PTR": name} for name in names]
    assert (await judge(zone)).status == expected


@pytest.mark.parametrize(("count", "expected"), [(8, "pass"), (9, "permerror")])
async def test_reverse_lookup_for_a_macro_counts_once(count: int, expected: str) -> None:
    zone = {
        "example.com": [{"TXT": "v=spf1 -exists:%{p}.no.example" + " a:b.example.com" * count + " all"}],
        "b.example.com": [{"A": "192.0.2.9"}],
        REVERSE: [{"PTR": "b.example.com"}],
    }
    assert (await judge(zone)).status == expected


# Mechanisms (s5)


async def test_included_results() -> None:
    for qualifier, expected in (("+", "pass"), ("-", "softfail"), ("~", "softfail"), ("?", "softfail")):
        assert await status("v=spf1 include:b.example.com ~all", b=f"v=spf1 {qualifier}all") == expected
    assert await status("v=spf1 include:b.example.com ~all", b="v=spf1 moo") == "permerror"
    assert await status("v=spf1 include:b.example.com ~all", b=["TIMEOUT"]) == "temperror"
    assert await status("v=spf1 include:b.example.com ~all") == "permerror"


async def test_dns_failure_in_a_term_is_temperror_unless_an_earlier_one_matches() -> None:
    for term in ("a:b.example.com", "mx:b.example.com", "exists:b.example.com", "redirect=b.example.com"):
        assert await status(f"v=spf1 {term}", b=["TIMEOUT"]) == "temperror"
        assert await status(f"v=spf1 ip4:{CLIENT} {term}", b=["TIMEOUT"]) == "pass"
    assert await status("v=spf1 mx:c.example.com", c=[{"MX": [0, "b.example.com"]}], b=["TIMEOUT"]) == "temperror"


async def test_mx_does_not_fall_back_to_the_address() -> None:
    assert await status("v=spf1 mx -all") == "fail"
    assert await status("v=spf1 mx:b.example.com -all", b=[{"MX": [0, ""]}]) == "fail"


async def test_exists_asks_for_ipv4_even_for_an_ipv6_client() -> None:
    assert await status("v=spf1 exists:b.example.com -all", ip="2001:db8::1", b=[{"A": "127.0.0.2"}]) == "pass"
    assert await status("v=spf1 exists:b.example.com -all", ip="2001:db8::1", b=[{"AAAA": "::1"}]) == "fail"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("example.com", "pass"),
        ("mx.example.com", "pass"),
        ("notexample.com", "fail"),
        ("example.com.evil.test", "fail"),
    ],
)
async def test_ptr_matches_the_domain_and_names_below_it(name: str, expected: str) -> None:
    zone = {REVERSE: [{"PTR": name}], name: [{"A": CLIENT}]}
    zone["example.com"] = [{"TXT": "v=spf1 ptr:Example.com -all"}, {"A": CLIENT}]
    assert (await judge(zone)).status == expected


async def test_ptr_without_answer_does_not_match_and_one_name_without_answer_is_skipped() -> None:
    rows = [{"TXT": "v=spf1 ptr -all"}]
    assert (await judge({"example.com": rows, REVERSE: ["TIMEOUT"]})).status == "fail"
    names = [{"PTR": "a.example.com"}, {"PTR": "b.example.com"}]
    zone = {"example.com": rows, REVERSE: names, "a.example.com": ["TIMEOUT"], "b.example.com": [{"A": CLIENT}]}
    assert (await judge(zone)).status == "pass"


class Exhausted:
    """A resolver whose budget is used up at questions of one type."""

    def __init__(self, zone: dict[str, Any], rdtype: RdType, name: str = "") -> None:
        self._zone = ZoneResolver(zone)
        self._refused = (rdtype, name)

    async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
        if rdtype == self._refused[0] and name.endswith(self._refused[1]):
            raise DnsTemporary(DnsFailure.BUDGET, name, rdtype)
        return await self._zone.resolve(name, rdtype)


@pytest.mark.parametrize("rdtype", [RdType.TXT, RdType.PTR, RdType.A])
@pytest.mark.parametrize("record", ["v=spf1 ptr -all", "v=spf1 exists:%{p}.example.com -all"])
async def test_budget_that_ran_out_is_temperror_even_for_ptr(rdtype: RdType, record: str) -> None:
    zone = {"example.com": [{"TXT": record}], REVERSE: [{"PTR": "a.example.com"}]}
    result = await judge({}, resolver=Exhausted(zone, rdtype))
    assert result.status == "temperror"
    assert result.reason is not None
    assert result.reason.endswith("failed: budget")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["x.test", "a.example.com", "example.com"], "example.com"),
        (["x.test", "a.example.com"], "a.example.com"),
        (["x.test", "notexample.com"], "x.test"),
        (["forged.example.com", "x.test"], "x.test"),
        (["forged.example.com"], "unknown"),
        ([], "unknown"),
    ],
)
async def test_validated_name_is_the_domain_or_one_below_it_or_any(names: list[str], expected: str) -> None:
    zone: dict[str, Any] = {name: [{"A": CLIENT}] for name in names if "forged" not in name}
    zone.setdefault("example.com", []).append({"TXT": "v=spf1 exp=why.example.com -all"})
    zone |= {REVERSE: [{"PTR": name} for name in names], "why.example.com": [{"TXT": "%{p}"}]}
    assert (await judge(zone)).explanation == expected


# Explanations (s6.2)


async def explanation(text: str | list[Any], *, exp: str = "why.example.com", **more: Any) -> str | None:
    rows = [{"TXT": text}] if isinstance(text, str) else text
    zone = {"example.com": [{"TXT": f"v=spf1 -all exp={exp}"}], "why.example.com": rows}
    result = await judge(zone, **more)
    assert result.status == "fail"
    return result.explanation


async def test_explanation_is_expanded() -> None:
    text = "%{c} may not send for %{o}: see http://%{d}/?%{S}&%{r}&%{t}."
    expected = "192.0.2.1 may not send for example.com: see http://example.com/?joe%40example.com&mx.test&1700000000."
    assert await explanation(text, receiver="mx.test", now=1_700_000_000.9) == expected
    assert await explanation("%{r}") == "unknown"
    assert (await explanation("%{t}") or "").isdigit()


@pytest.mark.parametrize(
    "text",
    ["", "%{z}", "100%", "tab\there", "n\xf6", "line\nbreak", [], ["TIMEOUT"], [{"TXT": "one"}, {"TXT": "two"}]],
)
async def test_explanation_that_cannot_be_had_or_read_is_none(text: str | list[Any]) -> None:
    assert await explanation(text) is None


@pytest.mark.parametrize("exp", ["a..example.com", "%{h}.example.com", f"{'a' * 64}.example.com", "%{l}.example.com"])
async def test_explanation_at_what_is_no_name_is_none_and_not_asked_for(exp: str) -> None:
    resolver = ZoneResolver({"example.com": [{"TXT": f"v=spf1 -all exp={exp}"}]})
    result = await judge({}, resolver=resolver, helo="", sender="jö@example.com")
    assert (result.status, result.explanation) == ("fail", None)
    assert len(resolver.queries) == 1


async def test_explanation_into_which_the_sender_writes_is_printable_ascii_or_none() -> None:
    assert await explanation("%{l}", sender="a b\r\n250 ok@example.com") is None
    assert await explanation("%{h}", helo="h\x00") is None
    assert await explanation("%{l}", sender="jö@example.com") is None
    assert await explanation("%{L}", sender="jö@example.com") == "j%C3%B6"
    assert await explanation("%{L}", sender="a\r\nb@example.com") == "a%0D%0Ab"


async def test_explanation_is_bounded() -> None:
    assert await explanation("%{o}" * 1000) == ("example.com" * 1000)[:500]


async def test_explanation_is_of_the_record_that_failed_and_only_then() -> None:
    zone = {
        "example.com": [
            {"TXT": "v=spf1 include:b.example.com exp=why.example.com -ip4:192.0.2.1 redirect=b.example.com"}
        ],
        "b.example.com": [{"TXT": "v=spf1 -all exp=other.example.com"}],
        "why.example.com": [{"TXT": "mine"}],
        "other.example.com": [{"TXT": "%{d}"}],
    }
    assert (await judge(zone)).explanation == "mine"
    assert (await judge(zone, ip="192.0.2.2")).explanation == "b.example.com"
    zone["b.example.com"] = [{"TXT": "v=spf1 ~all exp=other.example.com"}]
    assert (await judge(zone, ip="192.0.2.2")).explanation is None


async def test_explanation_counts_towards_no_limit() -> None:
    record = "v=spf1 a:no.example a:no.example exp=%{p}.no.example" + " a:b.example.com" * 8 + " -all"
    zone = {"example.com": [{"TXT": record}], "b.example.com": [{"A": "192.0.2.9"}]}
    result = await judge(zone)
    assert (result.status, result.lookups, result.explanation) == ("fail", 10, None)


async def test_explanation_that_is_as_long_as_an_answer_of_the_dns_is_none() -> None:
    zone = {
        "example.com": [{"TXT": "v=spf1 exp=why.example.com -all"}],
        "why.example.com": [{"TXT": "%{L1R-}" * 9_000}],
    }
    begin = time.process_time()
    assert (await judge(zone, sender="-joe@example.com")).explanation is None
    assert time.process_time() - begin < 0.02


async def test_long_records_that_include_each_other_leave_others_their_turn() -> None:
    terms = " ".join(f"a:{number:x}.b" for number in range(1_500))
    zone = {f"{n}.example.com": [{"TXT": f"v=spf1 include:{n + 1}.example.com {terms}"}] for n in range(12)}
    check = asyncio.create_task(judge(zone, sender="joe@0.example.com"))
    turns = 0
    while not check.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 10
    assert (await check).status.value == "permerror"
