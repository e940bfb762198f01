"""Any bytes as a message: an author or a fault, in linear time; and who is judged is who the lax readers show."""

import email.message
import email.parser
import email.policy
import email.utils
import re
import time
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailflow.dns.names import canonical_name
from mailflow.mailauth.author import (
    MAX_FROM_OCTETS,
    MAX_HIDDEN_OCTETS,
    Author,
    AuthorFault,
    AuthorFaultKind,
    read_author,
    read_from_field,
)

PIECES = [
    *("a@bank.example", "b@evil.example", "@", "<", ">", "<a@bank.example>", "<b@evil.example>", "bank.example", "."),
    *(
        ",",
        ";",
        ":",
        "(",
        ")",
        '"',
        "\\",
        "[",
        "]",
        " ",
        "\t",
        "\r\n ",
        "'",
        "Joe",
        "via",
        "G:",
        "x",
        "evil",
        "é",
        "\xa0",
    ),
    *("\uff20", "。", "=?utf-8?q?a=40bank=2Eexample?=", "=?utf-8?q?b=40evil.example?=", "=?utf-8?b?", "?=", "\udcff"),
    *("@bank.example", "a@bank", " .example", "[192.0.2.1]", "a @ bank . example", "<@bank.example:b@evil.example>"),
]
VALUES = st.lists(st.sampled_from(PIECES), max_size=10).map("".join) | st.text(max_size=40)
LINES = st.lists(
    st.sampled_from(
        [
            *(b"From: a@bank.example\r\n", b"from : b@evil.example\r\n", b"From\r\n : b@evil.example\r\n", b"From "),
            *(b"From:", b" a@bank.example", b"\r\n", b"\r\n ", b"\r", b"\n", b"\0", b"no field\r\n", b"X: y\r\n", b" "),
            *(b"From\xa0: b@evil.example\r\n", b"\xef\xbb\xbf", b"\t", b"Sender: b@evil.example\r\n", b":", b"From"),
        ]
    ),
    max_size=12,
).map(b"".join)
FULL = MAX_FROM_OCTETS
HOSTILE = {
    "one atom": "a" * FULL,
    "atoms": "a " * (FULL // 2),
    "dots": "a." * (FULL // 2),
    "addresses": "a@b.c," * (FULL // 6),
    "addresses without commas": "a@b.c " * (FULL // 6),
    "addresses without commas, and an angle": "a@b.c " * (FULL // 6 - 1) + "<",
    "at signs": "@" * FULL,
    "spaced at signs": "@ " * (FULL // 2 - 1) + "<",
    "angles": "<" * FULL,
    "pairs of angles": "<>" * (FULL // 2),
    "quotes": '"' * FULL,
    "a quote without an end": '"' + "\\" * (FULL - 1),
    "comments": "(" * FULL,
    "comments that end": "(" * (FULL // 2) + ")" * (FULL // 2),
    "many comments": "()" * (FULL // 2),
    "at signs in comments": "(@)" * (FULL // 3 - 1) + "<",
    "at signs between comments": "<" + "@)(" * (FULL // 3 - 1),
    "at signs in open comments": "(@" * (FULL // 2 - 1) + ")<",
    "at signs in comments of a name": '"' + "(@)" * (FULL // 3 - 4) + '"<a@b.c>',
    "backslashes in a comment": "(" + "\\" * (FULL - 1),
    "literals": "[" * FULL,
    "routes": "<" + "@a," * (FULL // 3 - 1),
    "commas": "," * FULL,
    "groups": "a:;," * (FULL // 4),
    "open groups": "a:" * (FULL // 2),
    "white space": " " * FULL,
    "encoded words": "=?utf-8?q?=40?= " * (FULL // 16),
    "beginnings of encoded words": "=?" * (FULL // 2),
    "nearly encoded words": "=?a?q?" * (FULL // 6),
    "one encoded word": "=?utf-8?q?" + "=40" * (FULL // 3 - 4),
    "one domain": "a@" + "b." * (FULL // 2 - 1),
    "wide domain": "a@" + "ü." * (FULL // 3 - 1),
    "quoted names": '"a@b.c" ' * (FULL // 8),
    "unreadable quoted names": '"a@b.c" ' * (FULL // 8 - 1) + "[",
    "notes": '"' + "a@b.c " * (FULL // 6 - 10) + '" <a@b.d>',
}


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=100) | LINES)
def test_any_bytes_have_an_author_or_a_fault(content: bytes) -> None:
    check_form(read_author(content))
    check_form(read_author(b"From:" + content + b"\r\n\r\n"))


@settings(max_examples=1000, deadline=None)
@given(VALUES)
def test_any_field_has_an_author_or_a_fault(value: str) -> None:
    check_form(read_from_field(value.encode("utf-8", "surrogateescape")))


def check_form(found: Author | AuthorFault) -> None:
    if isinstance(found, Author):
        assert found.domain == found.domain.lower() or found.domain.startswith("[IPv6:")
        assert re.fullmatch(r"[a-z0-9_.-]+|\[[A-Za-z0-9.:]+\]", found.domain)
        texts = [found.address, *found.notes]
    else:
        texts = [found.reason]
    assert all(text.isprintable() and len(text) < 400 for text in texts)


def readings(text: str) -> Iterator[str]:
    """Give the addresses that lax readers take for the author: first angle, last angle, bare, and Python's own."""
    angles = re.findall(r"<([^<>]*)", text)
    yield from (angles[:1] + angles[-1:])
    yield from re.findall(r"[^\s<>,;:()\"']+@[^\s<>,;:()\"'\[\]]+", text)
    yield email.utils.parseaddr(text)[1]


def domain_shown(address: str) -> str | None:
    """Give the domain of what a reader took, None where it is none that could be somebody's: without a dot, or bad."""
    domain = canonical_name(address.rpartition("@")[2].strip().rstrip("."))
    return domain if "@" in address and domain and re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)+", domain) else None


@settings(max_examples=3000, deadline=None)
@given(VALUES)
@example("Support @ Company <a@bank.example>")
@example("b@evil.example via <a@bank.example>")
@example('"a@bank.example" <b@evil.example> x')
def test_lax_readers_see_the_domain_that_is_judged_or_the_field_is_the_grammar(value: str) -> None:
    found = read_from_field(value.encode("utf-8", "surrogateescape"))
    if isinstance(found, AuthorFault) or found.is_strict:
        return
    shown = {domain_shown(address) for address in readings(value.replace("\r\n", ""))} - {None}
    assert shown <= {found.domain}


@settings(max_examples=1000, deadline=None)
@given(st.one_of(LINES, LINES.map(lambda lines: b"From: a@bank.example\r\n" + lines)))
@example(b"From : b@evil.example\r\nFrom: a@bank.example\r\n\r\n")
@example(b"From: a@bank.example\r\nno field\r\nFrom: b@evil.example\r\n\r\n")
def test_lax_parsers_find_no_other_from_field_in_a_message_with_an_author(content: bytes) -> None:
    found = read_author(content)
    if isinstance(found, AuthorFault):
        return
    for text in (content, content.replace(b"\r\n", b"\n")):
        message: email.message.Message = email.parser.BytesHeaderParser(policy=email.policy.compat32).parsebytes(text)
        assert len(message.get_all("From", [])) <= 1
    # A parser that skips what is no field, and ends a line at every CR and LF.
    section = re.split(rb"\r\n\r\n", content)[0]
    lines = [line.strip() for line in re.split(rb"[\r\n]++(?![ \t])", section)]
    assert len([line for line in lines if re.match(rb"(?i)from\s*:", line)]) <= 1


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_field_costs_no_more_than_its_length(value: str) -> None:
    octets = value.encode()
    assert len(octets) <= MAX_FROM_OCTETS
    begin = time.process_time()
    check_form(read_from_field(octets))
    assert time.process_time() - begin < 1  # linear: hundredths of a second


@pytest.mark.parametrize(
    "rest",
    [
        b"x" * 1_000_000,
        b"\n" * 1_000_000,
        b" " * 1_000_000,
        b"\r" * 1_000_000,
        b"\nfrom" * 200_000,
        b"\nfrom" + b" " * 1_000_000,
        b"\nfrom" + b"\n " * 500_000,
        b"\n \xff" * 300_000,
        b"\r\n from" * 150_000,
    ],
    ids=range(9),
)
def test_megabyte_behind_a_broken_header_is_not_searched(rest: bytes) -> None:
    begin = time.process_time()
    read_author(b"From: a@b.example\r\nno field\r\n" + rest)
    assert time.process_time() - begin < 0.5


def test_hidden_field_is_looked_for_up_to_a_bound() -> None:
    def kind(octets: int) -> AuthorFaultKind | None:
        found = read_author(b"From: a@b.example\r\n" + (b"no field" + b"x" * octets)[:octets] + b"\nFrom: c@d.example")
        return found.kind if isinstance(found, AuthorFault) else None

    assert kind(MAX_HIDDEN_OCTETS - 10) is AuthorFaultKind.HIDDEN_FIELD
    assert kind(MAX_HIDDEN_OCTETS) is None
