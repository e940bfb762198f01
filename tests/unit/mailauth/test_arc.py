"""Chains that hold and chains that do not: structure, seals, message signatures, keys, and what the DNS does."""

import re

import pytest

from mailflow.mailauth import verify_arc
from mailflow.mailauth.arc import verify_arc_chain
from mailflow.mailauth.result import ArcResult, ArcSet, AuthStatus
from mailflow.mailauth.signed_message import SignedMessage
from mailflow.testing import ZoneResolver
from tests.arc_chains import HOPS, MESSAGE, NOW, SELECTOR, Tags, forge, pass_on, resolver, short_body_hash, verify, zone
from tests.dkim_keys import ed25519_key, key_record, rsa_key

ONE = forge(MESSAGE)


def field_of(message: bytes, name: str, instance: int = 1) -> bytes:
    """Give a field of a set that is folded in no way."""
    pattern = rb"(?m)^%s:(?=.* i=%d;|.* i=%d\r)[^\r]*\r\n" % (name.encode(), instance, instance)
    match = re.search(pattern, message)
    assert match is not None
    return match[0]


async def reason(message: bytes, *domains: str) -> str:
    result = await verify(message, *domains)
    assert (result.status, result.sets, result.oldest_pass) == (AuthStatus.FAIL, (), 0)
    assert result.reason is not None
    return result.reason


async def test_message_without_arc_fields_has_no_chain_and_asks_for_no_key() -> None:
    published = resolver("list.example")
    assert await verify_arc(MESSAGE, resolver=published) == ArcResult(AuthStatus.NONE)
    assert await verify_arc(b"", resolver=published) == ArcResult(AuthStatus.NONE)
    assert published.queries == []


async def test_set_that_was_sealed_well_passes() -> None:
    payload = " mx.list.example; dmarc=pass"
    assert await verify(ONE) == ArcResult(AuthStatus.PASS, 0, (ArcSet(1, "list.example", SELECTOR, payload),))


async def test_message_of_a_file_with_bare_lf_is_verified_as_on_the_wire() -> None:
    assert (await verify(ONE.replace(b"\r\n", b"\n"))).status is AuthStatus.PASS


async def test_message_that_was_split_before_is_verified_the_same() -> None:
    result = await verify_arc_chain(SignedMessage(ONE), resolver=resolver("list.example"), now=NOW)
    assert result == await verify(ONE)


async def test_sets_of_a_longer_chain_come_in_the_order_of_their_instance() -> None:
    result = await verify(await pass_on(MESSAGE, *HOPS), *HOPS)
    assert result.status is AuthStatus.PASS
    assert [(each.instance, each.domain) for each in result.sets] == list(enumerate(HOPS, 1))


async def test_domain_of_a_set_is_the_sealers_in_lower_case_a_labels() -> None:
    message = forge(MESSAGE, seal={"d": "LIST.b\u00fccher.example"}, signature={"d": "other.example"})
    published = zone("list.xn--bcher-kva.example", "other.example")
    result = await verify_arc(message, resolver=ZoneResolver(published), now=NOW)
    assert [each.domain for each in result.sets] == ["list.xn--bcher-kva.example"]


async def test_payload_is_unfolded_and_raw() -> None:
    results = '(a;b) i (c) = 01 ; mx;\r\n\tspf=pass (\u00fc)\r\n smtp.mailfrom="i=2; x"; none'
    result = await verify(forge(MESSAGE, results=results))
    assert result.sets[0].authentication_results == ' mx;\tspf=pass (\u00fc) smtp.mailfrom="i=2; x"; none'


@pytest.mark.parametrize("changed", [0, 1, 2, 3, 4])
async def test_oldest_pass_is_the_first_set_after_the_last_change(changed: int) -> None:
    message = await pass_on(MESSAGE, *HOPS[:changed])
    message = await pass_on(message, *HOPS[changed:], change=(b"Bye", b"Bye\r\n-- \r\nfooter"))
    result = await verify(message, *HOPS)
    assert (result.status, result.oldest_pass) == (AuthStatus.PASS, changed + 1 if changed else 0)


async def test_oldest_pass_stops_at_a_change_of_the_header_too() -> None:
    message = await pass_on(MESSAGE, *HOPS[:2])
    message = await pass_on(message, *HOPS[2:], change=(b"Subject: ", b"Subject: [list] "))
    assert (await verify(message, *HOPS)).oldest_pass == 3


async def test_oldest_pass_does_not_go_back_behind_a_change_that_was_undone() -> None:
    message = await pass_on(MESSAGE, *HOPS[:2])
    message = await pass_on(message, *HOPS[2:3], change=(b"Bye", b"Ciao"))
    message = await pass_on(message, *HOPS[3:], change=(b"Ciao", b"Bye"))
    assert (await verify(message, *HOPS)).oldest_pass == 4


@pytest.mark.parametrize("tags", [{"a": "rsa-sha1"}, {"a": None}, {"bh": "AA=="}, {"h": "from:arc-seal"}, {"c": "x"}])
async def test_older_message_signature_that_cannot_verify_breaks_no_chain(tags: Tags) -> None:
    message = forge(forge(MESSAGE, signature=tags), 2)
    result = await verify(message)
    assert (result.status, result.oldest_pass, len(result.sets)) == (AuthStatus.PASS, 2, 2)
    assert (await verify(forge(MESSAGE, signature=tags))).status is AuthStatus.FAIL


async def test_fifty_sets_are_a_chain_and_fifty_one_are_none() -> None:
    message = MESSAGE
    for instance in range(1, 51):
        message = forge(message, instance)
    assert (await verify(message)).status is AuthStatus.PASS
    assert await reason(forge(message, 51)) == "there are more than 50 sets"


@pytest.mark.parametrize(
    "broken",
    [
        ONE.replace(b"ARC-Seal:", b"X-Seal:"),
        ONE.replace(b"ARC-Message-Signature:", b"X-Message-Signature:"),
        ONE.replace(b"ARC-Authentication-Results:", b"X-Authentication-Results:"),
        field_of(ONE, "ARC-Seal") + ONE,
        field_of(ONE, "ARC-Message-Signature") + ONE,
        ONE.replace(MESSAGE, b"ARC-Authentication-Results: i=1; none\r\n" + MESSAGE),
        b"ARC-Authentication-Results: i=2; none\r\n" + ONE,
        b"ARC-Authentication-Results: none\r\n" + ONE,
        b"ARC-Seal:\r\n" + ONE,
        forge(MESSAGE, 2),
        forge(ONE, 3),
        forge(forge(MESSAGE, 2, seal={"cv": "none"}), 1),
        b"ARC-Seal: i=1\r\n",
    ],
)
async def test_chain_with_a_field_too_many_or_too_few_fails_without_a_question(broken: bytes) -> None:
    published = resolver("list.example")
    result = await verify_arc(broken, resolver=published, now=NOW)
    assert (result.status, published.queries) == (AuthStatus.FAIL, [])


@pytest.mark.parametrize(
    "results", ["i=0; mx", "i=51; mx", "i=; mx", "mx; i=1", "i=1 mx", "I=1; mx", "i=1.; mx", "i=001; mx"]
)
async def test_results_without_a_leading_instance_of_1_to_50_break_the_chain(results: str) -> None:
    assert await reason(forge(MESSAGE, results=results)) == "an ARC field has no instance (i=) of 1 to 50"


@pytest.mark.parametrize("instance", [None, "", "0", "51", "1x", "-1", "1 1", "\u0661", "001"])
@pytest.mark.parametrize("part", ["seal", "signature"])
async def test_seal_or_signature_without_an_instance_of_1_to_50_breaks_the_chain(
    part: str, instance: str | None
) -> None:
    message = forge(MESSAGE, **{part: {"i": instance}})  # type: ignore[arg-type]
    assert await reason(message) == "an ARC field has no instance (i=) of 1 to 50"


@pytest.mark.parametrize(
    ("instance", "status", "passes"),
    [
        (1, "none", True),
        (1, "pass", False),
        (1, "fail", False),
        (2, "pass", True),
        (2, "none", False),
        (2, "fail", False),
        (2, "Pass", False),
        (2, "", False),
        (2, "temperror", False),
        (2, None, False),
    ],
)
async def test_first_seal_says_none_and_later_ones_say_pass(instance: int, status: str | None, passes: bool) -> None:
    message = forge(MESSAGE if instance == 1 else ONE, instance, seal={"cv": status})
    assert ((await verify(message)).status is AuthStatus.PASS) is passes


@pytest.mark.parametrize(
    "tags",
    [
        {"h": "from"},
        {"h": ""},
        {"a": None},
        {"a": "rsa-sha1"},
        {"a": "rsa-sha512"},
        {"a": "ed25519-sha256"},
        {"b": "====", "x": "1"},
        {"b": None},
        {"b": "AAAA"},
        {"d": None},
        {"d": ""},
        {"d": "example"},
        {"d": "list.example."},
        {"s": None},
        {"s": ""},
        {"s": "unknown"},
        {"t": ""},
        {"t": "soon"},
        {"t": "-1"},
        {"T": "1", "1": "2"},
    ],
)
async def test_seal_with_a_wrong_tag_breaks_the_chain_at_any_place_in_it(tags: Tags) -> None:
    assert (await verify(forge(MESSAGE, seal=tags))).status is AuthStatus.FAIL
    assert (await verify(forge(forge(MESSAGE, seal=tags), 2))).status is AuthStatus.FAIL
    assert (await verify(forge(ONE, 2, seal=tags))).status is AuthStatus.FAIL


@pytest.mark.parametrize(
    "tags",
    [
        {"t": None},
        {"x": "y"},
        {"v": "9"},
        {"bh": "AAAA"},
        {"c": "simple/simple"},
        {"q": "other"},
    ],
)
async def test_seal_may_lack_its_time_and_may_have_tags_that_mean_nothing(tags: Tags) -> None:
    assert (await verify(forge(MESSAGE, seal=tags))).status is AuthStatus.PASS


@pytest.mark.parametrize(
    "tags",
    [
        {"a": None},
        {"a": "rsa-sha1"},
        {"a": "ed25519-sha256"},
        {"b": None},
        {"b": "AAAA"},
        {"b": "!"},
        {"bh": None},
        {"bh": "AAAA"},
        {"bh": "!"},
        {"c": "relaxed/"},
        {"c": ""},
        {"c": "nowsp"},
        {"d": None},
        {"d": "list..example"},
        {"h": None},
        {"h": "from:ARC-Seal"},
        {"h": "from:to:subject:arc-seal"},
        {"h": ":".join(["from"] * 513)},
        {"l": "x"},
        {"q": "http"},
        {"s": None},
        {"s": "unknown"},
        {"t": ""},
        {"t": "x"},
        {"x": str(NOW - 1), "t": None},
        {"x": str(NOW), "t": str(NOW)},
    ],
)
async def test_latest_message_signature_with_a_wrong_tag_breaks_the_chain(tags: Tags) -> None:
    assert (await reason(forge(MESSAGE, signature=tags))).startswith("the message signature of set 1: ")


@pytest.mark.parametrize(
    "tags",
    [
        {"c": None},
        {"c": "relaxed"},
        {"c": "simple"},
        {"c": "simple/relaxed"},
        {"c": "simple/simple"},
        {"h": ""},
        {"h": "From : TO:subject"},
        {"h": "from::subject"},
        {"h": "from:from:reply-to"},
        {"h": "from:arc-authentication-results:arc-message-signature"},
        {"h": ":".join(["from"] * 512)},
        {"v": "9"},
        {"q": "dns/txt"},
        {"t": None},
        {"t": str(NOW + 10_000_000)},
        {"x": str(NOW), "t": None},
        {"x": str(NOW + 1)},
        {"z": "From:a"},
    ],
)
async def test_latest_message_signature_that_is_unusual_but_right_passes(tags: Tags) -> None:
    assert await verify(forge(MESSAGE, signature=tags)) == await verify(ONE)


async def test_signature_without_c_may_have_been_made_simple_or_relaxed() -> None:
    message = MESSAGE.replace(b"Subject: ", b"Subject:  ")
    for forms in "simple/simple", "relaxed/relaxed":
        assert (await verify(forge(message, signature={"c": None}, forms=forms))).status is AuthStatus.PASS
    assert (await verify(forge(message, signature={"c": None}, forms="relaxed/simple"))).status is AuthStatus.FAIL


async def test_l_that_covers_the_whole_body_is_as_none_and_less_or_more_is_not_the_message() -> None:
    body = len(MESSAGE.partition(b"\r\n\r\n")[2]) - 1  # two spaces become one
    whole = {"l": str(body)}
    assert (await verify(forge(MESSAGE, signature=whole))).status is AuthStatus.PASS
    assert "l=" in await reason(forge(MESSAGE, signature={"l": "5", "bh": short_body_hash(MESSAGE, 5)}))
    assert "body" in await reason(forge(MESSAGE, signature={"l": str(body + 1)}))
    longer = forge(MESSAGE, signature=whole) + b"more\r\n"
    assert "l=" in await reason(longer)


async def test_subject_put_beside_the_signed_one_is_not_the_message_that_was_sealed() -> None:
    assert "Subject" in await reason(b"Subject: Other\r\n" + ONE)
    assert (await verify(b"Comments: Other\r\n" + ONE)).status is AuthStatus.PASS


@pytest.mark.parametrize("place", [b"From: a", b"Hello\r\n", b"Hello  ", b"dmarc=pass", b"; cv=none", b"; c=relaxed"])
async def test_no_octet_that_is_signed_can_be_changed(place: bytes) -> None:
    position = ONE.index(place)
    assert (await verify(ONE[:position] + b"x" + ONE[position:])).status is AuthStatus.FAIL


async def test_every_seal_covers_all_sets_before_it() -> None:
    message = forge(forge(ONE, 2), 3)
    assert (await verify(message)).status is AuthStatus.PASS
    for instance in 1, 2:
        changed = message.replace(b"i=%d; mx.list.example; dmarc=pass" % instance, b"i=%d; x; dmarc=pass" % instance)
        assert "the seal of set 3" in await reason(changed)


async def test_white_space_that_relaxed_takes_away_may_be_changed() -> None:
    folded = ONE.replace(b"; cv=none", b";\r\n\tcv=none").replace(b"Results: i=1", b"results:  i=1")
    assert await verify(folded) == await verify(ONE)


async def test_ed25519_seals_as_well_as_rsa() -> None:
    message = forge(MESSAGE, key=ed25519_key(), algorithm="ed25519-sha256")
    result = await verify_arc(message, resolver=ZoneResolver(zone("list.example", key=ed25519_key())), now=NOW)
    assert result.status is AuthStatus.PASS


@pytest.mark.parametrize("bits", [1024, 2048])
async def test_rsa_keys_of_1024_bits_and_more_seal(bits: int) -> None:
    message = forge(MESSAGE, key=rsa_key(bits))
    result = await verify_arc(message, resolver=ZoneResolver(zone("list.example", key=rsa_key(bits))), now=NOW)
    assert result.status is AuthStatus.PASS


@pytest.mark.parametrize(
    ("record", "word"),
    [
        ("v=DKIM1; p=", "revoked"),
        ("v=DKIM1; h=sha1; k=rsa; p=", "sha256"),
        ("v=DKIM2; p=AAAA", "no DKIM key record"),
        ("not a key", "no list of tags"),
        (key_record(ed25519_key()), "of another type"),
    ],
)
async def test_key_that_may_not_seal_breaks_the_chain(record: str, word: str) -> None:
    published = ZoneResolver({f"{SELECTOR}._domainkey.list.example": [{"TXT": record}]})
    result = await verify_arc(ONE, resolver=published, now=NOW)
    assert result.status is AuthStatus.FAIL
    assert word in (result.reason or "")


async def test_keys_of_all_sets_are_asked_for_once_each() -> None:
    published = resolver(*HOPS)
    await verify_arc(await pass_on(MESSAGE, *HOPS), resolver=published, now=NOW)
    assert sorted(name for name, _ in published.queries) == sorted(f"{SELECTOR}._domainkey.{name}" for name in HOPS)


async def test_body_that_was_changed_asks_for_no_key() -> None:
    published = resolver("list.example")
    assert (await verify_arc(ONE + b"more\r\n", resolver=published, now=NOW)).status is AuthStatus.FAIL
    assert published.queries == []


async def test_key_of_a_message_signature_behind_the_last_change_is_not_asked_for() -> None:
    old = forge(MESSAGE, signature={"d": "old.example"})
    published = resolver("list.example")
    result = await verify_arc(forge(old + b"more\r\n", 2), resolver=published, now=NOW)
    assert (result.status, result.oldest_pass) == (AuthStatus.PASS, 2)
    assert len(published.queries) == 1


@pytest.mark.parametrize("failure", ["TIMEOUT", "SERVFAIL"])
@pytest.mark.parametrize(
    ("seal", "signature"), [({}, {"d": "down.example"}), ({"d": "down.example"}, {}), ({"d": "down.example"},) * 2]
)
@pytest.mark.parametrize("is_latest", [False, True])
async def test_key_without_an_answer_is_a_temporary_error(
    seal: Tags, signature: Tags, failure: str, is_latest: bool
) -> None:
    message = forge(MESSAGE, seal=seal, signature=signature)
    message = message if is_latest else forge(message, 2)
    published = ZoneResolver(zone("list.example") | {f"{SELECTOR}._domainkey.down.example": [failure]})
    result = await verify_arc(message, resolver=published, now=NOW)
    assert (result.status, len(result.sets)) == (AuthStatus.TEMPERROR, 1 if is_latest else 2)
    assert "no answer" in (result.reason or "")


async def test_failure_for_good_counts_more_than_a_key_without_an_answer() -> None:
    message = forge(forge(MESSAGE, seal={"b": "AAAA"}), 2, signature={"d": "down.example"}, seal={"d": "down.example"})
    published = ZoneResolver(zone("list.example") | {f"{SELECTOR}._domainkey.down.example": ["TIMEOUT"]})
    result = await verify_arc(message, resolver=published, now=NOW)
    assert result.status is AuthStatus.FAIL
    assert "the seal of set 1" in (result.reason or "")


async def test_key_without_an_answer_behind_the_last_change_does_not_matter() -> None:
    old = forge(MESSAGE, signature={"d": "down.example"})
    published = ZoneResolver(zone("list.example") | {f"{SELECTOR}._domainkey.down.example": ["TIMEOUT"]})
    result = await verify_arc(forge(old + b"more\r\n", 2), resolver=published, now=NOW)
    assert (result.status, result.oldest_pass) == (AuthStatus.PASS, 2)
