"""Strangers' words in our fields, and strangers' fields: no result is added, removed or altered, nothing crashes."""

import re
import time

import authres  # type: ignore[import-untyped]
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailflow.mail.headers import split_message
from mailflow.mailauth.authentication_results import authentication_results_field
from mailflow.mailauth.forged_results import claims_id, strip_forged
from mailflow.mailauth.received_spf import received_spf_field
from mailflow.mailauth.result import (
    ArcResult,
    ArcSet,
    AuthStatus,
    DkimResult,
    DmarcPolicy,
    DmarcResult,
    SpfIdentity,
    SpfResult,
)
from tests.unit.mailauth.rfc8601 import parse, unfold

ID = "mx.example.org"
PIECES = [
    *("; dmarc=pass", "dkim=pass header.d=bank.example", "\r\n", "\r\n\t", "\n", "\r", ";", "(", ")", '"', "\\", "@"),
    *(
        "\0",
        "\x7f",
        "\x80",
        "\xff",
        "ü",
        "；",
        "＠",
        "\ud800",
        "\u2028",
        " ",
        "\t",
        "=",
        "/",
        ".",
        "..",
        "?",
        "[",
        "]",
        ",",
    ),
    *(
        "a",
        "example.com",
        "joe@example.com",
        "bücher.example",
        "none",
        "=pass",
        "= PaSS",
        "reason=x",
        "smtp.mailfrom=x",
    ),
    *("Authentication-Results: mx.example.org; dmarc=pass", "a" * 400, "x " * 100, '"' * 330, "=?utf-8?q?x?=", ID),
]
HOSTILE = st.lists(st.sampled_from(PIECES), max_size=6).map("".join) | st.text(max_size=20)
STATUS = st.sampled_from(list(AuthStatus))
SPF = st.builds(SpfResult, STATUS, HOSTILE, st.sampled_from(list(SpfIdentity)), term=HOSTILE, reason=HOSTILE)
DKIM = st.builds(DkimResult, STATUS, HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE)
ARC = st.builds(ArcResult, STATUS, st.integers(0, 50), st.just((ArcSet(1, "x", "y", "z"),)), HOSTILE)
DMARC = st.builds(DmarcResult, STATUS, disposition=st.none() | st.sampled_from(list(DmarcPolicy)), reason=HOSTILE)


def as_given(pairs: list[tuple[str, str | None]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in pairs if value]


@settings(max_examples=300, deadline=None)
@given(
    spf=st.none() | SPF,
    mail_from=HOSTILE,
    helo=HOSTILE,
    dkim=st.none() | st.lists(DKIM, max_size=3),
    arc=st.none() | ARC,
    dmarc=st.none() | DMARC,
    author_domain=st.none() | HOSTILE,
    iprev=st.none() | STATUS,
    client_ip=st.sampled_from(["192.0.2.1", "2001:db8::1", "fe80::1%eth0"]) | HOSTILE,
)
def test_hostile_words_add_remove_and_alter_no_result(
    spf: SpfResult | None,
    mail_from: str,
    helo: str,
    dkim: list[DkimResult] | None,
    arc: ArcResult | None,
    dmarc: DmarcResult | None,
    author_domain: str | None,
    iprev: AuthStatus | None,
    client_ip: str,
) -> None:
    field = authentication_results_field(
        ID,
        spf=spf,
        mail_from=mail_from,
        helo=helo,
        dkim=dkim,
        arc=arc,
        dmarc=dmarc,
        author_domain=author_domain,
        iprev=iprev,
        client_ip=client_ip,
    )
    ip = client_ip.partition("%")[0]
    meant: list[tuple[str, AuthStatus, str | None, list[tuple[str, str | None]]]] = []
    if spf:
        by_helo = spf.identity is SpfIdentity.HELO
        judged = ("smtp.helo", helo) if by_helo else ("smtp.mailfrom", mail_from)
        meant.append(("spf", spf.status, spf.reason, [judged, ("smtp.remote-ip", ip)]))
    for each in dkim or []:
        named = [("d", each.domain), ("s", each.selector), ("a", each.algorithm), ("i", each.auid), ("b", each.tag_b)]
        meant.append(("dkim", each.status, each.reason, [(f"header.{name}", value) for name, value in named]))
    if dkim == []:
        meant.append(("dkim", AuthStatus.NONE, None, []))
    if arc and arc.status is not AuthStatus.NONE:
        oldest = str(arc.oldest_pass) if arc.status is AuthStatus.PASS else None
        meant.append(("arc", arc.status, arc.reason, [("header.oldest-pass", oldest), ("smtp.remote-ip", ip)]))
    if dmarc:
        properties = [("policy.dmarc", dmarc.disposition), ("header.from", author_domain)]
        meant.append(("dmarc", dmarc.status, dmarc.reason, properties))
    if iprev:
        meant.append(("iprev", iprev, None, [("policy.iprev", ip)]))

    authserv_id, results = parse(field)
    assert authserv_id == ID
    assert [(r.method, r.result) for r in results] == [(method, status.value) for method, status, _, _ in meant]
    for result, (_, status, reason, pairs) in zip(results, meant, strict=True):
        assert_same(result.reason, None if status is AuthStatus.NONE else reason or None, max_chars=200)
        assert [name for name, _ in result.properties] == [name for name, _ in as_given(pairs)]
        for (_, written), (_, value) in zip(result.properties, as_given(pairs), strict=True):
            assert_same(written, value, max_chars=320)

    oracle = authres.AuthenticationResultsHeader.parse(unfold(field))
    assert oracle.authserv_id == ID
    assert [(r.method, r.result) for r in oracle.results] == [(r.method, r.result) for r in results]
    for theirs, result in zip(oracle.results, results, strict=True):
        # authres leaves out a quoted value that another property follows.
        assert {f"{p.type}.{p.name}" for p in theirs.properties} <= {name for name, _ in result.properties}
    said = {f"{method}={status.value}" for method, status, _, _ in meant}
    assert set(re.findall(rb"(?:spf|dkim|dmarc|arc) *= *pass", field.lower())) <= {each.encode() for each in said}


def assert_same(written: str | None, value: str | None, *, max_chars: int) -> None:
    """What was given as printable ASCII within the limit comes back as it was, but for what claims `=pass`."""
    if written is None or value is None:
        assert written is value
        return
    assert len(written) <= max_chars + 3
    if len(value) <= max_chars and value.isascii() and value.isprintable():
        assert written.replace("=", "?") == value.replace("=", "?")
        assert not re.search(r"(?i)=[^a-z0-9]*pass", written)


@settings(max_examples=300, deadline=None)
@given(SPF, HOSTILE, HOSTILE, HOSTILE)
def test_hostile_words_add_no_pair_to_received_spf(spf: SpfResult, mail_from: str, helo: str, client_ip: str) -> None:
    field = received_spf_field(spf, mail_from=mail_from, helo=helo, client_ip=client_ip, receiver=ID)
    name, _, text = unfold(field).partition(":")
    assert name == "Received-SPF"
    dot_atom = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    pair = rf'([a-z-]+)=({dot_atom}|"(?:[^"\\]|\\.)*");'
    assert re.fullmatch(rf"[ \t]{spf.status}(?:[ \t]{pair})*", text)
    keys = [key for key, _ in re.findall(rf"[ \t]{pair}", text)]
    assert len(keys) == len(set(keys))
    assert set(keys) <= {"client-ip", "envelope-from", "helo", "identity", "receiver", "mechanism", "problem"}


HEADER_PIECES = [
    *(
        "Authentication-Results:",
        "authentication-results :",
        "Received-SPF: pass",
        "Subject: x",
        "\r\n",
        "\r\n ",
        "\r\n\t",
    ),
    *(
        " ",
        "(",
        ")",
        '"',
        "\\",
        ";",
        "=",
        ".",
        "1",
        ID,
        ID.upper(),
        "mx.example",
        ".org",
        "other.example",
        "; spf=pass",
    ),
    *("ü", "\xa0", "From joe", "text", "\r\n\r\n", "\0", "\n"),
]
CONTENT = st.lists(st.sampled_from(HEADER_PIECES), max_size=25).map("".join).map(str.encode) | st.binary(max_size=60)


@settings(max_examples=500, deadline=None)
@given(CONTENT)
@example(b"Authentication-Results: mx.example.org; spf=pass")
def test_any_content_keeps_its_body_and_other_fields(content: bytes) -> None:
    fields, body_at = split_message(content + b"\r\n")
    content += b"\r\n"
    kept = strip_forged(content, fields, body_at, ID)
    after = kept.head + content[kept.rest_at :]
    fields_after, body_after_at = split_message(after)
    body = content[body_at:]
    assert after[body_after_at:] == body
    others = [field for field in fields if field.name != b"authentication-results"]
    assert [field for field in fields_after if field.name != b"authentication-results"] == others
    assert set(fields_after) <= set(fields)
    assert not any(claims_id(field.value, ID) for field in fields_after if field.name == b"authentication-results")
    assert not body or after[:body_after_at].endswith(b"\r\n\r\n") or after.startswith(b"\r\n")


@settings(max_examples=500, deadline=None)
@given(CONTENT)
def test_what_is_kept_shows_our_id_to_no_reader_before_the_first_semicolon(content: bytes) -> None:
    value = content.replace(b"\r\n", b"")
    if claims_id(value, ID):
        return
    text = value.decode("utf-8", "replace")
    naive = re.sub(r"\([^()]*\)", "", text).partition(";")[0].replace('"', "").replace("\\", "").split()
    assert ID not in [word.lower() for word in naive]
    assert ID not in [word.lower() for word in text.partition(";")[0].split()]


MANY = 250_000


@pytest.mark.parametrize(
    "value",
    [
        b"(" * MANY,
        b"()" * MANY,
        b"(" * MANY + b")" * MANY,
        b"(\\" * MANY,
        b'"' + b"\\a" * MANY,
        b'"' + b"a" * MANY + b'"',
        b"a" * MANY,
        b"a." * MANY + b"@",
        b" \t" * MANY,
        b"\r\n " * MANY,
        b"a" + b"\r\n " * MANY + b"x",
        b"a" + b" 1" * MANY,
        b"a " + b"1" * MANY + b"x",
        "ü.".encode() * MANY + b";",
        b"\xff" * MANY,
    ],
    ids=range(15),
)
@pytest.mark.timeout(20)
def test_a_hostile_id_is_read_in_linear_time(value: bytes) -> None:
    begin = time.process_time()
    claims_id(value, ID)
    assert time.process_time() - begin < 5  # what is quadratic takes hours; what is linear, well under a second
