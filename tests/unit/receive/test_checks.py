"""Reverse names, null MX and loops: what is refused, and what is only known."""

import pytest

from mailflow.dns import RdType
from mailflow.mail.address import Address, parse_mailbox
from mailflow.mail.reply import ProtocolError
from mailflow.mailauth.result import AuthStatus
from mailflow.mailauth.signed_message import SignedMessage
from mailflow.receive.checks import (
    LOOP,
    MAX_DELIVERED_TO_FIELDS,
    MAX_RECEIVED_FIELDS,
    MAX_REVERSE_NAMES,
    ReverseName,
    refuse_loop,
    refuse_null_mx,
    take_message,
    verify_client_name,
)
from mailflow.testing import Zone, ZoneResolver

GOOD = ReverseName(AuthStatus.PASS, "mx.a.example")
FAIL = ReverseName(AuthStatus.FAIL)
NO_NAME = ReverseName(AuthStatus.PERMERROR)
UNANSWERED = ReverseName(AuthStatus.TEMPERROR)

JOE = parse_mailbox("joe@example.org")


@pytest.mark.parametrize(
    ("zone", "ip", "expected"),
    [
        (
            {"192.0.2.1": [{"PTR": "mx.a.example"}], "mx.a.example": [{"A": "192.0.2.1"}]},
            "192.0.2.1",
            GOOD,
        ),
        (
            {"2001:db8::1": [{"PTR": "mx.a.example"}], "mx.a.example": [{"AAAA": "2001:db8::1"}]},
            "2001:db8::1",
            GOOD,
        ),
        (
            {"192.0.2.1": [{"PTR": "no.a.example"}, {"PTR": "mx.a.example"}], "mx.a.example": [{"A": "192.0.2.1"}]},
            "192.0.2.1",
            GOOD,
        ),
        ({"192.0.2.1": [{"PTR": "mx.a.example"}], "mx.a.example": [{"A": "192.0.2.2"}]}, "192.0.2.1", FAIL),
        ({"192.0.2.1": [{"PTR": "mx.a.example"}]}, "192.0.2.1", FAIL),
        ({"mx.a.example": [{"A": "192.0.2.1"}]}, "192.0.2.1", NO_NAME),
        ({}, "192.0.2.1", NO_NAME),
        ({"192.0.2.1": ["TIMEOUT"]}, "192.0.2.1", UNANSWERED),
        ({"192.0.2.1": [{"PTR": "mx.a.example"}], "mx.a.example": ["SERVFAIL"]}, "192.0.2.1", UNANSWERED),
        ({}, "fe80::1%lo", NO_NAME),
        ({}, "", NO_NAME),
    ],
)
async def test_reverse_name_counts_only_if_it_leads_back(zone: Zone, ip: str, expected: ReverseName) -> None:
    assert await verify_client_name(ZoneResolver(zone), ip) == expected


async def test_name_whose_addresses_cannot_be_had_does_not_hide_the_next() -> None:
    zone: Zone = {
        "192.0.2.1": [{"PTR": "broken.a.example"}, {"PTR": "mx.a.example"}],
        "broken.a.example": ["TIMEOUT"],
        "mx.a.example": [{"A": "192.0.2.1"}],
    }
    assert await verify_client_name(ZoneResolver(zone), "192.0.2.1") == GOOD


async def test_only_ten_reverse_names_are_looked_at_and_only_in_the_clients_family() -> None:
    zone = {"192.0.2.1": [{"PTR": f"n{n}.a.example"} for n in range(20)], "n19.a.example": [{"A": "192.0.2.1"}]}
    resolver = ZoneResolver(zone)
    assert await verify_client_name(resolver, "192.0.2.1") == FAIL
    assert [rdtype for _, rdtype in resolver.queries] == [RdType.PTR] + [RdType.A] * MAX_REVERSE_NAMES


async def test_sender_domain_with_a_null_mx_is_refused() -> None:
    resolver = ZoneResolver({"nomail.example": [{"MX": [0, ""]}]})
    with pytest.raises(ProtocolError) as error:
        await refuse_null_mx(resolver, parse_mailbox("a@NoMail.example"))
    assert str(error.value.reply).startswith("550 5.7.27 ")
    assert not error.value.closes


async def test_null_mx_of_an_idn_is_asked_for_in_a_labels() -> None:
    resolver = ZoneResolver({"xn--bcher-kva.example": [{"MX": [0, ""]}]})
    with pytest.raises(ProtocolError):
        await refuse_null_mx(resolver, parse_mailbox("a@bücher.example"))


@pytest.mark.parametrize(
    "zone",
    [
        {},
        {"a.example": [{"A": "192.0.2.1"}]},
        {"a.example": [{"MX": [10, "mx.a.example"]}]},
        {"a.example": [{"MX": [0, ""]}, {"MX": [10, "mx.a.example"]}]},
        {"a.example": ["TIMEOUT"]},
        {"a.example": ["SERVFAIL"]},
    ],
)
async def test_any_other_sender_domain_is_refused_by_nobody(zone: Zone) -> None:
    await refuse_null_mx(ZoneResolver(zone), parse_mailbox("a@a.example"))


@pytest.mark.parametrize("sender", [None, parse_mailbox("a@[192.0.2.1]"), parse_mailbox("a@[IPv6:2001:db8::1]")])
async def test_sender_without_a_domain_is_not_asked_about(sender: Address | None) -> None:
    resolver = ZoneResolver({})
    await refuse_null_mx(resolver, sender)
    assert resolver.queries == []


def test_header_of_the_limit_is_taken_and_a_longer_one_refused() -> None:
    content = b"Subject: x\r\n\r\nbody\r\n"
    assert take_message(content, max_header_bytes=12).body_start == 14
    with pytest.raises(ProtocolError) as error:
        take_message(content, max_header_bytes=11)
    assert str(error.value.reply).startswith("554 5.6.0 ")


def test_fifty_received_fields_pass_and_one_more_is_a_loop() -> None:
    field = b"RECEIVED: from a\r\n\tby b; date\r\n"
    refuse_loop(SignedMessage(field * MAX_RECEIVED_FIELDS), [JOE])
    with pytest.raises(ProtocolError) as error:
        refuse_loop(SignedMessage(field * (MAX_RECEIVED_FIELDS + 1)), [JOE])
    assert error.value.reply is LOOP
    assert str(LOOP).startswith("554 5.4.6 ")


@pytest.mark.parametrize(
    "value",
    [
        " joe@example.org",
        "joe@example.org",
        " <joe@example.org>",
        "\r\n joe@example.org ",
        " JOE@Example.ORG",
        ' "joe"@example.org',
    ],
)
def test_delivered_to_one_of_the_recipients_is_a_loop(value: str) -> None:
    message = SignedMessage(f"Subject: x\r\nDelivered-To:{value}\r\n".encode())
    with pytest.raises(ProtocolError) as error:
        refuse_loop(message, [parse_mailbox("other@example.org"), JOE])
    assert error.value.reply is LOOP


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Delivered-To: eve@example.org\r\n",
        "Delivered-To: joe@example.com\r\n",
        "Delivered-To: not an address\r\n",
        "Delivered-To:\r\n",
        "X-Delivered-To: joe@example.org\r\n",
        "To: joe@example.org\r\n",
    ],
)
def test_other_headers_are_no_loop(header: str) -> None:
    refuse_loop(SignedMessage(header.encode()), [JOE])


def test_delivered_to_compares_domains_in_a_labels() -> None:
    message = SignedMessage(b"Delivered-To: joe@xn--bcher-kva.example\r\n")
    with pytest.raises(ProtocolError):
        refuse_loop(message, [parse_mailbox("joe@bücher.example")])


def test_too_many_delivered_to_fields_are_a_loop_whomever_they_name() -> None:
    field = b"Delivered-To: somebody@else.test\r\n"
    refuse_loop(SignedMessage(field * MAX_DELIVERED_TO_FIELDS), [JOE])
    with pytest.raises(ProtocolError) as error:
        refuse_loop(SignedMessage(field * (MAX_DELIVERED_TO_FIELDS + 1)), [JOE])
    assert error.value.reply is LOOP
