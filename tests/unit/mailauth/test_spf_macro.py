import time

import pytest

from mailflow.mailauth.spf_macro import (
    SpfSyntaxError,
    expand_name,
    expand_text,
    parse_domain_spec,
    parse_explain_string,
    parse_macro_string,
    shown,
)

# RFC 7208 s7.4: the sender is strong-bad@email.example.com, the client 192.0.2.3 and then 2001:db8::cb01, whose
# validated name is mx.example.org.
V4 = {
    "s": "strong-bad@email.example.com",
    "l": "strong-bad",
    "o": "email.example.com",
    "d": "email.example.com",
    "i": "192.0.2.3",
    "p": "mx.example.org",
    "v": "in-addr",
    "h": "mx.example.org",
    "c": "192.0.2.3",
    "r": "mx.example.net",
    "t": "1700000000",
}
V6 = V4 | {"i": ".".join("20010db800000000000000000000cb01"), "v": "ip6", "c": "2001:db8::cb01"}
NIBBLES = ".".join(reversed("20010db800000000000000000000cb01"))


@pytest.mark.parametrize(
    ("macro", "expansion"),
    [
        ("%{s}", "strong-bad@email.example.com"),
        ("%{o}", "email.example.com"),
        ("%{d}", "email.example.com"),
        ("%{d4}", "email.example.com"),
        ("%{d3}", "email.example.com"),
        ("%{d2}", "example.com"),
        ("%{d1}", "com"),
        ("%{dr}", "com.example.email"),
        ("%{d2r}", "example.email"),
        ("%{l}", "strong-bad"),
        ("%{l-}", "strong.bad"),
        ("%{lr}", "strong-bad"),
        ("%{lr-}", "bad.strong"),
        ("%{l1r-}", "strong"),
        ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
        ("%{lr-}.lp._spf.%{d2}", "bad.strong.lp._spf.example.com"),
        ("%{lr-}.lp.%{ir}.%{v}._spf.%{d2}", "bad.strong.lp.3.2.0.192.in-addr._spf.example.com"),
        ("%{ir}.%{v}.%{l1r-}.lp._spf.%{d2}", "3.2.0.192.in-addr.strong.lp._spf.example.com"),
        ("%{d2}.trusted-domains.example.net", "example.com.trusted-domains.example.net"),
        # not in the table
        ("%{D2R}", "example.email"),
        ("%{d127}", "email.example.com"),
        ("%{d00002}", "example.com"),
        ("%{d99999999999999999999999}", "email.example.com"),
        ("%{l1-}", "bad"),
        ("%{s-.=}.x", "strong.bad@email.example.com.x"),
        ("%{p}.%{h}.x", "mx.example.org.mx.example.org.x"),
        ("a%%b%_c%-.x%_", "a%b c%20.x "),
        ("%{S}", "strong-bad%40email.example.com"),
        ("%{d}.x.", "email.example.com.x"),
    ],
)
def test_macro_expands_as_in_the_table_of_the_rfc(macro: str, expansion: str) -> None:
    assert expand_name(parse_domain_spec(macro), V4) == expansion


def test_ipv6_address_expands_to_its_nibbles() -> None:
    spec = parse_domain_spec("%{ir}.%{v}._spf.%{d2}")
    assert expand_name(spec, V6) == f"{NIBBLES}.ip6._spf.example.com"


def test_explanation_keeps_its_last_dot_and_has_blanks_and_letters_of_its_own() -> None:
    text = "%{c} is not %{d}, says %{r} at %{t}. 100%%."
    expansion = "192.0.2.3 is not email.example.com, says mx.example.net at 1700000000. 100%."
    assert expand_text(parse_explain_string(text), V4, max_chars=500) == expansion
    assert expand_text(parse_explain_string(text), V4, max_chars=9) == "192.0.2.3"
    assert expand_text(parse_explain_string(""), V4, max_chars=9) == ""


@pytest.mark.parametrize("letter", "crt")
def test_letters_of_explanations_are_refused_in_a_record(letter: str) -> None:
    for text in (f"%{{{letter}}}", f"%{{{letter.upper()}}}"):
        with pytest.raises(SpfSyntaxError):
            parse_macro_string(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "%",
            "%%%",
            "%a",
            "%{",
            "%{}",
            "%{d",
            "%{x}",
            "%{dd}",
            "%{d2d}",
            "%{rd}",
            "%{d-2}",
            "%{d0}",
            "%{d000r}",
            "%{d!}",
        ),
        *("%{ d}", "a b", "\t", "\x7f", "\x00", "\n", "é", "%{d}\n", "%(d)", "%{١}"),
    ],
)
def test_what_is_no_macro_string_is_refused(text: str) -> None:
    with pytest.raises(SpfSyntaxError) as error:
        parse_macro_string(text)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "text", ["a.b", "a.b.", "%{d}", "x%%", "%_", "a.1-2", "a.xn--p1ai", "a.b1", "a.1b", ".com", "a:b/c.com", "%{d}.com"]
)
def test_domain_spec_ends_in_a_macro_or_a_top_label(text: str) -> None:
    parse_domain_spec(text)


@pytest.mark.parametrize(
    "text",
    ["", "a", "a.", ".", "a..", "a.b..", "a.1", "a.-b", "a.b-", "a.b_c", "a.b!", "%{d}com", "%{d}.", "%%-", "%{d}a.1"],
)
def test_domain_spec_that_ends_otherwise_is_refused(text: str) -> None:
    with pytest.raises(SpfSyntaxError):
        parse_domain_spec(text)


def test_name_of_253_characters_is_whole_and_longer_ones_lose_labels_on_the_left() -> None:
    tail = ".".join(["b" * 61] * 4)
    assert len(f"acd.{tail}.x") == 253
    assert expand_name(parse_domain_spec(f"acd.{tail}.x"), {}) == f"acd.{tail}.x"
    assert expand_name(parse_domain_spec(f"a.cd.{tail}.x"), {}) == f"cd.{tail}.x"
    assert expand_name(parse_domain_spec(f"acd.{tail}.x."), {}) == f"acd.{tail}.x"
    assert expand_name(parse_domain_spec(f"acde.{tail}.x"), {}) == f"{tail}.x"
    assert expand_name(parse_domain_spec(f"a.b.c.d.{tail}.%{{l}}"), {"l": "x"}) == f"c.d.{tail}.x"


def test_name_without_a_dot_to_cut_at_stays_too_long() -> None:
    assert expand_name(parse_domain_spec("%{l}"), {"l": "a" * 300}) == "a" * 300
    assert expand_name(parse_domain_spec("%{l}.x"), {"l": "a" * 300}) == "x"


@pytest.mark.parametrize("part", ["%{s}", "%{S9r-.+}", "%%", "a.", "%{d9" + "-" * 5000 + "}", "%{d" + "9" * 5000 + "}"])
def test_hostile_length_costs_linear_time(part: str) -> None:
    values = {"s": "-.+" * 10_000, "d": "a-b." * 10_000}
    begin = time.process_time()
    spec = parse_domain_spec(part * (60_000 // len(part)) + ".com")
    expand_name(spec, values)
    expand_text(spec, values, max_chars=500)
    assert time.process_time() - begin < 2


def test_strangers_text_is_shown_printable_and_short() -> None:
    assert shown("a\x00é\n\x7fb") == "a????b"
    assert shown("a" * 80) == "a" * 80
    assert shown("a" * 81) == "a" * 80 + "..."
