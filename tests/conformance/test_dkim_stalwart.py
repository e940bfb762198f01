"""The messages of Stalwart's suite, with their keys in front of them: every signature passes."""

import pathlib

import pytest

from mailflow.mailauth import verify_dkim
from mailflow.mailauth.result import AuthStatus
from tests.conformance.dkim_files import resolver, signing_time, to_wire
from tests.conformance.vectors import mark, vectors

SUITE = "dkim-stalwart"
CASE_COUNT = 6
PATHS = sorted(path for path in vectors(SUITE).glob("*.txt") if path.name != "SOURCE.txt")


def read_case(path: pathlib.Path) -> tuple[bytes, dict[str, str]]:
    """Give the message and the key records of a file: lines `name record`, an empty line, the message."""
    keys, _, message = to_wire(path.read_bytes()).partition(b"\r\n\r\n")
    lines = [line.partition(" ") for line in keys.decode().split("\r\n")]
    return message, {name: record for name, _, record in lines}


def test_suite_is_complete() -> None:
    assert len(PATHS) == CASE_COUNT


@pytest.mark.suite(SUITE)
@pytest.mark.parametrize("path", [pytest.param(p, id=p.stem, marks=mark(SUITE, p.stem)) for p in PATHS])
async def test_every_signature_passes(path: pathlib.Path) -> None:
    message, keys = read_case(path)
    results = await verify_dkim(message, resolver=resolver(keys), now=signing_time(message))
    assert results
    assert {result.status for result in results} == {AuthStatus.PASS}, results
