"""The metrics of all workers as one: what a scrape of the admin listener shows.

Counters and histograms add up and never fall: what a worker had counted when it ended is kept (what
it counted after its last word is lost). Gauges are of living workers; they add up too, but for
measures of the worst, which are the largest.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

LARGEST = frozenset(
    {
        "mailflow_loop_lag_seconds",
        "mailflow_backlog_ratio",
        "mailflow_cpu_throttled_ratio",
        "mailflow_cpu_waiting_ratio",
        "mailflow_backend_circuit_open",
    }
)

# Families as a worker sends them: [name, documentation, type, [[sample name, labels, value], …]].
Snapshot = list[Any]


def take_snapshot(registry: CollectorRegistry) -> Snapshot:
    """Give every sample of a registry as plain lists, without the times at which series began."""
    return [
        [
            family.name,
            family.documentation,
            family.type,
            [[s.name, s.labels, s.value] for s in family.samples if not s.name.endswith("_created")],
        ]
        for family in registry.collect()
    ]


class MergedMetrics(Collector):
    """Sums snapshots; `snapshots` of the living are set by key, `retire` keeps what a dead one had counted."""

    def __init__(self) -> None:
        self.living: dict[object, Snapshot] = {}
        self._retired: Snapshot = []

    def retire(self, key: object) -> None:
        """Note that a worker has ended."""
        ended = self.living.pop(key, None)
        if ended:
            counted = [family for family in ended if family[2] != "gauge"]
            self._retired = [_plain(family) for family in _merge([self._retired, counted])]

    def collect(self) -> Iterator[Metric]:
        """Give the sums."""
        yield from _merge([self._retired, *self.living.values()])

    def render(self) -> tuple[bytes, str]:
        """Give the text Prometheus scrapes and its content type."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry), CONTENT_TYPE_LATEST


def _merge(snapshots: Iterable[Snapshot]) -> list[Metric]:
    families: dict[str, Metric] = {}
    sums: dict[str, dict[tuple[str, frozenset[tuple[str, str]]], float]] = {}
    for snapshot in snapshots:
        for name, documentation, kind, samples in snapshot:
            families.setdefault(name, Metric(name, documentation, kind))
            values = sums.setdefault(name, {})
            for sample, labels, value in samples:
                key = (sample, frozenset(labels.items()))
                before = values.get(key)
                values[key] = value if before is None else max(before, value) if name in LARGEST else before + value
    for name, family in families.items():
        for (sample, labels_set), value in sums[name].items():
            family.add_sample(sample, dict(labels_set), value)
    return list(families.values())


def _plain(family: Metric) -> list[Any]:
    return [family.name, family.documentation, family.type, [[s.name, s.labels, s.value] for s in family.samples]]
