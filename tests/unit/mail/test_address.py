"""The strict Mailbox grammar of RFC 5321 s4.1.2 and 6531, and what makes two addresses one mailbox."""

import pytest

from mailflow.mail.address import Address, AddressSyntaxError, parse_domain, parse_mailbox


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("joe@example.org", "joe"),
        ("Joe.Blow@example.org", "Joe.Blow"),
        ("!#$%&'*+/=?^_`{|}~-@example.org", "!#$%&'*+/=?^_`{|}~-"),
        ('"joe"@example.org', "joe"),
        ('""@example.org', ""),
        ('"joe blow"@example.org', "joe blow"),
        ('"a@b"@example.org', "a@b"),
        ('"a\\"b"@example.org', 'a"b'),
        ('"a\\\\b"@example.org', "a\\b"),
        ('"\\j\\o\\e"@example.org', "joe"),
        ('"a..b"@example.org', "a..b"),
        ('".a"@example.org', ".a"),
        ("jürgen@example.org", "jürgen"),
        ('"jü rgen"@example.org', "jü rgen"),
        ("用户@example.org", "用户"),
    ],
)
def test_local_part_is_kept_without_its_quotes(text: str, local: str) -> None:
    assert parse_mailbox(text).local == local


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "joe",
        "joe@",
        "@example.org",
        "joe@@example.org",
        ".joe@example.org",
        "joe.@example.org",
        "joe..blow@example.org",
        "joe blow@example.org",
        "joe @example.org",
        "joe@ example.org",
        "joe@example.org ",
        "joe@example.org\n",
        "joe(comment)@example.org",
        "joe@(comment)example.org",
        "<joe@example.org>",
        "joe,blow@example.org",
        '"joe@example.org',
        '"joe"blow@example.org',
        '"joe".blow@example.org',
        'joe"@example.org',
        '"joe\\"@example.org',
        '"jo"e"@example.org',
        '"joe\x01"@example.org',
        '"joe\t"@example.org',
        '"joe\r\n blow"@example.org',
        '"joe\\\r"@example.org',
        '"\\ü"@example.org',
        "joe\x7f@example.org",
        "joe\0@example.org",
        "\ud800@example.org",
        "joe@\ud800.example",
    ],
)
def test_what_is_no_mailbox_is_refused(text: str) -> None:
    with pytest.raises(AddressSyntaxError):
        parse_mailbox(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ('"joe"@example.org', "joe@example.org"),
        ('"joe.blow"@Example.ORG', "joe.blow@example.org"),
        ('"\\j\\oe"@example.org', "joe@example.org"),
        ('"joe blow"@example.org', '"joe blow"@example.org'),
        ('"\\ "@example.org', '" "@example.org'),
        ('""@example.org', '""@example.org'),
        ('"a\\"\\\\b"@example.org', '"a\\"\\\\b"@example.org'),
        ('".a"@example.org', '".a"@example.org'),
        ('"a."@example.org', '"a."@example.org'),
        ('"ü"@example.org', "ü@example.org"),
        ("Joe@BÜCHER.Example", "Joe@bücher.example"),
        ("joe@XN--BCHER-KVA.example", "joe@xn--bcher-kva.example"),
        ("joe@[IPV6:2001:DB8::1]", "joe@[IPv6:2001:db8::1]"),
        ("joe@[192.0.2.1]", "joe@[192.0.2.1]"),
    ],
)
def test_address_is_written_with_as_few_quotes_as_it_needs(text: str, canonical: str) -> None:
    address = parse_mailbox(text)
    assert str(address) == canonical
    assert parse_mailbox(canonical) == address


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("joe@example.org", '"joe"@example.org'),
        ("joe@example.org", '"\\j\\o\\e"@EXAMPLE.org'),
        ("joe@bücher.example", "joe@xn--bcher-kva.example"),
        ("joe@BÜCHER.example", "joe@Xn--Bcher-Kva.example"),
        ("joe@bücher。example", "joe@bücher.example"),
        ("joe@example.ΕΛΛΑΣ", "joe@example.ελλασ"),
    ],
)
def test_spellings_of_one_mailbox_are_equal(one: str, other: str) -> None:
    assert parse_mailbox(one) == parse_mailbox(other)
    assert len({parse_mailbox(one), parse_mailbox(other)}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("joe@example.org", "Joe@example.org"),
        ("joe@example.org", "joe@example.com"),
        ("joe@strasse.example", "joe@straße.example"),
        ("joe@example.ελλας", "joe@example.ελλασ"),
    ],
)
def test_different_mailboxes_are_not_equal(one: str, other: str) -> None:
    assert parse_mailbox(one) != parse_mailbox(other)


@pytest.mark.parametrize("domain", ["ΕΛΛΑΣ", "straẞe.example", "㍿.example", "ｅxample.org", "İ.example", "a。b"])
def test_domain_that_is_written_and_read_again_is_the_same_domain(domain: str) -> None:
    address = parse_mailbox(f"joe@{domain}")
    assert parse_mailbox(str(address)) == address


@pytest.mark.parametrize(
    ("domain", "ascii_domain"),
    [
        ("example.org", "example.org"),
        ("localhost", "localhost"),
        ("1.2", "1.2"),
        ("a--b.example", "a--b.example"),
        ("Bücher.Example", "xn--bcher-kva.example"),
        ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
        ("l" * 63 + ".example", "l" * 63 + ".example"),
    ],
)
def test_domain_is_given_in_lower_case_a_labels(domain: str, ascii_domain: str) -> None:
    assert parse_domain(domain) == ascii_domain
    assert parse_mailbox(f"joe@{domain}").ascii_domain == ascii_domain


@pytest.mark.parametrize(
    "domain",
    [
        "",
        ".",
        "example.",
        ".example",
        "a..b",
        "-a.example",
        "a-.example",
        "a_b.example",
        "a b.example",
        "a/b.example",
        "[192.0.2.1]",
        "l" * 64 + ".example",
        "a\n",
        "\u2100.example",
        "a\u200db.example",
        "\u0301a.example",
        "xn--.ü",
        "ü" * 60 + ".example",
    ],
)
def test_what_is_no_domain_is_refused(domain: str) -> None:
    with pytest.raises(AddressSyntaxError):
        parse_domain(domain)


def test_domain_of_255_octets_is_taken_and_of_256_is_not() -> None:
    domain = ".".join(["l" * 63] * 4)
    assert len(domain) == 255
    assert parse_domain(domain) == domain
    with pytest.raises(AddressSyntaxError, match="longer than 255"):
        parse_domain("l." + domain[1:])


def test_local_part_is_measured_as_written_in_octets() -> None:
    parse_mailbox("l" * 64 + "@b.example")
    parse_mailbox('"' + "l" * 62 + '"@b.example')
    parse_mailbox("ü" * 32 + "@b.example")
    for local in ("l" * 65, '"' + "l" * 63 + '"', "ü" * 32 + "l"):
        with pytest.raises(AddressSyntaxError, match="longer than 64"):
            parse_mailbox(local + "@b.example")


def test_path_is_measured_with_its_brackets() -> None:
    domain = ".".join(["l" * 63] * 3)  # 191
    parse_mailbox("l" * 62 + "@" + domain)  # 254 and two brackets
    with pytest.raises(AddressSyntaxError, match="longer than 256"):
        parse_mailbox("l" * 63 + "@" + domain)


@pytest.mark.parametrize(
    "literal",
    [
        "[0.0.0.0]",
        "[255.255.255.255]",
        "[IPv6:1111:2222:3333:4444:5555:6666:7777:8888]",
        "[IPv6:::]",
        "[IPv6:::1]",
        "[IPv6:1::]",
        "[IPv6:1:2:3:4:5:6::]",
        "[IPv6:::3:4:5:6:7:8]",
        "[IPv6:1:2:3::6:7:8]",
        "[IPv6:1:2:3:4:5:6:192.0.2.1]",
        "[IPv6:::192.0.2.1]",
        "[IPv6:1:2:3:4::192.0.2.1]",
        "[IPv6:::ffff:192.0.2.1]",
    ],
)
def test_address_literal_is_taken(literal: str) -> None:
    address = parse_mailbox(f"joe@{literal}")
    assert address.domain == address.ascii_domain == literal


@pytest.mark.parametrize(
    "literal",
    [
        "[]",
        "[192.0.2]",
        "[192.0.2.1.1]",
        "[192.0.2.256]",
        "[192.0.2.01]",
        "[192.0.2.-1]",
        "[١٩٢.0.2.1]",
        "[192.0.2.1",
        "192.0.2.1]",
        "[192.0.2.1]x",
        "[ 192.0.2.1]",
        "[2001:db8::1]",
        "[IPv6:]",
        "[IPv6:1:2:3:4:5:6:7]",
        "[IPv6:1:2:3:4:5:6:7:8:9]",
        "[IPv6:1::2::3]",
        "[IPv6:12345::]",
        "[IPv6:g::]",
        "[IPv6:fe80::1%lo]",
        "[IPv6:192.0.2.1]",
        "[tag:something]",
        "[x]",
    ],
)
def test_what_is_no_address_literal_is_refused(literal: str) -> None:
    with pytest.raises(AddressSyntaxError):
        parse_mailbox(f"joe@{literal}")


@pytest.mark.parametrize("groups", ["1:2:3:4:5:6:7::", "::2:3:4:5:6:7:8", "1::3:4:5:6:7:8", "1:2:3:4:5::192.0.2.1"])
def test_double_colon_that_stands_for_one_group_is_refused(groups: str) -> None:
    with pytest.raises(AddressSyntaxError, match="single group"):
        parse_mailbox(f"joe@[IPv6:{groups}]")


@pytest.mark.parametrize(
    ("text", "is_ascii"),
    [
        ("joe@example.org", True),
        ("joe@xn--bcher-kva.example", True),
        ("joe@bücher.example", False),
        ("jü@example.org", False),
    ],
)
def test_address_tells_whether_it_needs_smtputf8(text: str, is_ascii: bool) -> None:
    assert parse_mailbox(text).is_ascii is is_ascii


def test_address_is_a_value_that_cannot_change() -> None:
    address = parse_mailbox("joe@example.org")
    assert address == Address("joe", "example.org", "example.org")
    with pytest.raises(AttributeError):
        address.local = "eve"  # type: ignore[misc]
