import contextlib

import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.dns.message import Question
from mailflow.dns.reply import MAX_RECORDS, Incomplete, MalformedReply, parse_reply
from mailflow.dns.resolver import Answer, AnswerStatus, RdType, Record
from tests.unit.dns.scripted_server import answer, to_wire

QUESTION = Question.of("www.example.com", RdType.A)
QUERY_ID = 4711
SOA = "example.com. 900 IN SOA ns.example.com. hostmaster.example.com. 1 2 3 4 120"


def query() -> dns.message.Message:
    return dns.message.from_wire(QUESTION.to_query(QUERY_ID))


def parse(*records: str, soa: str = "", flags: int = 0, rcode: dns.rcode.Rcode = dns.rcode.NOERROR) -> Answer[Record]:
    reply = answer(query(), *records, soa=soa, flags=flags)
    reply.set_rcode(rcode)
    parsed = parse_reply(QUESTION, to_wire(reply))
    assert isinstance(parsed, Answer)
    return parsed


def test_the_query_says_what_we_can_take_and_asks_for_recursion_and_ad() -> None:
    asked = query()
    assert (asked.edns, asked.payload, asked.id) == (0, 1232, QUERY_ID)
    assert asked.flags == dns.flags.RD | dns.flags.AD
    assert asked.question[0].to_text() == "www.example.com. IN A"


def test_a_query_without_edns_has_no_additional_record() -> None:
    assert dns.message.from_wire(QUESTION.to_query(1, has_edns=False)).edns == -1


def test_the_ttl_is_the_least_along_the_chain() -> None:
    parsed = parse("www.example.com. 30 IN CNAME a.example.com.", "a.example.com. 600 IN A 192.0.2.1")
    assert (parsed.ttl_s, parsed.canonical_name) == (30, "a.example.com")


def test_a_ttl_of_years_is_cut_to_a_day() -> None:
    assert parse("www.example.com. 2000000000 IN A 192.0.2.1").ttl_s == 86_400


def test_absence_lives_as_long_as_the_soa_minimum() -> None:
    assert parse(soa=SOA).ttl_s == 120
    assert parse(soa=SOA.replace("900", "60")).ttl_s == 60
    assert parse(soa=SOA, rcode=dns.rcode.NXDOMAIN).status is AnswerStatus.NXDOMAIN


def test_absence_without_soa_has_no_life() -> None:
    assert parse(rcode=dns.rcode.NXDOMAIN) == Answer(AnswerStatus.NXDOMAIN, (), 0, "www.example.com")


def test_nxdomain_after_a_chain_is_about_its_last_name() -> None:
    parsed = parse("www.example.com. 30 IN CNAME gone.example.com.", soa=SOA, rcode=dns.rcode.NXDOMAIN)
    assert (parsed.status, parsed.canonical_name, parsed.ttl_s) == (AnswerStatus.NXDOMAIN, "gone.example.com", 30)


def test_the_ad_bit_is_handed_on() -> None:
    assert parse("www.example.com. 1 IN A 192.0.2.1", flags=dns.flags.AD).is_authenticated
    assert not parse("www.example.com. 1 IN A 192.0.2.1").is_authenticated


def test_records_of_other_names_and_types_are_not_taken_for_the_answer() -> None:
    parsed = parse("other.example.com. 9 IN A 192.0.2.1", "www.example.com. 9 IN TXT x", soa=SOA)
    assert parsed.status is AnswerStatus.NODATA


def test_a_chain_that_stops_halfway_is_incomplete() -> None:
    reply = to_wire(answer(query(), "www.example.com. 30 IN CNAME a.example.org."))
    assert parse_reply(QUESTION, reply) == Incomplete("a.example.org", 30, False)


@pytest.mark.parametrize(
    "reply",
    [
        answer(query(), "www.example.com. 1 IN CNAME www.example.com."),
        answer(query(), "www.example.com. 1 IN CNAME a.", "www.example.com. 1 IN CNAME b."),
        answer(query(), soa="example.com. 9 IN NS ns.example.com."),
    ],
    ids=["a loop", "two CNAMEs", "a referral"],
)
def test_a_reply_that_contradicts_itself_is_malformed(reply: dns.message.Message) -> None:
    with pytest.raises(MalformedReply):
        parse_reply(QUESTION, to_wire(reply))


def test_more_records_than_anyone_needs_are_malformed() -> None:
    wire = bytearray(to_wire(answer(query(), "www.example.com. 1 IN A 192.0.2.1")))
    wire[6:8] = (MAX_RECORDS + 1).to_bytes(2, "big")
    with pytest.raises(MalformedReply, match="section counts"):
        parse_reply(QUESTION, bytes(wire))


GOOD = to_wire(
    answer(query(), "www.example.com. 30 IN CNAME a.example.com.", "a.example.com. 600 IN A 192.0.2.1", soa=SOA)
)


@pytest.mark.parametrize("size", range(12, len(GOOD) - 11))  # 11: the OPT record, which is not looked at
def test_a_reply_cut_anywhere_is_malformed(size: int) -> None:
    with pytest.raises(MalformedReply):
        parse_reply(QUESTION, GOOD[:size])


@given(st.dictionaries(st.integers(12, len(GOOD) - 1), st.integers(0, 255), max_size=6))
def test_a_reply_with_any_octets_changed_is_an_answer_or_malformed(changes: dict[int, int]) -> None:
    wire = bytearray(GOOD)
    for place, octet in changes.items():
        wire[place] = octet
    with contextlib.suppress(MalformedReply):
        assert isinstance(parse_reply(QUESTION, bytes(wire)), Answer | Incomplete)


@pytest.mark.parametrize("rdtype", list(RdType))
@given(data=st.binary(max_size=40))
def test_record_data_of_any_octets_is_an_answer_or_malformed(rdtype: RdType, data: bytes) -> None:
    question = Question.of("x.test", rdtype)
    head = question.to_query(1, has_edns=False)
    code = question.wire[-4:]
    wire = (
        b"\0\1\x80\0\0\1\0\1\0\0\0\0"
        + head[12:]
        + b"\xc0\x0c"
        + code
        + b"\0\0\0\1"
        + len(data).to_bytes(2, "big")
        + data
    )
    with contextlib.suppress(MalformedReply):
        assert isinstance(parse_reply(question, wire), Answer)


@pytest.mark.parametrize(
    ("change", "is_ours"),
    [
        (lambda wire: wire, True),
        (lambda wire: wire[:12] + wire[12:29].upper() + wire[29:], True),
        (lambda wire: b"\0\0" + wire[2:], False),
        (lambda wire: wire[:2] + b"\1" + wire[3:], False),
        (lambda wire: wire.replace(b"example", b"examp1e"), False),
        (lambda wire: wire[:29] + b"\0\x1c" + wire[31:], False),
        (lambda wire: wire[:11], False),
        (lambda wire: b"", False),
        (lambda wire: wire[:3] + b"\0\0\0" + wire[6:12], False),
        (lambda wire: wire[:3] + b"\2\0\0" + wire[6:12], True),
    ],
    ids=[
        "the reply",
        "other case",
        "other id",
        "a query",
        "other name",
        "other type",
        "too short",
        "empty",
        "no question",
        "failure without question",
    ],
)
def test_only_a_reply_to_our_question_counts(change: object, is_ours: bool) -> None:
    assert callable(change)
    reply = change(to_wire(answer(query(), "www.example.com. 1 IN A 192.0.2.1")))
    assert QUESTION.is_answered_by(reply, QUERY_ID) is is_ours
