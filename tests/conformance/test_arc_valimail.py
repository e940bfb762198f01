"""The ARC suite of ValiMail against RFC 8617: what verifies, and what a sealer writes, byte for byte.

Three cases expect no word at all, as a chain that says itself that it failed has ended: s5.2 step 2 makes that "fail".
"""

from typing import Any

import pytest
import yaml

from mailflow.mail.headers import split_message
from mailflow.mailauth import seal_arc, verify_arc
from mailflow.testing import ZoneResolver
from tests.conformance.vectors import mark, vectors

SUITE = "arc-valimail"
SIGN_SUITE = "arc-valimail-sign"
CASE_COUNT = 171
SIGN_CASE_COUNT = 17
ENDED = "fail"
FIELDS = {"AS": "ARC-Seal", "AMS": "ARC-Message-Signature", "AAR": "ARC-Authentication-Results"}


def load(name: str) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Give (name, scenario, case) of every case."""
    scenarios = yaml.safe_load_all((vectors(SUITE) / name).read_text())
    return [(name, scenario, case) for scenario in scenarios for name, case in scenario["tests"].items()]


VERIFY = load("arc-draft-validation-tests.yml")
SIGN = load("arc-draft-sign-tests.yml")


def params(cases: list[tuple[str, dict[str, Any], dict[str, Any]]], suite: str) -> list[object]:
    return [pytest.param(scenario, case, id=name, marks=mark(suite, name)) for name, scenario, case in cases]


def to_wire(message: str) -> bytes:
    return message.encode().replace(b"\n", b"\r\n")


def resolver(scenario: dict[str, Any]) -> ZoneResolver:
    # The records stand folded in the file; white space in p= is not significant (RFC 6376 s3.6.1).
    records = scenario["txt-records"] or {}
    return ZoneResolver({name: [{"TXT": text.replace("\n", "")}] for name, text in records.items()})


def own_results(message: bytes, authserv_id: str) -> str:
    """Combine the Authentication-Results of the sealing domain into one payload (RFC 8617 s4.1.1)."""
    fields, _ = split_message(message)
    values = [field.value.decode().partition(";") for field in fields if field.name == b"authentication-results"]
    return ";".join(payload.rstrip() for authority, _, payload in values if authority.strip() == authserv_id)


def unfold(text: str) -> str:
    return " ".join(text.split())


def tags(text: str) -> dict[str, str]:
    """Give the tags of a signature, without the white space that its folding put into their values."""
    pairs = (tag.partition("=") for tag in text.split(";"))
    return {name.strip(): "".join(value.split()) for name, _, value in pairs}


def test_suites_are_complete() -> None:
    assert (len(VERIFY), len(SIGN)) == (CASE_COUNT, SIGN_CASE_COUNT)


@pytest.mark.suite(SUITE)
@pytest.mark.parametrize(("scenario", "case"), params(VERIFY, SUITE))
async def test_chain_has_the_expected_status(scenario: dict[str, Any], case: dict[str, Any]) -> None:
    result = await verify_arc(to_wire(case["message"]), resolver=resolver(scenario))
    assert result.status.value == (case["cv"] or ENDED).lower()


@pytest.mark.suite(SIGN_SUITE)
@pytest.mark.parametrize(("scenario", "case"), params(SIGN, SIGN_SUITE))
async def test_set_is_sealed_byte_for_byte(scenario: dict[str, Any], case: dict[str, Any]) -> None:
    message = to_wire(case["message"])
    arc = await verify_arc(message, resolver=resolver(scenario))
    sealed = await seal_arc(
        message,
        domain=scenario["domain"],
        selector=scenario["sel"],
        key=scenario["privatekey"].encode(),
        authserv_id=case["srv-id"],
        authentication_results=own_results(message, case["srv-id"]),
        arc=arc,
        signed_fields=case["sig-headers"].split(":"),
        now=case["t"],
        max_line_octets=998,
    )
    if not case["AS"]:
        assert sealed == b""
        return
    fields, _ = split_message(sealed)
    assert [field.raw.partition(b":")[0].decode() for field in fields] == list(FIELDS.values())
    seal, signature, results = (field.value.decode() for field in fields)
    assert tags(seal) == tags(case["AS"])
    assert tags(signature) == tags(case["AMS"])
    assert unfold(results) == unfold(case["AAR"])
