import pytest

from mailflow.deliver.schedule import DELAY_TOLD_S, LONGEST_RETRY_S, Schedule

SCHEDULE = Schedule(first_retry_s=300, expire_s=432_000)


@pytest.mark.parametrize(
    ("attempts", "expected_s"), [(1, 300), (2, 600), (3, 1200), (6, 9600), (7, 14_400), (99, 14_400)]
)
def test_the_wait_doubles_up_to_four_hours(attempts: int, expected_s: float) -> None:
    assert SCHEDULE.find_retry_s(attempts, 0, 0.5) == expected_s


@pytest.mark.parametrize(("draw", "share"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)])
def test_a_fifth_more_or_less_at_random(draw: float, share: float) -> None:
    assert SCHEDULE.find_retry_s(1, 0, draw) == pytest.approx(300 * share)


def test_a_first_retry_longer_than_the_longest_is_kept() -> None:
    assert Schedule(2 * LONGEST_RETRY_S, 432_000).find_retry_s(3, 0, 0.5) == 2 * LONGEST_RETRY_S


def test_the_last_try_comes_as_the_message_expires() -> None:
    assert SCHEDULE.find_retry_s(9, 432_000 - 1_000, 0.5) == 1_000
    assert SCHEDULE.find_retry_s(9, 432_000 - 10, 0.5) == 300


def test_expires_at_its_time_and_not_before() -> None:
    assert not SCHEDULE.is_expired(431_999.9)
    assert SCHEDULE.is_expired(432_000)


def test_delay_is_due_at_four_hours_and_not_before() -> None:
    assert not SCHEDULE.is_delay_due(DELAY_TOLD_S - 0.1)
    assert SCHEDULE.is_delay_due(DELAY_TOLD_S)
