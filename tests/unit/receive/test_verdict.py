"""The verdict as a table: what the evidence is, what the operator wants, what becomes of the message."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest

from mailflow.mail.address import parse_mailbox
from mailflow.mailauth.author import Author, AuthorFault, AuthorFaultKind
from mailflow.mailauth.result import ArcResult, ArcSet, AuthStatus, DkimResult, DmarcPolicy, DmarcResult, SpfResult
from mailflow.receive.checks import ReverseName
from mailflow.receive.evidence import Evidence
from mailflow.receive.verdict import Action, Policy, Rule, Verdict, decide, may_report

PASS, FAIL, NONE = AuthStatus.PASS, AuthStatus.FAIL, AuthStatus.NONE
TEMPERROR, PERMERROR = AuthStatus.TEMPERROR, AuthStatus.PERMERROR


@dataclass(frozen=True)
class Allowance:
    domain: str
    network: IPv4Network | IPv6Network


def dmarc(status: AuthStatus, policy: str | None = None, disposition: str | None = None, **more: bool) -> DmarcResult:
    asked = DmarcPolicy(policy) if policy else None
    left = DmarcPolicy(disposition) if disposition else asked
    return DmarcResult(
        status,
        asked,
        left,
        domain="bank.example",
        author_domain="mail.bank.example",
        record_domain="bank.example",
        tag="p" if policy else "",
        aligned_spf=more.get("aligned_spf", status is PASS),
        aligned_dkim=more.get("aligned_dkim", False),
    )


EVIDENCE = Evidence(
    client_ip="192.0.2.1",
    helo="mail.sender.example",
    reverse_name=ReverseName(PASS, "mail.sender.example"),
    reverse_path=parse_mailbox("bounce@sender.example"),
    author=Author("ceo@mail.bank.example", "mail.bank.example"),
    spf=SpfResult(PASS, "sender.example"),
    dkim=(),
    arc=ArcResult(NONE),
    dmarc=dmarc(FAIL, "reject"),
)
ENFORCE = Policy()
FAULT = AuthorFault(AuthorFaultKind.SEVERAL_FIELDS, "there is more than one From field")


@pytest.mark.parametrize(
    ("result", "action", "rule"),
    [
        (dmarc(PASS, "reject"), Action.ACCEPT, Rule.DMARC_PASS),
        (dmarc(PASS, "none"), Action.ACCEPT, Rule.DMARC_PASS),
        (dmarc(NONE), Action.ACCEPT, Rule.DMARC_NONE),
        (dmarc(PERMERROR), Action.ACCEPT, Rule.DMARC_NONE),
        (dmarc(FAIL, "none"), Action.ACCEPT, Rule.DMARC_POLICY),
        (dmarc(FAIL, "quarantine"), Action.QUARANTINE, Rule.DMARC_POLICY),
        (dmarc(FAIL, "reject"), Action.REJECT, Rule.DMARC_POLICY),
        (dmarc(FAIL, "reject", "quarantine"), Action.QUARANTINE, Rule.DMARC_POLICY),  # t=y
        (dmarc(FAIL, "quarantine", "none"), Action.ACCEPT, Rule.DMARC_POLICY),
        (dmarc(TEMPERROR), Action.DEFER, Rule.DNS_UNANSWERED),
        (dmarc(TEMPERROR, aligned_spf=True), Action.ACCEPT, Rule.DMARC_PASS),
        (dmarc(TEMPERROR, aligned_dkim=True), Action.ACCEPT, Rule.DMARC_PASS),
    ],
)
def test_dmarc_result_leads_to(result: DmarcResult, action: Action, rule: Rule) -> None:
    verdict = decide(replace(EVIDENCE, dmarc=result), ENFORCE)
    assert (verdict.action, verdict.rule) == (action, rule)
    assert (verdict.reply is None) is (action in (Action.ACCEPT, Action.QUARANTINE))


@pytest.mark.parametrize(
    ("result", "action", "rule"),
    [
        (dmarc(TEMPERROR, "reject"), Action.DEFER, Rule.DNS_UNANSWERED),
        (dmarc(TEMPERROR, "quarantine"), Action.DEFER, Rule.DNS_UNANSWERED),
        (dmarc(TEMPERROR, "reject", "quarantine"), Action.DEFER, Rule.DNS_UNANSWERED),
        (dmarc(TEMPERROR, "none"), Action.ACCEPT, Rule.DMARC_POLICY),
        (dmarc(TEMPERROR, "quarantine", "none"), Action.ACCEPT, Rule.DMARC_POLICY),  # t=y
    ],
)
def test_missing_answer_never_defers_where_the_policy_asks_for_nothing(
    result: DmarcResult, action: Action, rule: Rule
) -> None:
    verdict = decide(replace(EVIDENCE, dmarc=result), ENFORCE)
    assert (verdict.action, verdict.rule) == (action, rule)


@pytest.mark.parametrize(
    "evidence",
    [
        replace(EVIDENCE, dmarc=dmarc(TEMPERROR)),
        replace(EVIDENCE, dmarc=dmarc(TEMPERROR, "reject")),
    ],
)
def test_by_setting_what_hangs_on_the_dns_is_taken(evidence: Evidence) -> None:
    verdict = decide(evidence, Policy(defers_unanswered=False))
    assert (verdict.action, verdict.rule) == (Action.ACCEPT, Rule.DNS_UNANSWERED)


@pytest.mark.parametrize("author", [FAULT])
def test_message_whose_author_cannot_be_told_is_refused(author: AuthorFault) -> None:
    verdict = decide(replace(EVIDENCE, author=author, dmarc=None), ENFORCE)
    assert (verdict.action, verdict.rule) == (Action.REJECT, Rule.AUTHOR_UNKNOWN)
    assert str(verdict.reply) == "550 5.7.1 The author (From) cannot be told: there is more than one From field"


@pytest.mark.parametrize(
    "evidence",
    [
        EVIDENCE,
        replace(EVIDENCE, author=FAULT, dmarc=None),
        replace(EVIDENCE, dmarc=dmarc(TEMPERROR)),
        replace(EVIDENCE, dmarc=dmarc(FAIL, "quarantine")),
    ],
)
def test_monitor_takes_everything_and_tells_what_would_be_done(evidence: Evidence) -> None:
    verdict = decide(evidence, Policy(is_enforced=False))
    assert (verdict.action, verdict.rule, verdict.reply) == (Action.ACCEPT, Rule.MONITOR, None)
    assert decide(evidence, ENFORCE).reason in verdict.reason


@pytest.mark.parametrize(
    ("allow", "ip", "is_allowed"),
    [
        (("mail.bank.example", "192.0.2.0/24"), "192.0.2.1", True),
        ((".bank.example", "192.0.2.0/24"), "192.0.2.1", True),
        (("*", "192.0.2.0/24"), "192.0.2.1", True),
        (("*", "2001:db8::/32"), "2001:db8::1", True),
        (("*", "192.0.2.0/24"), "::ffff:192.0.2.1", True),
        (("*", "fe80::/64"), "fe80::1%eth0", True),
        (("bank.example", "192.0.2.0/24"), "192.0.2.1", False),
        ((".mail.bank.example", "192.0.2.0/24"), "192.0.2.1", False),
        (("*", "192.0.2.0/24"), "192.0.3.1", False),
        (("*", "192.0.2.0/24"), "2001:db8::1", False),
        (("*", "192.0.2.0/24"), "", False),
    ],
)
def test_allow_list_is_by_author_domain_and_network(allow: tuple[str, str], ip: str, is_allowed: bool) -> None:
    policy = Policy(allow=[Allowance(allow[0], ip_network(allow[1]))])
    verdict = decide(replace(EVIDENCE, client_ip=ip), policy)
    assert (verdict.action is Action.ACCEPT) is is_allowed
    assert (verdict.rule is Rule.OVERRIDE_ALLOWED) is is_allowed


def test_allow_list_does_not_lift_the_refusal_of_an_unknown_author() -> None:
    policy = Policy(allow=[Allowance("*", ip_network("0.0.0.0/0"))])
    assert decide(replace(EVIDENCE, author=FAULT, dmarc=None), policy).action is Action.REJECT


def test_client_that_may_relay_is_not_held_to_dmarc() -> None:
    verdict = decide(replace(EVIDENCE, may_relay=True), ENFORCE)
    assert (verdict.action, verdict.rule) == (Action.ACCEPT, Rule.OVERRIDE_RELAY)


def chain(*sets: tuple[str, str], oldest_pass: int = 0) -> ArcResult:
    made = tuple(ArcSet(number, domain, "s", payload) for number, (domain, payload) in enumerate(sets, 1))
    return ArcResult(PASS, oldest_pass, made)


SEEN_GOOD = "lists.example; dmarc=pass header.from=mail.bank.example"


@pytest.mark.parametrize(
    ("arc", "trusted", "action"),
    [
        (chain(("lists.example", SEEN_GOOD)), ["lists.example"], Action.ACCEPT),
        (chain(("lists.example", SEEN_GOOD)), ["other.example"], Action.REJECT),
        (chain(("lists.example", SEEN_GOOD)), [], Action.REJECT),
        (chain(("lists.example", "lists.example; dmarc=fail")), ["lists.example"], Action.REJECT),
        (replace(chain(("lists.example", SEEN_GOOD)), status=FAIL), ["lists.example"], Action.REJECT),
        (replace(chain(("lists.example", SEEN_GOOD)), status=TEMPERROR), ["lists.example"], Action.DEFER),
        (replace(chain(("lists.example", SEEN_GOOD)), status=TEMPERROR), ["other.example"], Action.REJECT),
        (
            replace(chain(("lists.example", "lists.example; dmarc=fail")), status=TEMPERROR),
            ["lists.example"],
            Action.REJECT,
        ),
        (ArcResult(TEMPERROR), ["lists.example"], Action.REJECT),
    ],
)
def test_trusted_seal_overrides_a_failure(arc: ArcResult, trusted: Sequence[str], action: Action) -> None:
    verdict = decide(replace(EVIDENCE, arc=arc), Policy(trusted_arc_sealers=frozenset(trusted)))
    assert verdict.action is action
    assert (verdict.rule is Rule.OVERRIDE_ARC) is (action is Action.ACCEPT)


def test_override_is_not_the_reason_where_nothing_had_to_be_overridden() -> None:
    evidence = replace(EVIDENCE, dmarc=dmarc(PASS, "reject"), may_relay=True)
    assert decide(evidence, ENFORCE).rule is Rule.DMARC_PASS


def test_replies_name_dmarc_and_the_author_domain_and_fit_a_line() -> None:
    refused = str(decide(EVIDENCE, ENFORCE).reply)
    assert refused.startswith("550 5.7.1 ")
    assert "DMARC" in refused
    assert "mail.bank.example" in refused
    deferred = str(decide(replace(EVIDENCE, dmarc=dmarc(TEMPERROR)), ENFORCE).reply)
    assert deferred.startswith("451 4.7.0 ")
    long = replace(dmarc(FAIL, "reject"), author_domain="a" * 60 + "." + "b\r\n" * 80)
    reply = decide(replace(EVIDENCE, dmarc=long), ENFORCE).reply
    assert reply is not None
    assert len(reply.encode()) <= 512
    assert reply.encode().count(b"\r\n") == 1


def test_reason_tells_that_a_policy_is_tried_out() -> None:
    verdict = decide(replace(EVIDENCE, dmarc=dmarc(FAIL, "reject", "quarantine")), ENFORCE)
    assert "(p=reject, as a test: t=y)" in verdict.reason


def test_signatures_of_others_decide_nothing() -> None:
    evidence = replace(EVIDENCE, dkim=(DkimResult(PASS, "attacker.example"),))
    assert decide(evidence, ENFORCE).action is Action.REJECT


ACCEPTED = Verdict(Action.ACCEPT, Rule.DMARC_NONE, "")
QUARANTINED = Verdict(Action.QUARANTINE, Rule.DMARC_POLICY, "")
SPF_FAIL = SpfResult(FAIL, "sender.example")


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        (replace(EVIDENCE, dmarc=dmarc(NONE)), True),  # SPF passed
        (replace(EVIDENCE, dmarc=dmarc(FAIL, "none")), True),  # for the envelope sender, whoever the author is
        (replace(EVIDENCE, spf=SPF_FAIL, dmarc=dmarc(PASS, aligned_spf=False, aligned_dkim=True)), True),
        (replace(EVIDENCE, spf=SPF_FAIL, dmarc=dmarc(NONE)), False),
        (replace(EVIDENCE, spf=SpfResult(NONE), dmarc=dmarc(NONE)), False),
        (replace(EVIDENCE, spf=SpfResult(TEMPERROR), dmarc=dmarc(TEMPERROR, aligned_dkim=True)), False),
        (replace(EVIDENCE, spf=SPF_FAIL, dmarc=dmarc(NONE), may_relay=True), True),
        (replace(EVIDENCE, reverse_path=None, dmarc=dmarc(PASS)), False),
        (replace(EVIDENCE, reverse_path=None, dmarc=dmarc(PASS), may_relay=True), False),
    ],
)
def test_a_notification_is_sent_only_to_a_sender_who_is_known(evidence: Evidence, expected: bool) -> None:
    assert may_report(evidence, ACCEPTED) is expected
    assert may_report(evidence, QUARANTINED) is False
