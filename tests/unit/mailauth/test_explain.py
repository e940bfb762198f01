"""The sentences: which facts they tell, and that no stranger's word begins, ends or breaks one."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailflow.mailauth.author import Author, AuthorFault, AuthorFaultKind
from mailflow.mailauth.explain import MAX_SIGNATURES, explain
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

PASS, FAIL, NONE, TEMPERROR = AuthStatus.PASS, AuthStatus.FAIL, AuthStatus.NONE, AuthStatus.TEMPERROR
AUTHOR = Author("ceo@bank.example", "bank.example")
SPF = SpfResult(PASS, "sender.example", term="ip4:192.0.2.0/24", record_domain="sender.example")
DMARC = DmarcResult(
    FAIL,
    DmarcPolicy.REJECT,
    DmarcPolicy.REJECT,
    domain="bank.example",
    author_domain="bank.example",
    record_domain="bank.example",
    tag="p",
)
OPENINGS = (
    "The envelope sender (EnvFrom) is ",
    "Note on the author: ",
    "SPF ",
    "DKIM",
    "ARC ",
    "DMARC ",
    "Its record ",
)


def sentences(
    *,
    envelope_from: str = "bounce@sender.example",
    author: Author | AuthorFault = AUTHOR,
    spf: SpfResult = SPF,
    dkim: Sequence[DkimResult] = (),
    arc: ArcResult | None = None,
    dmarc: DmarcResult | None = DMARC,
) -> list[str]:
    return explain(
        client_ip="192.0.2.1",
        envelope_from=envelope_from,
        author=author,
        spf=spf,
        dkim=dkim,
        arc=arc or ArcResult(NONE),
        dmarc=dmarc,
    )


def test_a_whole_explanation() -> None:
    assert sentences(dkim=[DkimResult(FAIL, "bank.example", "s1", "rsa-sha256", "the body was changed")]) == [
        "The envelope sender (EnvFrom) is bounce@sender.example; the author (HeaderFrom), whom the reader sees, is "
        "ceo@bank.example.",
        "SPF pass: sender.example permits 192.0.2.1 by ip4:192.0.2.0/24.",
        "DKIM fail: the signature of bank.example (selector s1, rsa-sha256) does not count: the body was changed.",
        "DMARC fail: nothing stands for the author's domain bank.example: SPF passed for sender.example, another; "
        "DKIM fail.",
        "Its record at _dmarc.bank.example asks for reject (p=reject).",
    ]


@pytest.mark.parametrize(
    ("spf", "told"),
    [
        (SpfResult(FAIL, "a.example", term="-all"), "SPF fail: a.example forbids 192.0.2.1 by -all."),
        (
            SpfResult(AuthStatus.SOFTFAIL, "a.example", term="~all", record_domain="b.example"),
            "SPF softfail: a.example thinks that 192.0.2.1 is not permitted by ~all in the record of b.example.",
        ),
        (SpfResult(AuthStatus.NEUTRAL, "a.example"), "SPF neutral: a.example says nothing about 192.0.2.1."),
        (SpfResult(NONE, "a.example"), "SPF none: no usable record at a.example."),
        (SpfResult(TEMPERROR, "a.example", reason="no answer"), "SPF temperror: no answer."),
        (
            SpfResult(PASS, "mail.a.example", SpfIdentity.HELO),
            "SPF pass: mail.a.example, the client's own name (HELO), permits 192.0.2.1.",
        ),
        (
            SpfResult(FAIL, "a.example", explanation="Not one of ours", term="-all"),
            "SPF fail: a.example forbids 192.0.2.1 by -all. Its owner says: Not one of ours",
        ),
    ],
)
def test_spf_is_told_as(spf: SpfResult, told: str) -> None:
    assert told in sentences(spf=spf)


def test_null_sender_is_called_a_bounce() -> None:
    assert sentences(envelope_from="")[0].startswith("The envelope sender (EnvFrom) is null: a bounce or another ")


def test_author_that_cannot_be_told_is_said_with_its_reason_and_no_domain_is_asked() -> None:
    fault = AuthorFault(AuthorFaultKind.SEVERAL_FIELDS, "there is more than one From field")
    told = sentences(author=fault, dmarc=None)
    assert told[0].endswith("; the author (HeaderFrom) cannot be told: there is more than one From field.")
    assert told[-1] == "DMARC none: without an author there is no domain to ask."


def test_address_quoted_in_a_display_name_is_noted() -> None:
    told = sentences(
        author=Author("a@list.example", "list.example", ("the display name quotes another address: b@c.d",))
    )
    assert told[1] == "Note on the author: the display name quotes another address: b@c.d."


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (
            DmarcResult(PASS, aligned_spf=True, author_domain="bank.example"),
            "DMARC pass: SPF of sender.example stands for the author's domain bank.example.",
        ),
        (
            DmarcResult(
                PASS,
                aligned_spf=True,
                aligned_dkim=True,
                author_domain="bank.example",
                dkim_domains=("b.bank.example",),
            ),
            "DMARC pass: SPF of sender.example and DKIM of b.bank.example stand for the author's domain bank.example.",
        ),
        (
            DmarcResult(TEMPERROR, author_domain="bank.example", reason="DNS failure: timeout"),
            "DMARC temperror: DNS failure: timeout.",
        ),
        (DmarcResult(NONE, author_domain="bank.example"), "DMARC none: no record for bank.example."),
    ],
)
def test_dmarc_is_told_as(result: DmarcResult, told: str) -> None:
    assert sentences(dmarc=result)[-1] == told


def test_policy_on_trial_says_what_is_left_of_it() -> None:
    trial = DmarcResult(
        FAIL,
        DmarcPolicy.REJECT,
        DmarcPolicy.QUARANTINE,
        author_domain="a.b.example",
        record_domain="b.example",
        tag="sp",
    )
    assert sentences(dmarc=trial)[-1] == (
        "Its record at _dmarc.b.example asks for reject (sp=reject), and, as a test (t=y), for quarantine only."
    )


def test_arc_is_told_only_where_there_is_a_chain() -> None:
    assert not [told for told in sentences() if told.startswith("ARC")]
    chain = ArcResult(PASS, sets=(ArcSet(1, "lists.example", "s", ""), ArcSet(2, "relay.example", "s", "")))
    assert "ARC pass: the seals hold; the message came through lists.example, relay.example." in sentences(arc=chain)
    assert "ARC fail: the seals do not hold." in sentences(arc=ArcResult(FAIL))
    assert "ARC temperror: no answer." in sentences(arc=ArcResult(TEMPERROR, reason="no answer"))


@pytest.mark.parametrize(("count", "more"), [(MAX_SIGNATURES, 0), (MAX_SIGNATURES + 1, 1), (60, 55)])
def test_signatures_beyond_a_number_are_counted_only(count: int, more: int) -> None:
    told = [each for each in sentences(dkim=[DkimResult(PASS, "a.example", "s", "x")] * count) if each[:4] == "DKIM"]
    assert len(told) == MAX_SIGNATURES + bool(more)
    assert (f"DKIM: {more} signatures more." in told) is bool(more)


def test_signature_that_cannot_be_read_is_said_to_be_one() -> None:
    told = sentences(dkim=[DkimResult(AuthStatus.PERMERROR, reason="no d=")])
    assert "DKIM permerror: a signature that cannot be read does not count: no d=." in told


HOSTILE = st.text(max_size=60) | st.sampled_from(
    [
        "\x1b[2J",
        "[bold red]",
        "\r\nDMARC pass: SPF of x stands for",
        "a\nb",
        "\x00",
        "\ud800",
        "x" * 5000,
        "\u202e",
        "\x9b31m",
    ]
)


@given(
    envelope_from=HOSTILE,
    author=st.builds(Author, HOSTILE, HOSTILE, st.lists(HOSTILE, max_size=2).map(tuple)),
    spf=st.builds(
        SpfResult,
        st.sampled_from(AuthStatus),
        HOSTILE,
        st.sampled_from(SpfIdentity),
        explanation=st.none() | HOSTILE,
        term=HOSTILE,
        record_domain=HOSTILE,
        reason=st.none() | HOSTILE,
    ),
    dkim=st.lists(st.builds(DkimResult, st.sampled_from(AuthStatus), HOSTILE, HOSTILE, HOSTILE, HOSTILE), max_size=3),
    arc=st.builds(
        ArcResult,
        st.sampled_from(AuthStatus),
        sets=st.builds(ArcSet, st.just(1), HOSTILE, HOSTILE, HOSTILE).map(lambda hop: (hop,)),
        reason=HOSTILE,
    ),
    dmarc=st.none()
    | st.builds(
        DmarcResult,
        st.sampled_from(AuthStatus),
        st.sampled_from(DmarcPolicy),
        st.sampled_from(DmarcPolicy),
        author_domain=HOSTILE,
        record_domain=HOSTILE,
        dkim_domains=st.lists(HOSTILE, max_size=2).map(tuple),
        aligned_spf=st.booleans(),
        aligned_dkim=st.booleans(),
        reason=st.none() | HOSTILE,
    ),
)
def test_hostile_words_stay_inside_their_sentence(
    envelope_from: str,
    author: Author,
    spf: SpfResult,
    dkim: list[DkimResult],
    arc: ArcResult,
    dmarc: DmarcResult | None,
) -> None:
    told = sentences(envelope_from=envelope_from, author=author, spf=spf, dkim=dkim, arc=arc, dmarc=dmarc)
    for sentence in told:
        assert all(" " <= char <= "~" for char in sentence)
        assert len(sentence) < 1500
        assert sentence.startswith(OPENINGS)
    asks = dmarc is not None and dmarc.status is FAIL
    parts = [1, len(author.notes), 1, max(1, len(dkim)), arc.status is not NONE, 1, asks]
    assert len(told) == sum(parts), "a sentence each"
