"""The public headers of RFC 8601 and of providers, good and malformed: none crashes us, none is trusted wrongly.

Each is taken as a message's field, under the ids that some reader could find in it, and under another name. authres
stands for the readers: what it reads an id from must go where that id is ours.
"""

import contextlib
import json
import re

import authres  # type: ignore[import-untyped]
import pytest

from mailflow.mail.headers import split_message
from mailflow.mailauth.forged_results import strip_forged
from tests.conformance.vectors import mark, vectors

SUITE = "authres"
CASE_COUNT = 123
FOLDER = vectors(SUITE)
BOUNDS = json.loads((FOLDER / "perl_good_bad.json").read_text())
GO = json.loads((FOLDER / "go_msgauth.json").read_text())
INPUTS = {
    **{f"go-{index}": case["input"] for index, case in enumerate(GO)},
    **{f"{kind}-{index}": text for kind in ("good", "bad") for index, text in enumerate(BOUNDS[kind])},
    **{
        f"perl-{index}": case["input"]
        for index, case in enumerate(json.loads((FOLDER / "perl_headers.json").read_text()))
    },
}
CASES = [pytest.param(text, id=name, marks=mark(SUITE, name)) for name, text in INPUTS.items()]


def as_value(text: str) -> bytes:
    """Make a field's value of it: the vectors have bare LFs, also before lines that are not folded."""
    text = re.sub(r"^\s*Authentication-Results\s*:", "", text, flags=re.IGNORECASE)
    return re.sub(r"\s*\r?\n[ \t]*", "\r\n ", text.strip()).encode()


def kept_under(authserv_id: str, value: bytes) -> bool:
    content = b"Subject: x\r\nAuthentication-Results: " + value + b"\r\nTo: y\r\n\r\nbody\r\n"
    fields, body_at = split_message(content)
    assert [field.name for field in fields] == [b"subject", b"authentication-results", b"to"]
    kept = strip_forged(content, fields, body_at, authserv_id)
    after = kept.head + content[kept.rest_at :]
    assert after in (content, b"Subject: x\r\nTo: y\r\n\r\nbody\r\n")
    return after == content


def lax_ids(text: str) -> set[str]:
    """Give every id that some reader could take: what stands first, with and without its comments and quotes."""
    bare = re.sub(r"\([^()]*\)", " ", text)
    firsts = {part.split()[0] for part in (text.partition(";")[0], bare.partition(";")[0]) if part.split()}
    return {first.strip('"') for first in firsts} & set(re.findall(r"[A-Za-z0-9.-]+", text))


def test_suite_is_complete() -> None:
    assert len(INPUTS) == CASE_COUNT


@pytest.mark.suite(SUITE)
@pytest.mark.parametrize("text", CASES)
def test_field_is_never_kept_under_an_id_that_can_be_read_from_it(text: str) -> None:
    value = as_value(text)
    unfolded = value.decode().replace("\r\n", "")
    for authserv_id in lax_ids(unfolded):
        assert not kept_under(authserv_id, value)
        assert not kept_under(authserv_id.upper(), value)
    with contextlib.suppress(authres.AuthResError):
        read = authres.AuthenticationResultsHeader.parse_value(unfolded).authserv_id
        assert not kept_under(read, value)
        assert kept_under("not-in-any.example", value)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=f"go-{index}") for index, case in enumerate(GO) if case["authserv_id"]]
)
def test_field_of_an_id_that_is_read_for_certain_is_kept_for_others(case: dict[str, object]) -> None:
    assert kept_under("not-in-any.example", as_value(str(case["input"])))
    assert not kept_under(str(case["authserv_id"]), as_value(str(case["input"])))
