"""Any bytes as a DMARC record and any answers as a zone: a result, and nothing else."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailflow.dns import Answer, AnswerStatus, DnsFailure, DnsTemporary, RdType, Record
from mailflow.mailauth import evaluate_dmarc
from mailflow.mailauth.dmarc import discover_policy
from mailflow.mailauth.dmarc_record import MAX_PROBLEMS, MAX_URIS, parse_dmarc_record
from mailflow.mailauth.result import AuthStatus, DkimResult, DmarcResult, SpfResult

PIECES = [
    *(
        b"v=DMARC1",
        b";",
        b"=",
        b" ",
        b"\t",
        b"p=",
        b"sp=",
        b"np=",
        b"reject",
        b"none",
        b"quarantine",
        b"psd=",
        b"y",
        b"n",
    ),
    *(b"rua=", b"ruf=", b"mailto:a@b", b"!10m", b",", b":", b"fo=", b"0:d:s", b"adkim=s", b"aspf=s", b"t=y", b"pct=50"),
    *(b"\0", b"\xff", b"\r\n", b"x", b"%", b"%41", b'"'),
]
RECORDS = st.one_of(
    st.binary(max_size=60),
    st.lists(st.sampled_from(PIECES), max_size=20).map(b"".join),
    st.lists(st.sampled_from(PIECES), max_size=20).map(lambda pieces: b"v=DMARC1;" + b"".join(pieces)),
)
ANSWERS = st.one_of(
    st.lists(RECORDS, max_size=3).map(tuple),
    st.sampled_from([AnswerStatus.NODATA, AnswerStatus.NXDOMAIN, *DnsFailure]),
)
NAMES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["example.com", "a.example.com", "b.a.example.com", "com", "EXAMPLE.com.", "[192.0.2.1]", "x.net"]),
    st.lists(st.sampled_from(["a", "b", "ü", "", "x" * 63, "x" * 64]), max_size=12).map(".".join),
)
LENGTH = 65_535
HOSTILE = [
    b"v=DMARC1" + b" " * LENGTH,
    b"v=DMARC1;" + b";" * LENGTH,
    b"v=DMARC1;" + b"p=" * (LENGTH // 2),
    b"v=DMARC1;" + b"p;" * (LENGTH // 2),
    b"v=DMARC1;" + b"p=x;" * (LENGTH // 4),
    b"v=DMARC1;p=none;rua=" + b"," * LENGTH,
    b"v=DMARC1;p=none;rua=" + b"a:b," * (LENGTH // 4),
    b"v=DMARC1;p=none;rua=mailto:" + b"@" * LENGTH,
    b"v=DMARC1;p=none;rua=mailto:a@b!" + b"1" * LENGTH,
    b"v=DMARC1;p=none;rua=mailto:a@b" + b"!1" * (LENGTH // 2),
    b"v=DMARC1;p=none;ruf=x:y;fo=" + b"0:" * (LENGTH // 2),
    b"v=DMARC1;" + b"a" * LENGTH,
    b"v=DMARC1;" + b"a \t" * (LENGTH // 3),
    b"v" + b" " * LENGTH,
    b"v=DMARC1;p=" + b" \t" * (LENGTH // 2) + b"x",
    b"v=DMARC1;x=" + b"\xff" * LENGTH,
]


class DrawnResolver:
    """Answers every question by what hypothesis draws, the same for the same name."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data
        self.answers: dict[str, object] = {}

    async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
        drawn = self.answers.setdefault(name, self._data.draw(ANSWERS))
        match drawn:
            case DnsFailure():
                raise DnsTemporary(drawn, name, rdtype)
            case AnswerStatus():
                return Answer(drawn)
            case tuple() if drawn and rdtype == RdType.TXT:
                return Answer(AnswerStatus.FOUND, drawn)
        return Answer(AnswerStatus.NODATA)


@settings(max_examples=1000, deadline=None)
@given(RECORDS)
def test_any_bytes_are_a_record_or_none(data: bytes) -> None:
    record = parse_dmarc_record(data)
    if record is not None:
        assert data[:1] in b"vV"
        assert record.text.isascii()
        assert len(record.problems) <= MAX_PROBLEMS
        assert all(problem.isascii() and problem.isprintable() for problem in record.problems)
        assert all(uri.isascii() and uri.isprintable() and "," not in uri for uri in record.rua + record.ruf)


@settings(max_examples=500, deadline=None)
@given(st.data(), NAMES, NAMES, st.lists(NAMES, max_size=3))
async def test_any_answers_end_in_a_result(data: st.DataObject, author: str, spf: str, dkim: list[str]) -> None:
    resolver = DrawnResolver(data)
    result = await evaluate_dmarc(
        author,
        SpfResult(AuthStatus.PASS, spf),
        [DkimResult(AuthStatus.PASS, domain) for domain in dkim],
        resolver=resolver,
    )
    check_form(result)
    discovery = await discover_policy(author, resolver)
    assert len(discovery.steps) <= 8
    assert (discovery.policy, discovery.tag) == (result.policy, result.tag)


def check_form(result: DmarcResult) -> None:
    assert result.status in {
        AuthStatus.PASS,
        AuthStatus.FAIL,
        AuthStatus.NONE,
        AuthStatus.TEMPERROR,
        AuthStatus.PERMERROR,
    }
    assert (result.policy is None) == (result.disposition is None)
    assert result.aligned_dkim == bool(result.dkim_domains)
    is_aligned = result.aligned_dkim or result.aligned_spf
    match result.status:
        case AuthStatus.PASS:
            assert is_aligned
            assert result.policy is not None
        case AuthStatus.FAIL:
            assert not is_aligned
            assert result.policy is not None
        case AuthStatus.NONE | AuthStatus.PERMERROR:
            assert not is_aligned
            assert result.policy is None
        case _:
            assert result.reason is not None


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(["a.example.com", "example.com", "b.a.example.com"]), st.booleans())
async def test_no_answer_that_was_missing_could_have_changed_a_result_other_than_temperror(
    data: st.DataObject, author: str, is_equal: bool
) -> None:
    resolver = DrawnResolver(data)
    spf = SpfResult(AuthStatus.PASS, author if is_equal else "x.example.com")
    before = await evaluate_dmarc(author, spf, [], resolver=resolver)
    for name, drawn in list(resolver.answers.items()):
        if isinstance(drawn, DnsFailure):
            resolver.answers[name] = data.draw(ANSWERS.filter(lambda answer: not isinstance(answer, DnsFailure)))
    after = await evaluate_dmarc(author, spf, [], resolver=resolver)
    if before.status is not AuthStatus.TEMPERROR and after.status is not AuthStatus.TEMPERROR:
        assert (before.status, before.aligned_spf, before.record) == (after.status, after.aligned_spf, after.record)
    if before.aligned_spf and after.status is not AuthStatus.NONE:
        assert after.aligned_spf


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_record_costs_no_more_than_its_length(data: bytes) -> None:
    begin = time.process_time()
    record = parse_dmarc_record(data)
    assert time.process_time() - begin < 1
    if record is not None:
        assert len(record.rua) <= MAX_URIS
