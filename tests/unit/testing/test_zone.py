"""ZoneResolver where it differs from a server: its rows. What it shares is in tests/contract/test_resolver.py."""

import os
from pathlib import Path
from typing import Any

import pytest

from mailflow.dns import AnswerStatus, DnsFailure, DnsTemporary, RdType
from mailflow.testing import ZoneResolver


async def txt(zone: ZoneResolver, name: str = "x.test") -> tuple[object, ...]:
    return (await zone.resolve(name, "TXT")).records


async def failure_of(zone: ZoneResolver, name: str, rdtype: str) -> DnsFailure:
    with pytest.raises(DnsTemporary) as caught:
        await zone.resolve(name, rdtype)
    return caught.value.kind


async def test_an_spf_row_doubles_as_txt() -> None:
    assert await txt(ZoneResolver({"x.test": [{"SPF": ["v=spf1 ", "-all"]}]})) == (b"v=spf1 -all",)


async def test_an_spf_row_beside_a_txt_row_does_not_count() -> None:
    assert await txt(ZoneResolver({"x.test": [{"SPF": "v=spf1 -all"}, {"TXT": "other"}]})) == (b"other",)


async def test_txt_none_keeps_an_spf_row_from_doubling() -> None:
    answer = await ZoneResolver({"x.test": [{"SPF": "v=spf1 -all"}, {"TXT": "NONE"}]}).resolve("x.test", "TXT")
    assert (answer.status, answer.records) == (AnswerStatus.NODATA, ())


@pytest.mark.parametrize(("row", "kind"), [("TIMEOUT", DnsFailure.TIMEOUT), ("SERVFAIL", DnsFailure.SERVFAIL)])
async def test_a_failure_row_fails_the_types_without_record(row: str, kind: DnsFailure) -> None:
    zone = ZoneResolver({"x.test": [{"A": "192.0.2.1"}, row], "y.test": [{"SPF": "v=spf1"}, {"TXT": "NONE"}, row]})
    assert (await zone.resolve("x.test", "A")).status is AnswerStatus.FOUND
    assert await failure_of(zone, "x.test", "TXT") is kind
    assert await failure_of(zone, "y.test", "TXT") is kind


async def test_rows_of_an_address_are_those_of_its_reverse_name() -> None:
    zone = ZoneResolver({"192.0.2.1": [{"PTR": "a.test."}], "2001:db8::1": [{"PTR": "b.test"}]})
    assert (await zone.resolve("1.2.0.192.in-addr.arpa", "PTR")).records == ("a.test",)
    assert (await zone.resolve("1." + "0." * 23 + "8.B.D.0.1.0.0.2.ip6.arpa", "PTR")).records == ("b.test",)


async def test_text_is_one_octet_per_character_where_it_can_be() -> None:
    zone = ZoneResolver({"x.test": [{"TXT": "\xef\xbb\xbf"}], "y.test": [{"TXT": "→"}], "z.test": [{"TXT": b"\0\xff"}]})
    assert [await txt(zone, name) for name in ("x.test", "y.test", "z.test")] == [
        (b"\xef\xbb\xbf",),
        ("→".encode(),),
        (b"\0\xff",),
    ]


async def test_queries_are_listed_as_they_were_asked() -> None:
    zone = ZoneResolver({})
    await zone.resolve("B.test", "MX")
    await zone.resolve("a..b", RdType.TXT)
    assert zone.queries == [("B.test", RdType.MX), ("a..b", RdType.TXT)]


@pytest.mark.parametrize(
    "rows", [["timeout"], [{"HINFO": "x"}], [{"A": "2001:db8::1"}], [{"CNAME": "a..b"}], [{"MX": "10 a.test"}]]
)
def test_a_row_that_makes_no_sense_is_a_value_error(rows: list[Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        ZoneResolver({"x.test": rows})


def suite_zones() -> list[Any]:
    folder = os.environ.get("MAILFLOW_VECTORS")
    if not folder:
        pytest.skip("MAILFLOW_VECTORS is unset")
    yaml = pytest.importorskip("yaml")
    text = (Path(folder) / "spf-openspf-rfc7208" / "rfc7208-tests.yml").read_text(encoding="utf-8")
    return [document["zonedata"] for document in yaml.safe_load_all(text)]


async def test_every_zone_of_the_rfc_7208_suite_is_understood() -> None:
    zones = suite_zones()
    assert len(zones) == 16
    for rows_by_name in zones:
        zone = ZoneResolver(rows_by_name)
        for name, rows in rows_by_name.items():
            for row in rows:
                if (
                    row == "TIMEOUT"
                    or "NONE" in row.values()
                    or ("SPF" in row and any("TXT" in other for other in rows))
                ):
                    continue
                [(rdtype, value)] = row.items()
                answer = await zone.resolve(name, "TXT" if rdtype == "SPF" else rdtype)
                assert answer.status is AnswerStatus.FOUND, (name, row)
                assert rdtype not in {"TXT", "SPF"} or "".join(value).encode("latin-1") in answer.records


async def test_the_suites_timeouts_are_timeouts() -> None:
    zones = [
        zone for rows_by_name in suite_zones() if "txttimeout.example.net" in rows_by_name for zone in [rows_by_name]
    ]
    zone = ZoneResolver(zones[0])
    for name in ("txttimeout.example.net", "nospftxttimeout.example.net", "alltimeout.example.net"):
        assert await failure_of(zone, name, "TXT") is DnsFailure.TIMEOUT
    assert await txt(zone, "spftimeout.example.net") == (b"v=spf1 -all",)
    assert await txt(zone, "spfonly.example.net") == ()
