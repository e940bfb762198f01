"""Bytes in flight: a sum that is never exceeded."""

from mailflow.smtp.budget import ByteBudget


def test_reservations_add_up_to_the_limit_and_not_beyond() -> None:
    budget = ByteBudget(100)
    assert budget.reserve(60)
    assert budget.reserve(40)
    assert budget.is_full
    assert not budget.reserve(1)


def test_refused_reservation_reserves_nothing() -> None:
    budget = ByteBudget(100)
    assert budget.reserve(60)
    assert not budget.reserve(41)
    assert budget.reserved_bytes == 60
    assert budget.reserve(40)


def test_what_is_given_back_can_be_reserved_again() -> None:
    budget = ByteBudget(100)
    assert budget.reserve(100)
    budget.release(30)
    assert not budget.is_full
    assert budget.reserve(30)


def test_nothing_always_fits() -> None:
    budget = ByteBudget(0)
    assert budget.is_full
    assert budget.reserve(0)
