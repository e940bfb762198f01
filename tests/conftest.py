"""What holds for every test: which are integration tests, and that nothing is left out in silence.

With CI=true a skipped integration test fails. Without it, the last lines of a run name what was left out and the one
command that would bring it in. The vectors of tests/conformance may be absent everywhere: that is said, and no failure.
"""

import collections
import gc
import os
import pathlib
from collections.abc import Generator, Iterator

import pytest

from tests.postgres_server import PostgresServer
from tests.servers import is_ci, missing_packages

TESTS = pathlib.Path(__file__).parent
LEFT_OUT = pytest.StashKey[collections.Counter[str]]()


def pytest_collection_finish() -> None:
    # Some tests measure the CPU of some milliseconds: a look at all that was collected would take ten times that.
    gc.collect()
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = collections.Counter()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(TESTS / "integration"):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Serves until the run ends; a test has a database of its own, and brings back the server it stopped or froze."""
    with PostgresServer() as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        note_skip(item.config, report, is_integration=item.get_closest_marker("integration") is not None)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped:  # a whole module, by importorskip or pytest.skip(allow_module_level=True)
        note_skip(collector.config, report, is_integration=collector.path.is_relative_to(TESTS / "integration"))
    return report


def note_skip(config: pytest.Config, report: pytest.TestReport | pytest.CollectReport, *, is_integration: bool) -> None:
    """Remember why a test was skipped; turn the skip of an integration test into a failure with CI=true."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if is_integration and is_ci():
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped ({reason}), and with CI=true no integration test may be"
        return
    config.stash[LEFT_OUT][f"{report.nodeid.partition('::')[0]}: {reason}"] += 1


def pytest_unconfigure(config: pytest.Config) -> None:
    # After pytest's own closing line: the last lines are what people read.
    left_out = config.stash.get(LEFT_OUT, None)
    if not left_out:
        return
    print("\nLeft out:")
    for reason, count in sorted(left_out.items()):
        print(f"  {reason}" + (f" ({count} tests)" if count > 1 else ""))
    if packages := missing_packages():
        print("For the missing servers, as root:")
        print("  apt-get update && apt-get install -y --no-install-recommends", *packages)
    if not os.environ.get("MAILFLOW_VECTORS") and any(where.startswith("tests/conformance") for where in left_out):
        print("For the conformance tests: set MAILFLOW_VECTORS to the folder of the public test vectors.")
