"""Tag lists by RFC 6376 s3.2, and the values that signatures share."""

import pytest

from mailflow.mailauth.canonical import Canonicalization
from mailflow.mailauth.dkim_tags import (
    MAX_SIGNED_FIELDS,
    MAX_TAG_LIST_OCTETS,
    Algorithm,
    SignatureFault,
    parse_tag_list,
    read_algorithm,
    read_base64,
    read_canonicalizations,
    read_domain,
    read_number,
    read_selector,
    read_signed_fields,
    to_domain,
)
from mailflow.mailauth.result import AuthStatus

SIMPLE, RELAXED = Canonicalization.SIMPLE, Canonicalization.RELAXED


@pytest.mark.parametrize(
    ("octets", "tags"),
    [
        (b"a=1", {"a": "1"}),
        (b"a=1;", {"a": "1"}),
        (b" a = 1 ; b_2=x y ; \r\n ", {"a": "1", "b_2": "x y"}),
        (b"a=\r\n 1\r\n\t2;b=", {"a": "1\t2", "b": ""}),
        (b"a==;b=x=y", {"a": "=", "b": "x=y"}),
        (b"a=1; A=2", {"a": "1", "A": "2"}),
        (b"a=\xc3\xbc", {"a": "ü"}),
        (b"a=\xff", {"a": "\ufffd"}),
    ],
)
def test_tag_list_is_taken_apart(octets: bytes, tags: dict[str, str]) -> None:
    parsed = parse_tag_list(octets)
    assert parsed == tags
    assert list(parsed) == list(tags)


@pytest.mark.parametrize(
    "octets",
    [
        *(b"", b";", b" ", b"a", b"a=1;;b=2", b"a=1;;", b";a=1", b"=1", b"1a=1", b"_a=1", b"a b=1", b"a-b=1"),
        *(b"a=1; a=2", b"a=1;a=1", b"\xc3\xbc=1", b"a=\x00", b"a=\x7f", b"a=b\rc", b"a=b\nc", b"a=b\r\nc"),
        *(b"\x0ba=1", b"a=1\x0c"),
    ],
)
def test_what_is_no_tag_list_is_a_permanent_fault(octets: bytes) -> None:
    with pytest.raises(SignatureFault) as caught:
        parse_tag_list(octets)
    assert caught.value.status is AuthStatus.PERMERROR
    assert caught.value.reason


def test_tag_list_may_have_so_many_octets_and_no_more() -> None:
    assert parse_tag_list(b"a=" + b"x" * (MAX_TAG_LIST_OCTETS - 2))
    with pytest.raises(SignatureFault):
        parse_tag_list(b"a=" + b"x" * (MAX_TAG_LIST_OCTETS - 1))


def test_algorithm_is_one_of_two() -> None:
    assert read_algorithm({"a": "rsa-sha256"}) is Algorithm.RSA_SHA256
    assert read_algorithm({"a": "ed25519-sha256"}) is Algorithm.ED25519_SHA256


@pytest.mark.parametrize("tags", [{}, {"a": ""}, {"a": "rsa-sha1"}, {"a": "RSA-SHA256"}, {"a": "rsa"}])
def test_other_algorithms_are_refused(tags: dict[str, str]) -> None:
    with pytest.raises(SignatureFault):
        read_algorithm(tags)


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("AAAA", b"\0\0\0"),
        ("A A\tAA", b"\0\0\0"),
        ("AAA=", b"\0\0"),
        ("AAA", b"\0\0"),
        ("AA", b"\0"),
        ("AA = =", b"\0"),
    ],
)
def test_base64_may_be_cut_by_white_space_and_lack_padding(text: str, octets: bytes) -> None:
    assert read_base64({"b": text}, "b") == octets


@pytest.mark.parametrize("text", ["", " ", "A", "AAAAA", "AA-A", "AA_A", "=", "====", "AA=A", "AAA==", "AA=", "ü"])
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(SignatureFault):
        read_base64({"b": text}, "b")


@pytest.mark.parametrize(
    ("tags", "forms"),
    [
        ({}, (SIMPLE, SIMPLE)),
        ({"c": "relaxed"}, (RELAXED, SIMPLE)),
        ({"c": "simple"}, (SIMPLE, SIMPLE)),
        ({"c": "simple/relaxed"}, (SIMPLE, RELAXED)),
        ({"c": "relaxed/relaxed"}, (RELAXED, RELAXED)),
    ],
)
def test_canonicalization_is_simple_where_it_is_not_named(
    tags: dict[str, str], forms: tuple[Canonicalization, Canonicalization]
) -> None:
    assert read_canonicalizations(tags) == forms


@pytest.mark.parametrize("value", ["", "relaxed/", "/relaxed", "nowsp", "Relaxed/relaxed", "relaxed/relaxed/simple"])
def test_other_canonicalizations_are_refused(value: str) -> None:
    with pytest.raises(SignatureFault):
        read_canonicalizations({"c": value})


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("Example.COM", "example.com"),
        ("a_b.example", "a_b.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        (f"{'a' * 63}.example", f"{'a' * 63}.example"),
        ("com", "com"),
    ],
)
def test_domain_is_given_as_a_labels(text: str, domain: str) -> None:
    assert to_domain(text) == domain


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ".",
            "a.",
            ".a.b",
            "a..b",
            "a b.example",
            "-a.example",
            "a-.example",
            "a@b.example",
            "*.example",
            "a\\.b",
        ),
        *("\ufffd.example", "a.example\0", f"{'a' * 64}.example", ".".join(["a" * 49] * 5) + ".long", "[192.0.2.1]"),
    ],
)
def test_what_is_no_domain_is_none(text: str) -> None:
    assert to_domain(text) is None


def test_signing_domain_has_two_labels_and_a_selector_one_or_more() -> None:
    assert read_domain({"d": "example.com"}, "d") == "example.com"
    assert read_selector({"s": "one"}) == "one"
    assert read_selector({"s": "One.Two"}) == "one.two"
    with pytest.raises(SignatureFault):
        read_domain({"d": "com"}, "d")
    for selector in ("", "a..b", "a b"):
        with pytest.raises(SignatureFault):
            read_selector({"s": selector})


def test_number_has_so_many_digits_and_no_more() -> None:
    assert read_number({}, "t", max_digits=12) is None
    assert read_number({"t": "0" * 12}, "t", max_digits=12) == 0
    assert read_number({"t": "9" * 12}, "t", max_digits=12) == 10**12 - 1
    for value in ("", "9" * 13, "-1", "+1", "1.0", "1 0", "1_0", "²", "٣"):
        with pytest.raises(SignatureFault):
            read_number({"t": value}, "t", max_digits=12)


def test_signed_fields_are_lower_case_names() -> None:
    assert read_signed_fields({"h": "From : To:\tX-a=b"}) == (b"from", b"to", b"x-a=b")


@pytest.mark.parametrize(
    "value", ["", "to", "to:subject", "from:", ":from", "from::to", "from to", "from:ü", "from:a b"]
)
def test_signed_fields_are_names_and_from_is_one_of_them(value: str) -> None:
    with pytest.raises(SignatureFault):
        read_signed_fields({"h": value})


def test_so_many_fields_may_be_signed_and_no_more() -> None:
    assert len(read_signed_fields({"h": "from" + ":x" * (MAX_SIGNED_FIELDS - 1)})) == MAX_SIGNED_FIELDS
    with pytest.raises(SignatureFault):
        read_signed_fields({"h": "from" + ":x" * MAX_SIGNED_FIELDS})
