"""The From fields of mailauth: what is read of each, and which have no author that could be judged.

A case is named for its list and its place in it. `strict_reason` is about an option that we do not have.
"""

import json
from typing import Any

import pytest

from mailflow.dns.names import canonical_name
from mailflow.mailauth import evaluate_dmarc
from mailflow.mailauth.author import Author, AuthorFault, AuthorFaultKind, read_author
from mailflow.mailauth.result import AuthStatus, SpfResult
from mailflow.testing import ZoneResolver
from tests.conformance.vectors import mark, vectors

SUITE = "from-header-mailauth"
LISTS: dict[str, list[dict[str, Any]]] = json.loads((vectors(SUITE) / "cases.json").read_text())
ZONE = LISTS["evaluate"][0]["zone"]
# Their reasons, and ours. A list that cannot be read to its end has more than one reason to be refused.
KINDS = {
    "multiple-author-domains": {AuthorFaultKind.SEVERAL_DOMAINS, AuthorFaultKind.UNCLEAR},
    "no-author-domain": {AuthorFaultKind.NO_DOMAIN, AuthorFaultKind.UNCLEAR},
    "invalid-author-domain": {AuthorFaultKind.UNCLEAR, AuthorFaultKind.SEVERAL_DOMAINS},
    "multiple-from-fields": {AuthorFaultKind.SEVERAL_FIELDS},
}


def cases(*names: str) -> list[object]:
    """Give the cases of some of the lists."""
    return [
        pytest.param(case, id=f"{name}-{i}", marks=mark(SUITE, f"{name}-{i}"))
        for name in names
        for i, case in enumerate(LISTS[name])
    ]


def read(*values: str) -> Author | AuthorFault:
    """Read the author of a message with these From fields."""
    fields = "".join(f"From: {value}\r\n" for value in values)
    return read_author(f"Subject: x\r\n{fields}\r\nbody\r\n".encode())


def domain_of(found: Author | AuthorFault) -> str | None:
    return found.domain if isinstance(found, Author) else None


def only_domain(addresses: list[str]) -> str | None:
    """Give the one domain of addresses that need no parsing, None where there are none or several."""
    domains = {canonical_name(address.rpartition("@")[2]) for address in addresses}
    return domains.pop() if len(domains) == 1 else None


def test_suite_is_complete() -> None:
    assert sum(map(len, LISTS.values())) == 78


@pytest.mark.suite(SUITE)
@pytest.mark.parametrize("case", cases("parse_valid", "parse_lax"))
def test_field_is_read_as_its_addresses_say(case: dict[str, Any]) -> None:
    assert domain_of(read(case["from"])) == only_domain(case["addresses"])


@pytest.mark.suite(SUITE)
@pytest.mark.parametrize("case", cases("parse_invalid"))
def test_field_that_cannot_be_read_has_no_author(case: dict[str, Any]) -> None:
    assert isinstance(read(case["from"]), AuthorFault)


@pytest.mark.parametrize(("name", "is_strict"), [("parse_valid", True), ("parse_lax", False), ("parse_invalid", False)])
def test_what_is_the_grammar_is_told_from_what_is_not(name: str, *, is_strict: bool) -> None:
    found = [read(case["from"]) for case in LISTS[name]]
    assert {author.is_strict for author in found if isinstance(author, Author)} == {is_strict}


@pytest.mark.suite(SUITE)
@pytest.mark.parametrize("case", cases("author_domain"))
def test_domain_of_an_address(case: dict[str, Any]) -> None:
    [expected, *more] = case["domains"] or [None]
    assert domain_of(read(f"<{case['address']}>")) == (None if more else expected)


@pytest.mark.suite(SUITE)
@pytest.mark.parametrize("case", cases("author_of_field"))
def test_author_of_several_mailboxes(case: dict[str, Any]) -> None:
    mailboxes = case["mailboxes"]
    found = read(*mailboxes) if case.get("from_fields", 1) > 1 else read(", ".join(mailboxes))
    if "reason" in case:
        assert isinstance(found, AuthorFault)
        assert found.kind in KINDS[case["reason"]]
    else:
        assert domain_of(found) == case["author_domain"]


@pytest.mark.suite(SUITE)
@pytest.mark.parametrize("case", cases("evaluate"))
async def test_message_is_judged_by_its_author(case: dict[str, Any]) -> None:
    author = read(case["from"])
    if case["dmarc"] is False:
        assert isinstance(author, AuthorFault)
        return
    assert isinstance(author, Author)
    resolver = ZoneResolver({name: [{"TXT": text}] for name, text in ZONE.items()})
    spf = SpfResult(AuthStatus.PASS, case["sender"].rpartition("@")[2])
    result = await evaluate_dmarc(author.domain, spf, [], resolver=resolver)
    assert result.status == case["dmarc"]
    assert author.is_strict is ("warnings" not in case)
    assert result.author_domain == case.get("header_from", result.author_domain)
    assert result.policy == case.get("policy", result.policy)
