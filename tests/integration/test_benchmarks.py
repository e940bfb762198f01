"""The benchmarks run and give figures; how good these are is not for a test on a machine that does other work."""

import dataclasses
import inspect
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType

import dkim  # type: ignore[import-untyped]
import pytest

from benchmarks import (
    authenticated,
    front_end,
    idle_memory,
    lmtp_hop,
    noop_latency,
    signed_mail,
    stalled_log,
    whole_path,
)
from benchmarks.corpus import read_corpus, write_corpus
from benchmarks.nameserver import run_nameserver
from benchmarks.report import Bar
from mailflow.dns import AnswerStatus, StubResolver

SMALL: list[tuple[ModuleType, dict[str, object]]] = [
    (
        front_end,
        {
            "ROUNDS": 1,
            "WORKLOADS": (("4 KB", ["--pipelining"], 200, 100, 5.0), ("new", ["--new-connections"], 50, 50, 3.0)),
        },
    ),
    (lmtp_hop, {"ROUNDS": 1}),
    (whole_path, {"ROUNDS": 1, "MAILFLOW_MESSAGES": 200, "POSTFIX_MESSAGES": 100}),
    (
        authenticated,
        {
            "ROUNDS": 1,
            "KEYS": 2,
            "DOMAINS": 20,
            "MESSAGES": 100,
            "COLD_DOMAINS": 50,
            "POSTFIX_MESSAGES": 50,
            "LARGE_MESSAGES": 4,
            "LARGE_BYTES": 4 << 20,
        },
    ),
    (noop_latency, {"MESSAGES": 4, "SIZE_BYTES": 8 << 20}),
    (idle_memory, {"SESSIONS": 100}),
    (stalled_log, {"PAIRS": 1, "SECONDS": 2, "BUFFER_BYTES": 65536}),
]


@pytest.mark.parametrize(("module", "sizes"), SMALL, ids=lambda value: getattr(value, "__name__", ""))
async def test_a_benchmark_gives_its_bars(
    module: ModuleType, sizes: dict[str, object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in sizes.items():
        monkeypatch.setattr(module, name, value)
    run: Callable[[], list[Bar] | Awaitable[list[Bar]]] = module.run
    found = run()
    bars = await found if inspect.isawaitable(found) else found
    assert bars
    assert all(math.isfinite(bar.value) and bar.value > 0 for bar in bars)
    assert capsys.readouterr().out.count("\n") > len(bars)


async def test_signed_mail_and_its_zone_are_good_by_another_verifier(tmp_path: Path) -> None:
    (domain,) = signed_mail.make_domains("sender", 1, signed_mail.make_keys(1))
    zone = tmp_path / "zone"
    zone.write_text("\n".join([*signed_mail.CLIENT_ZONE, *domain.zone]))
    writer = signed_mail.Writer()
    messages = [*await writer.write([domain], 3, 4096), await writer.sign(domain, b"  \t \r\n" * 9)]
    with run_nameserver(zone) as nameserver:
        resolver = StubResolver([f"127.0.0.1:{nameserver.port}"])
        key = await resolver.resolve("s0._domainkey.sender0.example", "TXT")
        client = await resolver.resolve("1.0.0.127.in-addr.arpa", "PTR")
        no_such_type = await resolver.resolve("_domainkey.sender0.example", "TXT")
        no_such_name = await resolver.resolve("_dmarc.bounces.sender0.example", "TXT")
        assert nameserver.queries == 4
    assert all(dkim.verify(message, dnsfunc=lambda name, timeout: key.records[0]) for _, message in messages)
    assert client.records == ("client.example",)
    assert (no_such_type.status, no_such_type.ttl_s) == (AnswerStatus.NODATA, 3600)
    assert (no_such_name.status, no_such_name.ttl_s) == (AnswerStatus.NXDOMAIN, 3600)
    assert len({message.partition(b"\r\n\r\n")[2] for _, message in messages}) == 4


def test_a_corpus_is_read_as_it_stands_on_the_wire(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", [("a@a.example", b"A: a\r\n\r\n.\r\n"), ("", b"B: b\r\n\r\nno end")])
    assert corpus.messages == 2
    assert [(sender, bytes(content)) for sender, content in read_corpus(corpus.path)] == [
        ("a@a.example", b"A: a\r\n\r\n..\r\n.\r\n"),
        ("", b"B: b\r\n\r\nno end\r\n.\r\n"),
    ]


def test_a_bar_tells_whether_it_is_met() -> None:
    floor = Bar("rate", 5.1, 5.0, "x")
    ceiling = Bar("cost", 0.21, 0.2, "ms", is_ceiling=True)
    assert floor.is_met
    assert not ceiling.is_met
    assert not dataclasses.replace(floor, value=4.9).is_met
    assert str(ceiling) == "  MISS cost: 0.21 ms (at most 0.2)"
