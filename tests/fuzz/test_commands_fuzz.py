"""Any bytes as a command: a value or a ProtocolError, nothing else; what is an address can be written again."""

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailflow.mail.address import Address, AddressSyntaxError, parse_domain, parse_mailbox
from mailflow.mail.reply import ProtocolError, Reply, ReplyReader, ReplySyntaxError
from mailflow.smtp.commands import parse_bdat, parse_greeting, parse_mail, parse_rcpt, split_command

EXAMPLES = settings(max_examples=400, deadline=None)

WORDS = [
    *("MAIL", "RCPT", "BDAT", "EHLO", " ", "\t", "FROM:", "TO:", "<", ">", "<>", "@", "a", "b.example", ".", "..", '"'),
    *("\\", '\\"', ",", ":", "[", "]", "[IPv6:", "::", "1", "192.0.2.1", "SIZE=", "BODY=", "7BIT", "8BITMIME"),
    *("SMTPUTF8", "=", "LAST", "postmaster", "ü", "ß", "Σ", "。", "ß", "\u200d", "xn--", "-", "_", "\0", "\r", "\n"),
    *("RET=", "FULL", "HDRS", "ENVID=", "NOTIFY=", "NEVER", "SUCCESS", "DELAY", "ORCPT=", "rfc822;", "utf-8;", "a@b"),
    *("+20", "+2B", "+7F", "+2b", "\\x{", "\\x{20AC}", "\\x{2B}", "\\x{D800}", "\\x{110000}", "}", "x" * 99),
]
ALMOST_COMMANDS = st.lists(st.sampled_from(WORDS), max_size=14).map("".join)
LINES = st.binary(max_size=200) | ALMOST_COMMANDS.map(str.encode)
ARGUMENTS = st.text(max_size=100) | ALMOST_COMMANDS

LABELS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
DOMAINS = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
LOCAL_PARTS = st.text(st.characters(codec="utf-8"), max_size=30)
PARSERS: list[Callable[[str], object]] = [
    parse_greeting,
    parse_bdat,
    lambda text: parse_mail(text, is_extended=True),
    lambda text: parse_mail(text, is_extended=False),
    lambda text: parse_mail(f"FROM:<{text}> SMTPUTF8", is_extended=True),
    lambda text: parse_mail(f"FROM:<> {text}", is_extended=True),
    lambda text: parse_mail(f"FROM:<> {text}", is_extended=True, has_dsn=True),
    lambda text: parse_mail(f"FROM:<> ENVID={text}", is_extended=True, has_dsn=True),
    lambda text: parse_rcpt(f"TO:<a@b> {text}", is_extended=True, is_smtputf8=False, has_dsn=True),
    lambda text: parse_rcpt(f"TO:<a@b> NOTIFY={text}", is_extended=True, is_smtputf8=False, has_dsn=True),
    lambda text: parse_rcpt(f"TO:<a@b> ORCPT=utf-8;{text}", is_extended=True, is_smtputf8=True, has_dsn=True),
    lambda text: parse_rcpt(text, is_extended=True, is_smtputf8=True),
    lambda text: parse_rcpt(f"TO:<{text}>", is_extended=False, is_smtputf8=False),
]


def check_reply(reply: Reply) -> None:
    """A refusal is 5xx with a code of its class, and one line of printable ASCII."""
    assert reply.is_permanent
    assert reply.enhanced.startswith("5.")
    assert reply.encode().isascii()
    assert reply.encode().count(b"\n") == 1


@EXAMPLES
@given(LINES)
@example(b"")
@example(b"\0")
def test_any_line_is_a_command_or_a_protocol_error(line: bytes) -> None:
    try:
        verb, argument = split_command(line)
    except ProtocolError as error:
        check_reply(error.reply)
        return
    assert verb.isascii()
    assert verb == verb.upper()
    assert "\0" not in argument
    assert "\r" not in argument
    assert "\n" not in argument
    for parse in PARSERS:
        parse_or_refuse(parse, argument)


@EXAMPLES
@given(ARGUMENTS, st.sampled_from(PARSERS))
def test_any_argument_is_a_value_or_a_protocol_error(argument: str, parse: Callable[[str], object]) -> None:
    parse_or_refuse(parse, argument)


def parse_or_refuse(parse: Callable[[str], object], argument: str) -> None:
    try:
        parse(argument)
    except ProtocolError as error:
        check_reply(error.reply)


PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=33)
HEX_DIGITS = st.sampled_from(["X", "x"])


def write_xtext(text: str) -> str:
    """Write xtext (RFC 3461 s4) the way a careful client does."""
    return "".join(char if "!" <= char <= "~" and char not in "+=" else f"+{ord(char):02X}" for char in text)


@EXAMPLES
@given(PRINTABLE.filter(bool))
def test_any_printable_text_comes_back_from_xtext(text: str) -> None:
    written = write_xtext(text)
    mail = parse_mail(f"FROM:<> ENVID={written}", is_extended=True, has_dsn=True)
    rcpt = parse_rcpt(f"TO:<a@b> ORCPT=x;{written}", is_extended=True, is_smtputf8=False, has_dsn=True)
    assert (mail.envelope_id, rcpt.original_recipient) == (text, f"x;{text}")


@EXAMPLES
@given(st.text(st.characters(min_codepoint=32, codec="utf-8", exclude_characters="\x7f"), max_size=15), HEX_DIGITS)
def test_any_mailbox_comes_back_from_the_escapes_of_rfc_6533(local: str, digits: str) -> None:
    mailbox = str(Address(local, "example.org", "example.org"))
    written = "".join(
        char if "!" <= char <= "~" and char not in "+=\\" else f"\\x{{{ord(char):{digits}}}}" for char in mailbox
    )
    rcpt = parse_rcpt(f"TO:<a@b> ORCPT=UTF-8;{written}", is_extended=True, is_smtputf8=False, has_dsn=True)
    assert rcpt.original_recipient == f"utf-8;{mailbox}"


@EXAMPLES
@given(st.text(max_size=100) | ALMOST_COMMANDS | st.builds("{}@{}".format, LOCAL_PARTS, DOMAINS))
@example("a@ΕΛΛΑΣ")
@example("a@straẞe")
def test_any_text_is_an_address_that_can_be_written_and_read_again_or_none(text: str) -> None:
    try:
        address = parse_mailbox(text)
    except AddressSyntaxError:
        return
    check_round_trip(address)


@EXAMPLES
@given(st.text(st.characters(min_codepoint=32, codec="utf-8", exclude_characters="\x7f"), max_size=15))
def test_any_printable_local_part_can_be_written_and_read_again(local: str) -> None:
    address = Address(local, "example.org", "example.org")
    assert parse_mailbox(str(address)) == address


@EXAMPLES
@given(DOMAINS)
@example("\U000e0001.example")
@example("0\u0660")
def test_domain_is_given_in_a_form_that_stays(domain: str) -> None:
    try:
        ascii_domain = parse_domain(domain)
    except AddressSyntaxError:
        return
    assert ascii_domain.isascii()
    assert parse_domain(ascii_domain) == ascii_domain


PLAIN = st.text("abAZ09-_+=", min_size=1, max_size=66)


@EXAMPLES
@given(PLAIN, st.lists(PLAIN | st.sampled_from(["x" * 63, "x" * 60, "-"]), min_size=1, max_size=5).map(".".join))
@example("a" * 62, ".".join(["x" * 63] * 2 + ["y" * 61]))
def test_plain_address_is_what_it_is_with_its_local_part_quoted(local: str, domain: str) -> None:
    try:
        quoted = parse_mailbox(f'"{local}"@{domain}')
    except AddressSyntaxError as exc:
        if "longer" not in str(exc):  # two quotes may be all that is too much
            with pytest.raises(AddressSyntaxError):
                parse_mailbox(f"{local}@{domain}")
        return
    plain = parse_mailbox(f"{local}@{domain}")
    assert (plain, plain.domain, str(plain)) == (quoted, quoted.domain, str(quoted))


def check_round_trip(address: Address) -> None:
    again = parse_mailbox(str(address))
    assert again == address
    assert again.domain == address.domain
    assert str(again) == str(address)


REPLY_LINES = st.binary(max_size=40) | st.builds(
    "{}{}{}".format, st.sampled_from(["250", "550", "421", "99", "2500"]), st.sampled_from(["-", " ", ""]), st.text()
).map(lambda text: text.encode("utf-8", "replace"))


@EXAMPLES
@given(st.lists(REPLY_LINES, max_size=10))
def test_any_lines_are_replies_or_a_reply_syntax_error(lines: list[bytes]) -> None:
    reader = ReplyReader()
    for line in lines:
        try:
            reply = reader.feed_line(line)
        except ReplySyntaxError:
            return
        assert (reply is None) is not reader.is_between_replies
        if reply is not None:
            assert 200 <= reply.code <= 559
            assert reply.enhanced == "" or reply.enhanced[0] == str(reply.code)[0]
            assert all(char == "\n" or " " <= char <= "~" for char in reply.text)
