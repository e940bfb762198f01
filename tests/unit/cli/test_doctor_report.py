"""`mailflow doctor`, the report: its JSON, its text, zone lines that can be pasted, names, and the process itself."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.zone
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailflow.cli.doctor_finding import Change, Check, Severity, worst
from mailflow.cli.doctor_report import as_document, print_json, print_text
from mailflow.cli.doctor_run import examine, read_domain
from mailflow.cli.usage import UsageFault
from mailflow.dns import MxRecord, RdType
from mailflow.testing import ZoneResolver
from tests.unbound_server import run_unbound
from tests.unit.cli.doctor_zones import good_zone, paste, run, spf, varied

RUN = (sys.executable, "-c", "from mailflow.cli import main; main()")
ROOT = Path(__file__).parents[3]
ESCAPES = b"\x1b]0;owned\x07\x1b[2J\r\n\x00\x9b31m [bold]\xff"
HOSTILE: dict[str, list[Any]] = {
    "example.com": [
        {"MX": (10, "m\x1bx.example.net")},
        {"TXT": b"v=spf1 include:\x1b[31m.example.net " + ESCAPES},
        {"TXT": b"v=spf1: " + ESCAPES},
    ],
    "s1._domainkey.example.com": [{"TXT": b"v=DKIM1; p=" + ESCAPES}],
    "s2._domainkey.example.com": [{"TXT": b"p=" + ESCAPES}, {"TXT": b"p=AAAA"}],
    "_dmarc.example.com": [{"TXT": b"v=DMARC1; p=" + ESCAPES + b"; " + ESCAPES + b"; rua=mailto:a@\x1b.example"}],
    "default._bimi.example.com": [{"TXT": b"v=BIMI1; l=" + ESCAPES}],
}


def test_json_has_each_check_with_its_findings() -> None:
    document = as_document(run(varied(at=spf("v=spf1 mx ?all"))))
    assert (document["domain"], document["severity"]) == ("example.com", "warn")
    assert list(document["checks"]) == ["mx", "spf", "dkim", "dmarc", "bimi"]
    checks = document["checks"]
    assert {name: check["severity"] for name, check in checks.items()} == dict.fromkeys(checks, "good") | {
        "spf": "warn"
    }
    assert checks["spf"]["findings"][2] == {
        "severity": "warn",
        "code": "spf-neutral-all",
        "text": "?all says nothing about others",
        "advice": "end it with ~all or -all",
        "changes": [
            {
                "name": "example.com",
                "type": "TXT",
                "remove": ['example.com. IN TXT "v=spf1 mx ?all"'],
                "publish": ['example.com. IN TXT "v=spf1 mx ~all"'],
            }
        ],
    }
    assert (checks["spf"]["lookups"], checks["spf"]["max_lookups"]) == (1, 10)
    assert checks["mx"]["records"] == [[10, "mx.example.com"]]
    assert [(key["selector"], key["type"], key["bits"]) for key in checks["dkim"]["selectors"]] == [("s1", "rsa", 2048)]
    assert checks["dmarc"]["walk"][0] == {"name": "_dmarc.example.com", "finding": "record", "psd": "u"}
    assert (checks["dmarc"]["policy"], checks["dmarc"]["organizational_domain"]) == ("reject", "example.com")
    assert checks["bimi"]["logo"] is None


@pytest.mark.parametrize("zone", [good_zone(), HOSTILE])
def test_text_is_printable_whatever_the_zone_holds(capsys: pytest.CaptureFixture[str], zone: dict[str, Any]) -> None:
    print_text(run(zone, "odd"))
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert all(line.isprintable() for line in printed.split("\n"))


def test_json_is_ascii_whatever_the_zone_holds(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(run(HOSTILE))
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert all(line.isprintable() for line in printed.split("\n"))
    assert json.loads(printed)["severity"] == "bad"


def test_text_shows_each_line_with_its_severity_and_a_change_once(capsys: pytest.CaptureFixture[str]) -> None:
    print_text(run(varied(at=spf("v=spf1 ptr ?all"))))
    lines = capsys.readouterr().out.splitlines()
    assert "  warn  ?all says nothing about others" in lines
    assert "  good  selector s1: RSA, 2048 bits" in lines
    assert [line.strip() for line in lines if "publish:" in line] == ['publish:  example.com. IN TXT "v=spf1 ~all"']
    assert lines[-1] == "example.com: 7 good, 2 warn, 0 bad"


def test_crowd_of_records_makes_no_flood(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"n{n}.example.com" for n in range(400)]
    exchanges = [{"MX": (preference, name)} for name in names for preference in (1, 2)]
    texts = [{"TXT": f"v=spf1 {'x' * 3_000} {n}"} for n in range(100)] + [{"TXT": "v=spf: " + "y" * 9_000}] * 50
    keys = [{"TXT": f"p={n}"} for n in range(200)]
    zone: dict[str, list[Any]] = {"example.com": [*exchanges, *texts], "s1._domainkey.example.com": keys}
    report = run(zone | {"_dmarc.example.com": [{"TXT": f"v=DMARC1; {'x=; ' * 2_000}{n}"} for n in range(50)]})
    print_text(report)
    assert len(capsys.readouterr().out) < 100_000
    print_json(report)
    assert len(capsys.readouterr().out) < 2_000_000


@pytest.mark.parametrize("text", [b"v=spf1 -all", b"x" * 256, b"", b'a"b\\c;d', bytes(range(256))])
def test_txt_line_can_be_pasted_into_a_zone(text: bytes) -> None:
    (line,) = Change("x.example.com", RdType.TXT, (text,)).zone_lines()
    zone = dns.zone.from_text("$TTL 60\n" + line + "\n", origin=".", relativize=False, check_origin=False)
    ((name, _, rdata),) = zone.iterate_rdatas("TXT")
    assert (str(name), b"".join(rdata.strings)) == ("x.example.com.", text)  # type: ignore[attr-defined]


def test_mx_line_can_be_pasted_into_a_zone() -> None:
    (line,) = Change("x.example.com", RdType.MX, (MxRecord(10, 'a;"b.example'),)).zone_lines()
    zone = dns.zone.from_text("$TTL 60\n" + line + "\n", origin=".", relativize=False, check_origin=False)
    ((_, _, rdata),) = zone.iterate_rdatas("MX")
    assert rdata.exchange.labels[0] == b'a;"b'  # type: ignore[attr-defined]
    assert Change("x.example.com", RdType.MX, (MxRecord(0, "."),)).zone_lines() == ["x.example.com. IN MX 0 ."]


def test_worst_of_nothing_is_good() -> None:
    assert worst([]) is Severity.GOOD
    assert worst([Severity.WARN, Severity.BAD, Severity.GOOD]) is Severity.BAD


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("example.com", "example.com"),
        ("EXAMPLE.Com.", "example.com"),
        ("Bücher.example", "xn--bcher-kva.example"),
        ("例え。テスト。", "xn--r8jz45g.xn--zckzah"),
        ("a." * 100 + "example.com", "a." * 100 + "example.com"),
    ],
)
def test_domain_may_be_written_in_many_ways(text: str, name: str) -> None:
    assert read_domain(text) == name


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "com", "com.", "a..example", "example.com..", "exa mple.com", "-a.example", "_dmarc.example.com"),
        *(
            "192.0.2.1",
            "[192.0.2.1]",
            "2001:db8::1",
            "a@example.com",
            "https://example.com",
            "\x1b.example",
            "ä ö.example",
        ),
        *("l" * 64 + ".example", "a." * 124 + "example", "\ud800.example"),
    ],
)
def test_what_is_no_domain_is_refused(text: str) -> None:
    with pytest.raises(UsageFault):
        read_domain(text)


def test_longest_domain_is_examined() -> None:
    name = ".".join(["d" * 61] * 4)[:245] + ".example"
    assert len(name) == 253
    document = as_document(run({name: [{"TXT": "v=spf1 -all"}]}, domain=name))
    assert document["checks"]["spf"]["severity"] == "good"


async def test_dns_that_answers_nothing_is_warned_of_and_nothing_else() -> None:
    zone: dict[str, list[Any]] = {"example.com": ["TIMEOUT"]}
    names = ["s1._domainkey", "_dmarc", "default._bimi"]
    report = await examine("example.com", ZoneResolver(zone | {f"{name}.example.com": ["SERVFAIL"] for name in names}))
    assert {part.check: part.severity for part in report.sections} == dict.fromkeys(Check, Severity.WARN)


STARTS = [b"v=spf1 ", b"v=DMARC1;", b"v=DKIM1;", b"v=BIMI1;", b"v=dmarc1;", b"v=spf1"]
PIECES = (
    b"all |-all |mx |a:b.example |include:example.com |redirect=b.example |ip4=1.2.3.4 |ip4:2001:db8::1 |exp=x.example "
    b"|p=none;|rua=mailto:a@b.example;|sp=x;|p=reject;|t=y;|p=;|pct=0;|rua=a@b,c@d!1m;|np=quarantine;|psd=y;"
    b'|l=https://b.example/a.svg;|l=http://b.example/a.svg;|a=x;|\xff|\x00|"'
).split(b"|")
RECORDS = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda start, pieces: start + b"".join(pieces),
        st.sampled_from(STARTS),
        st.lists(st.sampled_from(PIECES), max_size=8),
    ),
)


@settings(max_examples=60, deadline=None)
@given(records=st.lists(st.lists(RECORDS, max_size=2), min_size=5, max_size=5))
def test_any_records_give_a_report_and_changes_that_can_be_pasted(records: list[list[bytes]]) -> None:
    names = ["example.com", "s1._domainkey.example.com", "_dmarc.example.com", "default._bimi.example.com", "b.example"]
    zone: dict[str, list[Any]] = {
        name: [{"TXT": text} for text in texts] for name, texts in zip(names, records, strict=True)
    }
    report = run(zone)
    for part in report.sections:
        for finding in part.findings:
            assert finding.text.isascii()
            assert finding.text.isprintable()
            assert finding.severity is Severity.GOOD or finding.changes or finding.advice
            if finding.changes and finding.severity is not Severity.GOOD:
                after = run(paste(zone, finding.changes))
                assert (finding.code, finding.text) not in {
                    (found.code, found.text) for other in after.sections for found in other.findings
                }


def strings(text: str) -> list[str]:
    return [text[at : at + 255] for at in range(0, len(text), 255)]


@pytest.fixture(scope="module")
def nameserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    zone = good_zone() | {
        "bad.example.com": [{"MX": (10, "mx.example.com")}, {"TXT": 'v=spf1 +all "'}],
        "odd._domainkey.bad.example.com": [
            {"TXT": "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="}
        ],
        "slow.example.com": ["SERVFAIL"],
    }
    for rows in zone.values():
        rows[:] = [{"TXT": strings(row["TXT"])} if isinstance(row, dict) and "TXT" in row else row for row in rows]
    folder = tmp_path_factory.mktemp("unbound")
    with run_unbound(folder, zone, apexes=["example.com", "example.net"], ttl_s=60) as server:
        yield server


def doctor(*args: str) -> subprocess.CompletedProcess[str]:
    env = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "NO_COLOR": "1", "COLUMNS": "80"}
    return subprocess.run([*RUN, "doctor", *args], env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.integration
def test_good_domain_exits_0(nameserver: str) -> None:
    done = doctor("Example.COM.", "--nameserver", nameserver)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "example.com: 8 good, 0 warn, 0 bad"


@pytest.mark.integration
def test_bad_domain_exits_1_with_one_document(nameserver: str) -> None:
    args = ("--selector", "odd", "--selector", "S1", "--json")
    done = doctor("bad.example.com", "--nameserver", nameserver, *args)
    assert (done.returncode, done.stderr) == (1, "")
    document = json.loads(done.stdout)
    assert document["severity"] == "bad"
    assert [key["selector"] for key in document["checks"]["dkim"]["selectors"]] == ["odd", "s1"]


@pytest.mark.integration
def test_silent_zone_exits_0_with_warnings(nameserver: str) -> None:
    done = doctor("slow.example.com", "--nameserver", nameserver, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["checks"]["mx"]["severity"] == "warn"


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("exa mple.com",), "'exa mple.com'"),
        (("192.0.2.1",), "'192.0.2.1'"),
        (("com",), "'com'"),
        (("example.com", "--nameserver", "ns.example.com"), "--nameserver"),
        (("example.com", "--nameserver", ""), "--nameserver"),
        (("example.com", "--nameserver", "127.0.0.1:0"), "--nameserver"),
        (("example.com", "--selector", "a b"), "--selector"),
        (("example.com", "--json", "--selector", ""), "--selector"),
    ],
)
def test_fault_of_usage_exits_2_with_one_line_that_says_which(args: tuple[str, ...], named: str) -> None:
    done = doctor(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"mailflow doctor: {named}")
    assert len(done.stderr.splitlines()) == 1


@settings(max_examples=40, deadline=None)
@given(records=st.lists(st.lists(RECORDS, max_size=2), min_size=5, max_size=5))
def test_who_pastes_one_change_after_another_comes_to_an_end(records: list[list[bytes]]) -> None:
    names = ["example.com", "s1._domainkey.example.com", "_dmarc.example.com", "default._bimi.example.com", "b.example"]
    zone: dict[str, list[Any]] = {
        name: [{"TXT": text} for text in texts] for name, texts in zip(names, records, strict=True)
    }
    rounds = 0
    while (changes := open_changes(zone)) and rounds < 15:
        zone = paste(zone, changes[0])
        rounds += 1
    assert changes == []


def open_changes(zone: dict[str, list[Any]]) -> list[tuple[Change, ...]]:
    return [finding.changes for part in run(zone).sections for finding in part.findings if finding.changes]
