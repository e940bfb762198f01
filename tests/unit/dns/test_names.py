import ipaddress
import tracemalloc

import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.dns.names import canonical_name, name_from_labels, name_to_wire, reverse_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("_DMARC.Bücher.example", "_dmarc.xn--bcher-kva.example"),
        (".", "."),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
        ("a b.example", "a\\032b.example"),
        ("a\\b.example", "a\\092b.example"),
    ],
)
def test_a_name_has_one_canonical_form(text: str, name: str) -> None:
    assert canonical_name(text) == name


@pytest.mark.parametrize(
    "text",
    ["", "..", ".a", "a..b", "a" * 64, "a." * 128, "xn--a.\u00e9\u0300\u200d", "ü" * 60 + ".example", "é" * 100_000],
)
def test_what_cannot_be_a_name_has_no_canonical_form(text: str) -> None:
    assert canonical_name(text) is None


def test_the_longest_name_has_253_characters() -> None:
    longest = ".".join(["a" * 63] * 3 + ["a" * 61])
    assert canonical_name(longest + ".") == longest
    assert canonical_name(longest + "a") is None
    assert len(name_to_wire(longest)) == 255


def test_a_dot_inside_a_label_never_reads_as_a_separator() -> None:
    assert name_from_labels((b"evil.example", b"com", b"")) == "evil\\046example.com"


def test_the_root_is_a_dot_on_both_sides() -> None:
    assert name_from_labels((b"",)) == "."
    assert name_to_wire(".") == b"\0"


@given(st.lists(st.binary(min_size=1, max_size=20) | st.sampled_from([b"a.b", b".", b"\\", b"a\\046"]), max_size=8))
def test_any_labels_survive_the_way_through_text(labels: list[bytes]) -> None:
    name = dns.name.Name([*labels, b""])
    assert name_to_wire(name_from_labels(name.labels)) == name.canonicalize().to_wire()


@given(st.text(max_size=80))
def test_any_text_is_a_name_that_fits_the_wire_or_none(text: str) -> None:
    name = canonical_name(text)
    if name is not None:
        labels = dns.name.from_wire(name_to_wire(name), 0)[0].labels
        assert name_from_labels(labels) == name


def test_reverse_names_are_those_of_the_arpa_zones() -> None:
    assert reverse_name("192.0.2.1") == "1.2.0.192.in-addr.arpa"
    assert reverse_name(ipaddress.ip_address("2001:db8::1")) == "1." + "0." * 23 + "8.b.d.0.1.0.0.2.ip6.arpa"


def test_text_that_is_too_long_for_a_name_is_not_kept() -> None:
    """A stranger's d= or authserv-id can be as long as a header, and the cache holds thousands."""
    tracemalloc.start()
    for number in range(100):
        assert canonical_name(f"{number}" + "a." * 50_000) is None
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1_000_000
