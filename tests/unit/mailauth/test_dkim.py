"""Verification of whole messages: each status, and what a signature does and does not cover."""

import asyncio
import base64
import gc

import pytest

from mailflow.dns import Answer, RdType, Record
from mailflow.mailauth import verify_dkim
from mailflow.mailauth.dkim import MAX_CLOCK_SKEW_S, MAX_SIGNATURES, verify_dkim_signatures
from mailflow.mailauth.result import AuthStatus, DkimResult
from mailflow.mailauth.signed_message import SLICE_OCTETS, SignedMessage
from mailflow.testing import ZoneResolver
from mailflow.testing.zone import Row, Zone
from tests.dkim_keys import ed25519_key, key_record, rsa_key, sign_with_tags

NOW = 1_700_000_000
NAME = "s._domainkey.example.com"
FROM, TO, SUBJECT = b"From: a@example.com\r\n", b"To: b@example.org\r\n", b"Subject: Hello\r\n"
BODY = b"One line.\r\nAnother.\r\n"
MESSAGE = FROM + TO + SUBJECT + b"\r\n" + BODY
PASS, FAIL, POLICY = AuthStatus.PASS, AuthStatus.FAIL, AuthStatus.POLICY
PERMERROR, TEMPERROR = AuthStatus.PERMERROR, AuthStatus.TEMPERROR


async def verify(message: bytes, zone: Zone | None = None, *, now: float = NOW) -> list[DkimResult]:
    records: Zone = {
        NAME: [{"TXT": key_record(rsa_key())}],
        "ed._domainkey.example.com": [{"TXT": key_record(ed25519_key())}],
    }
    return await verify_dkim(message, resolver=ZoneResolver({**records, **(zone or {})}), now=now)


async def verify_one(message: bytes, zone: Zone | None = None, *, now: float = NOW) -> DkimResult:
    (result,) = await verify(message, zone, now=now)
    return result


def sign(message: bytes = MESSAGE, /, **changes: str | None) -> bytes:
    return sign_with_tags(message, rsa_key(), **changes)


async def test_message_without_signature_has_no_result_and_asks_nothing() -> None:
    resolver = ZoneResolver({})
    assert await verify_dkim(MESSAGE, resolver=resolver) == []
    assert await verify_dkim(b"", resolver=resolver) == []
    assert resolver.queries == []


@pytest.mark.parametrize("form", ["simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed"])
async def test_good_signature_passes_in_every_form(form: str) -> None:
    result = await verify_one(sign(c=form))
    assert result.status is PASS
    assert result.reason is None


@pytest.mark.parametrize("form", ["simple/simple", "relaxed/relaxed"])
async def test_message_of_a_file_with_bare_lf_is_verified_as_on_the_wire(form: str) -> None:
    assert (await verify_one(sign(c=form).replace(b"\r\n", b"\n"))).status is PASS


async def test_pass_says_who_signed_and_with_what() -> None:
    message = sign(i="joe@mail.example.com", d="Example.COM", s="S")
    result = await verify_one(message)
    tag_b = base64.b64encode(base64.b64decode(message.partition(b"; b=")[2].partition(b"\r\n")[0])).decode()
    assert result == DkimResult(
        PASS,
        domain="example.com",
        selector="S",
        algorithm="rsa-sha256",
        auid="joe@mail.example.com",
        tag_b=tag_b[:8],
        key_bits=1024,
    )


async def test_ed25519_signature_passes() -> None:
    result = await verify_one(sign_with_tags(MESSAGE, ed25519_key(), s="ed"))
    assert (result.status, result.algorithm, result.key_bits) == (PASS, "ed25519-sha256", 256)


async def test_results_come_top_first_and_none_spoils_another() -> None:
    message = sign_with_tags(sign(sign(d="example.net")), ed25519_key(), s="ed")
    results = await verify(b"DKIM-Signature: nonsense\r\n" + message)
    assert [(r.status, r.algorithm, r.domain) for r in results] == [
        (PERMERROR, "", ""),
        (PASS, "ed25519-sha256", "example.com"),
        (PASS, "rsa-sha256", "example.com"),
        (PERMERROR, "rsa-sha256", "example.net"),
    ]


@pytest.mark.parametrize("form", ["simple/simple", "relaxed/relaxed"])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"From: a@", b"From: x@"),
        (b"Subject: Hello", b"Subject: hello"),
        (b"To: b@example.org\r\n", b""),
        (b"Another.", b"Another!"),
        (b"One line.\r\n", b"One line.\r\n\r\n"),
        (b"Another.\r\n", b"Another.\r\nMore.\r\n"),
    ],
)
async def test_changed_message_fails(form: str, old: bytes, new: bytes) -> None:
    result = await verify_one(sign(c=form).replace(old, new))
    assert result.status is FAIL
    assert result.reason
    assert result.key_bits == 1024


async def test_relaxed_forgives_white_space_and_simple_does_not() -> None:
    for form, status in (("relaxed/relaxed", PASS), ("simple/simple", FAIL)):
        message = (
            sign(c=form).replace(b"Subject: Hello", b"SUBJECT :  Hello\r\n\t ").replace(b"One line.", b"One  line. ")
        )
        assert (await verify_one(message)).status is status


@pytest.mark.parametrize("form", ["simple/simple", "relaxed/relaxed"])
async def test_empty_lines_at_the_end_are_forgiven_and_an_empty_body_signed(form: str) -> None:
    assert (await verify_one(sign(c=form) + b"\r\n\r\n")).status is PASS
    message = FROM + TO + SUBJECT + b"\r\n"
    assert (await verify_one(sign(message, c=form))).status is PASS
    assert (await verify_one(sign(message, c=form) + b"\r\n")).status is PASS
    assert (await verify_one(sign(message, c=form).removesuffix(b"\r\n"))).status is PASS


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"v": None}, "v= is missing"),
        ({"v": "2"}, "version"),
        ({"v": "1.0"}, "version"),
        ({"a": None}, "a= is missing"),
        ({"a": "rsa-sha1"}, "rsa-sha1"),
        ({"a": "rsa-sha512"}, "algorithm"),
        ({"a": "ed25519-sha256"}, "another type"),
        ({"bh": ""}, "bh= is empty"),
        ({"bh": None}, "bh= is missing"),
        ({"bh": "%"}, "bh= is not base64"),
        ({"d": None}, "d= is missing"),
        ({"d": "com"}, "d= is no domain"),
        ({"d": "-a.example.com"}, "d= is no domain"),
        ({"s": None}, "s= is missing"),
        ({"s": ""}, "s="),
        ({"i": "joe@example.net"}, "i="),
        ({"i": "joe@badexample.com"}, "i="),
        ({"i": "joe@com"}, "i="),
        ({"i": "joe"}, "i="),
        ({"i": "example.com"}, "i="),
        ({"i": ""}, "i="),
        ({"l": "x"}, "l= is no number"),
        ({"l": "9" * 77}, "l= is no number"),
        ({"q": "dns"}, "q="),
        ({"q": ""}, "q="),
        ({"t": "yesterday"}, "t= is no number"),
        ({"x": "1" * 13}, "x= is no number"),
        ({"t": str(NOW), "x": str(NOW)}, "x="),
        ({"x": str(NOW - 1)}, "expired"),
    ],
)
async def test_signature_with_such_a_tag_is_a_permanent_error(changes: dict[str, str | None], words: str) -> None:
    result = await verify_one(sign(**changes))
    assert result.status is PERMERROR
    assert words in (result.reason or "")


@pytest.mark.parametrize("form", ["c=nowsp", "c=relaxed/nowsp", "h=to:subject", "h=", "z"])
async def test_signature_with_an_unreadable_tag_is_a_permanent_error(form: str) -> None:
    message = sign().replace(b"c=relaxed/relaxed" if form[0] == "c" else b"h=from:to:subject", form.encode())
    assert (await verify_one(message)).status is PERMERROR


@pytest.mark.parametrize(
    "changes",
    [
        {"i": "@example.com"},
        {"i": "joe@EXAMPLE.com"},
        {"i": "joe=40home@mail.example.com"},
        {"i": "j o e@ example.com"},
        {"q": "http : dns/txt"},
        {"t": str(NOW)},
        {"t": str(NOW), "x": str(NOW + 1)},
        {"x": str(NOW)},
        {"z": "From:a=20b|To:c"},
        {"unknown_2": "what ever"},
        {"h": "From : To : Subject"},
        {"h": "from:to:subject:from:x-none:x-none"},
    ],
)
async def test_signature_with_such_tags_passes(changes: dict[str, str | None]) -> None:
    result = await verify_one(sign(**changes))
    assert (result.status, result.reason) == (PASS, None)


async def test_domain_of_u_labels_is_looked_up_as_a_labels() -> None:
    message = sign(d="bücher.example", i="jürgen@bücher.example")
    result = await verify_one(message, {"s._domainkey.xn--bcher-kva.example": [{"TXT": key_record(rsa_key())}]})
    assert (result.status, result.domain, result.auid) == (PASS, "xn--bcher-kva.example", "jürgen@bücher.example")


async def test_signature_from_the_future_passes_with_a_word_on_it() -> None:
    assert (await verify_one(sign(t=str(NOW + MAX_CLOCK_SKEW_S)))).reason is None
    result = await verify_one(sign(t=str(NOW + MAX_CLOCK_SKEW_S + 1)))
    assert result.status is PASS
    assert "future" in (result.reason or "")


async def test_clock_tells_the_time_where_none_is_given() -> None:
    resolver = ZoneResolver({NAME: [{"TXT": key_record(rsa_key())}]})
    (result,) = await verify_dkim(sign(x="1000"), resolver=resolver)
    assert result.status is PERMERROR


async def test_signature_that_covers_part_of_the_body_is_policy() -> None:
    for length, status in ((len(BODY), PASS), (len(BODY) - 1, POLICY), (0, POLICY)):
        assert (await verify_one(sign(l=str(length)))).status is status
    assert (await verify_one(sign(l=str(len(BODY))) + b"Added.\r\n")).status is POLICY
    assert (await verify_one(sign(l=str(len(BODY))) + b"\r\n")).status is PASS


async def test_signature_over_more_than_the_body_is_a_permanent_error() -> None:
    result = await verify_one(sign(l=str(len(BODY) + 1)))
    assert result.status is PERMERROR
    assert "l=" in (result.reason or "")


async def test_changed_beginning_fails_whatever_its_length() -> None:
    assert (await verify_one(sign(l="8").replace(b"One line", b"Two line"))).status is FAIL


@pytest.mark.parametrize("name", ["From", "Subject", "To", "Date", "Cc", "Reply-To", "Sender", "Content-Type"])
async def test_signed_field_with_unsigned_company_is_policy(name: str) -> None:
    present = b"" if f"\r\n{name}:".encode() in b"\r\n" + MESSAGE else f"{name}: one\r\n".encode()
    message = sign(present + MESSAGE, h=f"from:to:subject:{name}" if present else "from:to:subject")
    assert (await verify_one(message)).status is PASS
    result = await verify_one(f"{name}: other\r\n".encode() + message)
    assert result.status is POLICY
    assert name in (result.reason or "")


@pytest.mark.parametrize("name", ["Received", "X-Any", "Comments"])
async def test_other_fields_may_come_to_a_signed_one(name: str) -> None:
    message = sign(f"{name}: one\r\n".encode() + MESSAGE, h=f"from:{name}")
    assert (await verify_one(f"{name}: two\r\n".encode() + message)).status is PASS


async def test_unsigned_field_is_nobodys_business() -> None:
    message = sign(h="from")
    assert (await verify_one(b"Subject: other\r\n" + message)).status is PASS


async def test_oversigned_field_cannot_be_added() -> None:
    message = sign(h="from:from:to:subject:reply-to")
    assert (await verify_one(message)).status is PASS
    assert (await verify_one(b"From: x@example.net\r\n" + message)).status is FAIL
    assert (await verify_one(b"Reply-To: x@example.net\r\n" + message)).status is FAIL


async def test_several_fields_of_a_name_are_signed_from_the_bottom() -> None:
    message = sign(b"X-A: 1\r\nX-A: 2\r\nX-A: 3\r\n" + MESSAGE, h="from:x-a:x-a")
    assert (await verify_one(message)).status is PASS
    assert (await verify_one(message.replace(b"X-A: 1", b"X-A: 0"))).status is PASS
    assert (await verify_one(message.replace(b"X-A: 2", b"X-A: 0"))).status is FAIL
    assert (await verify_one(message.replace(b"X-A: 3", b"X-A: 0"))).status is FAIL


async def test_signature_may_sign_those_below_and_not_itself() -> None:
    message = sign(sign(), h="from:dkim-signature:dkim-signature")
    assert [r.status for r in await verify(message)] == [PASS, PASS]
    assert [r.status for r in await verify(sign(message))] == [PASS, FAIL, PASS]  # it had signed that none came
    below = message.index(b"DKIM-Signature", 1)
    changed = message[:below] + message[below:].replace(b"v=1;", b"v=1 ;")
    assert (await verify(changed))[0].status is FAIL


@pytest.mark.parametrize("form", ["simple/simple", "relaxed/relaxed"])
async def test_fields_with_odd_octets_are_signed_as_they_are(form: str) -> None:
    odd = b"X-Empty:\r\nX-Fold: a\r\n \r\n\tb \r\nX-Octets: \xff\x00\xc3\xa9\r\nX-Space : x\r\n"
    message = sign(odd + MESSAGE, c=form, h="from:x-empty:x-fold:x-octets:x-space")
    assert (await verify_one(message)).status is PASS


async def test_folded_signature_passes() -> None:
    message = sign(c="relaxed/simple", h="from:to:subject")
    folded = message.replace(b"; ", b";\r\n\t")
    assert (await verify_one(folded)).status is PASS
    tag_b = message.partition(b"; b=")[2].partition(b"\r\n")[0]
    broken = message.replace(tag_b, b" " + tag_b[:20] + b"\r\n " + tag_b[20:50] + b" \r\n\t" + tag_b[50:])
    assert (await verify_one(broken)).status is PASS


@pytest.mark.parametrize(
    ("rows", "status"),
    [
        ([], PERMERROR),
        (["TIMEOUT"], TEMPERROR),
        (["SERVFAIL"], TEMPERROR),
        ([{"TXT": "v=DKIM1; p="}], PERMERROR),
        ([{"TXT": "nonsense"}], PERMERROR),
        ([{"TXT": "v=spf1 -all"}, {"TXT": key_record(rsa_key())}], PASS),
        ([{"TXT": key_record(rsa_key(), is_bare=True)}], PASS),
        ([{"TXT": key_record(ed25519_key())}], PERMERROR),
        ([{"TXT": key_record(ed25519_key())}, {"TXT": key_record(rsa_key())}], PASS),
        ([{"TXT": key_record(rsa_key(1032))}], FAIL),
        ([{"TXT": key_record(rsa_key(1032))}, {"TXT": key_record(rsa_key())}], PASS),
    ],
)
async def test_key_records_decide(rows: list[Row], status: AuthStatus) -> None:
    assert (await verify_one(sign(), {NAME: rows})).status is status


async def test_key_for_the_very_domain_refuses_a_subdomain() -> None:
    zone: Zone = {NAME: [{"TXT": key_record(rsa_key(), "v=DKIM1; t=s; ")}]}
    assert (await verify_one(sign(), zone)).status is PASS
    assert (await verify_one(sign(i="joe@EXAMPLE.com"), zone)).status is PASS
    result = await verify_one(sign(i="joe@mail.example.com"), zone)
    assert result.status is PERMERROR
    assert "t=s" in (result.reason or "")


async def test_testing_key_is_told_and_verifies_as_any() -> None:
    zone: Zone = {NAME: [{"TXT": key_record(rsa_key(), "v=DKIM1; t=y; ")}]}
    result = await verify_one(sign(), zone)
    assert (result.status, result.is_testing) == (PASS, True)


async def test_so_many_signatures_are_looked_at_and_the_rest_is_one_result() -> None:
    message = MESSAGE
    for _ in range(MAX_SIGNATURES):
        message = sign(message)
    assert [r.status for r in await verify(message)] == [PASS] * MAX_SIGNATURES
    resolver = ZoneResolver({NAME: [{"TXT": key_record(rsa_key())}]})
    results = await verify_dkim(sign(sign(message)), resolver=resolver, now=NOW)
    assert [r.status for r in results] == [*[PASS] * MAX_SIGNATURES, POLICY]
    assert "2 more" in (results[-1].reason or "")
    assert len(resolver.queries) == 1


async def test_tag_b_is_as_long_as_it_must_be_to_tell_signatures_apart() -> None:
    message = sign()
    start = message.index(b"; b=") + 4
    twin = message[: start + 10] + b"AAAA" + message[start + 14 : message.index(b"\r\n") + 2]
    first, second = await verify(twin + message)
    assert first.tag_b != second.tag_b
    assert len(first.tag_b) == len(second.tag_b) == 16
    first, second = await verify(message[: message.index(b"\r\n") + 2] + message)
    assert first.tag_b == second.tag_b
    assert len(first.tag_b) == 8


class SlowResolver:
    """Answers each question only when all that are expected have been asked."""

    def __init__(self, zone: ZoneResolver, *, expected: int) -> None:
        self._zone = zone
        self._barrier = asyncio.Barrier(expected)

    async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
        await self._barrier.wait()
        return await self._zone.resolve(name, rdtype)


async def test_keys_are_asked_for_together() -> None:
    names = ("a", "b", "c")
    message = MESSAGE
    for name in names:
        message = sign(message, s=name)
    zone = ZoneResolver({f"{name}._domainkey.example.com": [{"TXT": key_record(rsa_key())}] for name in names})
    async with asyncio.timeout(5):
        results = await verify_dkim(message, resolver=SlowResolver(zone, expected=3), now=NOW)
    assert [r.status for r in results] == [PASS] * 3


async def test_fault_of_a_resolver_is_no_result() -> None:
    class BrokenResolver:
        async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
            raise LookupError(name, rdtype)

    with pytest.raises(LookupError):
        await verify_dkim(sign(), resolver=BrokenResolver())


@pytest.mark.parametrize(
    "rows", [[], ["TIMEOUT"], [{"TXT": "v=DKIM1; p="}], [{"TXT": "k=rsa; p=AAAA"}, {"TXT": ""}]], ids=repr
)
async def test_failure_leaves_no_circle_of_garbage(rows: list[Row]) -> None:
    message = b"DKIM-Signature: v=1; a=rsa-md5; b=%\r\n" + sign()
    resolver = ZoneResolver({NAME: rows})
    gc.collect()
    gc.disable()
    try:
        await verify_dkim(message, resolver=resolver, now=NOW)
        assert gc.collect() == 0
    finally:
        gc.enable()


async def test_split_message_is_verified_again_without_hashing_its_body_again() -> None:
    view = SignedMessage(sign(sign(l="3"), c="simple/simple"))
    resolver = ZoneResolver({NAME: [{"TXT": key_record(rsa_key())}]})
    first = await verify_dkim_signatures(view, resolver=resolver, now=NOW)
    view.content = b""  # nothing is left to be hashed
    assert await verify_dkim_signatures(view, resolver=resolver, now=NOW) == first
    assert [r.status for r in first] == [PASS, POLICY]


async def test_large_body_leaves_turns_to_others() -> None:
    message = sign(FROM + TO + SUBJECT + b"\r\n" + b"A line of text.\r\n" * 100_000)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counter = asyncio.get_running_loop().create_task(count_turns())
    result = await verify_one(message)
    counter.cancel()
    assert result.status is PASS
    assert turns >= len(message) // SLICE_OCTETS
