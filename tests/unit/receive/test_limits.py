"""How many connections are admitted, in all and from one network."""

import pytest

from mailflow.receive.limits import (
    MIN_ROOMY_SESSIONS,
    TOO_MANY,
    TOO_MANY_FROM_CLIENT,
    ConnectionLimits,
    LimitCounters,
    OwnLimits,
    client_network,
)


def new_limits(*, in_all: int = 10, per_client: int = 10) -> tuple[ConnectionLimits, list[str]]:
    shed: list[str] = []
    counters = LimitCounters(max_sessions=per_client, per_minute=0)
    return ConnectionLimits(max_connections=in_all, shared=OwnLimits(counters), on_shed=shed.append), shed


async def test_connections_are_admitted_up_to_the_limit_and_again_when_one_has_left() -> None:
    limits, shed = new_limits(in_all=2)
    assert await limits.admit("192.0.2.1") is None
    assert await limits.admit("198.51.100.1") is None
    assert await limits.admit("203.0.113.1") is TOO_MANY
    assert shed == ["connections"]
    limits.leave("192.0.2.1")
    assert await limits.admit("203.0.113.1") is None


async def test_one_network_is_one_client() -> None:
    limits, shed = new_limits(per_client=2)
    assert await limits.admit("192.0.2.1") is None
    assert await limits.admit("192.0.2.254") is None
    assert await limits.admit("192.0.2.77") is TOO_MANY_FROM_CLIENT
    assert shed == ["client_connections"]
    assert await limits.admit("192.0.3.1") is None
    limits.leave("192.0.2.254")
    assert await limits.admit("192.0.2.77") is None


async def test_refused_connection_is_not_counted() -> None:
    limits, _ = new_limits(in_all=3, per_client=1)
    assert await limits.admit("192.0.2.1") is None
    for _ in range(5):
        assert await limits.admit("192.0.2.2") is TOO_MANY_FROM_CLIENT
    assert await limits.admit("198.51.100.1") is None
    assert await limits.admit("203.0.113.1") is None
    assert await limits.admit("203.0.114.1") is TOO_MANY


def test_networks_that_have_left_are_forgotten() -> None:
    counters = LimitCounters(max_sessions=1, per_minute=0)
    for number in range(100):
        assert counters.enter(f"10.0.{number}") is None
        counters.leave(f"10.0.{number}")
    assert not counters._sessions


def test_network_is_roomy_up_to_half_of_its_limit_where_no_rate_is_counted() -> None:
    counters = LimitCounters(max_sessions=MIN_ROOMY_SESSIONS, per_minute=0)
    for number in range(1, MIN_ROOMY_SESSIONS + 1):
        assert counters.enter("192.0.2") is None
        assert counters.is_roomy("192.0.2") is (number <= MIN_ROOMY_SESSIONS // 2)
    counters.configure(max_sessions=100, per_minute=0)
    assert counters.is_roomy("192.0.2")
    counters.configure(max_sessions=MIN_ROOMY_SESSIONS - 1, per_minute=0)
    assert not counters.is_roomy("198.51.100")
    counters.configure(max_sessions=100, per_minute=5)
    assert not counters.is_roomy("192.0.2")


def test_all_workers_count_together() -> None:
    counters = LimitCounters(max_sessions=2, per_minute=0)
    assert [counters.enter("192.0.2", holder=worker) for worker in ("0.1", "1.1", "2.1")] == [
        None,
        None,
        "client_connections",
    ]


def test_what_a_dead_worker_held_is_free_again() -> None:
    counters = LimitCounters(max_sessions=2, per_minute=0)
    for worker in ("0.1", "1.1"):
        assert counters.enter("192.0.2", holder=worker) is None
    counters.release_holder("0.1")
    counters.leave("192.0.2", holder="0.1")  # its last word came late
    assert counters.enter("192.0.2", holder="0.2") is None
    assert counters.enter("192.0.2", holder="0.2") == "client_connections"


def test_new_connections_are_counted_by_the_minute_also_those_that_have_left() -> None:
    counters = LimitCounters(max_sessions=10, per_minute=3)
    for _ in range(3):
        assert counters.enter("192.0.2") is None
        counters.leave("192.0.2")
    assert counters.enter("192.0.2") == "client_rate"
    assert counters.enter("192.0.3") is None
    counters.configure(max_sessions=10, per_minute=0)
    assert counters.enter("192.0.2") is None


@pytest.mark.parametrize("reply", [TOO_MANY, TOO_MANY_FROM_CLIENT])
def test_refusal_costs_a_retry_only(reply: object) -> None:
    assert str(reply).startswith("421 4.")


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("192.0.2.1", "192.0.2.254", True),
        ("192.0.2.1", "192.0.3.1", False),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8::1", "2001:db8:0:0:9::", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("::ffff:192.0.2.1", "192.0.2.200", True),
        ("::ffff:192.0.2.1", "::ffff:198.51.100.1", False),
        ("", "", True),
    ],
)
def test_network_is_24_bits_of_ipv4_and_64_of_ipv6(one: str, other: str, is_same: bool) -> None:
    assert (client_network(one) == client_network(other)) is is_same


def test_what_others_admitted_counts_here_too() -> None:
    counters = LimitCounters(max_sessions=2, per_minute=3)
    for _ in range(3):
        assert counters.find_refusal("192.0.2") is None
        counters.count_in("192.0.2", holder="0.1")
        counters.leave("192.0.2", holder="0.1")
    assert counters.find_refusal("192.0.2") == counters.enter("192.0.2") == "client_rate"
    counters.count_in("192.0.3", holder="0.1")
    counters.count_in("192.0.3", holder="0.2")
    assert counters.find_refusal("192.0.3") == "client_connections"
    assert counters.release_holder("0.1") == {"192.0.3"}
    assert (counters.count("192.0.3"), set(counters.networks)) == (1, {"192.0.3"})
