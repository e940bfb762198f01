"""The RFC 7208 suite of openspf.org: each case's result, and its explanation where the suite gives one.

The older release and the tests pyspf grew by run as suites of their own. `ambiguous` is a result of pyspf's harsh mode,
and cases for its lax one are no cases of the RFC.
"""

from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from mailflow.mailauth import check_spf
from mailflow.testing import ZoneResolver
from tests.conformance.vectors import mark, vectors

SUITE = "spf-openspf-rfc7208"
FOLDER = vectors(SUITE)
FILES = {SUITE: "rfc7208-tests.yml", "spf-openspf-2014-05": "rfc7208-tests-2014-05.yml", "spf-pyspf": "test.yml"}
CASE_COUNTS = {SUITE: 203, "spf-openspf-2014-05": 193, "spf-pyspf": 14}
# The suite's word for "the receiver's own text": there is none of the domain's.
NO_EXPLANATION = "DEFAULT"


@dataclass(frozen=True)
class Case:
    """One test of a scenario, with the zone of that scenario."""

    name: str
    test: dict[str, Any]
    zone: dict[str, Any]

    @property
    def results(self) -> list[str]:
        result = self.test["result"]
        return [result] if isinstance(result, str) else result


def cases(suite: str) -> list[Case]:
    """Give the cases of a file in order."""
    text = (FOLDER / FILES[suite]).read_text(encoding="utf-8")
    return [
        Case(name, test, scenario["zonedata"])
        for scenario in yaml.safe_load_all(text)
        for name, test in scenario["tests"].items()
        if "strict" not in test or test["result"] == "pass"
    ]


CASES = {suite: cases(suite) for suite in FILES}
PARAMETERS = [
    pytest.param(case, marks=[pytest.mark.suite(suite), *mark(suite, case.name)], id=f"{suite}-{case.name}")
    for suite in FILES
    for case in CASES[suite]
]


def test_suites_are_complete() -> None:
    assert {suite: len(found) for suite, found in CASES.items()} == CASE_COUNTS


@pytest.mark.parametrize("case", PARAMETERS)
async def test_result_and_explanation_are_those_of_the_suite(case: Case) -> None:
    test = case.test
    result = await check_spf(
        ip=test["host"], helo=test["helo"], sender=test["mailfrom"], resolver=ZoneResolver(case.zone)
    )
    assert result.status in case.results
    if "explanation" in test:
        assert (result.explanation or NO_EXPLANATION) == test["explanation"]
