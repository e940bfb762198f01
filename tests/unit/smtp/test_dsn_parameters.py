"""RET, ENVID, NOTIFY, ORCPT: what is taken, what it decodes to, and that all else is 501 5.5.4 (RFC 3461, 6533)."""

import pytest

from mailflow.mail.envelope import Notify
from mailflow.mail.reply import ProtocolError
from mailflow.smtp.commands import Mail, Rcpt, parse_mail, parse_rcpt


def mail(parameters: str) -> Mail:
    return parse_mail(f"FROM:<a@b.example> {parameters}", is_extended=True, has_dsn=True)


def rcpt(parameters: str, *, is_smtputf8: bool = False) -> Rcpt:
    return parse_rcpt(f"TO:<a@b.example> {parameters}", is_extended=True, is_smtputf8=is_smtputf8, has_dsn=True)


def refusal(error: pytest.ExceptionInfo[ProtocolError]) -> tuple[int, str]:
    return error.value.reply.code, error.value.reply.enhanced


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("SIZE=1", (None, "")),
        ("RET=FULL", (True, "")),
        ("ret=hdrs", (False, "")),
        ("ENVID=QQ314159", (None, "QQ314159")),
        ("envid=a+2Bb+3Dc+20d RET=HDRS", (False, "a+b=c d")),
        ("ENVID=" + "x" * 100, (None, "x" * 100)),
    ],
)
def test_ret_and_envid_are_read(parameters: str, expected: tuple[bool | None, str]) -> None:
    parsed = mail(parameters)
    assert (parsed.returns_full, parsed.envelope_id) == expected


@pytest.mark.parametrize(
    "parameters",
    [
        *("RET", "RET=", "RET=HDR", "RET=FULL,HDRS", "RET=FULL RET=FULL", "RET=FUıL"),
        *("ENVID", "ENVID=", "ENVID=a=b", "ENVID=a+2b", "ENVID=a+", "ENVID=a+2", "ENVID=a+GG", "ENVID=é"),
        *("ENVID=+00", "ENVID=+0D+0A", "ENVID=+7F", "ENVID=+C3+A9", "ENVID=+09", "ENVID=x envid=x"),
        *("ENVID=" + "x" * 101, "ENVID=" + "+20" * 34),
    ],
)
def test_malformed_ret_or_envid_is_501(parameters: str) -> None:
    with pytest.raises(ProtocolError) as error:
        mail(parameters)
    assert refusal(error) == (501, "5.5.4")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("NEVER", Notify.NEVER),
        ("never", Notify.NEVER),
        ("SUCCESS", Notify.SUCCESS),
        ("FAILURE,DELAY", Notify.FAILURE | Notify.DELAY),
        ("delay,Success,FAILURE", Notify.SUCCESS | Notify.FAILURE | Notify.DELAY),
        ("FAILURE,FAILURE", Notify.FAILURE),
    ],
)
def test_notify_is_read(value: str, expected: Notify) -> None:
    assert rcpt(f"NOTIFY={value}").notify == expected


def test_no_notify_is_not_never() -> None:
    assert rcpt("ORCPT=rfc822;a@b").notify is None


@pytest.mark.parametrize(
    "parameters",
    [
        *("NOTIFY", "NOTIFY=", "NOTIFY=ALWAYS", "NOTIFY=NEVER,FAILURE", "NOTIFY=FAILURE,NEVER", "NOTIFY=NEVER,NEVER"),
        *("NOTIFY=,", "NOTIFY=FAILURE,", "NOTIFY=,FAILURE", "NOTIFY=FAILURE,,DELAY", "NOTIFY=FAıLURE"),
        *("NOTIFY=FAILURE DELAY=1 DELAY=1", "NOTIFY=NEVER NOTIFY=NEVER"),
    ],
)
def test_malformed_notify_is_501(parameters: str) -> None:
    with pytest.raises(ProtocolError) as error:
        rcpt(parameters)
    assert refusal(error) == (501, "5.5.4")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("rfc822;bob@example.org", "rfc822;bob@example.org"),
        ("RFC822;Bob+2Bx@Example.ORG", "rfc822;Bob+x@Example.ORG"),
        ("rfc822;+22a+20b+22@example.org", 'rfc822;"a b"@example.org'),
        ("x400;/C=de/".replace("=", "+3D"), "x400;/C=de/"),
        ("rfc822;a;b", "rfc822;a;b"),
        ("rfc822;", "rfc822;"),  # xtext may be empty
        ("utf-8;bob@example.org", "utf-8;bob@example.org"),
        ("UTF-8;j\\x{F6}rg@b\\x{fc}cher.example", "utf-8;jörg@bücher.example"),
        ("utf-8;bob\\x{2B}x@example.org", "utf-8;bob+x@example.org"),
        ('utf-8;"a\\x{20}b"@example.org', 'utf-8;"a b"@example.org'),
        ("utf-8;\\x{1F4E7}\\x{10FFFF}@example.org", "utf-8;\U0001f4e7\U0010ffff@example.org"),
        ("rfc822;" + "x" * 493, "rfc822;" + "x" * 493),
    ],
)
def test_orcpt_is_read(value: str, expected: str) -> None:
    assert rcpt(f"ORCPT={value}").original_recipient == expected


def test_raw_utf8_in_orcpt_needs_smtputf8_and_its_own_type() -> None:
    assert rcpt("ORCPT=utf-8;jörg@example.org", is_smtputf8=True).original_recipient == "utf-8;jörg@example.org"
    for value, is_smtputf8 in (("utf-8;jörg@example.org", False), ("rfc822;jörg@example.org", True)):
        with pytest.raises(ProtocolError) as error:
            rcpt(f"ORCPT={value}", is_smtputf8=is_smtputf8)
        assert refusal(error) == (501, "5.5.4")


@pytest.mark.parametrize(
    "value",
    [
        *("bob@example.org", ";bob@example.org", "rfc 822;bob", "rfc(822);bob", "rfc.822;bob", "ü;bob"),
        *("rfc822;a=b", "rfc822;a+2b", "rfc822;+0D+0A", "rfc822;+C3+BC", "rfc822;" + "x" * 494),
        *("utf-8;", "utf-8;bob", "utf-8;a+2Bb@example.org", "utf-8;a\\b@example.org", "utf-8;a\\x{}@example.org"),
        *("utf-8;a\\x{41}@example.org", "utf-8;a\\x{0F6}@example.org", "utf-8;a\\x{D800}@example.org"),
        *("utf-8;a\\x{110000}@example.org", "utf-8;a\\x{0D}\\x{0A}@example.org", "utf-8;a\\x{F6@example.org"),
        *("utf-8;a\\x{7F}@example.org", "utf-8;..@example.org"),
    ],
)
def test_malformed_orcpt_is_501(value: str) -> None:
    with pytest.raises(ProtocolError) as error:
        rcpt(f"ORCPT={value}", is_smtputf8=True)
    assert refusal(error) == (501, "5.5.4")


@pytest.mark.parametrize("parameter", ["RET=FULL", "ENVID=x", "RET=what"])
def test_mail_parameters_are_555_where_dsn_is_not_offered(parameter: str) -> None:
    with pytest.raises(ProtocolError) as error:
        parse_mail(f"FROM:<a@b.example> {parameter}", is_extended=True)
    assert refusal(error) == (555, "5.5.4")


@pytest.mark.parametrize("parameters", ["RET=FULL NOTIFY=NEVER", "ORCPT=rfc822;a", "NOTIFY=NEVER"])
def test_parameters_of_rcpt_are_none_of_mail(parameters: str) -> None:
    with pytest.raises(ProtocolError) as error:
        mail(parameters)
    assert refusal(error) == (555, "5.5.4")
