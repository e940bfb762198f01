"""The cases of DKIM Verifier: SUCCESS is a pass, PERMFAIL one of our three kinds of failing, by its errorType.

Warnings about how well a message is signed and by whom (unsigned Content-Type or Reply-To, From not of the signing
domain) are of no concern to DKIM itself; that a signature comes from the future is told in the reason.
"""

import json
from typing import Any

import pytest

from mailflow.mailauth import verify_dkim
from mailflow.mailauth.result import AuthStatus
from tests.conformance.dkim_files import read_message, receiving_time, resolver
from tests.conformance.vectors import mark, vectors

SUITE = "dkim-lieser"
CASE_COUNT = 35
FOLDER = vectors(SUITE)
CASES = json.loads((FOLDER / "cases.json").read_text())
KEYS = json.loads((FOLDER / "dns.json").read_text())
ERRORS = {
    "DKIM_SIGERROR_MISSING_V": (AuthStatus.PERMERROR, "v= is missing"),
    "DKIM_SIGERROR_KEY_REVOKED": (AuthStatus.PERMERROR, "revoked"),
    "DKIM_SIGERROR_KEY_HASHNOTINCLUDED": (AuthStatus.PERMERROR, "sha256"),
    "DKIM_SIGERROR_KEY_MISMATCHED_K": (AuthStatus.PERMERROR, "another type"),
    "DKIM_SIGERROR_KEY_NOTEMAILKEY": (AuthStatus.PERMERROR, "not for mail"),
    "DKIM_SIGERROR_DOMAIN_I": (AuthStatus.PERMERROR, "t=s"),
    "DKIM_SIGERROR_CORRUPT_BH": (AuthStatus.FAIL, "body"),
    "DKIM_SIGERROR_BADSIG": (AuthStatus.FAIL, "signed fields"),
    "DKIM_POLICYERROR_UNSIGNED_HEADER_ADDED": (AuthStatus.POLICY, "than were signed"),
}


def case_id(number: int) -> str:
    return f"{number:02}-{CASES[number]['name'].replace(' ', '-')}"


def test_suite_is_complete() -> None:
    assert len(CASES) == CASE_COUNT


@pytest.mark.suite(SUITE)
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case_id(n), marks=mark(SUITE, case_id(n))) for n, case in enumerate(CASES)],
)
async def test_signatures_are_judged_as_in_the_suite(case: dict[str, Any]) -> None:
    message = read_message(FOLDER / case["file"])
    results = await verify_dkim(message, resolver=resolver(KEYS | case["dns"]), now=receiving_time(message))
    selectors = {index: json.loads(value) for index, key, _, value in case["expect"] if key == "selector"}
    for index, key, relation, value in case["expect"]:
        # The suite's own order puts rsa first.
        result = next((r for r in results if r.selector == selectors.get(index)), results[index])
        match key, relation:
            case "result", "equal":
                assert (result.status is AuthStatus.PASS) == (json.loads(value) == "SUCCESS"), result
            case "errorType", "equal":
                status, words = ERRORS[json.loads(value)]
                assert result.status is status
                assert words in (result.reason or "")
            case "warnings", "includes":
                assert ("FUTURE" in value) == ("future" in (result.reason or ""))
            case "warnings", "empty":
                assert result.reason is None
            case (("sdid" | "auid" | "selector"), "equal"):
                said = {"sdid": result.domain, "auid": result.auid or f"@{result.domain}", "selector": result.selector}
                assert said[key] == json.loads(value)


async def test_ill_formed_list_id_is_signed_like_any_field() -> None:
    message = read_message(FOLDER / "rfc6376-A.2-ill_formed-list_id.eml")
    (result,) = await verify_dkim(message, resolver=resolver(KEYS))
    assert result.status is AuthStatus.PASS
