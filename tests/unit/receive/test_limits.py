"""How many connections are admitted, in all and from one network."""

import pytest

from mailflow.receive.limits import TOO_MANY, TOO_MANY_FROM_CLIENT, ConnectionLimits, client_network


def new_limits(*, in_all: int = 10, per_client: int = 10) -> tuple[ConnectionLimits, list[str]]:
    shed: list[str] = []
    return ConnectionLimits(max_connections=in_all, max_per_client=per_client, on_shed=shed.append), shed


def test_connections_are_admitted_up_to_the_limit_and_again_when_one_has_left() -> None:
    limits, shed = new_limits(in_all=2)
    assert limits.admit("192.0.2.1") is None
    assert limits.admit("198.51.100.1") is None
    assert limits.admit("203.0.113.1") is TOO_MANY
    assert shed == ["connections"]
    limits.leave("192.0.2.1")
    assert limits.admit("203.0.113.1") is None


def test_one_network_is_one_client() -> None:
    limits, shed = new_limits(per_client=2)
    assert limits.admit("192.0.2.1") is None
    assert limits.admit("192.0.2.254") is None
    assert limits.admit("192.0.2.77") is TOO_MANY_FROM_CLIENT
    assert shed == ["client_connections"]
    assert limits.admit("192.0.3.1") is None
    limits.leave("192.0.2.254")
    assert limits.admit("192.0.2.77") is None


def test_refused_connection_is_not_counted() -> None:
    limits, _ = new_limits(in_all=3, per_client=1)
    assert limits.admit("192.0.2.1") is None
    for _ in range(5):
        assert limits.admit("192.0.2.2") is TOO_MANY_FROM_CLIENT
    assert limits.admit("198.51.100.1") is None
    assert limits.admit("203.0.113.1") is None
    assert limits.admit("203.0.114.1") is TOO_MANY


def test_networks_that_have_left_are_forgotten() -> None:
    limits, _ = new_limits()
    for number in range(100):
        assert limits.admit(f"10.0.{number}.1") is None
        limits.leave(f"10.0.{number}.1")
    assert len(limits._open_by_network) == 0


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
