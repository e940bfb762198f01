import pytest

from mailflow.testing import FakeClock


def test_the_clock_moves_only_when_told() -> None:
    clock = FakeClock(5)
    assert (clock(), clock()) == (5, 5)
    clock.advance(2.5)
    assert clock() == 7.5


def test_the_clock_never_goes_back() -> None:
    with pytest.raises(ValueError, match="never"):
        FakeClock().advance(-1)
