"""Any record, sender and HELO: a result comes back and nothing else, in bounded time, its words fit to be shown."""

import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailflow.mailauth import check_spf
from mailflow.mailauth.result import AuthStatus, SpfResult
from mailflow.mailauth.spf import MAX_EXPLANATION_CHARS
from mailflow.mailauth.spf_lookups import MAX_LOOKUPS
from mailflow.mailauth.spf_record import MAX_RECORD_OCTETS, RecordFault, SpfRecord, parse_record
from mailflow.mailauth.spf_tree import walk_record
from mailflow.testing import ZoneResolver

EXAMPLES = settings(max_examples=400, deadline=None)
MAX_OCTETS = MAX_RECORD_OCTETS - 10
PIECES = [
    *("all", "-all", "a", "mx", "ptr", "ip4", "ip6", "include:", "exists:", "redirect=", "exp=", "foo=", " ", "  "),
    *(":", "/", "//", "24", "0", "128", ".", "..", "example.com", "loop.example.com", "%{", "}", "%{d}", "%{S9r-+}"),
    *("%{p}", "%{l1r-}", "%{h}", "%%", "%_", "%-", "%", "192.0.2.1", "::1", "+", "-", "~", "?", "\0", "\t", "\r\n"),
    *("\xff", "é", "=", "=a", "v=spf1 ", "\\", "\\032", '"', "a" * 64, "a." * 130),
]
ALMOST_TERMS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
RECORDS = (st.binary(max_size=80) | ALMOST_TERMS.map(str.encode)).map(b"v=spf1 ".__add__)
TEXTS = st.text(max_size=40) | ALMOST_TERMS
SENDERS = TEXTS | st.builds("{}@{}".format, TEXTS, st.sampled_from(["example.com", "EXAMPLE.com.", "loop.example.com"]))
IPS = st.sampled_from(["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "fe80::1%eth0"])


def check_result(result: SpfResult) -> None:
    assert result.status in set(AuthStatus) - {AuthStatus.POLICY}
    assert 0 <= result.lookups <= MAX_LOOKUPS
    assert (result.reason is not None) is (result.status in {"none", "temperror", "permerror"})
    for text in (result.reason, result.explanation):
        assert text is None or (text.isascii() and text.isprintable() and len(text) <= MAX_EXPLANATION_CHARS)
    assert result.explanation is None or result.status == "fail"


@EXAMPLES
@given(RECORDS)
@example(b"v=spf1")
def test_any_octets_are_a_record_or_a_fault(record: bytes) -> None:
    parsed = parse_record(record)
    assert isinstance(parsed, SpfRecord | RecordFault)
    if isinstance(parsed, RecordFault):
        assert parsed.reason.isascii()
        assert parsed.reason.isprintable()


@EXAMPLES
@given(
    RECORDS,
    RECORDS,
    st.binary(max_size=40) | TEXTS.map(lambda text: text.encode("utf-8", "replace")),
    TEXTS,
    SENDERS,
    IPS,
)
@example(b"v=spf1 exists:%{h}", b"v=spf1", b"", "\ud800.\udcff", "\ud800@example.com", "192.0.2.1")
@example(b"v=spf1 -all exp=%{L}.example.com", b"v=spf1", b"%{s}", "h", "\ud800@example.com", "192.0.2.1")
@example(b"v=spf1 -all exp=a.b", b"v=spf1", b"%{S}", "h", "\ud800@example.com", "192.0.2.1")
async def test_any_record_and_identity_get_a_result(
    record: bytes, other: bytes, text: bytes, helo: str, sender: str, ip: str
) -> None:
    zone: dict[str, Any] = {
        "example.com": [{"TXT": record}, {"A": "192.0.2.9"}, {"MX": [0, "loop.example.com"]}],
        "loop.example.com": [{"TXT": other}, {"MX": [0, ""]}],
        "a.b": [{"TXT": text}],
        "1.2.0.192.in-addr.arpa": [{"PTR": "a b\\.example.com"}, {"PTR": "example.com"}],
    }
    resolver = ZoneResolver(zone)
    check_result(await check_spf(ip=ip, helo=helo, sender=sender, resolver=resolver))
    tree = await walk_record("example.com", resolver)
    assert all(problem.isprintable() for node in tree.walk() for problem in (node.failure, *node.problems))


HOSTILE = {
    "terms": "a ",
    "other terms": "ip4:1.2.3.4 ip6:::1/64 ",
    "blanks": " ",
    "no term": "a",
    "labels": "include:" + "a." * (MAX_OCTETS // 2 - 10) + "com",
    "digits of a top label": "a:x." + "1" * MAX_OCTETS,
    "letters that end wrong": "a:x." + "a" * MAX_OCTETS + "!",
    "hyphens": "a:x." + "-" * MAX_OCTETS,
    "slashes": "a:" + "/" * MAX_OCTETS,
    "prefixes": "a:x" + "/24" * (MAX_OCTETS // 3 - 2),
    "double prefixes": "a:x" + "//24" * (MAX_OCTETS // 4 - 2),
    "macros": "exists:" + "%{s}" * (MAX_OCTETS // 4 - 4) + " ",
    "split macros": "exists:" + "%{S99r.-+,/_=}" * 1_000 + ".com ",
    "macro digits": "exists:%{d" + "9" * MAX_OCTETS + "} ",
    "macro delimiters": "exists:%{d" + "+" * MAX_OCTETS + "} ",
    "unclosed macro": "exists:%{d" + "+" * MAX_OCTETS,
    "modifier names": "x" * MAX_OCTETS,
    "modifiers": "x=%{d} ",
    "address": "ip6:" + ":" * MAX_OCTETS,
    "address digits": "ip4:" + "1" * MAX_OCTETS,
}


@pytest.mark.parametrize("terms", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.timeout(20)
async def test_the_largest_record_costs_no_more_than_its_length(terms: str) -> None:
    record = ("v=spf1 " + terms * (MAX_OCTETS // len(terms) or 1)).encode()
    sender = "-.+" * 300 + "@example.com"
    resolver = ZoneResolver({"example.com": [{"TXT": record}, {"A": "192.0.2.9"}]})
    begin = time.process_time()
    check_result(await check_spf(ip="192.0.2.1", helo="mail.example.com", sender=sender, resolver=resolver))
    await walk_record("example.com", resolver)
    assert time.process_time() - begin < 3  # what is quadratic takes minutes


async def test_largest_record_that_is_included_ten_times_is_bounded_too() -> None:
    record = "v=spf1 " + "ip4:1.2.3.4 " * 1_300 + "include:example.com"
    resolver = ZoneResolver({"example.com": [{"TXT": record}]})
    begin = time.process_time()
    check_result(await check_spf(ip="192.0.2.1", helo="h", sender="a@example.com", resolver=resolver))
    assert time.process_time() - begin < 3
