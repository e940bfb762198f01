"""Trace fields: what is in them, and that no client shapes them."""

import email
import email.policy
import email.utils
import re
from dataclasses import replace

import pytest

from mailflow.mail.address import parse_mailbox
from mailflow.mail.trace import Hop, delivered_to_field, format_date, received_field, return_path_field

HOP = Hop(helo="client.example", client_ip="192.0.2.1", client_name="mail.client.example", protocol="ESMTP", tls=None)


def received(hop: Hop = HOP, *, recipient: str | None = "joe@example.org", at: float = 1_700_000_000) -> str:
    address = parse_mailbox(recipient) if recipient else None
    return received_field(hop, hostname="mx.example.org", id="id-1", recipient=address, at=at).decode()


def test_received_is_one_folded_field() -> None:
    assert received() == (
        "Received: from client.example (mail.client.example [192.0.2.1])\r\n"
        "\tby mx.example.org with ESMTP id id-1 for <joe@example.org>;\r\n"
        "\tTue, 14 Nov 2023 22:13:20 +0000\r\n"
    )


def test_received_names_no_recipient_among_several() -> None:
    assert " for " not in received(recipient=None)
    assert "id id-1;\r\n" in received(recipient=None)


def test_client_without_a_verified_name_is_its_address() -> None:
    assert received(replace(HOP, client_name=None)).startswith("Received: from client.example ([192.0.2.1])\r\n")


def test_ipv6_client_is_written_as_an_address_literal() -> None:
    hop = replace(HOP, client_ip="2001:db8::1", client_name=None)
    assert "([IPv6:2001:db8::1])" in received(hop)


def test_zone_of_a_link_local_client_is_not_told() -> None:
    assert "([IPv6:fe80::1])" in received(replace(HOP, client_ip="fe80::1%eth0", client_name=None))


def test_tls_is_told_with_version_and_cipher() -> None:
    text = received(replace(HOP, protocol="ESMTPS", tls=("TLSv1.3", "TLS_AES_256_GCM_SHA384")))
    assert "\r\n\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384)\r\n" in text
    assert "with ESMTPS id" in text


@pytest.mark.parametrize(
    ("helo", "written"),
    [
        ("client.example", "client.example"),
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
        ("my_host", "my_host"),
        ("", "unknown"),
        ("()", "unknown"),
        ("a (b [192.0.2.9]) by c; x", "ab192.0.2.9bycx"),
        ("a\r\nReceived: from b", "aReceived:fromb"),
        ("a\r\n\r\nbody", "abody"),
        ("[192.0.2.1] (x)]", "[192.0.2.1x]"),
        ("bücher", "bcher"),
    ],
)
def test_greeting_gets_in_only_as_a_domain_or_literal(helo: str, written: str) -> None:
    assert received(replace(HOP, helo=helo)).startswith(
        f"Received: from {written} (mail.client.example [192.0.2.1])\r\n"
    )


@pytest.mark.parametrize("name", ["evil) by other.example (x", "a\r\nX-Forged: yes", "a\\b\\041.example"])
def test_reverse_name_gets_in_only_as_a_domain(name: str) -> None:
    first_line = received(replace(HOP, client_name=name)).split("\r\n")[0]
    assert re.fullmatch(r"Received: from client\.example \([A-Za-z0-9.:_-]+ \[192\.0\.2\.1\]\)", first_line)


def test_received_is_read_as_one_field_by_others() -> None:
    message = email.message_from_string(received() + "\r\n", policy=email.policy.SMTP)
    assert message.keys() == ["Received"]
    date = email.utils.parsedate_to_datetime(message["Received"].rpartition(";")[2])
    assert date.timestamp() == 1_700_000_000


def test_no_line_of_received_is_longer_than_998_octets_at_the_limits_of_everything() -> None:
    hop = Hop("h" * 255, "1111:2222:3333:4444:5555:6666:7777:8888", "n" * 255, "UTF8SMTPS", ("TLSv1.3", "C" * 40))
    recipient = parse_mailbox("ü" * 32 + "@" + ".".join(["d" * 60] * 3))
    field = received_field(hop, hostname="m" * 255, id="i" * 32, recipient=recipient, at=0)
    assert max(map(len, field.split(b"\r\n"))) <= 998


def test_address_outside_ascii_is_written_in_utf8() -> None:
    assert "for <jü@bücher.example>;" in received(recipient="jü@bücher.example")


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0, "Thu, 1 Jan 1970 00:00:00 +0000"),
        (951_782_400.9, "Tue, 29 Feb 2000 00:00:00 +0000"),
        (1_700_000_000, "Tue, 14 Nov 2023 22:13:20 +0000"),
    ],
)
def test_date_is_in_utc_and_english(at: float, text: str) -> None:
    assert format_date(at) == text


def test_return_path_has_the_sender_or_nothing_in_its_brackets() -> None:
    assert return_path_field(parse_mailbox('"a b"@example.org')) == b'Return-Path: <"a b"@example.org>\r\n'
    assert return_path_field(None) == b"Return-Path: <>\r\n"


def test_delivered_to_names_the_mailbox() -> None:
    assert delivered_to_field(parse_mailbox("Joe@Example.org")) == b"Delivered-To: Joe@example.org\r\n"
