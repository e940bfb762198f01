"""Sealing: what is sealed verifies, what must not be sealed is not, and no text makes a field of its own."""

from contextlib import nullcontext
from typing import Any

import pytest

from mailflow.mail.headers import split_message
from mailflow.mailauth import seal_arc, verify_arc
from mailflow.mailauth.dkim_tags import MAX_SIGNED_FIELDS, parse_tag_list
from mailflow.mailauth.result import ArcResult, ArcSet, AuthStatus
from mailflow.testing import ZoneResolver
from tests.arc_chains import HOPS, MESSAGE, NOW, SELECTOR, forge, pass_on, resolver, verify, zone
from tests.dkim_keys import PrivateKey, ed25519_key, pem, rsa_key

NONE = ArcResult(AuthStatus.NONE)
FAIL = ArcResult(AuthStatus.FAIL)
DOMAIN = "list.example"


async def seal(message: bytes = MESSAGE, arc: ArcResult = NONE, **changes: Any) -> bytes:
    arguments: dict[str, Any] = {
        "domain": DOMAIN,
        "selector": SELECTOR,
        "key": rsa_key(),
        "authserv_id": "mx.list.example",
        "authentication_results": "dmarc=pass",
        "now": NOW,
    }
    return await seal_arc(message, arc=arc, **(arguments | changes))


def tags_of(sealed: bytes, index: int) -> dict[str, str]:
    fields, _ = split_message(sealed)
    return parse_tag_list(fields[index].value)


@pytest.mark.parametrize("key", [rsa_key(), rsa_key(2048), ed25519_key()], ids=["1024", "2048", "ed25519"])
@pytest.mark.parametrize("max_line_octets", [40, 78, 120, 998])
async def test_set_that_was_sealed_passes(key: PrivateKey, max_line_octets: int) -> None:
    sealed = await seal(key=key, max_line_octets=max_line_octets)
    published = ZoneResolver(zone(DOMAIN, key=key))
    result = await verify_arc(sealed + MESSAGE, resolver=published, now=NOW)
    payload = " mx.list.example; dmarc=pass"
    assert result == ArcResult(AuthStatus.PASS, 0, (ArcSet(1, DOMAIN, SELECTOR, payload),))
    assert max(map(len, sealed.split(b"\r\n"))) <= max(max_line_octets, 62)  # what has no place to be folded


@pytest.mark.parametrize("count", range(1, 40))
async def test_message_signature_holds_wherever_its_list_of_fields_is_folded(count: int) -> None:
    sealed = await seal(signed_fields=["From", *["X-" + "y" * (number % 7) for number in range(count)]])
    assert (await verify(sealed + MESSAGE)).status is AuthStatus.PASS


async def test_key_may_be_pem() -> None:
    assert await seal(key=pem(rsa_key())) == await seal()


async def test_fields_stand_in_the_order_seal_signature_results() -> None:
    fields, _ = split_message(await seal())
    names = [b"arc-seal", b"arc-message-signature", b"arc-authentication-results"]
    assert [field.name for field in fields] == names


async def test_instance_and_status_follow_from_the_chain_before() -> None:
    message = await pass_on(MESSAGE, *HOPS[:2])
    sealed = await seal(message, await verify(message, *HOPS))
    assert (tags_of(sealed, 0)["i"], tags_of(sealed, 0)["cv"]) == ("3", "pass")
    assert (await verify(sealed + message, DOMAIN, *HOPS)).status is AuthStatus.PASS


@pytest.mark.parametrize(
    ("broken", "instance"),
    [
        (b"ARC-Seal: nothing\r\n" + MESSAGE, "1"),
        (b"ARC-Authentication-Results: i=7; none\r\n" + MESSAGE, "8"),
        (b"ARC-Authentication-Results: i=49; none\r\n" + MESSAGE, "50"),
        (forge(MESSAGE) + b"more\r\n", "2"),
    ],
)
async def test_failed_chain_is_sealed_as_failed_and_fails_ever_after(broken: bytes, instance: str) -> None:
    sealed = await seal(broken, await verify(broken))
    assert (tags_of(sealed, 0)["i"], tags_of(sealed, 0)["cv"]) == (instance, "fail")
    assert (await verify(sealed + broken)).status is AuthStatus.FAIL
    assert await seal(sealed + broken, await verify(sealed + broken)) == b""


async def test_seal_of_a_failed_chain_does_not_cover_the_sets_before_it() -> None:
    broken = forge(MESSAGE)
    other = broken.replace(b"dmarc=pass", b"dmarc=fail")
    assert await seal(broken, FAIL) == await seal(other, FAIL)


async def test_chain_of_fifty_sets_takes_no_more() -> None:
    for instance, is_sealed in (49, True), (50, False):
        broken = b"ARC-Authentication-Results: i=%d; none\r\n" % instance + MESSAGE
        assert bool(await seal(broken, FAIL)) is is_sealed
    full = MESSAGE
    for instance in range(1, 51):
        full = forge(full, instance)
    assert await seal(full, await verify(full)) == b""


async def test_chain_whose_state_is_not_known_is_left_alone() -> None:
    assert await seal(forge(MESSAGE), ArcResult(AuthStatus.TEMPERROR)) == b""


@pytest.mark.parametrize(
    ("message", "arc"),
    [
        (forge(MESSAGE), NONE),
        (b"ARC-Seal: nothing\r\n" + MESSAGE, NONE),
        (MESSAGE, ArcResult(AuthStatus.PASS, 0, (ArcSet(1, DOMAIN, SELECTOR, ""),))),
        (forge(forge(MESSAGE), 2), ArcResult(AuthStatus.PASS, 0, (ArcSet(1, DOMAIN, SELECTOR, ""),))),
    ],
)
async def test_result_of_another_message_is_refused(message: bytes, arc: ArcResult) -> None:
    with pytest.raises(ValueError, match="another message"):
        await seal(message, arc)


@pytest.mark.parametrize(
    "changes",
    [
        {"authentication_results": ""},
        {"authentication_results": " \r\n "},
        {"authentication_results": "dmarc=pass\r\nX-Injected: yes"},
        {"authentication_results": "dmarc=pass\r\n\r\nbody"},
        {"authentication_results": "dmarc=pass\nX-Injected: yes"},
        {"authentication_results": "dmarc=pass\n x"},
        {"authentication_results": "dmarc=pass\rx"},
        {"authentication_results": "dmarc=pass\0"},
        {"authentication_results": "dmarc=pass\x7f"},
        {"authentication_results": "\ud800"},
        {"authserv_id": ""},
        {"authserv_id": "mx.list.example; dmarc=pass"},
        {"authserv_id": "mx (x)"},
        {"authserv_id": "mx\r\nX: y"},
        {"domain": "example"},
        {"domain": "list..example"},
        {"domain": "list.example; cv=pass"},
        {"domain": "list.example\r\n"},
        {"selector": ""},
        {"selector": "s; d=other.example"},
        {"signed_fields": ["To"]},
        {"signed_fields": ["From", "ARC-Seal"]},
        {"signed_fields": ["From", "arc-message-signature"]},
        {"signed_fields": ["From", "ARC-Authentication-Results"]},
        {"signed_fields": ["From", "Authentication-Results"]},
        {"signed_fields": ["From", "X Y"]},
        {"signed_fields": ["From", "X;Y"]},
        {"signed_fields": ["From", ""]},
        {"key": b"no key"},
    ],
)
async def test_key_name_or_text_that_cannot_be_used_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # each with its own words
        await seal(**changes)


async def test_message_with_more_fields_than_may_be_signed_is_refused() -> None:
    most = MAX_SIGNED_FIELDS - 11  # From, To and Subject are named twice, five others once though absent
    for count, is_refused in (most, False), (most + 1, True):
        message = b"DKIM-Signature: x\r\n" * count + MESSAGE
        with pytest.raises(ValueError, match="too long") if is_refused else nullcontext():
            assert (await verify(await seal(message) + message)).status is AuthStatus.PASS


async def test_folded_results_are_sealed_as_they_are() -> None:
    results = "spf=pass (\u00fc)\r\n smtp.mailfrom=a@b.example;\r\n\tdmarc=pass"
    sealed = await seal(authentication_results=results)
    assert results.encode() in sealed
    assert (await verify(sealed + MESSAGE)).status is AuthStatus.PASS


async def test_signatures_of_dkim_are_signed_and_what_a_reader_sees_cannot_be_added() -> None:
    message = b"DKIM-Signature: v=1\r\n" + MESSAGE
    sealed = await seal(message)
    assert (await verify(sealed + message)).status is AuthStatus.PASS
    for added in b"From", b"Subject", b"Reply-To", b"Content-Type":
        assert (await verify(added + b": x\r\n" + sealed + message)).status is AuthStatus.FAIL
    assert (await verify(sealed + message.replace(b"v=1", b"v=2"))).status is AuthStatus.FAIL
    assert (await verify(b"Received: x\r\n" + sealed + message)).status is AuthStatus.PASS


async def test_nothing_asks_the_dns_to_seal() -> None:
    published = resolver(DOMAIN)
    await seal()
    assert published.queries == []
