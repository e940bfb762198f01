"""Prints how many cases of each suite of the public vectors passed: a case is one item of a test marked `suite`."""

import collections
from collections.abc import Generator

import pytest

TALLY = pytest.StashKey[dict[str, collections.Counter[str]]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    marker = item.get_closest_marker("suite")
    if marker is not None and (report.when == "call" or not report.passed):
        is_claimed = report.skipped and hasattr(report, "wasxfail")
        tally = item.config.stash.setdefault(TALLY, {}).setdefault(marker.args[0], collections.Counter())
        tally["claimed" if is_claimed else report.outcome] += 1
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    tallies = config.stash.get(TALLY, {})
    if tallies:
        terminalreporter.section("public vectors, passed/total")
    for suite, tally in sorted(tallies.items()):
        claimed = f" ({tally['claimed']} claimed in exceptions.toml)" if tally["claimed"] else ""
        terminalreporter.line(f"{suite:28} {tally['passed']}/{tally.total()}{claimed}")
