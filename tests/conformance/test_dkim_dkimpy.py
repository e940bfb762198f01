"""dkimpy's test data: signed messages, key records good and bad, private keys. What is right is what the RFCs say.

The record of Google's key is the one that was published when test2.message was signed.
"""

import base64

import dkim  # type: ignore[import-untyped]
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mailflow.mailauth import sign_dkim, verify_dkim
from mailflow.mailauth.dkim_sign import PrivateKey
from mailflow.mailauth.result import AuthStatus
from tests.conformance.dkim_files import read_message, resolver, signing_time
from tests.conformance.vectors import mark, vectors

SUITE = "dkim-dkimpy"
FILE_COUNT = 33
FOLDER = vectors(SUITE)
GOOGLE_KEY = (
    "k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA1Kd87/UeJjenpabgbFwh+eBCsSTrqmwIYYvywlbhbqoo2DymndFkbjOVIP"
    "IldNs/m40KF+yzMn1skyoxcTUGCQs8g3FgD2Ap3ZB5DekAo5wMmk4wimDO+U8QzI3SD07y2+07wlNWwIt8svnxgdxGkVbbhzY8i+RQ9DpSVpPb"
    "F7ykQxtKXkv/ahW3KjViiAH+ghvvIhkx4xYSIc9oSwVmAl5OctMEeWUwg8Istjqz8BZeTWbf41fbNhte7Y+YqZOwq1Sd0DbvYAD9NOZK9vlfua"
    "c0598HY+vtSBczUiKERHv1yRbcaQtZFh5wtiRrN04BLUTD21MycBX5jYchHjPY/wIDAQAB"
)
UNSIGNED = ["ed25519test.msg", "rfc6376.msg", "rfc6376.w1258.msg", "test.message", "test_extra.message", "message.mbox"]
PASS, FAIL, PERMERROR = AuthStatus.PASS, AuthStatus.FAIL, AuthStatus.PERMERROR


def text(name: str) -> str:
    return (FOLDER / name).read_text().strip()


def raw_key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(base64.b64decode((FOLDER / name).read_bytes()))


def case(*values: object) -> object:
    return pytest.param(*values, id=str(values[0]), marks=mark(SUITE, str(values[0])))


def test_suite_is_complete() -> None:
    assert len([path for path in FOLDER.iterdir() if path.name != "SOURCE.txt"]) == FILE_COUNT


@pytest.mark.suite(SUITE)
@pytest.mark.parametrize(
    ("name", "statuses"),
    [
        case("rfc6376.signed.msg", [PASS, PASS]),
        case("rfc6376.signed.rsa.msg", [PASS]),
        case("rfc6376.signed.no_t.msg", [FAIL]),  # the signature of the file above, over a field changed since
        case("ed25519test2.msg", [PASS]),
        case("test2.message", [PASS]),
        case("test.message.baddomain", [PERMERROR]),
    ],
)
async def test_signed_message_has_these_results(name: str, statuses: list[AuthStatus]) -> None:
    message = read_message(FOLDER / name)
    keys = {
        "test._domainkey.football.example.com": text("test.txt"),
        "brisbane._domainkey.football.example.com": "k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
        "sed._domainkey.test.ex": text("eximtest.dns"),
        "20120113._domainkey.gmail.com": GOOGLE_KEY,
    }
    results = await verify_dkim(message, resolver=resolver(keys), now=signing_time(message))
    assert [result.status for result in results] == statuses


@pytest.mark.suite(SUITE)
@pytest.mark.parametrize(
    ("record", "key", "status"),
    [
        case("test.txt", "test.private", PASS),
        case("test2.txt", "test2.private", PASS),
        case("1024_testkey_wo_markers.pub.txt", "1024_testkey.key", PASS),
        case("1024_testkey_wo_markers.pub.rsa.txt", "1024_testkey.key", PASS),
        case("2048_testkey_wo_markers.pub.txt", "2048_testkey.key", PASS),
        case("2048_testkey_wo_markers.pub.rsa.txt", "2048_testkey.key", PASS),
        case("2048_testkey_PKCS8.key.pub.txt", "2048_testkey_PKCS8.key", PASS),
        case("test_bad.txt", "test.private", PERMERROR),
        case("badk.txt", "test.private", PERMERROR),
        case("badversion.txt", "test.private", PERMERROR),
        case("test_tlsrpt.txt", "test.private", PERMERROR),
        case("ed25519test.dns", "ed25519test.key", PASS),
    ],
)
async def test_key_record_is_good_or_not_for_what_its_private_key_signed(
    record: str, key: str, status: AuthStatus
) -> None:
    message = read_message(FOLDER / "test.message")
    private: PrivateKey | bytes = raw_key(key) if "ed25519" in key else (FOLDER / key).read_bytes()
    field = await sign_dkim(message, domain="example.com", selector="test", key=private)
    keys = {"test._domainkey.example.com": text(record)}
    (result,) = await verify_dkim(field + message, resolver=resolver(keys))
    assert result.status is status


@pytest.mark.suite(SUITE)
@pytest.mark.parametrize("form", [b"simple/simple", b"simple/relaxed", b"relaxed/simple", b"relaxed/relaxed"])
@pytest.mark.parametrize("name", UNSIGNED)
async def test_message_signed_with_dkimpy_passes(name: str, form: bytes) -> None:
    message = read_message(FOLDER / name)
    private = (FOLDER / "test.private").read_bytes()
    field = dkim.sign(message, b"test", b"example.com", private, canonicalize=tuple(form.split(b"/")))
    keys = {"test._domainkey.example.com": text("test.txt")}
    results = await verify_dkim(field + message, resolver=resolver(keys))
    assert results[0].status is PASS, results[0]


@pytest.mark.suite(SUITE)
async def test_message_without_from_is_not_signed() -> None:
    with pytest.raises(ValueError, match="From"):
        await sign_dkim(
            read_message(FOLDER / "test_nofrom.message"),
            domain="example.com",
            selector="test",
            key=(FOLDER / "test.private").read_bytes(),
        )
