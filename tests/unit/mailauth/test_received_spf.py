"""The Received-SPF field (RFC 7208 s9.1)."""

import pytest

from mailflow.mailauth.received_spf import received_spf_field
from mailflow.mailauth.result import AuthStatus, SpfIdentity, SpfResult


def text(
    spf: SpfResult, *, mail_from: str = "joe@example.com", helo: str = "client.example.com", ip: str = "::1"
) -> str:
    field = received_spf_field(spf, mail_from=mail_from, helo=helo, client_ip=ip, receiver="mx.example.org")
    return field.decode("ascii").replace("\r\n", "").replace("\t", " ")


def test_field_is_folded_at_78_characters() -> None:
    spf = SpfResult(AuthStatus.FAIL, "example.com", term="-all")
    assert received_spf_field(
        spf, mail_from="joe@example.com", helo="client.example.com", client_ip="192.0.2.1", receiver="mx.example.org"
    ) == (
        b'Received-SPF: fail client-ip=192.0.2.1; envelope-from="joe@example.com";\r\n'
        b"\thelo=client.example.com; identity=mailfrom; receiver=mx.example.org;\r\n"
        b"\tmechanism=-all;\r\n"
    )


@pytest.mark.parametrize(
    ("spf", "pair"),
    [
        (SpfResult(AuthStatus.PASS, term="ip4:192.0.2.0/24"), 'mechanism="ip4:192.0.2.0/24"'),
        (SpfResult(AuthStatus.NEUTRAL), "mechanism=default"),
        (SpfResult(AuthStatus.NEUTRAL, term="?all"), 'mechanism="?all"'),
        (SpfResult(AuthStatus.PERMERROR, reason="two records"), 'problem="two records"'),
        (SpfResult(AuthStatus.TEMPERROR, reason="no answer"), 'problem="no answer"'),
        (SpfResult(AuthStatus.PASS, identity=SpfIdentity.HELO), "identity=helo"),
        (SpfResult(AuthStatus.PASS), 'client-ip="::1"'),
    ],
)
def test_pair_is_spelled_as_dot_atom_or_quoted_string(spf: SpfResult, pair: str) -> None:
    assert f" {pair};" in text(spf)


@pytest.mark.parametrize(
    ("helo", "written"),
    [("a.b", "a.b"), (".a", '".a"'), ("a.", '"a."'), ("a..b", '"a..b"'), ("[192.0.2.1]", '"[192.0.2.1]"')],
)
def test_helo_that_is_no_dot_atom_is_quoted(helo: str, written: str) -> None:
    assert f"; helo={written};" in text(SpfResult(AuthStatus.PASS), helo=helo)


def test_null_sender_is_an_empty_quoted_string() -> None:
    assert ' envelope-from="";' in text(SpfResult(AuthStatus.PASS), mail_from="")


@pytest.mark.parametrize("status", [AuthStatus.NONE, AuthStatus.PASS, AuthStatus.FAIL])
def test_no_problem_is_told_where_there_was_none(status: AuthStatus) -> None:
    assert "problem" not in text(SpfResult(status, reason="x"))
    assert "mechanism" not in text(SpfResult(status))
