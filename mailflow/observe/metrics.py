"""What is counted, in a registry of its own: Prometheus names are a contract with dashboards.

A Metrics is made by the composition root and handed down; there is no global one, so two services
in one process (the demo, tests) do not add up. Label values come from our own code, never from a
peer: each new value is a time series for ever.
"""

from typing import TypeVar

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from mailflow.observe.log_writer import LineClass
from mailflow.observe.pressure import Cause

# From a local Maildir's fsync to the ten minutes RFC 1047 grants; handoff_deadline_s is 20 by default.
HANDOFF_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60, 600)

M = TypeVar("M", bound=MetricWrapperBase)


class Series(dict[tuple[str, ...], M]):
    """The series of a metric by their label values: finding one by `labels()` costs more than counting in it."""

    def __init__(self, metric: M) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, values: tuple[str, ...]) -> M:
        series = self[values] = self._metric.labels(*values)
        return series


class Metrics:
    """Every metric of the service; use as `metrics.shed_total.labels("connections").inc()`.

    What is counted for every message is at hand by its label values: `metrics.messages["mx", "accept"].inc()`.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.messages_total = Counter(
            "mailflow_messages_total",
            "Messages by what became of them: accept, quarantine, reject, defer.",
            ("listener", "action"),
            registry=self.registry,
        )
        self.rcpt_total = Counter(
            "mailflow_rcpt_total", "Recipients asked for, by result.", ("result",), registry=self.registry
        )
        self.auth_results_total = Counter(
            "mailflow_auth_results_total",
            "Results of SPF, DKIM (of each signature), ARC, DMARC and iprev, in the words of RFC 8601.",
            ("method", "result"),
            registry=self.registry,
        )
        self.handoff_seconds = Histogram(
            "mailflow_handoff_seconds",
            "How long handing a message to a backend took.",
            ("backend", "outcome"),
            buckets=HANDOFF_BUCKETS_S,
            registry=self.registry,
        )
        self.backend_failures_total = Counter(
            "mailflow_backend_failures_total",
            "Sessions with mailbox servers that did not come to be, broke or fell silent.",
            ("backend", "server"),
            registry=self.registry,
        )
        self.backend_circuit_open = Gauge(
            "mailflow_backend_circuit_open",
            "1 while a mailbox server is taken for down, by any worker.",
            ("backend", "server"),
            registry=self.registry,
        )
        self.shed_total = Counter(
            "mailflow_shed_total",
            "Connections refused before work began, by reason.",
            ("reason",),
            registry=self.registry,
        )
        self.shedding = Gauge(
            "mailflow_shedding", "Workers that shed new connections for pressure.", registry=self.registry
        )
        self.loop_lag_seconds = Gauge(
            "mailflow_loop_lag_seconds",
            "How late the event loop of the latest worker is, smoothed.",
            registry=self.registry,
        )
        self.backlog_ratio = Gauge(
            "mailflow_backlog_ratio",
            "How full the backlog of the fullest listening socket stands: connections nobody has accepted yet.",
            registry=self.registry,
        )
        self.cpu_throttled_ratio = Gauge(
            "mailflow_cpu_throttled_ratio",
            "Share of the CPU quota's periods that were throttled in the last seconds; 0 without a quota.",
            registry=self.registry,
        )
        self.cpu_waiting_ratio = Gauge(
            "mailflow_cpu_waiting_ratio",
            "Share of time in which tasks of the own cgroup waited for a CPU (PSI some avg10); 0 where nobody tells.",
            registry=self.registry,
        )
        self.limits_backend_up = Gauge(
            "mailflow_limits_backend_up",
            "1 while limits per client network are counted where limits.url says; 0: in this Pod alone meanwhile.",
            registry=self.registry,
        )
        self.log_dropped_total = Counter(
            "mailflow_log_dropped_total", "Log lines lost, by class.", ("class",), registry=self.registry
        )
        self.tls_handshakes_total = Counter(
            "mailflow_tls_handshakes_total",
            "TLS handshakes of clients, by result.",
            ("result",),
            registry=self.registry,
        )
        self.internal_errors_total = Counter(
            "mailflow_internal_errors_total", "Exceptions nobody expected.", registry=self.registry
        )
        self.proxy_missing_total = Counter(
            "mailflow_proxy_missing_total",
            "Connections of trusted load balancers without a PROXY header, refused.",
            registry=self.registry,
        )
        self.workers = Gauge("mailflow_workers", "Worker processes that serve.", registry=self.registry)
        self.sessions = Gauge("mailflow_sessions", "Open SMTP sessions.", registry=self.registry)
        self.bytes_in_flight = Gauge(
            "mailflow_bytes_in_flight", "Bytes of messages held in memory.", registry=self.registry
        )
        self.reports_total = Counter(
            "mailflow_reports_total",
            "Notifications about stored mail by kind, and failures of which nobody was told: withheld.",
            ("result",),
            registry=self.registry,
        )
        self.queue_messages = Gauge(
            "mailflow_queue_messages", "Messages in the store, by state.", ("state",), registry=self.registry
        )
        self.queue_oldest_seconds = Gauge(
            "mailflow_queue_oldest_seconds", "Age of the oldest message in the store.", registry=self.registry
        )
        for line_class in LineClass:
            # There from the start: a rate() over a series that begins with its first loss misses it.
            self.log_dropped_total.labels(line_class.label)
        for cause in Cause:
            self.shed_total.labels(cause.value)
        self.messages = Series(self.messages_total)
        self.rcpts = Series(self.rcpt_total)
        self.auth_results = Series(self.auth_results_total)
        self.handoffs = Series(self.handoff_seconds)

    def count_log_drop(self, label: str) -> None:
        """Count one lost log line of the class `label`; any thread may call it."""
        self.log_dropped_total.labels(label).inc()

    def render(self) -> tuple[bytes, str]:
        """Give the text Prometheus scrapes and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
