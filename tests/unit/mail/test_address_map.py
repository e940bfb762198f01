"""Files of addresses: what is read, what is one address, and every fault with its line."""

import pytest

from mailflow.mail.address import parse_mailbox
from mailflow.mail.address_map import (
    MAX_FAULTS,
    MAX_FILE_BYTES,
    AddressMap,
    AddressMapFaults,
    map_key,
    parse_aliases,
    parse_user_map,
)


def faults_of(text: str | bytes) -> list[str]:
    with pytest.raises(AddressMapFaults) as raised:
        parse_aliases(text if isinstance(text, bytes) else text.encode())
    return [str(fault) for fault in raised.value.faults]


def test_pairs_comments_and_empty_lines_are_read_with_either_line_end() -> None:
    text = '# who is who\r\n\r\n"info@example.org" = "alice@example.org" # the office\r\n"a@b.example"="c@d.example"'
    assert parse_aliases(text.encode()) == AddressMap(
        {"info@example.org": "alice@example.org", "a@b.example": "c@d.example"}
    )


@pytest.mark.parametrize(
    "spelling", ["Info@EXAMPLE.org", '\\"info\\"@example.org', "info@example.org", "\\u0069nfo@example.org"]
)
def test_spellings_of_one_mailbox_are_one_key(spelling: str) -> None:
    found = parse_aliases(f'"{spelling}" = "alice@example.org"'.encode())
    assert found.find(parse_mailbox("INFO@example.org")) == "alice@example.org"


def test_addresses_beyond_ascii_are_keys_and_targets() -> None:
    found = parse_aliases('"Büro@bücher.example" = "jürgen@bücher.example"'.encode())
    assert list(found.entries) == [map_key(parse_mailbox("büro@xn--bcher-kva.example"))]
    assert found.find(parse_mailbox("BÜRO@bücher.example")) == "jürgen@bücher.example"


def test_a_list_of_one_target_is_a_target() -> None:
    assert parse_aliases(b'"a@b.example" = ["c@b.example"]').entries == {"a@b.example": "c@b.example"}


def test_every_fault_is_told_with_its_line() -> None:
    text = '"nobody" = "a@b.example"\n\n"x@b.example" = "a..b@b.example"\n"X@B.example" = "c@b.example"\n'
    assert faults_of(text) == [
        'line 1: "nobody" = "a@b.example": allowed is pairs such as "info@example.org" = "alice@example.org":'
        ' the key is an address such as "alice@example.org" (no @ after the local part)',
        'line 3: "x@b.example" = "a..b@b.example": allowed is an address such as "alice@example.org"'
        " (no @ after the local part)",
        'line 4: "X@B.example" = "c@b.example": allowed is one entry for each address, and there is one above (line 3)',
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"a@b.example" = ["c@b.example", "d@b.example"]', "several targets are not supported yet"),
        ('"a@b.example" = []', "several targets are not supported yet"),
        ('"a@b.example" = [5]', "an address such as"),
        ('"a@b.example" = 5', "an address such as"),
        ('"a@b.example" = ""', "an address such as"),
        ('[aliases]\n"a@b.example" = "c@b.example"', "the key is an address"),
        ('"a@b.example" = "c@b.example', "not TOML"),
        ('"a@b.example" = "c@b.example"\n\'a@b.example\' = "c@b.example"', "not TOML"),
        ('"a@b.example" = "c@b.example"\r', "not TOML"),
        ('\ufeff"a@b.example" = "c@b.example"', "not TOML"),
        ("x = " + "[" * 100000, "nested too deep"),
        (b'"a@b.example" = "\xff@b.example"', "not UTF-8 (octet 17)"),
        (b"#" * (MAX_FILE_BYTES + 1), "larger than"),
    ],
)
def test_what_is_no_file_of_aliases_is_told(text: str | bytes, words: str) -> None:
    (fault,) = faults_of(text)
    assert words in fault
    assert "\n" not in fault


def test_faults_without_end_are_counted() -> None:
    told = faults_of("".join(f'"{number}" = ""\n' for number in range(MAX_FAULTS + 5)))
    assert len(told) == MAX_FAULTS + 1
    assert told[-1] == "and 5 more faults"


def test_a_map_of_users_names_backends() -> None:
    found = parse_user_map(b'"alice@example.org" = "new"\n"bob@example.org" = "old"', ["old", "new"])
    assert found.find(parse_mailbox("alice@example.org")) == "new"
    with pytest.raises(
        AddressMapFaults, match=r'line 1: .* = "neww": allowed is the name of a backend \("old", "new"\)'
    ):
        parse_user_map(b'"alice@example.org" = "neww"', ["old", "new"])
