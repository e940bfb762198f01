"""Which chains override a DMARC failure: who must be trusted, and what his results must say."""

import pytest

from mailflow.mailauth.arc_trust import (
    MAX_COMMENTS,
    MAX_PAYLOAD_CHARS,
    MAX_RESULTS,
    MAX_SETS_READ,
    find_trusted_set,
)
from mailflow.mailauth.result import ArcResult, ArcSet, AuthStatus

AUTHOR = "news.author.example"
ORGANIZATION = "author.example"
LIST = "list.example"
FORWARDER = "forwarder.example"
STRANGER = "stranger.example"
TRUSTED = frozenset({LIST, FORWARDER})
GOOD = f" mx.list.example; dmarc=pass header.from={AUTHOR}"
NONE = " mx; none"


def chain(*sets: tuple[str, str], oldest_pass: int = 0, status: AuthStatus = AuthStatus.PASS) -> ArcResult:
    """A chain of (sealer, results)."""
    return ArcResult(
        status,
        oldest_pass,
        tuple(ArcSet(number, domain, "s", results) for number, (domain, results) in enumerate(sets, 1)),
    )


def trusted_instance(arc: ArcResult, author_domain: str = AUTHOR, organizational_domain: str = ORGANIZATION) -> int:
    found = find_trusted_set(
        arc, author_domain=author_domain, organizational_domain=organizational_domain, trusted=TRUSTED
    )
    return found.instance if found else 0


@pytest.mark.parametrize(
    ("arc", "instance"),
    [
        (chain((LIST, GOOD)), 1),
        (chain((STRANGER, GOOD)), 0),
        (chain((f"sub.{LIST}", GOOD)), 0),
        (chain((LIST, NONE)), 0),
        (chain((LIST, GOOD), (FORWARDER, NONE), oldest_pass=2), 1),
        (chain((LIST, GOOD), (STRANGER, NONE), oldest_pass=0), 1),
        (chain((LIST, GOOD), (STRANGER, NONE), oldest_pass=1), 1),
        (chain((LIST, GOOD), (STRANGER, NONE), oldest_pass=2), 0),
        (chain((LIST, GOOD), (STRANGER, GOOD), oldest_pass=2), 0),
        (chain((STRANGER, NONE), (LIST, GOOD), oldest_pass=2), 2),
        (chain((STRANGER, GOOD), (LIST, NONE), oldest_pass=2), 0),
        (chain((STRANGER, GOOD), (LIST, NONE), oldest_pass=0), 0),
        (chain((LIST, GOOD), (STRANGER, NONE), (FORWARDER, NONE), oldest_pass=3), 0),
        (chain((LIST, GOOD), (STRANGER, NONE), (FORWARDER, NONE), oldest_pass=2), 0),
        (chain((LIST, GOOD), (STRANGER, NONE), (FORWARDER, NONE), oldest_pass=1), 1),
        (chain((LIST, GOOD), (STRANGER, NONE), (FORWARDER, GOOD), oldest_pass=3), 3),
        (chain((LIST, GOOD), (FORWARDER, GOOD), oldest_pass=2), 2),
        (chain((LIST, GOOD), status=AuthStatus.FAIL), 0),
        (chain((LIST, GOOD), status=AuthStatus.TEMPERROR), 0),
        (chain(status=AuthStatus.NONE), 0),
    ],
)
def test_latest_trusted_set_counts_that_no_stranger_could_have_changed_the_message_after(
    arc: ArcResult, instance: int
) -> None:
    assert trusted_instance(arc) == instance


@pytest.mark.parametrize(
    "results",
    [
        f"mx; dmarc=pass header.from={AUTHOR}",
        f"mx; dmarc=pass header.from={AUTHOR.upper()}",
        f"mx; dmarc=pass header.from={AUTHOR}.",
        f'mx; dmarc=pass header.from="{AUTHOR}"',
        f"mx; DMARC=Pass Header.From={AUTHOR}",
        "mx; dmarc=pass",
        "mx; dmarc/1=pass",
        "mx 1; dmarc=pass",
        f"mx (dmarc=fail); spf=fail smtp.mailfrom=x@y.example; dmarc=pass (p=REJECT dis=NONE) header.from={AUTHOR}",
        f"mx; dmarc=pass\t(p=none) header.from={AUTHOR}",
        f"mx.microsoft.example 1; spf=pass smtp.mailfrom=author.example; dmarc=pass action=none header.from={AUTHOR}",
        f"mx; dmarc=fail header.from=other.example; dmarc=pass header.from={AUTHOR}",
        f"mx; dkim=pass header.d={AUTHOR}",
        f"mx; dkim=pass (2048-bit key) header.d={ORGANIZATION} header.i=@{ORGANIZATION} header.b=AbC/1234",
        f"mx; dkim=pass header.d=deep.news.{ORGANIZATION}",
        f"mx; dkim=fail header.d=other.example; dkim=pass header.d={ORGANIZATION}",
        f"mx; dkim=pass header.d={ORGANIZATION.upper()}",
        f"mx; dmarc=fail header.from=other.example; dkim=pass header.d={ORGANIZATION}",
        f"mx; dmarc=temperror header.from={AUTHOR}; dkim=pass header.d={ORGANIZATION}",
        f"mx; dkim=pass header.d={ORGANIZATION} header.d={ORGANIZATION}.",
    ],
)
def test_results_that_authenticate_the_author(results: str) -> None:
    assert trusted_instance(chain((LIST, results))) == 1


# As large services write them; only the names are made up.
WRITTEN = {
    "Google": " mx.google.example; dkim=pass header.i=@author.example header.s=20230601 header.b=f/K+3k0a; arc=pass"
    " (i=1 spf=pass spfdomain=x.example dmarc=pass fromdomain=other.example); spf=pass (google.example: domain of"
    ' bounce@x.example designates 192.0.2.1 as permitted sender) smtp.mailfrom="bounce+a=b@x.example"; dmarc=pass'
    f" (p=REJECT sp=REJECT dis=NONE) header.from={AUTHOR}; dara=pass header.i=@list.example",
    "Microsoft": " mx.microsoft.example 1; spf=pass (sender ip is 192.0.2.1) smtp.rcpttodomain=list.example"
    f" smtp.mailfrom=x.example; dmarc=pass (p=reject sp=reject pct=100) action=none header.from={AUTHOR}; dkim=pass"
    " (signature was verified) header.d=x.example; arc=pass (0 oda=1 ltdi=1 spf=[1,1,smtp.mailfrom=x.example]"
    " dkim=[1,1,header.d=x.example] dmarc=[1,1,header.from=x.example])",
    "Fastmail": " mx.fastmail.example; arc=none (no signatures found); bimi=skipped (DMARC Policy is not"
    " at enforcement); dmarc=pass"
    " policy.published-domain-policy=none policy.evaluated-disposition=none (p=none,d=none,d.eval=none)"
    f" policy.policy-from=p header.from={AUTHOR}; iprev=pass smtp.remote-ip=192.0.2.1 (mail.x.example); x-tls=pass"
    " smtp.version=TLSv1.3 smtp.cipher=TLS_AES_256_GCM_SHA384 smtp.bits=256/256",
}


@pytest.mark.parametrize("results", WRITTEN.values(), ids=WRITTEN.keys())
def test_results_of_large_services_are_read(results: str) -> None:
    assert trusted_instance(chain((LIST, results))) == 1
    assert trusted_instance(chain((LIST, results)), author_domain="other.example", organizational_domain="") == 0
    assert trusted_instance(chain((LIST, results.replace("dmarc=pass", "dmarc=fail")))) == 0


@pytest.mark.parametrize(
    "results",
    [
        "",
        " ",
        "mx",
        "mx;",
        "mx; none",
        f"mx; dmarc=fail header.from={AUTHOR}",
        f"mx; dmarc=fail header.from={AUTHOR}; dkim=pass header.d={AUTHOR}",
        f"mx; dmarc=fail action=none; dkim=pass header.d={ORGANIZATION}",
        f"mx; dmarc=temperror header.from={AUTHOR}",
        f"mx; dmarc=pass header.from={AUTHOR}; dmarc=none header.from={AUTHOR}",
        "mx; dmarc=pass header.from=other.example",
        f"mx; dmarc=pass header.from={ORGANIZATION}",
        f"mx; dmarc=pass header.from={AUTHOR} header.from=other.example",
        f"mx; dmarc=pass header.from={AUTHOR}; dmarc=fail header.from={AUTHOR}",
        "mx; dmarc=pass header.from=",
        f"mx; dmarc=pass header.from={AUTHOR};",
        f"mx; dmarc/2=pass header.from={AUTHOR}",
        f"mx 2; dmarc=pass header.from={AUTHOR}",
        f"mx; dmarc=pass action=none header.from={AUTHOR}.other.example",
        "mx; dmarc=pass action=none",
        f'mx; dmarc=pass header.from="other.example" policy.dmarc=none; spf=pass smtp.helo={AUTHOR}',
        "mx; dkim=pass",
        f"mx; dkim=pass header.i=@{AUTHOR}",
        "mx; dkim=pass header.d=other.example",
        f"mx; dkim=pass header.d=not{ORGANIZATION}",
        f"mx; dkim=pass header.d={ORGANIZATION}.other.example",
        "mx; dkim=pass header.d=example",
        f"mx; dkim=fail header.d={AUTHOR}",
        f"mx; dkim=pass header.d=other.example header.d={AUTHOR}",
        f"mx; dkim=pass smtp.d={AUTHOR}",
        f"mx; spf=pass smtp.mailfrom={AUTHOR}",
        f"dmarc=pass header.from={AUTHOR}",
        "mx; arc=pass",
    ],
)
def test_results_that_do_not_authenticate_the_author(results: str) -> None:
    assert trusted_instance(chain((LIST, results))) == 0


@pytest.mark.parametrize(
    "text",
    [
        "smtp.mailfrom=a@x.example (; dmarc=pass)",
        '"; dmarc=pass"@x.example',
        '"a\\"; dmarc=pass ; x="@x.example',
        '"; dmarc=pass',
        "(; dmarc=pass",
        "(\\); dmarc=pass)",
        "a@x.example\r; dmarc=pass",
        '"\x01; dmarc=pass"',
        "(\x7f; dmarc=pass)",
        '"\xe9; dmarc=pass"',
        "(\xe9; dmarc=pass)",
        "a\0; dmarc=pass",
        "(" * 500 + "; dmarc=pass" + ")" * 500,
        "(" * 500 + " header.x=y; dmarc=pass",
        "a\n; dmarc=pass",
        '"\\\xe9; dmarc=pass"',
    ],
)
@pytest.mark.parametrize("place", ["mx; spf=pass smtp.mailfrom={}", "mx; spf=fail reason={}", "mx; spf=fail {}"])
def test_text_of_a_stranger_in_a_comment_or_a_quoted_string_adds_no_result(place: str, text: str) -> None:
    assert trusted_instance(chain((LIST, place.format(text)))) == 0


@pytest.mark.parametrize("results", ["mx; d\u212aim=pass header.d=author.example", "mx; dmarc=pa\u017f\u017f"])
def test_letters_that_are_like_ascii_ones_without_case_make_no_result(results: str) -> None:
    assert trusted_instance(chain((LIST, results))) == 0


def test_results_are_read_up_to_a_length() -> None:
    longest = GOOD + " (" + "x" * (MAX_PAYLOAD_CHARS - len(GOOD) - 3) + ")"
    assert len(longest) == MAX_PAYLOAD_CHARS
    assert trusted_instance(chain((LIST, longest))) == 1
    assert trusted_instance(chain((LIST, longest.replace("x", "xx", 1)))) == 0


def test_results_are_read_up_to_a_number_of_comments() -> None:
    def nested(depth: int) -> str:
        return GOOD + "(" * depth + ")" * depth

    assert trusted_instance(chain((LIST, nested(MAX_COMMENTS)))) == 1
    assert trusted_instance(chain((LIST, nested(MAX_COMMENTS + 1)))) == 0


def test_author_without_a_known_organizational_domain_is_still_himself() -> None:
    arc = chain((LIST, f"mx; dkim=pass header.d={AUTHOR}"))
    assert trusted_instance(arc, organizational_domain="") == 1
    assert trusted_instance(chain((LIST, f"mx; dkim=pass header.d={ORGANIZATION}")), organizational_domain="") == 0


def test_unknown_author_is_never_authenticated() -> None:
    assert trusted_instance(chain((LIST, "mx; dmarc=pass")), author_domain="") == 0
    assert trusted_instance(chain((LIST, "mx; dkim=pass header.d=")), author_domain="") == 0


def test_results_are_read_up_to_their_number() -> None:
    results = GOOD + "; spf=none" * (MAX_RESULTS - GOOD.count(";"))
    assert trusted_instance(chain((LIST, results))) == 1
    assert trusted_instance(chain((LIST, results + "; spf=none"))) == 0


def test_results_of_so_many_trusted_sets_are_read_and_no_more() -> None:
    others = [(LIST, NONE)] * MAX_SETS_READ
    assert trusted_instance(chain((LIST, GOOD), *others[1:])) == 1
    assert trusted_instance(chain((LIST, GOOD), *others)) == 0
