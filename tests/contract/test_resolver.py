"""What every Resolver does alike: the fake over a dictionary, and the real one over a real unbound.

Both get the same zone. A test that only one of them could pass does not belong here.
"""

import ipaddress
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from mailflow.dns import (
    Answer,
    AnswerStatus,
    BudgetedResolver,
    DnsFailure,
    DnsTemporary,
    MxRecord,
    RdType,
    Record,
    Resolver,
    StubResolver,
    TlsaRecord,
    lookup_addresses,
    lookup_mx,
    lookup_ptr,
    lookup_txt,
)
from mailflow.testing import ZoneResolver
from tests.unbound_server import run_unbound

TTL_S = 300
DKIM_KEY = ["v=DKIM1; p=" + "A" * 240, "B" * 255, "C" * 100]
HUGE = ["x" * 255] * 12
ZONE: dict[str, list[Any]] = {
    "example.com": [
        {"A": "192.0.2.10"},
        {"A": "192.0.2.11"},
        {"AAAA": "2001:db8::10"},
        {"MX": [20, "MX2.example.com"]},
        {"MX": [10, "mx1.example.com"]},
        {"TXT": ["v=spf1 ip4:192.0.2.1", " -all"]},
        {"TXT": "another"},
        {"NS": "NS.example.com"},
    ],
    "v4only.example.com": [{"A": "192.0.2.20"}],
    "nullmx.example.com": [{"MX": [0, "."]}],
    "_25._tcp.mx1.example.com": [{"TLSA": [3, 1, 1, "ab" * 32]}],
    "s1._domainkey.example.com": [{"TXT": DKIM_KEY}],
    "huge.example.com": [{"TXT": HUGE}],
    "octets.example.com": [{"TXT": [bytes(range(200)), bytes(range(200, 256))]}],
    "empty.example.com": [{"TXT": ""}],
    "deep.under.ent.example.com": [{"A": "192.0.2.30"}],
    "alias.example.com": [{"CNAME": "Alias2.example.com"}],
    "alias2.example.com": [{"CNAME": "v4only.example.com"}],
    "dangling.example.com": [{"CNAME": "gone.example.com"}],
    "loop.example.com": [{"CNAME": "loop2.example.com"}],
    "loop2.example.com": [{"CNAME": "loop.example.com"}],
    "xn--bcher-kva.example.com": [{"A": "192.0.2.40"}],
    "10.2.0.192.in-addr.arpa": [{"PTR": "Mail.example.com"}, {"PTR": "www.example.com"}],
    "silent.test": ["TIMEOUT"],
    "broken.test": ["SERVFAIL"],
}


@pytest.fixture(scope="module")
def unbound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    apexes = ["example.com", "2.0.192.in-addr.arpa"]
    with run_unbound(tmp_path_factory.mktemp("unbound"), ZONE, apexes=apexes, ttl_s=TTL_S) as address:
        yield address


@pytest.fixture(params=["zone", "stub", "budgeted stub"])
async def resolver(request: pytest.FixtureRequest) -> AsyncIterator[Resolver]:
    if request.param == "zone":
        yield ZoneResolver(ZONE, ttl_s=TTL_S)
        return
    stub = StubResolver([request.getfixturevalue("unbound")], try_timeout_s=0.3, total_timeout_s=0.5)
    yield stub if request.param == "stub" else BudgetedResolver(stub)
    await stub.aclose()


async def records_of(resolver: Resolver, name: str, rdtype: str) -> set[Record]:
    answer = await resolver.resolve(name, rdtype)
    assert answer.status is AnswerStatus.FOUND
    assert answer.ttl_s == TTL_S
    return set(answer.records)


async def failure_of(resolver: Resolver, name: str) -> DnsTemporary:
    with pytest.raises(DnsTemporary) as caught:
        await resolver.resolve(name, RdType.TXT)
    assert caught.value.retry_helps
    assert (caught.value.name, caught.value.rdtype) == (name, "TXT")
    return caught.value


@pytest.mark.parametrize(
    ("name", "rdtype", "records"),
    [
        ("example.com", "A", {ipaddress.ip_address("192.0.2.10"), ipaddress.ip_address("192.0.2.11")}),
        ("example.com", "AAAA", {ipaddress.ip_address("2001:db8::10")}),
        ("example.com", "MX", {MxRecord(10, "mx1.example.com"), MxRecord(20, "mx2.example.com")}),
        ("example.com", "TXT", {b"v=spf1 ip4:192.0.2.1 -all", b"another"}),
        ("example.com", "NS", {"ns.example.com"}),
        ("alias.example.com", "CNAME", {"alias2.example.com"}),
        ("10.2.0.192.in-addr.arpa", "PTR", {"mail.example.com", "www.example.com"}),
        ("_25._tcp.mx1.example.com", "TLSA", {TlsaRecord(3, 1, 1, b"\xab" * 32)}),
    ],
)
async def test_records_of_every_type_are_found(
    resolver: Resolver, name: str, rdtype: str, records: set[Record]
) -> None:
    assert await records_of(resolver, name, rdtype) == records


async def test_a_type_may_be_text_or_a_member(resolver: Resolver) -> None:
    assert await resolver.resolve("example.com", RdType.AAAA) == await resolver.resolve("example.com", "AAAA")


async def test_a_type_that_mail_does_not_know_is_a_value_error(resolver: Resolver) -> None:
    with pytest.raises(ValueError, match="HINFO"):
        await resolver.resolve("example.com", "HINFO")


async def test_strings_of_one_txt_record_are_joined_without_separator(resolver: Resolver) -> None:
    assert await records_of(resolver, "s1._domainkey.example.com", "TXT") == {"".join(DKIM_KEY).encode()}


async def test_an_answer_too_long_for_a_datagram_is_whole(resolver: Resolver) -> None:
    assert await records_of(resolver, "huge.example.com", "TXT") == {"".join(HUGE).encode()}


async def test_txt_octets_come_through_unchanged(resolver: Resolver) -> None:
    assert await records_of(resolver, "octets.example.com", "TXT") == {bytes(range(256))}


async def test_an_empty_txt_record_is_a_record(resolver: Resolver) -> None:
    assert await records_of(resolver, "empty.example.com", "TXT") == {b""}


async def test_cname_chain_is_followed_to_its_end(resolver: Resolver) -> None:
    answer = await resolver.resolve("alias.example.com", "A")
    assert answer.records == (ipaddress.ip_address("192.0.2.20"),)
    assert answer.canonical_name == "v4only.example.com"


async def test_cname_to_a_name_without_the_type_is_nodata(resolver: Resolver) -> None:
    answer = await resolver.resolve("alias.example.com", "TXT")
    assert (answer.status, answer.canonical_name) == (AnswerStatus.NODATA, "v4only.example.com")


async def test_cname_to_a_name_that_does_not_exist_is_nxdomain(resolver: Resolver) -> None:
    answer = await resolver.resolve("dangling.example.com", "A")
    assert (answer.status, answer.canonical_name) == (AnswerStatus.NXDOMAIN, "gone.example.com")


async def test_cname_loop_is_a_failure(resolver: Resolver) -> None:
    assert (await failure_of(resolver, "loop.example.com")).kind is DnsFailure.MALFORMED


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("v4only.example.com", AnswerStatus.NODATA),
        ("under.ent.example.com", AnswerStatus.NODATA),
        ("ent.example.com", AnswerStatus.NODATA),
        ("nowhere.example.com", AnswerStatus.NXDOMAIN),
        ("below.v4only.example.com", AnswerStatus.NXDOMAIN),
        ("no-such-tld", AnswerStatus.NXDOMAIN),
    ],
)
async def test_absence_tells_an_existing_name_from_none(resolver: Resolver, name: str, status: AnswerStatus) -> None:
    answer = await resolver.resolve(name, RdType.TXT)
    assert (answer.status, answer.records, answer.canonical_name) == (status, (), name)


async def test_server_failure_is_raised_as_such(resolver: Resolver) -> None:
    assert (await failure_of(resolver, "broken.test")).kind is DnsFailure.SERVFAIL


async def test_silence_is_raised_as_a_timeout(resolver: Resolver) -> None:
    assert (await failure_of(resolver, "silent.test")).kind is DnsFailure.TIMEOUT


@pytest.mark.parametrize("name", ["EXAMPLE.com", "example.com.", "eXample.Com."])
async def test_names_are_absolute_and_case_does_not_matter(resolver: Resolver, name: str) -> None:
    assert await resolver.resolve(name, "MX") == await resolver.resolve("example.com", "MX")


@pytest.mark.parametrize("name", ["bücher.example.com", "BÜCHER.example.com", "bücher。example。com"])
async def test_u_labels_are_asked_for_as_a_labels(resolver: Resolver, name: str) -> None:
    answer = await resolver.resolve(name, "A")
    assert answer.records == (ipaddress.ip_address("192.0.2.40"),)
    assert answer.canonical_name == "xn--bcher-kva.example.com"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        ".silent.test",
        "a..silent.test",
        "a" * 64 + ".silent.test",
        "a." * 122 + "silent.test",
        "☕.silent.test",
    ],
)
async def test_what_cannot_be_a_name_does_not_exist(resolver: Resolver, name: str) -> None:
    assert (await resolver.resolve(name, "A")).status is AnswerStatus.NXDOMAIN


@pytest.mark.parametrize("name", ["a b%c:d/e.example.com", "back\\046slash.example.com", "\0.example.com"])
async def test_odd_octets_in_a_name_are_asked_for_as_they_are(resolver: Resolver, name: str) -> None:
    answer = await resolver.resolve(name, "A")
    assert answer.status is AnswerStatus.NXDOMAIN
    assert answer.canonical_name.count(".") == 2


async def test_the_same_question_again_gets_the_same_answer(resolver: Resolver) -> None:
    answers = [await resolver.resolve("example.com", "TXT") for _ in range(2)]
    assert answers[0] == answers[1]


async def test_the_same_failing_question_again_fails_alike(resolver: Resolver) -> None:
    assert (await failure_of(resolver, "broken.test")).kind is (await failure_of(resolver, "broken.test")).kind


async def test_typed_lookups_give_typed_records(resolver: Resolver) -> None:
    txt: Answer[bytes] = await lookup_txt(resolver, "empty.example.com")
    mx: Answer[MxRecord] = await lookup_mx(resolver, "example.com")
    ptr: Answer[str] = await lookup_ptr(resolver, "192.0.2.10")
    null_mx = await lookup_mx(resolver, "nullmx.example.com")
    assert txt.records == (b"",)
    assert [record.exchange for record in mx.records] == ["mx1.example.com", "mx2.example.com"]
    assert set(ptr.records) == {"mail.example.com", "www.example.com"}
    assert [record.is_null for record in null_mx.records] == [True]


async def test_addresses_of_both_families_come_ipv6_first(resolver: Resolver) -> None:
    answer = await lookup_addresses(resolver, "example.com")
    assert [address.version for address in answer.records] == [6, 4, 4]
    assert (await lookup_addresses(resolver, "v4only.example.com")).status is AnswerStatus.FOUND
    assert (await lookup_addresses(resolver, "v4only.example.com", family=6)).status is AnswerStatus.NODATA
    assert (await lookup_addresses(resolver, "nowhere.example.com")).status is AnswerStatus.NXDOMAIN
