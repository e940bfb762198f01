"""Any bytes as a file of addresses: an AddressMap or AddressMapFaults, nothing else, however the pairs are read."""

import contextlib
import tomllib
from collections.abc import Mapping
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailflow.mail.address import AddressSyntaxError, parse_mailbox
from mailflow.mail.address_book import AddressBook, AddressRules
from mailflow.mail.address_map import AddressMapFaults, MapFault, parse_aliases, parse_user_map, read_pairs
from mailflow.mail.domain_table import DomainTable

PIECES = [
    '"',
    "a@b.example",
    "A+x@b.example",
    "@",
    "=",
    " ",
    "\t",
    "\n",
    "\r",
    "\r\n",
    "#",
    "'",
    "[",
    "]",
    ",",
    "\\",
    "\\u0061",
]
TEXTS = st.lists(st.sampled_from([*PIECES, '"a@b.example" = "c@b.example"\n', "ü", "\x7f", "\0"]), max_size=20).map(
    "".join
)
LOCALS = st.sampled_from(["a", "b", "c", "d", "a+x", "b+x", "c+y", "+", "a+", "ü"])
ADDRESSES = st.builds(lambda local, domain: f"{local}@{domain}", LOCALS, st.sampled_from(["x.example", "y.example"]))


@settings(max_examples=500, deadline=None)
@given(TEXTS.map(str.encode) | st.binary(max_size=100))
@example(b'"a@b.example" = "c@b.example"\r')
def test_any_bytes_are_read_or_are_faults(content: bytes) -> None:
    for parse in (parse_aliases, lambda content: parse_user_map(content, ["b"])):
        told: tuple[MapFault, ...] = ()
        entries: Mapping[str, str] = {}
        try:
            entries = parse(content).entries
        except AddressMapFaults as faults:
            told = faults.faults
        assert not (told and entries)
        assert all(fault.allowed and "\n" not in str(fault) for fault in told)
        assert all(parse_mailbox(key) for key in entries if '"' not in key)


@settings(max_examples=1000, deadline=None)
@given(TEXTS)
@example('"a" = "b"\r\n# c\r\n')
@example('"a" = "b" # \x7f')
@example('"a" = "b"\n\r')
def test_lines_read_by_the_pattern_are_the_toml_that_tomllib_reads(text: str) -> None:
    try:
        expected = tomllib.loads(text)
    except ValueError:
        with contextlib.suppress(AddressMapFaults):
            keys = [key for _, key, _ in read_pairs(text)]
            assert len(keys) != len(set(keys)), "only what stands twice is told later"
    else:
        assert {key: value for _, key, value in read_pairs(text)} == expected


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(ADDRESSES, ADDRESSES, max_size=12), ADDRESSES)
def test_what_passed_the_check_leads_every_address_to_an_end(entries: dict[str, str], start: str) -> None:
    path = Path("aliases.toml")
    rules = DomainTable([("x.example", AddressRules(path, None, "+")), ("y.example", AddressRules(path, None, "-"))])
    text = "".join(f'"{key}" = "{value}"\n' for key, value in entries.items())
    address = parse_mailbox(start)
    try:
        book = AddressBook(rules, {path: parse_aliases(text.encode())})
        book.check(path)
    except AddressMapFaults:
        return
    final = book.follow_aliases(address)
    assert book.follow_aliases(final) == final


@given(st.text(max_size=30))
def test_the_short_way_takes_the_addresses_that_the_grammar_takes(text: str) -> None:
    content = f'"seen@b.example" = "x@b.example"\n"{text}@b.example" = "x@b.example"'.encode(errors="replace")
    written = content.decode().split("\n", 1)[1].partition('" = ')[0][1:]
    if any(char in written for char in '"\\') or not written.isprintable():
        return
    try:
        parse_mailbox(written)
        is_address = written.lower() != "seen@b.example"
    except AddressSyntaxError:
        is_address = False
    try:
        parse_aliases(content)
        assert is_address
    except AddressMapFaults:
        assert not is_address
