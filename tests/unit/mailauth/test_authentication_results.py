"""What our Authentication-Results field says of each check, and how it is spelled and folded (RFC 8601, 6008, 8617)."""

from typing import Any

import pytest

from mailflow.mailauth.authentication_results import authentication_results_field
from mailflow.mailauth.result import (
    ArcResult,
    ArcSet,
    AuthStatus,
    DkimResult,
    DmarcPolicy,
    DmarcResult,
    SpfIdentity,
    SpfResult,
)
from tests.unit.mailauth.rfc8601 import parse

UNCHECKED: dict[str, Any] = {
    "spf": None,
    "mail_from": "joe@example.com",
    "helo": "client.example.com",
    "dkim": None,
    "arc": None,
    "dmarc": None,
    "author_domain": "example.com",
    "iprev": None,
    "client_ip": "192.0.2.1",
}
SPF_PASS = SpfResult(AuthStatus.PASS, "example.com")
DKIM_PASS = DkimResult(AuthStatus.PASS, "example.com", "s1", "rsa-sha256", auid="@example.com", tag_b="ab/+cd12")


def field(authserv_id: str = "mx.example.org", **checks: Any) -> bytes:
    return authentication_results_field(authserv_id, **{**UNCHECKED, **checks})


def resinfo(**checks: Any) -> str:
    """Give all results as one line, as they are spelled."""
    written = field(**checks).decode("ascii").replace("\r\n", "").replace("\t", " ")
    return written.removeprefix("Authentication-Results: mx.example.org; ")


def test_field_with_every_check_is_folded_behind_each_result() -> None:
    dmarc = DmarcResult(AuthStatus.PASS, DmarcPolicy.REJECT, DmarcPolicy.REJECT, "example.com")
    written = field(spf=SPF_PASS, dkim=[DKIM_PASS], dmarc=dmarc, iprev=AuthStatus.PASS)
    assert written == (
        b"Authentication-Results: mx.example.org;\r\n"
        b"\tspf=pass smtp.mailfrom=joe@example.com smtp.remote-ip=192.0.2.1;\r\n"
        b"\tdkim=pass header.d=example.com header.s=s1 header.a=rsa-sha256\r\n"
        b'\theader.i=@example.com header.b="ab/+cd12";\r\n'
        b"\tdmarc=pass policy.dmarc=reject header.from=example.com;\r\n"
        b"\tiprev=pass policy.iprev=192.0.2.1\r\n"
    )


def test_nothing_checked_is_none() -> None:
    assert field() == b"Authentication-Results: mx.example.org;\r\n\tnone\r\n"


@pytest.mark.parametrize(
    ("checks", "written"),
    [
        ({"dkim": []}, "dkim=none"),
        ({"arc": ArcResult(AuthStatus.NONE)}, "none"),
        (
            {"arc": ArcResult(AuthStatus.PASS, 1, (ArcSet(1, "a", "b", "c"), ArcSet(2, "a", "b", "c")))},
            "arc=pass (i=2) header.oldest-pass=1 smtp.remote-ip=192.0.2.1",
        ),
        (
            {"arc": ArcResult(AuthStatus.FAIL, reason="set 2 has no seal")},
            'arc=fail reason="set 2 has no seal" smtp.remote-ip=192.0.2.1',
        ),
        (
            {"spf": SpfResult(AuthStatus.PASS, "client.example.com", SpfIdentity.HELO), "mail_from": ""},
            "spf=pass smtp.helo=client.example.com smtp.remote-ip=192.0.2.1",
        ),
        ({"spf": SpfResult(AuthStatus.NONE), "mail_from": ""}, "spf=none smtp.remote-ip=192.0.2.1"),
        ({"dkim": [DkimResult(AuthStatus.PERMERROR, reason="no d=")]}, 'dkim=permerror reason="no d="'),
        (
            {"dmarc": DmarcResult(AuthStatus.FAIL, DmarcPolicy.REJECT, DmarcPolicy.QUARANTINE)},
            "dmarc=fail policy.dmarc=quarantine header.from=example.com",
        ),
        ({"dmarc": DmarcResult(AuthStatus.NONE)}, "dmarc=none header.from=example.com"),
        ({"dmarc": DmarcResult(AuthStatus.PERMERROR), "author_domain": None}, "dmarc=permerror"),
        ({"iprev": AuthStatus.FAIL, "client_ip": "2001:db8::1"}, 'iprev=fail policy.iprev="2001:db8::1"'),
        ({"iprev": AuthStatus.FAIL, "client_ip": "fe80::1%eth0"}, 'iprev=fail policy.iprev="fe80::1"'),
    ],
)
def test_result_is_spelled_as_its_rfc_has_it(checks: dict[str, Any], written: str) -> None:
    assert resinfo(**checks) == written


def test_each_signature_has_its_own_result_in_header_order() -> None:
    second = DkimResult(AuthStatus.FAIL, "list.example", "k", "ed25519-sha256")
    assert [(r.method, r.result) for r in parse(field(dkim=[DKIM_PASS, second]))[1]] == [
        ("dkim", "pass"),
        ("dkim", "fail"),
    ]


@pytest.mark.parametrize(
    ("mail_from", "written"),
    [
        ("joe@example.com", "joe@example.com"),
        ("joe+tag=x/y?@example.com", "joe+tag=x/y?@example.com"),
        ("SRS0=ab=cd=example.net=joe@example.com", "SRS0=ab=cd=example.net=joe@example.com"),
        ("joe@localhost", '"joe@localhost"'),
        ("joe@[192.0.2.1]", '"joe@[192.0.2.1]"'),
        ("joe@foo_bar.example", '"joe@foo_bar.example"'),
        ("joe@-foo.example", '"joe@-foo.example"'),
        ("joe@foo-.example", '"joe@foo-.example"'),
        ("joe@foo--bar.example", "joe@foo--bar.example"),
        ('"joe doe"@example.com', '"\\"joe doe\\"@example.com"'),
        ('"x; dmarc=pass"@example.com', '"\\"x; dmarc?pass\\"@example.com"'),
        ("dmarc=pass@example.com", "dmarc?pass@example.com"),
        ('"dmarc=\\"pass"@example.com', '"\\"dmarc?\\\\\\"pass\\"@example.com"'),
        ("dmarc=(c)()\tpass@example.com", '"dmarc?(c)()?pass@example.com"'),
        ("dmarc=(c@example.com", '"dmarc=(c@example.com"'),
        ("dmarc=  PASS@example.com", '"dmarc?  PASS@example.com"'),
        ("a\\b@example.com", '"a\\\\b@example.com"'),
        ("a..b@example.com", '"a..b@example.com"'),
        (".a@example.com", '".a@example.com"'),
        ("joe@bücher.example", "joe@xn--bcher-kva.example"),
        ("jörg@bücher.example", "j?rg@xn--bcher-kva.example"),
        ("jörg@example.com", "j?rg@example.com"),
        ("joe@a；b.example", '"joe@a;b.example"'),
        ("joe\r\nX: y@example.com", '"joe??X: y@example.com"'),
        ("joe\0@example.com", "joe?@example.com"),
    ],
)
def test_mail_from_is_bare_only_where_the_grammar_lets_it_be(mail_from: str, written: str) -> None:
    assert f"spf=pass smtp.mailfrom={written} smtp.remote-ip=192.0.2.1" == resinfo(spf=SPF_PASS, mail_from=mail_from)


@pytest.mark.parametrize(("length", "is_cut"), [(320, False), (321, True)])
def test_value_over_320_characters_is_cut_and_quoted(length: int, is_cut: bool) -> None:
    (result,) = parse(field(dkim=[DkimResult(AuthStatus.FAIL, "a" * length)]))[1]
    assert result.properties == (("header.d", "a" * 320 + "..." * is_cut),)
    assert (b'"' in field(dkim=[DkimResult(AuthStatus.FAIL, "a" * length)])) is is_cut


@pytest.mark.parametrize(("length", "is_cut"), [(200, False), (201, True)])
def test_reason_over_200_characters_is_cut(length: int, is_cut: bool) -> None:
    (result,) = parse(field(dkim=[DkimResult(AuthStatus.FAIL, reason="a" * length)]))[1]
    assert result.reason == "a" * 200 + "..." * is_cut


@pytest.mark.parametrize(("length", "first_line"), [(53, 78), (54, 23)])
def test_line_of_more_than_78_characters_is_folded(length: int, first_line: int) -> None:
    assert len(field("m" * length).split(b"\r\n")[0]) == first_line


def test_longest_words_stay_far_under_998_octets() -> None:
    written = field(dkim=[DkimResult(AuthStatus.FAIL, '"' * 999, "\\" * 999, reason='"' * 999)])
    assert max(len(line) for line in written.split(b"\r\n")) < 700


def test_authserv_id_of_u_labels_is_written_in_a_labels() -> None:
    assert field("mx.bücher.example").startswith(b"Authentication-Results: mx.xn--bcher-kva.example;")
