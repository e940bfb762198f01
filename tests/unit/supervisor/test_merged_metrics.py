"""What a scrape shows of several workers: sums that never fall, gauges of the living."""

from prometheus_client.parser import text_string_to_metric_families

from mailflow.observe.metrics import Metrics
from mailflow.supervisor.merged_metrics import MergedMetrics, take_snapshot


def values(merged: MergedMetrics, name: str) -> dict[frozenset[tuple[str, str]], float]:
    text = merged.render()[0].decode()
    families = text_string_to_metric_families(text)
    return {frozenset(s.labels.items()): s.value for f in families for s in f.samples if s.name == name}


def worker(*, accepted: int, sessions: int, is_open: int = 0) -> list[object]:
    metrics = Metrics()
    metrics.messages_total.labels("mx", "accept").inc(accepted)
    metrics.handoff_seconds.labels("m", "delivered").observe(0.2)
    metrics.sessions.set(sessions)
    metrics.backend_circuit_open.labels("m", "s:24").set(is_open)
    return take_snapshot(metrics.registry)


ACCEPTED = frozenset({("listener", "mx"), ("action", "accept")})


def test_counters_histograms_and_gauges_add_up() -> None:
    merged = MergedMetrics()
    merged.living = {1: worker(accepted=3, sessions=2), 2: worker(accepted=4, sessions=5)}
    assert values(merged, "mailflow_messages_total") == {ACCEPTED: 7}
    assert values(merged, "mailflow_sessions") == {frozenset(): 7}
    assert list(values(merged, "mailflow_handoff_seconds_count").values()) == [2]


def test_what_a_dead_worker_counted_stays_and_what_it_held_is_gone() -> None:
    merged = MergedMetrics()
    for generation in range(3):
        merged.living[1] = worker(accepted=3, sessions=2)
        merged.retire(1)
        assert values(merged, "mailflow_messages_total") == {ACCEPTED: 3 * (generation + 1)}
    merged.living[1] = worker(accepted=1, sessions=1)
    assert values(merged, "mailflow_messages_total") == {ACCEPTED: 10}
    assert values(merged, "mailflow_sessions") == {frozenset(): 1}


def test_an_open_circuit_is_one_however_many_workers_see_it() -> None:
    merged = MergedMetrics()
    merged.living = {n: worker(accepted=0, sessions=0, is_open=1) for n in range(3)}
    assert list(values(merged, "mailflow_backend_circuit_open").values()) == [1]


def test_measures_of_pressure_are_the_worst_workers_and_those_that_shed_add_up() -> None:
    merged = MergedMetrics()
    for number, (lag_s, share, is_shedding) in enumerate([(0.1, 0.5, 0), (0.9, 0.6, 1), (0.4, 0.2, 1)]):
        metrics = Metrics()
        metrics.loop_lag_seconds.set(lag_s)
        for gauge in (metrics.backlog_ratio, metrics.cpu_throttled_ratio, metrics.cpu_waiting_ratio):
            gauge.set(share)
        metrics.shedding.set(is_shedding)
        merged.living[number] = take_snapshot(metrics.registry)
    names = ("loop_lag_seconds", "backlog_ratio", "cpu_throttled_ratio", "cpu_waiting_ratio", "shedding")
    assert [values(merged, f"mailflow_{name}")[frozenset()] for name in names] == [0.9, 0.6, 0.6, 0.6, 2]


def test_a_worker_that_never_spoke_retires_without_a_trace() -> None:
    merged = MergedMetrics()
    merged.retire(1)
    assert merged.render()[0] == b""
