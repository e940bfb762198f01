"""The author of a message: exactly one, or a fault."""

import pytest

from mailflow.mail.headers import split_message
from mailflow.mailauth.author import (
    MAX_FROM_OCTETS,
    MAX_NOTES,
    Author,
    AuthorFault,
    AuthorFaultKind,
    read_author,
    read_from_field,
)

Kind = AuthorFaultKind
GOOD = b"From: joe@good.example\r\n"
EVIL = b"From: ceo@bank.example\r\n"


def read(value: str) -> Author | AuthorFault:
    return read_from_field(value.encode("utf-8", "surrogateescape"))


def author(value: str) -> Author:
    found = read(value)
    assert isinstance(found, Author), found
    return found


def kind_of(content: bytes) -> AuthorFaultKind | None:
    found = read_author(content)
    return found.kind if isinstance(found, AuthorFault) else None


# Which From field


def test_one_from_field_is_the_author() -> None:
    content = b"To: x@other.example\r\n" + GOOD + b"\r\nFrom: body@bank.example\r\n"
    assert read_author(content) == Author("joe@good.example", "good.example")
    assert read_author(content, split_message(content)) == read_author(content)


@pytest.mark.parametrize("name", [b"From", b"FROM", b"from", b"From ", b"From\t", b"fRom \t "])
def test_field_counts_in_every_spelling(name: bytes) -> None:
    field = name + b": ceo@bank.example\r\n"
    assert read_author(b"To: x\r\n" + field + b"\r\n") == Author("ceo@bank.example", "bank.example")
    assert read_author(field + b"\r\n") == Author("ceo@bank.example", "bank.example")
    for content in (GOOD + field, field + GOOD, field + b"To: x\r\n" + GOOD, GOOD + GOOD):
        assert kind_of(content + b"\r\nbody") is Kind.SEVERAL_FIELDS


@pytest.mark.parametrize(
    "content",
    [b"", b"\r\n", b"\r\n" + GOOD, b"To: x\r\n\r\n" + GOOD, b"X-From: a@b\r\nReply-From: a@b\r\n\r\n", b"From"],
)
def test_message_without_from_field_has_no_author(content: bytes) -> None:
    assert kind_of(content) is Kind.NO_FIELD


@pytest.mark.parametrize("name", [b"Sender", b"Resent-From", b"Resent-Sender", b"Reply-To", b"Return-Path", b"X-From"])
def test_other_fields_never_stand_for_the_author(name: bytes) -> None:
    field = name + b": ceo@bank.example\r\n"
    assert kind_of(field + b"\r\n") is Kind.NO_FIELD
    assert read_author(field + GOOD + field + b"\r\n") == Author("joe@good.example", "good.example")


def test_line_of_an_mbox_in_front_is_no_field() -> None:
    mbox = b"From ceo@bank.example Mon Nov 23 10:00:00 2026\r\n"
    assert read_author(mbox + GOOD + b"\r\n") == Author("joe@good.example", "good.example")


@pytest.mark.parametrize("line", [b"From \0: ceo@bank.example", b"From \rFrom: ceo@bank.example", b"From x\rfrom\t:"])
def test_line_of_an_mbox_hides_no_field(line: bytes) -> None:
    assert kind_of(line + b"\r\n" + GOOD + b"\r\n") is Kind.HIDDEN_FIELD


@pytest.mark.parametrize(
    "line",
    [
        b"From\r\n : ceo@bank.example\r\n",
        b"From \r\n\t: ceo@bank.example\r\n",
        b"From\r\n \r\n : ceo@bank.example\r\n",
        b"no field\r\n" + EVIL,
        b"no field\r\nfrom :ceo@bank.example\r\n",
        b"no field\r\nX: y\r\n" + EVIL + b"Z: y\r\n",
        b"no field\r\n From: ceo@bank.example\r\n",
        b"From\xa0: ceo@bank.example\r\n",
        b"\xef\xbb\xbfFrom: ceo@bank.example\r\n",
        b"\0From: ceo@bank.example\r\n",
        b"From\0: ceo@bank.example\r\n",
        b"X: a\rFrom: ceo@bank.example\r\n",
        b"From joe Mon Nov 23\r\n" + EVIL,
        b"From: ceo@bank.example\r more\r\n",
    ],
)
def test_from_field_where_the_header_has_ended_for_us_is_refused(line: bytes) -> None:
    for end in (b"", b"\r\n", b"\r\nbody\r\n"):
        assert kind_of(GOOD + line + end) is Kind.HIDDEN_FIELD
        assert kind_of(line + GOOD + end) in {Kind.HIDDEN_FIELD, Kind.SEVERAL_FIELDS, Kind.NO_FIELD}


@pytest.mark.parametrize(
    "rest",
    [
        b"text that lost its empty line\r\n",
        b"text\r\n\r\n" + EVIL,
        b"text\r\n> From: ceo@bank.example\r\n",
        b"text from: somebody\r\n",
        b"text\r\nFrom here: on\r\n",
        b"text\r\nX-From: a@b\r\nFrom-X: c\r\n",
    ],
)
def test_text_that_lost_its_empty_line_is_no_field(rest: bytes) -> None:
    assert read_author(GOOD + rest) == Author("joe@good.example", "good.example")


def test_field_behind_a_bare_newline_counts() -> None:
    assert kind_of(b"X: a\nFrom: ceo@bank.example\r\n" + GOOD + b"\r\n") is Kind.HIDDEN_FIELD
    assert kind_of(GOOD + b"X: a\n\tb\nFrom\t: ceo@bank.example\r\n\r\n") is Kind.HIDDEN_FIELD
    assert kind_of(GOOD + b"X: a\nb\r\nno field\r\n" + EVIL) is Kind.HIDDEN_FIELD
    assert read_author(GOOD + b"X: a\nb\r\n\r\n") == Author("joe@good.example", "good.example")


@pytest.mark.parametrize("octet", [b"\0", b"\n"])
def test_control_character_in_the_field_is_refused(octet: bytes) -> None:
    for value in (
        b"joe@good" + octet + b".example",
        b"Joe" + octet + b" <joe@good.example>",
        b"joe@good.example" + octet,
    ):
        assert kind_of(b"From: " + value + b"\r\n\r\n") is Kind.CONTROL


def test_bare_cr_in_the_field_is_refused() -> None:
    assert kind_of(b"From: joe@good.example\r <ceo@bank.example>\r\n\r\n") is Kind.HIDDEN_FIELD


def test_field_may_be_as_long_as_the_limit_and_no_longer() -> None:
    padding = "(" + "x" * (MAX_FROM_OCTETS - len("()a@b.example")) + ")"
    assert author(f"{padding}a@b.example").domain == "b.example"
    found = read(f"{padding} a@b.example")
    assert isinstance(found, AuthorFault)
    assert found.kind is Kind.OVERLONG


# Which domain


@pytest.mark.parametrize(
    ("value", "domain"),
    [
        ("joe@mail.example.com", "mail.example.com"),
        ("<joe@EXAMPLE.com>", "example.com"),
        (' "Joe (x) <y>, z: w;" <joe@example.com>', "example.com"),
        ("Joe Q. Public\r\n <joe@example.com>", "example.com"),
        ("joe\r\n @\r\n example.com", "example.com"),
        ("(a (nested) comment) Joe <joe@example(x).com> (y)", "example.com"),
        ("<@a.example,@b.example:joe@c.example>", "c.example"),
        ("joe@a.example, Jane <jane@A.example>", "a.example"),
        ("Staff: joe@a.example, jane@a.example;", "a.example"),
        ("Staff: joe@a.example;, Others:;", "a.example"),
        ("a@bücher.example", "xn--bcher-kva.example"),
        ("a@bücher.example, b@XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("a@BÜCHER.example", "xn--bcher-kva.example"),
        ("a@bücher。example", "xn--bcher-kva.example"),
        ("a@faß.example", "xn--fa-hia.example"),
        ("a@foo_bar.example", "foo_bar.example"),
        ("a@localhost", "localhost"),
        ("a@[192.0.2.1]", "[192.0.2.1]"),
        ("a@[ 192.0.2.1 ]", "[192.0.2.1]"),
        ("a@[IPv6:2001:DB8::1]", "[IPv6:2001:db8::1]"),
        ('"ceo@bank.example" <a@b.example>', "b.example"),
        ("=?utf-8?q?ceo=40bank=2Eexample?= <a@b.example>", "b.example"),
        ("=?utf-8?q?ceo=40bank=2Eexample=3E?=@b.example", "b.example"),
        ("\udcfc\udce4 <a@b.example>", "b.example"),
        ("a@" + ".".join(["x" * 63] * 3 + ["y" * 61]), ".".join(["x" * 63] * 3 + ["y" * 61])),
    ],
)
def test_one_domain_in_a_field_of_the_grammar(value: str, domain: str) -> None:
    found = author(value)
    assert (found.domain, found.is_strict) == (domain, True)


@pytest.mark.parametrize(
    ("value", "domain"),
    [
        ("Doe, John <j@a.example>", "a.example"),
        ("John [Jack] <j@a.example>", "a.example"),
        ("j@a.example <j@A.example>", "a.example"),
        ("j@a.example (x) <l@a.example>", "a.example"),
        ("'j@a.example' <j@a.example>", "a.example"),
        ("[j@a.example] <j@a.example>", "a.example"),
        ("j@a.example.", "a.example"),
        ("<j@a.example.>", "a.example"),
        ("j@a.example. <j@a.example>", "a.example"),
        ("j@a.example; k@a.example", "a.example"),
        ("<j@a.example> <k@a.example>", "a.example"),
        ("J <j@a.example", "a.example"),
        ("j@a.example>", "a.example"),
        ("j@a.example (x", "a.example"),
        ("Staff: j@a.example", "a.example"),
        ("mailto:j@a.example <j@a.example>", "a.example"),
        ("Support @ Company <s@a.example>", "a.example"),
        ("Jane @jane <j@a.example>", "a.example"),
        ("j..k@a.example", "a.example"),
        ("a@bücher.example <b@xn--bcher-kva.example>", "xn--bcher-kva.example"),
    ],
)
def test_field_outside_the_grammar_of_which_all_readings_agree(value: str, domain: str) -> None:
    found = author(value)
    assert (found.domain, found.is_strict) == (domain, False)


@pytest.mark.parametrize(
    "value",
    [
        "ceo@bank.example <x@evil.example>",
        "<x@evil.example> ceo@bank.example",
        "<x@evil.example> <ceo@bank.example>",
        "<ceo@bank.example> via <x@evil.example>",
        "ceo@bank.example x@evil.example",
        "ceo@bank.example; x@evil.example",
        "ceo @ bank.example <x@evil.example>",
        "ceo @bank.example <x@evil.example>",
        "ceo@ bank.example <x@evil.example>",
        "ceo@bank . example <x@evil.example>",
        "ceo@bank. example <x@bank>",
        "ceo @ bank . example <x@evil.example>",
        "ceo@bank .example <x@bank>",
        "'ceo@bank.example' <x@evil.example>",
        '"ceo@bank.example" [x] <x@evil.example>',
        "(ceo@bank.example) [x] <x@evil.example>",
        "x@evil.example (ceo@bank.example",
        '"x@evil.example" <ceo@bank.example',
        "=?utf-8?q?ceo=40bank.example=3C?= [x] <x@evil.example>",
        "=?utf-8?b?Y2VvQGJhbmsuZXhhbXBsZQ==?= [x] <x@evil.example>",
        "=?ceo@bank.example?= <x@evil.example>",
        "ceo@bank.example via List <list@bank.example>",
        "ceo@bank.co m <x@bank.co>",
        "ceo@bank.co (x) m <x@bank.co>",
        "ceo@bank.co () (x) m <x@bank.co>",
        "@bank.example <x>",
        "ceo@bank example",
        "<ceo@bank example>",
        "<ceo@bank, x> <y@bank>",
        "ceo@bank.example@evil.example",
        "<ceo@bank.example@evil.example>",
        "x@evil.example:ceo@bank.example",
        "Staff: x@evil.example, ceo@bank.example",
        "a@b.example, c@d.example",
        "Staff: a@b.example, c@d.example;",
        "a@b.example, Staff: c@d.example;",
        "a@b.example, c@sub.b.example",
    ],
)
def test_field_that_could_show_another_author_is_refused(value: str) -> None:
    found = read(value)
    assert isinstance(found, AuthorFault)
    assert found.kind in {Kind.SEVERAL_DOMAINS, Kind.UNCLEAR}


ENCODED = "=?utf-8?q?ceo=40bank=2Eexample?="


@pytest.mark.parametrize(
    "value", ["", " ", "Joe", "<>", "undisclosed-recipients:;", "A:;, B:;", "Joe <joe>", "()", '""', ENCODED]
)
def test_field_without_an_address_has_no_author(value: str) -> None:
    found = read(value)
    assert isinstance(found, AuthorFault)
    assert found.kind is Kind.NO_DOMAIN


@pytest.mark.parametrize(
    "domain",
    [
        *("", ".", "[", "[]", "[bank.example]", "[x@y]", "[999.1.1.1]", "[IPv6:fe80::1%eth0]"),
        *("x" * 64 + ".example", ".".join(["x" * 63] * 3 + ["y" * 62])),
        *("bank.example'", "bank.example/", "bank!evil.example", "a..example"),
        *("bank\xa0.example", "bank\u3000.example", "bank.example\uff20evil.example", "bank.example\uff1e"),
        *("b\udcfcnk.example", "\u0378.example", "\U0001f4a9.example", "-\u0301.example"),
    ],
)
def test_address_whose_domain_is_none_is_refused(domain: str) -> None:
    for value in (f"a@{domain}", f"A <a@{domain}>", f"b@good.example, a@{domain}"):
        assert isinstance(read(value), AuthorFault)


def test_field_outside_the_grammar_may_have_ninety_nine_addresses_and_no_more() -> None:
    assert author("a@b.example " + "<a@b.example>" * 98).domain == "b.example"
    found = read("a@b.example " + "<a@b.example>" * 99)
    assert isinstance(found, AuthorFault)
    assert found.kind is Kind.UNCLEAR
    assert author("a@b.example," * 500).domain == "b.example"


# What is shown


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        ('"ceo@bank.example" <a@b.example>', ["display name: ceo@bank.example"]),
        ('"ceo@bank.example via List" <a@b.example>', ["display name: ceo@bank.example"]),
        ("a@b.example (ceo@bank.example)", ["display name: ceo@bank.example"]),
        ("=?utf-8?q?ceo=40bank=2Eexample?= <a@b.example>", ["display name: ceo@bank.example"]),
        ("=?utf-8?b?Y2VvQGJh?= =?utf-8?b?bmsuZXhhbXBsZQ==?= <a@b.example>", ["display name: ceo@bank.example"]),
        ("=?utf-7?q?ceo+AEA-bank.example?= <a@b.example>", ["display name: ceo@bank.example"]),
        ("=?utf-8?q?ceo=40bank=2Eexample=3E?=@b.example", ["local part: ceo@bank.example"]),
        ('"ceo@bank.example"@b.example', ["local part: ceo@bank.example"]),
        ('"c@b.example" <a@b.example>', []),
        ('"c@B.example via List" <a@b.example>', []),
        ('"Support @ Company" <a@b.example>', []),
        ('"@jane" <a@b.example>', []),
        ("=?utf-8?q?J=C3=B6rg?= <a@b.example>", []),
        ("=?utf-8?b?!?= =?x-unknown?q?a?= =?idna?q?xn--?= =?utf-8?x?a?= <a@b.example>", []),
        ('"c@d\u202e.example" <a@b.example>', ["display name: c@d\\u202e.example"]),
    ],
)
def test_another_address_that_the_field_shows_is_noted(value: str, quoted: list[str]) -> None:
    expected = [f"the {note.partition(': ')[0]} quotes another address: {note.partition(': ')[2]}" for note in quoted]
    assert list(author(value).notes) == expected


def test_notes_are_few() -> None:
    assert len(author('"a@c.d b@c.d c@c.d d@c.d" <a@b.example> (e@c.d)').notes) == MAX_NOTES


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("Joe <joe@Example.COM>", "joe@Example.COM"),
        ("joe@b.example, jane@b.example", "joe@b.example"),
        ("j . k@b . example", "j.k@b.example"),
        ("<@r.example:joe@b.example>", "joe@b.example"),
        ("jo\u202ee@bücher.example", "jo\\u202ee@bücher.example"),
        ("\udcff@b.example", "\\udcff@b.example"),
        ('"a\tb"@c.example', '"a\\tb"@c.example'),
        ("x" * 400 + "@b.example", "x" * 320),
        ("J [x] <joe@b.example>", "joe@b.example"),
    ],
)
def test_address_is_given_as_printable_text(value: str, address: str) -> None:
    assert author(value).address == address


def test_reason_of_a_fault_quotes_nothing_of_the_message() -> None:
    for value in ("", "secret@a.example, secret@b.example", "secret@\0", "secret@bank secret", "secret" * 5000):
        found = read(value)
        assert isinstance(found, AuthorFault)
        assert "secret" not in found.reason
        assert found.reason.isascii()
        assert found.reason.isprintable()
