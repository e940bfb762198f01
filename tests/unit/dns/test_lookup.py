import ipaddress

import pytest

from mailflow.dns import (
    Answer,
    AnswerStatus,
    DnsFailure,
    DnsTemporary,
    RdType,
    Record,
    lookup_addresses,
    lookup_mx,
    lookup_txt,
)
from mailflow.testing import ZoneResolver

ZONE = ZoneResolver(
    {
        "v4.test": [{"A": "192.0.2.1"}, "SERVFAIL"],
        "v6.test": [{"AAAA": "2001:db8::1"}, "TIMEOUT"],
        "other.test": [{"TXT": "x"}],
        "half.test": [{"TXT": "x"}, {"AAAA": "NONE"}, "TIMEOUT"],
        "mail.test": [{"MX": [20, "b.test"]}, {"MX": [10, "c.test"]}, {"MX": [20, "a.test"]}],
    }
)


@pytest.mark.parametrize(("name", "address"), [("v4.test", "192.0.2.1"), ("v6.test", "2001:db8::1")])
async def test_the_failure_of_one_family_does_not_hide_the_other(name: str, address: str) -> None:
    answer = await lookup_addresses(ZONE, name)
    assert (answer.status, answer.records) == (AnswerStatus.FOUND, (ipaddress.ip_address(address),))


async def test_without_any_address_the_failure_is_raised() -> None:
    with pytest.raises(DnsTemporary) as caught:
        await lookup_addresses(ZONE, "half.test")
    assert caught.value.kind is DnsFailure.TIMEOUT


async def test_a_family_asked_for_alone_fails_alone() -> None:
    with pytest.raises(DnsTemporary) as caught:
        await lookup_addresses(ZONE, "v4.test", family=6)
    assert caught.value.kind is DnsFailure.SERVFAIL


async def test_a_name_without_addresses_is_nodata_and_no_name_nxdomain() -> None:
    assert (await lookup_addresses(ZONE, "other.test")).status is AnswerStatus.NODATA
    assert (await lookup_addresses(ZONE, "gone.test")).status is AnswerStatus.NXDOMAIN


async def test_mail_exchangers_come_lowest_preference_first_equals_as_received() -> None:
    answer = await lookup_mx(ZONE, "mail.test")
    assert [record.exchange for record in answer.records] == ["c.test", "b.test", "a.test"]


async def test_a_resolver_that_mixes_types_up_is_a_fault_not_an_answer() -> None:
    class Broken:
        async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
            return Answer(AnswerStatus.FOUND, ("text",))

    with pytest.raises(TypeError):
        await lookup_txt(Broken(), "x.test")
