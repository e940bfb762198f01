"""What an address stands for: aliases in their order, details carried along, loops found before mail does."""

from pathlib import Path

import pytest

from mailflow.mail.address import parse_mailbox
from mailflow.mail.address_book import MAX_STEPS, AddressBook, AddressRules, AliasLoop
from mailflow.mail.address_map import AddressMap, AddressMapFaults, parse_aliases, parse_user_map
from mailflow.mail.domain_table import DomainTable

ALIASES, OTHER, USERS = Path("aliases.toml"), Path("other.toml"), Path("users.toml")
A = "a@example.org"


def make_aliases(entries: dict[str, str]) -> AddressMap:
    return parse_aliases("".join(f'"{key}" = "{value}"\n' for key, value in entries.items()).encode())


def make_book(entries: dict[str, str], other: dict[str, str] | None = None, subaddress: str = "+") -> AddressBook:
    rules = [
        ("example.org", AddressRules(ALIASES, USERS, subaddress)),
        (".example.org", AddressRules(ALIASES, USERS, subaddress)),
        ("other.example", AddressRules(OTHER, None, "-")),
        ("plain.example", AddressRules(None, None, "")),
    ]
    users = parse_user_map(b'"alice@example.org" = "new"\n"alice+x@example.org" = "odd"', ["new", "odd"])
    maps = {ALIASES: make_aliases(entries), OTHER: make_aliases(other or {}), USERS: users}
    return AddressBook(DomainTable(rules), maps)


def follow(book: AddressBook, address: str) -> str:
    return str(book.follow_aliases(parse_mailbox(address)))


def loop_faults(book: AddressBook, path: Path = ALIASES) -> list[str]:
    try:
        book.check(path)
    except AddressMapFaults as exc:
        return [fault.key for fault in exc.faults]
    return []


@pytest.mark.parametrize(
    ("address", "final"),
    [
        ("alice@example.org", "alice@example.org"),
        ("info@example.org", "alice@example.org"),
        ("INFO@EXAMPLE.ORG", "alice@example.org"),
        ("info+x@example.org", "alice+x@example.org"),
        ("info+y@example.org", "bob@example.org"),
        ("info+Y@example.org", "bob@example.org"),
        ("info+@example.org", "alice@example.org"),
        ("fixed+x@example.org", "alice+inbox@example.org"),
        ("+info@example.org", "+info@example.org"),
        ("far+x@example.org", "carol-x@other.example"),
        ("chain+x@example.org", "alice+x@example.org"),
        ("bare+x@example.org", "dave@plain.example"),
        ("a@sub.example.org", "alice@example.org"),
        ("info@elsewhere.example", "info@elsewhere.example"),
        ("büro@example.org", "jürgen@example.org"),
    ],
)
def test_an_alias_is_followed_as_it_is_then_without_its_detail(address: str, final: str) -> None:
    book = make_book(
        {
            "info@example.org": "alice@example.org",
            "info+y@example.org": "bob@example.org",
            "fixed@example.org": "alice+inbox@example.org",
            "far@example.org": "boss@other.example",
            "chain@example.org": "info@example.org",
            "bare@example.org": "dave@plain.example",
            "a@sub.example.org": "info@example.org",
            "büro@example.org": "jürgen@example.org",
        },
        {"boss@other.example": "carol@other.example"},
    )
    assert follow(book, address) == final
    assert loop_faults(book) == loop_faults(book, OTHER) == []


def test_without_subaddresses_a_plus_is_part_of_the_name() -> None:
    book = make_book({"info@example.org": "alice@example.org"}, subaddress="")
    assert follow(book, "info+x@example.org") == "info+x@example.org"


def test_a_detail_that_would_make_the_address_too_long_is_left_out() -> None:
    target = f"{'a' * 60}@example.org"
    assert follow(make_book({"i@example.org": target}), "i+detail@example.org") == target


def test_the_map_of_users_is_asked_for_the_address_then_for_the_user() -> None:
    book = make_book({})
    found = {text: book.find_backend(parse_mailbox(text)) for text in ("alice@example.org", "Alice+y@example.org")}
    assert found == {"alice@example.org": "new", "Alice+y@example.org": "new"}
    assert book.find_backend(parse_mailbox("alice+X@example.org")) == "odd"
    assert book.find_backend(parse_mailbox("bob@example.org")) is None
    assert book.find_backend(parse_mailbox("alice@other.example")) is None


@pytest.mark.parametrize(
    ("entries", "other", "keys"),
    [
        ({"a@example.org": "A@example.org"}, {}, [A]),
        ({"a@example.org": "b@example.org", "b@example.org": "a@example.org"}, {}, [A, "b@example.org"]),
        ({"a@example.org": "a+x@example.org"}, {}, [A]),
        ({"a@example.org": "x@other.example"}, {"x@other.example": "a@example.org"}, [A]),
        # Only with a detail: a+x leads to b+x, which leads back.
        ({"a@example.org": "b@example.org", "b+x@example.org": "a+x@example.org"}, {}, ["b+x@example.org"]),
        # Only with any detail: the exact addresses end, what has a detail goes round.
        (
            {"into@example.org": "a@example.org", "a@example.org": "a@example.org"},
            {},
            ["into@example.org", "a@example.org"],
        ),
    ],
)
def test_a_loop_is_a_fault_of_its_addresses_and_is_never_walked_for_ever(
    entries: dict[str, str], other: dict[str, str], keys: list[str]
) -> None:
    book = make_book(entries, other)
    assert loop_faults(book) == keys
    with pytest.raises(AliasLoop):
        follow(book, keys[0])


def test_a_chain_of_ten_is_followed_and_one_of_eleven_is_a_fault() -> None:
    chain = {f"a{step}@example.org": f"a{step + 1}@example.org" for step in range(MAX_STEPS)}
    book = make_book(chain)
    assert follow(book, "a0+x@example.org") == f"a{MAX_STEPS}+x@example.org"
    assert loop_faults(book) == []
    longer = make_book({**chain, f"a{MAX_STEPS}@example.org": "end@example.org"})
    assert loop_faults(longer) == ["a0@example.org"]
    with pytest.raises(AliasLoop):
        follow(longer, "a0@example.org")


def test_a_target_is_named_in_a_labels_as_mail_for_the_alias_may_be_ascii() -> None:
    book = AddressBook(
        DomainTable([("example.org", AddressRules(ALIASES))]),
        {ALIASES: make_aliases({"info@example.org": "alice@bücher.example"})},
    )
    assert str(book.follow_aliases(parse_mailbox("info@example.org"))) == "alice@xn--bcher-kva.example"
    assert str(book.follow_aliases(parse_mailbox("info+x@example.org"))) == "alice@xn--bcher-kva.example"


def test_a_target_or_key_that_no_route_has_is_a_fault() -> None:
    book = make_book(
        {"a@example.org": "a@elsewhere.example", "b@other.example": "c@example.org", "d@x.example": "c@example.org"}
    )
    with pytest.raises(AddressMapFaults) as raised:
        book.check(ALIASES)
    told = {fault.key: (fault.line, fault.allowed) for fault in raised.value.faults}
    assert told == {
        "a@example.org": (1, "an address in a domain of the routes; targets elsewhere are not supported yet"),
        "b@other.example": (2, "addresses in domains whose route names this file"),
        "d@x.example": (3, "addresses in domains whose route names this file"),
    }


@pytest.mark.parametrize(
    ("address", "user"),
    [
        ("alice+a+b@example.org", "alice@example.org"),
        ("alice-x@other.example", "alice@other.example"),
        ("alice+x@other.example", "alice+x@other.example"),
        ("alice+x@plain.example", "alice+x@plain.example"),
        ("+x@example.org", "+x@example.org"),
        ("alice+x@elsewhere.example", "alice+x@elsewhere.example"),
    ],
)
def test_a_detail_is_what_the_domain_says(address: str, user: str) -> None:
    assert str(make_book({}).strip_detail(parse_mailbox(address))) == user
