"""Metrics: names are a contract, and two services in one process do not add up."""

from prometheus_client.parser import text_string_to_metric_families

from mailflow.observe.metrics import Metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    text, _content_type = metrics.render()
    families = text_string_to_metric_families(text.decode())
    return {(s.name, tuple(s.labels.values())): s.value for family in families for s in family.samples}


def test_names_and_labels_are_those_of_the_contract() -> None:
    metrics = Metrics()
    metrics.messages_total.labels(listener="mx", action="accept").inc()
    metrics.rcpt_total.labels(result="good").inc()
    metrics.handoff_seconds.labels(backend="mailbox", outcome="delivered").observe(0.2)
    metrics.shed_total.labels(reason="connections").inc()
    metrics.log_dropped_total.labels(**{"class": "info"}).inc()
    text = metrics.render()[0].decode()
    assert 'mailflow_messages_total{action="accept",listener="mx"} 1.0' in text
    assert 'mailflow_rcpt_total{result="good"} 1.0' in text
    assert 'mailflow_handoff_seconds_count{backend="mailbox",outcome="delivered"} 1.0' in text
    assert 'mailflow_shed_total{reason="connections"} 1.0' in text
    assert 'mailflow_log_dropped_total{class="info"} 1.0' in text


def test_what_is_rendered_is_prometheus_text() -> None:
    _text, content_type = Metrics().render()
    assert content_type.startswith("text/plain")


def test_every_class_of_dropped_lines_is_there_before_the_first_loss() -> None:
    metrics = Metrics()
    metrics.count_log_drop("decision")
    dropped = {
        labels: value for (name, labels), value in samples(metrics).items() if name == "mailflow_log_dropped_total"
    }
    assert dropped == {("debug",): 0, ("info",): 0, ("warning",): 0, ("decision",): 1}


def test_every_reason_of_pressure_is_there_before_the_first_refusal() -> None:
    shed = {labels: value for (name, labels), value in samples(Metrics()).items() if name == "mailflow_shed_total"}
    assert shed == {("loop_lag",): 0, ("backlog",): 0, ("throttled",): 0, ("cpu_pressure",): 0}


def test_two_services_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.sessions.set(3)
    one.bytes_in_flight.set(9)
    assert samples(one)[("mailflow_sessions", ())] == 3
    assert samples(other)[("mailflow_sessions", ())] == 0
