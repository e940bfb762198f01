"""Which inbound fields claim to be ours, and that nothing else of a message changes (RFC 8601 s5)."""

import time

import pytest

from mailflow.mail.headers import split_message
from mailflow.mailauth.forged_results import MAX_CLOSE_LOOKS, MAX_ID_OCTETS, Kept, claims_id, strip_forged

ID = "mx.example.org"
FORGED = b"Authentication-Results: mx.example.org; dmarc=pass\r\n"
OTHER = b"Authentication-Results: mx.example.net; dmarc=pass\r\n"


def strip(content: bytes, *, authserv_id: str = ID, removes_received_spf: bool = False) -> Kept:
    fields, body_at = split_message(content)
    return strip_forged(content, fields, body_at, authserv_id, removes_received_spf=removes_received_spf)


def stripped(content: bytes, *, removes_received_spf: bool = False) -> bytes:
    kept = strip(content, removes_received_spf=removes_received_spf)
    return kept.head + content[kept.rest_at :]


@pytest.mark.parametrize(
    "value",
    [
        b" mx.example.org; spf=pass",
        b"mx.example.org;spf=pass",
        b" MX.Example.ORG; spf=pass",
        b" mx.example.org. ; spf=pass",
        b" mx.example.org",
        b" mx.example.org ;",
        b" mx.example.org 1; spf=pass",
        b" mx.example.org 22 ; spf=pass",
        b" mx.example.org\t1(x) ; spf=pass",
        b"\r\n mx.example.org; spf=pass",
        b"\r\n\t\r\n mx.example.org\r\n\t; spf=pass",
        b' "mx.example.org"; spf=pass',
        b' "mx\\.example.org"; spf=pass',
        b' "MX.example.org." 1; spf=pass',
        b" (of) mx.example.org; spf=pass",
        b" (a(b\\)c)d) (e)\r\n mx.example.org (f) 1 (g); spf=pass",
        b" (x; y) mx.example.org; spf=pass",
    ],
)
def test_field_with_our_id_is_claimed(value: bytes) -> None:
    assert claims_id(value, ID)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ; spf=pass",
        b" spf=pass smtp.mailfrom=x; dkim=none",
        b" mx.exa mple.org; spf=pass",
        b" mx.exa\r\n mple.org; spf=pass",
        b" mx . example . org; spf=pass",
        b" other.example mx.example.org; spf=pass",
        b" other.example/mx.example.org; spf=pass",
        b" other.example, mx.example.org; spf=pass",
        b" 1 mx.example.org; spf=pass",
        b" other.example 1 mx.example.org; spf=pass",
        b" <mx.example.org>; spf=pass",
        b" =?utf-8?q?mx.example.org?=; spf=pass",
        b" (no end mx.example.org; spf=pass",
        b' "no end mx.example.org; spf=pass',
        b' "other.example"mx.example.org; spf=pass',
        b' ""; spf=pass',
        b" mx.example.org\xff; spf=pass",
        b" \xa0mx.example.org; spf=pass",
        b" other\x00; spf=pass",
        b" (other\x00) other.example; spf=pass",
        "\u00a0mx.example.org; spf=pass".encode(),
    ],
)
def test_field_whose_id_cannot_be_read_for_certain_is_claimed(value: bytes) -> None:
    assert claims_id(value, ID)


@pytest.mark.parametrize(
    "value",
    [
        b" (mx.example.org) other.example; spf=pass",
        b" (mx. example.org;) other.example; spf=pass",
        b" (x; MX.example.ORG; y) other.example; spf=pass",
        b" other.example (mx.example.org); spf=pass",
        b' "a;mx.example.org;b"; spf=pass',
    ],
)
def test_field_in_whose_comments_or_quotes_a_lax_reader_finds_our_id_is_claimed(value: bytes) -> None:
    assert claims_id(value, ID)


@pytest.mark.parametrize(
    "value",
    [
        b" mx.example.net; spf=pass",
        b" mx.example.org.example.net; spf=pass",
        b" sub.mx.example.org; spf=pass",
        b" example.org; spf=pass",
        b" other.example; spf=pass (mx.example.org: fine) smtp.mailfrom=joe@mx.example.org",
        b" other.example 1; none",
        b" other.example",
        b" (comment) other.example; spf=pass",
        b' "other.example"; spf=pass',
        b' "Other; Server (1)"; spf=pass',
        " bücher.example; spf=pass".encode(),
        " (für) other.example; spf=pass".encode(),
        b" other.example; spf=pass \xff",
    ],
)
def test_field_of_another_server_is_not_claimed(value: bytes) -> None:
    assert not claims_id(value, ID)


@pytest.mark.parametrize("authserv_id", ["mx.bücher.example", "mx.xn--bcher-kva.example", "MX.XN--BCHER-KVA.example"])
@pytest.mark.parametrize(
    "id", ["mx.bücher.example", "MX.BÜCHER.example", "mx.xn--bcher-kva.example", "mx。bücher.example"]
)
def test_u_labels_and_a_labels_are_one_name(id: str, authserv_id: str) -> None:
    assert claims_id(f" {id}; spf=pass".encode(), authserv_id)
    assert claims_id(f' "{id}" 1; spf=pass'.encode(), authserv_id)
    assert claims_id(f" (x) {id}; spf=pass".encode(), authserv_id)
    assert not claims_id(b" mx.bucher.example; spf=pass", authserv_id)


@pytest.mark.parametrize(
    "field",
    [
        FORGED,
        b"authentication-RESULTS: mx.example.org; spf=pass\r\n",
        b"Authentication-Results : mx.example.org; spf=pass\r\n",
        b"Authentication-Results\t:\r\n mx.example.org;\r\n\tspf=pass\r\n\tsmtp.mailfrom=x\r\n",
    ],
)
def test_forged_field_is_left_out_wherever_it_stands(field: bytes) -> None:
    rest = b"Subject: x\r\n" + OTHER + b"From: a@b.example\r\n"
    body = b"\r\nAuthentication-Results: mx.example.org; in=body\r\n"
    assert stripped(field + rest + body) == rest + body
    assert stripped(rest + field + body) == rest + body
    assert stripped(OTHER + field + field + rest + field + body) == OTHER + rest + body
    assert stripped(b"From joe Mon Nov 23\r\n" + field + rest + body) == b"From joe Mon Nov 23\r\n" + rest + body
    assert stripped(rest + field) == rest


@pytest.mark.parametrize(
    "content",
    [
        b"Subject: x\r\n\r\nbody\r\n",
        OTHER + b"Subject: x\r\n\r\n" + FORGED,
        b"ARC-Authentication-Results: i=1; mx.example.org; dmarc=pass\r\n\r\n",
        b"X-Authentication-Results: mx.example.org; dmarc=pass\r\n\r\n",
        b"Received-SPF: pass\r\n\r\n",
        b"Subject: x\r\n Authentication-Results: mx.example.org; dmarc=pass\r\n\r\n",
        b"Subject: x\r\n",
        b"\r\nbody\r\n",
        b"\r\n",
        b"",
        b"From joe Mon Nov 23\r\n\r\nbody\r\n",
    ],
)
def test_message_without_a_forged_field_stays_as_it_is(content: bytes) -> None:
    assert strip(content) == Kept(b"", 0)


def test_only_what_stands_before_the_last_forged_field_is_copied() -> None:
    content = b"A: 1\r\n" + FORGED + b"B: 2\r\n\r\n" + b"x" * 100_000 + b"\r\n"
    assert strip(content) == Kept(b"A: 1\r\n", len(b"A: 1\r\n" + FORGED))


def test_received_spf_fields_are_left_out_where_we_add_our_own() -> None:
    content = b"Received-SPF: pass\r\nSubject: x\r\nreceived-spf : fail\r\n\r\nbody\r\n"
    assert stripped(content, removes_received_spf=True) == b"Subject: x\r\n\r\nbody\r\n"
    assert strip(content) == Kept(b"", 0)


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"Subject: x\r\n", b"no field\r\n" + FORGED + b"\r\nbody\r\n"),
        (b"Subject: x\r\n" + OTHER, b"no field\r\n"),
        (b"", b" ; dmarc=pass\r\nSubject: x\r\n\r\nbody\r\n"),
        (b"From joe Mon Nov 23\r\n", b"\tx\r\n" + FORGED),
        (b"", b"no field, no end"),
    ],
)
def test_header_that_ends_at_a_line_that_is_no_field_gets_its_empty_line(head: bytes, body: bytes) -> None:
    assert strip(head + body) == Kept(head + b"\r\n", len(head))


def test_forged_field_goes_and_the_empty_line_comes_in_one_message() -> None:
    content = b"A: 1\r\n" + FORGED + b"B: 2\r\nno field\r\n" + FORGED + b"\r\nbody\r\n"
    assert stripped(content) == b"A: 1\r\nB: 2\r\n\r\nno field\r\n" + FORGED + b"\r\nbody\r\n"


def test_id_is_looked_for_up_to_a_bound_and_cannot_be_told_behind_it() -> None:
    comment = f"({'x' * (MAX_ID_OCTETS - 11)})"
    assert not claims_id(f"{comment}other.id; spf=pass".encode(), ID)
    assert claims_id(f"{comment}x.other.id; spf=pass".encode(), ID)


def test_fields_that_need_a_close_look_beyond_a_bound_are_taken_out() -> None:
    field = b"Authentication-Results: (c) other.example; spf=pass\r\n"
    kept = strip(field * (MAX_CLOSE_LOOKS + 2) + OTHER + b"\r\nbody\r\n")
    assert kept.head == field * MAX_CLOSE_LOOKS


@pytest.mark.parametrize(
    "header",
    [
        b"Authentication-Results:" + b"()" * 120_000 + b"a;\r\n",
        b"Authentication-Results:" + b"(" * 240_000 + b"\r\n",
        b'Authentication-Results:"' + b"\\a" * 120_000 + b'";\r\n',
        b"".join(f"Authentication-Results:\xe4{n}.example;\r\n".encode() for n in range(6000)),
    ],
)
def test_a_header_full_of_results_takes_no_tenth_of_a_second(header: bytes) -> None:
    fields, body_at = split_message(header)
    begin = time.process_time()
    strip_forged(header, fields, body_at, ID)
    assert time.process_time() - begin < 0.08
