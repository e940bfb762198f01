"""Where the public vectors are, and which of their cases mailflow claims to be exceptions.

`$MAILFLOW_VECTORS` names the folder; unset, the suites say so and are skipped. The repository holds no copy.
"""

import os
import pathlib
import tomllib

import pytest

MAX_EXCEPTIONS = 10
KEYS = {"suite", "case", "rfc", "sentence"}


def vectors(suite: str) -> pathlib.Path:
    """Give the folder of one suite; skip the module that asks where $MAILFLOW_VECTORS is unset."""
    folder = os.environ.get("MAILFLOW_VECTORS")
    if not folder:
        pytest.skip("MAILFLOW_VECTORS is not set", allow_module_level=True)
    return pathlib.Path(folder, suite)


def claims(kind: str) -> list[dict[str, str]]:
    """Give the entries of exceptions.toml: `exception` (an RFC decides), `design` (the design does), `oracle`."""
    entries: list[dict[str, str]] = tomllib.loads(pathlib.Path(__file__).with_name("exceptions.toml").read_text())[kind]
    return entries


def mark(suite: str, case: str) -> list[pytest.MarkDecorator]:
    """Give the marks of a case: one that is claimed as an exception must fail, and fails when it passes."""
    reasons = [
        f"{c['rfc']}: {c['sentence']}" for c in claims("exception") + claims("design") if is_case(c, suite, case)
    ]
    return [pytest.mark.xfail(reason=reason, strict=True) for reason in reasons]


def is_case(claim: dict[str, str], suite: str, case: str) -> bool:
    """Tell whether an entry is about this case."""
    return (claim["suite"], claim["case"]) == (suite, case)
