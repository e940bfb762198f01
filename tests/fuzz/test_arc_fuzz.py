"""Any bytes as a message with ARC fields, any results of a sealer: an answer comes back and nothing else, in time."""

import asyncio
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailflow.mail.headers import split_message
from mailflow.mailauth import verify_arc
from mailflow.mailauth.arc_chain import has_ended, highest_instance
from mailflow.mailauth.arc_trust import find_trusted_set
from mailflow.mailauth.result import ArcResult, ArcSet, AuthStatus
from tests.arc_chains import MESSAGE, NOW, forge, resolver

ONE = forge(MESSAGE)
TWO = forge(ONE, 2)
PIECES = [
    *(b"ARC-Seal:", b"ARC-Message-Signature:", b"ARC-Authentication-Results:", b"From: a@b\r\n", b"\r\n", b"\r\n "),
    *(b" i=1;", b" i=2;", b" i=51;", b"i=", b" cv=none;", b" cv=pass;", b" cv=fail;", b" a=rsa-sha256;", b" b=AAAA;"),
    *(b" d=list.example;", b" s=s;", b" h=from;", b" h=;", b" bh=AAAA;", b" c=simple;", b" l=1;", b" t=1;", b" x=1;"),
    *(b";", b"=", b"(", b")", b"\\", b'"', b"\0", b"\xff", b"\t", b"\r", b"\n", b"mx; dmarc=pass"),
]
HEADERS = st.lists(st.sampled_from(PIECES), max_size=60).map(b"".join)
PAYLOAD_PIECES = [
    *("mx", " ", ";", "dmarc", "dkim", "=", "pass", "header.from=", "header.d=", "author.example", "(", ")", '"', "\\"),
    *("none", "/1", ".", "@", "\t", "\n", "\0", "\xe9", "\u212a", "reason", "action=none", ",", ":", "x", "smtp.a="),
]
PAYLOADS = st.lists(st.sampled_from(PAYLOAD_PIECES), max_size=40).map("".join) | st.text(max_size=60)
STATUSES = {AuthStatus.NONE, AuthStatus.PASS, AuthStatus.FAIL}
LARGE = 500_000
HOSTILE = {
    "comments before the instance": b"ARC-Authentication-Results: " + b"(a)" * (LARGE // 3) + b"i=1\r\n",
    "comment without an end": b"ARC-Authentication-Results: " + b"(a\\" * (LARGE // 3) + b"\r\n",
    "white space before the instance": b"ARC-Authentication-Results:" + b"\r\n " * (LARGE // 3) + b"i=1\r\n",
    "tags": b"ARC-Seal: " + b"a=;" * (LARGE // 3) + b"\r\n",
    "semicolons": b"ARC-Message-Signature: " + b";" * LARGE + b"\r\n",
    "many fields": b"ARC-Seal: i=1\r\n" * (LARGE // 15),
    "many instances": b"".join(b"ARC-Authentication-Results: i=%d; x\r\n" % (n % 50 + 1) for n in range(LARGE // 40)),
    "long names of signed fields": forge(MESSAGE, signature={"h": "from:" + ":".join(["x" * 60] * 500)}),
}


def verify(message: bytes) -> ArcResult:
    return asyncio.run(verify_arc(message, resolver=resolver("list.example"), now=NOW))


@settings(max_examples=400, deadline=None)
@given(HEADERS | st.binary(max_size=200), st.sampled_from([b"", ONE, TWO]))
def test_any_bytes_in_front_of_a_message_give_a_result(header: bytes, message: bytes) -> None:
    result = verify(header + message)
    assert result.status in STATUSES
    fields, _ = split_message(header + message)
    assert 0 <= highest_instance(fields) <= 50
    assert has_ended(fields) in {True, False}


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(TWO)), st.integers(0, len(TWO)), st.binary(max_size=4) | st.sampled_from(PIECES))
def test_changed_chain_gives_a_result_and_passes_only_with_its_sets(start: int, end: int, text: bytes) -> None:
    result = verify(TWO[: min(start, end)] + text + TWO[max(start, end) :])
    assert result.status in STATUSES
    assert bool(result.sets) is (result.status is AuthStatus.PASS)
    assert {each.domain for each in result.sets} <= {"list.example"}


@settings(max_examples=400, deadline=None)
@given(PAYLOADS)
def test_any_results_of_a_sealer_are_read_or_not_believed(payload: str) -> None:
    arc = ArcResult(AuthStatus.PASS, 0, (ArcSet(1, "list.example", "s", payload),))
    find_trusted_set(
        arc, author_domain="author.example", organizational_domain="example", trusted=frozenset({"list.example"})
    )


# What a sealer puts into quotation marks or a comment, as it must: no quotation mark, parenthesis or backslash is left.
@settings(max_examples=300, deadline=None)
@given(PAYLOADS.map(lambda text: text.translate(str.maketrans("", "", '"()\\'))))
@pytest.mark.parametrize(
    "place", ['mx; spf=pass smtp.mailfrom="{}"@x.example', "mx; spf=pass ({})", 'mx; spf=fail reason="{}"']
)
def test_any_text_of_a_stranger_that_is_quoted_adds_no_result(place: str, text: str) -> None:
    arc = ArcResult(AuthStatus.PASS, 0, (ArcSet(1, "list.example", "s", place.replace("{}", text)),))
    found = find_trusted_set(
        arc, author_domain="author.example", organizational_domain="example", trusted=frozenset({"list.example"})
    )
    assert found is None


@pytest.mark.parametrize("header", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.timeout(20)
def test_hostile_fields_are_refused_in_linear_time(header: bytes) -> None:
    begin = time.process_time()
    assert verify(header + MESSAGE).status in STATUSES
    assert time.process_time() - begin < 2  # what is quadratic takes minutes


@pytest.mark.parametrize("fill", ["(a)", "x.y=z ", ";a=b", '"', "a", "(", "\t", "a@", "=", "reason=", "\\"])
@pytest.mark.parametrize("make", [lambda text: "mx; dkim=pass " + text, lambda text: "mx" + text])
@pytest.mark.timeout(20)
def test_long_results_are_read_in_a_moment(make: Callable[[str], str], fill: str) -> None:
    payload = make(fill * (4000 // len(fill)))
    arc = ArcResult(AuthStatus.PASS, 0, (ArcSet(1, "list.example", "s", payload),))
    begin = time.process_time()
    find_trusted_set(arc, author_domain="a.example", organizational_domain="", trusted=frozenset({"list.example"}))
    assert time.process_time() - begin < 1
