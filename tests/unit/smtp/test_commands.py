"""The grammar of commands: what is taken, and with which code and enhanced code the rest is refused."""

import pytest

from mailflow.mail.address import parse_mailbox
from mailflow.mail.reply import ProtocolError
from mailflow.smtp.commands import (
    Bdat,
    Mail,
    Rcpt,
    parse_bdat,
    parse_greeting,
    parse_mail,
    parse_rcpt,
    refuse_argument,
    split_command,
)

A = parse_mailbox("a@b.example")


def mail(argument: str, *, is_extended: bool = True) -> Mail:
    return parse_mail(argument, is_extended=is_extended)


def rcpt(argument: str, *, is_extended: bool = True, is_smtputf8: bool = False) -> Rcpt:
    return parse_rcpt(argument, is_extended=is_extended, is_smtputf8=is_smtputf8)


def codes(error: pytest.ExceptionInfo[ProtocolError]) -> tuple[int, str]:
    return error.value.reply.code, error.value.reply.enhanced


# Lines.


@pytest.mark.parametrize(
    ("line", "verb", "argument"),
    [
        (b"QUIT", "QUIT", ""),
        (b"quit", "QUIT", ""),
        (b"NoOp some words", "NOOP", "some words"),
        (b"MAIL FROM:<a@b>", "MAIL", "FROM:<a@b>"),
        (b"RCPT  TO:<a@b>", "RCPT", " TO:<a@b>"),
        (b"VRFY a\tb", "VRFY", "a\tb"),
        ("RCPT TO:<ü@b>".encode(), "RCPT", "TO:<ü@b>"),
    ],
)
def test_line_is_verb_in_upper_case_and_argument_as_written(line: bytes, verb: str, argument: str) -> None:
    assert split_command(line) == (verb, argument)


@pytest.mark.parametrize("space", [b" ", b"\t", b"  ", b" \t "])
@pytest.mark.parametrize("line", [b"QUIT", b"MAIL FROM:<a@b.example>", b"BDAT 3 LAST"])
def test_trailing_white_space_is_forgiven(line: bytes, space: bytes) -> None:
    assert split_command(line + space) == split_command(line)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b" QUIT",
        b"MAIL\tFROM:<a@b>",
        b"MA-IL x",
        b"\x16\x03\x01",
        b"NOOP \xff",
        b"NOOP \xc3",
        b"NOOP a\x1bb",
        b"NOOP a\x7fb",
        b"NOOP a\rb",
        b"NOOP a\nb",
        b"NOOP a\0b",
        "NÖOP".encode(),
        "ＱＵＩＴ".encode(),
    ],
)
def test_line_that_is_no_command_is_500(line: bytes) -> None:
    with pytest.raises(ProtocolError) as error:
        split_command(line)
    assert codes(error) == (500, "5.5.2")
    assert not error.value.closes


# HELO, EHLO.


@pytest.mark.parametrize(
    "name",
    ["mx.example.org", "localhost", "my_host", "host:25", "a-b.c", "192.0.2.1", "[192.0.2.1]", "[IPv6:2001:db8::1]"],
)
def test_greeting_name_is_kept_as_written(name: str) -> None:
    assert parse_greeting(name) == name


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "a;b", "a(b)", "<a>", "a@b", "[192.0.2.1", "[]", "bücher.example", "x" * 256, "a\tb", "a\n"],
)
def test_greeting_that_could_harm_a_trace_field_is_501(name: str) -> None:
    with pytest.raises(ProtocolError) as error:
        parse_greeting(name)
    assert codes(error) == (501, "5.5.4")


# MAIL.


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("FROM:<>", Mail(None)),
        ("FROM:<a@b.example>", Mail(A)),
        ("from:<a@B.Example>", Mail(A)),
        ("FROM:<a@b.example> SIZE=0", Mail(A, size_bytes=0)),
        ("FROM:<a@b.example> SIZE=12345", Mail(A, size_bytes=12345)),
        ("FROM:<a@b.example> size=00012", Mail(A, size_bytes=12)),
        ("FROM:<a@b.example> BODY=7BIT", Mail(A)),
        ("FROM:<a@b.example> BODY=8BITMIME", Mail(A, is_8bit=True)),
        ("FROM:<a@b.example> body=8bitmime", Mail(A, is_8bit=True)),
        ("FROM:<a@b.example> SMTPUTF8", Mail(A, is_smtputf8=True)),
        ("FROM:<> SIZE=1 BODY=8BITMIME SMTPUTF8", Mail(None, 1, True, True)),
        ("FROM:<> SMTPUTF8 BODY=8BITMIME SIZE=1", Mail(None, 1, True, True)),
        ("FROM:<ü@bücher.example> SMTPUTF8", Mail(parse_mailbox("ü@bücher.example"), is_smtputf8=True)),
        ("FROM:<@one.example,@two.example:a@b.example>", Mail(A)),
        ("FROM:<@one.example:a@b.example> SIZE=1", Mail(A, size_bytes=1)),
        ('FROM:<"a>b"@b.example>', Mail(parse_mailbox('"a>b"@b.example'))),
        ('FROM:<"a\\">b"@b.example> SIZE=1', Mail(parse_mailbox('"a\\">b"@b.example'), size_bytes=1)),
        ('FROM:<"a SIZE=9"@b.example>', Mail(parse_mailbox('"a SIZE=9"@b.example'))),
        ('FROM:<"@x:a"@b.example>', Mail(parse_mailbox('"@x:a"@b.example'))),
        ("FROM:<a@[192.0.2.1]>", Mail(parse_mailbox("a@[192.0.2.1]"))),
        ("FROM:<a@[IPv6:2001:db8::1]>", Mail(parse_mailbox("a@[IPv6:2001:db8::1]"))),
    ],
)
def test_mail_is_parsed(argument: str, expected: Mail) -> None:
    assert mail(argument) == expected


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "FROM",
        "FROM:",
        "FROM: <a@b.example>",
        " FROM:<a@b.example>",
        "FROM :<a@b.example>",
        "TO:<a@b.example>",
        "FROM:a@b.example",
        "FROM:<a@b.example",
        'FROM:<"a@b.example>',
        "FROM:(x)<a@b.example>",
        "FROM:<a@b.example>SIZE=1",
        "FROM:<a@b.example>\tSIZE=1",
        "FROM:<a@b.example>>",
        "FROM:<a@b.example><c@d.example>",
    ],
)
def test_mail_that_is_not_from_and_a_bracketed_path_is_501_5_5_4(argument: str) -> None:
    with pytest.raises(ProtocolError) as error:
        mail(argument)
    assert codes(error) == (501, "5.5.4")


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "a@",
        "@b.example",
        " a@b.example",
        "a@b.example ",
        "a @b.example",
        " a @ b ",
        "a(comment)@b.example",
        "a..b@c.example",
        ".a@b.example",
        "a.@b.example",
        "a@b..example",
        "a@b.example.",
        "a@-b.example",
        "a@b_c.example",
        "a@b.example,c@d.example",
        "A <a@b.example",
        "a@b@c.example",
        "a\t@b.example",
        "@one.example a@b.example",
        "@one.example,two.example:a@b.example",
        "@one..example:a@b.example",
        "@one.example:",
        "@:a@b.example",
        "a%zz@[IPv6:fe80::1%lo]",
        "x" * 65 + "@b.example",
        "a@" + "b" * 64 + ".example",
    ],
)
def test_bad_sender_address_is_501_5_1_7(path: str) -> None:
    with pytest.raises(ProtocolError) as error:
        mail(f"FROM:<{path}>")
    assert codes(error) == (501, "5.1.7")


@pytest.mark.parametrize(
    "parameters",
    [
        "SIZE=1 SIZE=1",
        "SIZE=1 size=2",
        "SMTPUTF8 SMTPUTF8",
        "SIZE",
        "SIZE=",
        "SIZE=-1",
        "SIZE=+1",
        "SIZE=1.0",
        "SIZE=1k",
        "SIZE=٣",
        "SIZE=" + "9" * 21,
        "BODY",
        "BODY=",
        "BODY=BINARYMIME",
        "BODY=8BıTMIME",
        "SMTPUTF8=1",
        "=1",
        "-X=1",
        "SIZE=1=2",
        "SIZE=1  BODY=7BIT",
        " SIZE=1",
        "SIZE=1\tBODY=7BIT",
    ],
)
def test_malformed_or_repeated_parameter_is_501(parameters: str) -> None:
    with pytest.raises(ProtocolError) as error:
        mail(f"FROM:<a@b.example> {parameters}")
    assert codes(error) == (501, "5.5.4")


@pytest.mark.parametrize("parameter", ["AUTH=<>", "RET=FULL", "ENVID=x", "REQUIRETLS", "MT-PRIORITY=3", "X=1"])
def test_parameter_that_was_not_offered_is_555(parameter: str) -> None:
    with pytest.raises(ProtocolError) as error:
        mail(f"FROM:<a@b.example> {parameter}")
    assert codes(error) == (555, "5.5.4")


@pytest.mark.parametrize("parameter", ["SIZE=1", "SMTPUTF8", "BODY=8BITMIME"])
def test_parameters_need_an_ehlo(parameter: str) -> None:
    assert mail("FROM:<a@b.example>", is_extended=False) == Mail(A)
    with pytest.raises(ProtocolError) as error:
        mail(f"FROM:<a@b.example> {parameter}", is_extended=False)
    assert codes(error) == (501, "5.5.4")


@pytest.mark.parametrize(
    "path", ["ü@b.example", "a@bücher.example", "a@ｅxample.org", "@bücher.example:a@b.example", '"ü"@b.example']
)
def test_address_that_is_not_ascii_needs_smtputf8(path: str) -> None:
    assert mail(f"FROM:<{path}> SMTPUTF8").reverse_path is not None
    assert rcpt(f"TO:<{path}>", is_smtputf8=True).forward_path is not None
    for parse in (lambda: mail(f"FROM:<{path}>"), lambda: rcpt(f"TO:<{path}>")):
        with pytest.raises(ProtocolError) as error:
            parse()
        assert codes(error) == (553, "5.6.7")


# RCPT.


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("TO:<a@b.example>", Rcpt(A)),
        ("to:<a@b.example>", Rcpt(A)),
        ("TO:<postmaster>", Rcpt(None)),
        ("TO:<PostMaster>", Rcpt(None)),
        ("TO:<postmaster@b.example>", Rcpt(parse_mailbox("postmaster@b.example"))),
        ("TO:<@one.example,@two.example:a@b.example>", Rcpt(A)),
        ('TO:<"a b"@b.example>', Rcpt(parse_mailbox('"a b"@b.example'))),
    ],
)
def test_rcpt_is_parsed(argument: str, expected: Rcpt) -> None:
    assert rcpt(argument) == expected


@pytest.mark.parametrize(
    "argument", ["", "TO:", "TO: <a@b.example>", "FROM:<a@b.example>", "TO:a@b.example", "TO:<a@b"]
)
def test_rcpt_that_is_not_to_and_a_bracketed_path_is_501_5_5_4(argument: str) -> None:
    with pytest.raises(ProtocolError) as error:
        rcpt(argument)
    assert codes(error) == (501, "5.5.4")


@pytest.mark.parametrize(
    "path", ["", "a", "abuse", "a@", "a..b@c.example", "postmaster@", '"postmaster"', " postmaster"]
)
def test_bad_recipient_address_is_501_5_1_3(path: str) -> None:
    with pytest.raises(ProtocolError) as error:
        rcpt(f"TO:<{path}>")
    assert codes(error) == (501, "5.1.3")


@pytest.mark.parametrize("parameter", ["NOTIFY=NEVER", "ORCPT=rfc822;a@b.example", "X"])
def test_rcpt_parameter_that_was_not_offered_is_555(parameter: str) -> None:
    with pytest.raises(ProtocolError) as error:
        rcpt(f"TO:<a@b.example> {parameter}")
    assert codes(error) == (555, "5.5.4")


def test_reply_to_a_bad_address_repeats_nothing_of_it() -> None:
    with pytest.raises(ProtocolError) as error:
        rcpt("TO:<evil(marker)@b.example>")
    assert "evil" not in error.value.reply.text
    assert "marker" not in error.value.reply.text


# BDAT and commands without argument.


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("0", Bdat(0, False)),
        ("86", Bdat(86, False)),
        ("86 LAST", Bdat(86, True)),
        ("0 last", Bdat(0, True)),
        ("00086", Bdat(86, False)),
        ("9" * 20, Bdat(10**20 - 1, False)),
    ],
)
def test_bdat_is_parsed(argument: str, expected: Bdat) -> None:
    assert parse_bdat(argument) == expected


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "LAST",
        "-1",
        "+1",
        "1.5",
        "0x10",
        "86LAST",
        "86  LAST",
        "86 LAST x",
        "86 FIRST",
        " 86",
        "٣",
        "3 LAſT",
        "9" * 21,
    ],
)
def test_bad_bdat_is_501_and_closes_since_what_follows_is_no_command(argument: str) -> None:
    with pytest.raises(ProtocolError) as error:
        parse_bdat(argument)
    assert codes(error) == (501, "5.5.4")
    assert error.value.closes


def test_argument_where_there_is_none_is_501() -> None:
    refuse_argument("DATA", "")
    with pytest.raises(ProtocolError) as error:
        refuse_argument("DATA", "now")
    assert codes(error) == (501, "5.5.4")
    assert error.value.reply.text == "DATA takes no argument"
