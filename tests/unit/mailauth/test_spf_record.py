import pytest

from mailflow.mailauth.result import AuthStatus
from mailflow.mailauth.spf_record import (
    MAX_RECORD_OCTETS,
    Mechanism,
    MechanismKind,
    RecordFault,
    SpfRecord,
    is_spf_record,
    parse_record,
    read_target,
)


def good(terms: str) -> SpfRecord:
    record = parse_record(f"v=spf1 {terms}".encode())
    assert isinstance(record, SpfRecord), record
    return record


def only(terms: str) -> Mechanism:
    (mechanism,) = good(terms).mechanisms
    return mechanism


@pytest.mark.parametrize("record", [b"v=spf1", b"v=spf1 ", b"V=SpF1 moo", b"v=spf1 \xff"])
def test_version_and_a_blank_or_the_end_make_an_spf_record(record: bytes) -> None:
    assert is_spf_record(record)


@pytest.mark.parametrize("record", [b"", b"v=spf", b"v=spf10", b"v=spf1\t", b" v=spf1", b"v=spf1a", b"v=spf2.0/mfrom"])
def test_other_text_records_are_none(record: bytes) -> None:
    assert not is_spf_record(record)


@pytest.mark.parametrize(
    ("term", "status"),
    [("all", "pass"), ("+all", "pass"), ("-all", "fail"), ("~ALL", "softfail"), ("?aLl", "neutral")],
)
def test_qualifier_gives_the_result_and_stays_in_the_text(term: str, status: str) -> None:
    assert only(term) == Mechanism(MechanismKind.ALL, term, AuthStatus(status))


@pytest.mark.parametrize(
    ("term", "prefix4", "prefix6"),
    [
        ("a", 32, 128),
        ("a/0", 0, 128),
        ("a/32", 32, 128),
        ("mx//0", 32, 0),
        ("mx//128", 32, 128),
        ("a/24//64", 24, 64),
        ("A:b.example/24//64", 24, 64),
        ("mx:b.example", 32, 128),
        ("a:%{d}/9", 9, 128),
    ],
)
def test_prefix_lengths_of_hosts(term: str, prefix4: int, prefix6: int) -> None:
    assert (only(term).prefix4, only(term).prefix6) == (prefix4, prefix6)


def test_slash_that_is_no_prefix_length_belongs_to_the_domain() -> None:
    spec = only("a:foo:bar/baz.example.com/24").domain
    assert spec is not None
    assert spec.text == "foo:bar/baz.example.com"


@pytest.mark.parametrize(
    ("term", "family", "network", "mask"),
    [
        ("ip4:192.0.2.77", 4, 0xC000024D, 0xFFFFFFFF),
        ("ip4:192.0.2.77/24", 4, 0xC0000200, 0xFFFFFF00),
        ("ip4:255.255.255.255/0", 4, 0, 0),
        ("IP6:2001:DB8::1/32", 6, 0x20010DB8 << 96, 0xFFFFFFFF << 96),
        ("ip6:::1.2.3.4", 6, 0x01020304, (1 << 128) - 1),
        ("ip6:1:2:3:4:5:6:7::/0", 6, 0, 0),
    ],
)
def test_network_is_a_number_under_its_mask(term: str, family: int, network: int, mask: int) -> None:
    mechanism = only(term)
    assert (mechanism.family, mechanism.network, mechanism.mask) == (family, network, mask)
    assert not mechanism.asks_dns


@pytest.mark.parametrize("term", ["a", "mx", "ptr", "ptr:a.example", "include:a.example", "exists:a.example"])
def test_terms_that_ask_the_dns(term: str) -> None:
    assert only(term).asks_dns


@pytest.mark.parametrize(
    "terms",
    [
        *("moo", "al", "all:", "all:x", "all/8", "all.", "+", "-", "--all", "!all", "+-all", "a+", "=", "=all", "1a=b"),
        *("include", "include:", "include:a", "include:a.example/24", "exists", "exists:", "exists:a.example//64"),
        *(
            "ptr:",
            "ptr/24",
            "ptr:a.example/24",
            "a:",
            "a:/24",
            "a/",
            "a//",
            "a/33",
            "a//129",
            "a/024",
            "a//064",
            "a/-1",
        ),
        *("a/24/64", "a///64", "a/24//", "a/1a", "a:a.example/", "mx:a", "mx:a.123", "mx/٣", "a:1.2.3.4", "aa", "mx24"),
        *("ip4", "ip4:", "ip4/24", "ip4:1.2.3", "ip4:1.2.3.4.5", "ip4:1.2.3.256", "ip4:01.2.3.4", "ip4:1.2.3.4/33"),
        *(
            "ip4:1.2.3.4/",
            "ip4:1.2.3.4/032",
            "ip4:1.2.3.4//32",
            "ip4:1.2.3.4:80",
            "ip4:a.example",
            "ip4:::1",
            "ip4:%{i}",
        ),
        *("ip6", "ip6:", "ip6:1", "ip6::", "ip6:::/129", "ip6:::/0128", "ip6:::%1", "ip6:::1//64", "ip6:1.2.3.4"),
        *("ip6:1::2::3", "ip6:12345::", "ip6:1:2:3:4:5:6:7:8:9", "ip6:g::", "ip6:[::1]"),
        *("redirect=", "redirect=a", "redirect:a.example", "-redirect=a.example", "redirect=%{c}.example"),
        *(
            "redirect=a.example redirect=a.example",
            "redirect=a.example Redirect=b.example",
            "exp=a.example exp=b.example",
        ),
        *("exp=", "exp=-all", "exp=%{r}.example", "foo=%", "foo=%{z}", "foo=%{c}", "foo=a\tb", "-foo=bar", "f o=bar"),
        *("a\tmx", "a\nmx", "a\r", "a\x00", "a:b.example\x00", "a,mx", "v=spf1\x01", "a:b.éxample", "all\n", "a/24\n"),
    ],
)
def test_fault_anywhere_spoils_the_record(terms: str) -> None:
    for record in (f"v=spf1 {terms}", f"v=spf1 +all {terms} ip4:192.0.2.1"):
        fault = parse_record(record.encode("utf-8"))
        assert isinstance(fault, RecordFault), fault
        assert fault.reason.isascii()
        assert fault.reason.isprintable()
        assert len(fault.reason) < 200


@pytest.mark.parametrize(
    "terms", ["foo=", "foo=bar foo=bar", "foo.b-a_r9=a:b/c=d%%%_%-%{d}", "v=spf1", "default=+", "a=b mx=c all=d"]
)
def test_unknown_modifiers_are_ignored_however_often(terms: str) -> None:
    assert good(f"{terms} -all").mechanisms == good("-all").mechanisms


def test_modifiers_of_known_name_are_kept_whatever_their_case_and_place() -> None:
    record = good("EXP=why.example a Redirect=%{d}.example -all")
    assert record.redirect is not None
    assert record.explanation is not None
    assert (record.redirect.fixed, record.explanation.fixed) == (None, read_target("why.example"))


def test_blanks_alone_separate_and_may_be_many() -> None:
    assert [mechanism.text for mechanism in good("  a   mx  ").mechanisms] == ["a", "mx"]


def test_name_is_canonical_for_comparing_and_raw_for_asking_where_the_canonical_form_has_escapes() -> None:
    assert read_target("Ex.Ample") == ("Ex.Ample", "ex.ample", "ex.ample")
    assert read_target("a b.x") == ("a b.x", "a\\032b.x", "a b.x")
    assert read_target("a..x") == ("a..x", "", "")
    assert read_target("a.x.") == ("a.x.", "", "")
    assert not read_target("localhost").is_domain


def test_record_may_have_so_many_octets_and_no_more() -> None:
    record = b"v=spf1 " + b"ip4:1.2.3.4 " * (MAX_RECORD_OCTETS // 12 - 1)
    longest = record + b" " * (MAX_RECORD_OCTETS - len(record))
    assert isinstance(parse_record(longest), SpfRecord)
    assert parse_record(longest + b" ") == RecordFault("the record is longer than 16384 octets")
