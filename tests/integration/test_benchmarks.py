"""The benchmarks run and give figures; how good these are is not for a test on a machine that does other work."""

import dataclasses
import inspect
import math
from collections.abc import Awaitable, Callable
from types import ModuleType

import pytest

from benchmarks import front_end, idle_memory, lmtp_hop, noop_latency, stalled_log, whole_path
from benchmarks.report import Bar

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


def test_a_bar_tells_whether_it_is_met() -> None:
    floor = Bar("rate", 5.1, 5.0, "x")
    ceiling = Bar("cost", 0.21, 0.2, "ms", is_ceiling=True)
    assert floor.is_met
    assert not ceiling.is_met
    assert not dataclasses.replace(floor, value=4.9).is_met
    assert str(ceiling) == "  MISS cost: 0.21 ms (at most 0.2)"
