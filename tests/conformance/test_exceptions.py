"""exceptions.toml claims few cases, each with the sentence that decides it."""

from tests.conformance.vectors import KEYS, MAX_EXCEPTIONS, claims

ALL = claims("exception") + claims("design") + claims("oracle")


def test_no_more_than_ten_exceptions_are_claimed() -> None:
    assert len(claims("exception")) <= MAX_EXCEPTIONS


def test_every_claim_names_its_case_and_the_sentence_that_decides_it() -> None:
    for claim in ALL:
        assert set(claim) == KEYS
        assert all(claim.values())


def test_no_case_is_claimed_twice() -> None:
    cases = [(claim["suite"], claim["case"]) for claim in ALL]
    assert len(cases) == len(set(cases))
