from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mailflow.deliver.route import Route, Router
from mailflow.mail.address import Address, parse_mailbox
from mailflow.mail.address_book import AddressRules
from mailflow.mail.address_map import parse_aliases, parse_user_map
from mailflow.mail.envelope import Envelope, Recipient
from mailflow.mail.handoff import DeliveryStatus, FinalDot, Handoff, Outcome, RecipientStatus, Verification
from mailflow.mail.reply import Reply
from mailflow.observe.nursery import Nursery

UNKNOWN = Verification(RecipientStatus.REFUSED, reply=Reply(550, "5.1.1", "No such user here"), is_unknown_user=True)
FULL = Verification(RecipientStatus.REFUSED, reply=Reply(452, "4.2.2", "Mailbox full"))
SILENT = Verification(RecipientStatus.UNVERIFIABLE, reply=Reply(451, "4.4.1", "later"))
POSTMASTER = parse_mailbox("postmaster@example.org")


class Mailboxes:
    """A backend of named mailboxes; `answers` by address, others are unknown users."""

    def __init__(self, name: str, answers: dict[str, Verification | None]) -> None:
        self.name = name
        self.handoff_deadline_s = 20.0
        self.answers = answers
        self.delivered: list[tuple[Envelope, Sequence[bytes]]] = []
        self.is_open = False
        self.is_broken = False

    async def open(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False

    async def verify(self, address: Address, *, is_smtputf8: bool) -> Verification:
        good = Verification(RecipientStatus.GOOD, deliver_to=address)
        return self.answers.get(str(address), UNKNOWN) or good

    async def deliver(self, envelope: Envelope, body: Sequence[bytes], dot: FinalDot) -> list[Outcome]:
        if self.is_broken:
            raise RuntimeError("a fault of ours")
        self.delivered.append((envelope, body))
        dot.leave()
        taken = Outcome(DeliveryStatus.DELIVERED, Reply(250, "2.0.0", "Ok"), self.name)
        return [replace(taken, detail=str(recipient.deliver_to)) for recipient in envelope.recipients]


def make_router(answers: dict[str, Verification | None] | None = None) -> Router:
    routes = [
        Route([".example.org"], "any"),
        Route(["example.org", "bücher.example".encode("idna").decode()], "exact"),
        Route([".deep.example.org", "lists.example.org"], "deep"),
    ]
    backends = {name: Mailboxes(name, answers or {}) for name in ("any", "exact", "deep")}
    return Router(routes, backends, postmaster=POSTMASTER)


async def ask(router: Handoff, address: str, *, may_relay: bool = False) -> Verification:
    return await router.verify_recipient(parse_mailbox(address), is_smtputf8=False, may_relay=may_relay)


async def deliver(router: Handoff, verification: Verification) -> Outcome:
    """Deliver to whom RCPT took, as the receiving side does."""
    assert verification.deliver_to
    recipient = Recipient(POSTMASTER, verification.deliver_to, verification.is_relayed)
    (outcome,) = await router.deliver(Envelope("1", None, (recipient,)), [b"x\r\n"])
    return outcome


def relay_router(domains: Sequence[str] = ("*",)) -> Router:
    backends = {"ours": Mailboxes("ours", {}), "out": Mailboxes("out", {"a@elsewhere.example": None})}
    routes = [Route(["example.org"], "ours"), Route(domains, "out")]
    return Router(routes, backends, postmaster=POSTMASTER)


ALIASES, USERS = Path("aliases.toml"), Path("users.toml")
ALIAS_TEXT = b"""
"info@example.org" = "alice@example.org"
"lost@example.org" = "nobody@example.org"
"postmaster@example.org" = "chief@example.org"
"moved@example.org" = "bob@other.example"
"abuse@other.example" = "round@example.org"
"round@example.org" = "around@example.org"
"around@example.org" = "round@example.org"
"""


def make_mapped_router(*known: str, catch_all: str = "") -> Router:
    """Two domains with one alias file; `known` users are `backend:address`."""
    names = ("home", "new")
    backends = {
        name: Mailboxes(name, dict.fromkeys(user.partition(":")[2] for user in known if user.startswith(f"{name}:")))
        for name in names
    }
    rules = AddressRules(ALIASES, USERS)
    caught = parse_mailbox(catch_all) if catch_all else None
    users = parse_user_map(b'"carol@example.org" = "new"\n"dave+x@example.org" = "new"', names)
    return Router(
        [Route(["example.org"], "home", rules, caught), Route(["other.example"], "home", rules)],
        backends,
        postmaster=POSTMASTER,
        maps={ALIASES: parse_aliases(ALIAS_TEXT), USERS: users},
    )


@pytest.mark.parametrize(
    ("domain", "backend"),
    [
        ("example.org", "exact"),
        ("xn--bcher-kva.example", "exact"),
        ("bücher.example", "exact"),
        ("EXAMPLE.ORG", "exact"),
        ("a.example.org", "any"),
        ("a.b.example.org", "any"),
        ("deep.example.org", "any"),
        ("a.deep.example.org", "deep"),
        ("lists.example.org", "deep"),
        ("a.lists.example.org", "any"),
    ],
)
async def test_the_most_specific_route_has_the_domain(domain: str, backend: str) -> None:
    router = make_router()
    address = parse_mailbox(f"alice@{domain}")
    envelope = Envelope("1", None, (Recipient(address, address),))
    (outcome,) = await router.deliver(envelope, [b"x\r\n"])
    assert outcome.backend == backend


@pytest.mark.parametrize("domain", ["example.com", "org", "notexample.org", "example.org.evil.example", "[192.0.2.1]"])
async def test_a_domain_without_a_route_is_not_ours(domain: str) -> None:
    verification = await ask(make_router(), f"postmaster@{domain}")
    assert verification.status is RecipientStatus.NOT_OURS
    assert str(verification.reply) == "550 5.7.1 Relaying denied"
    assert not verification.is_unknown_user


async def test_an_unknown_user_is_refused() -> None:
    assert await ask(make_router(), "alice@example.org") == UNKNOWN


@pytest.mark.parametrize("refusal", [UNKNOWN, FULL])
@pytest.mark.parametrize("local", ["postmaster", "PostMaster", "abuse", "ABUSE"])
async def test_postmaster_and_abuse_of_each_domain_lead_to_the_postmaster_where_the_backend_does_not_take_them(
    local: str, refusal: Verification
) -> None:
    router = make_router({f"{local}@a.example.org": refusal, "postmaster@example.org": None})
    verification = await ask(router, f"{local}@a.example.org")
    assert verification == Verification(RecipientStatus.GOOD, deliver_to=POSTMASTER, destination="exact")


async def test_postmaster_that_the_backend_knows_is_delivered_there() -> None:
    router = make_router({"abuse@a.example.org": None, "postmaster@example.org": None})
    assert (await ask(router, "abuse@a.example.org")).deliver_to == parse_mailbox("abuse@a.example.org")


async def test_a_postmaster_who_has_no_mailbox_is_taken_all_the_same() -> None:
    verification = await ask(make_router(), "postmaster@example.org")
    assert (verification.status, verification.deliver_to) == (RecipientStatus.GOOD, POSTMASTER)


async def test_postmaster_is_taken_while_the_backend_cannot_be_asked() -> None:
    verification = await ask(make_router({"postmaster@a.example.org": SILENT}), "postmaster@a.example.org")
    expected = (RecipientStatus.GOOD, parse_mailbox("postmaster@a.example.org"))
    assert (verification.status, verification.deliver_to) == expected


async def test_a_route_that_went_away_defers_the_message() -> None:
    address = parse_mailbox("alice@gone.example")
    (outcome,) = await make_router().deliver(Envelope("1", None, (Recipient(address, address),)), [b"x\r\n"])
    assert (outcome.status, outcome.reply.code) == (DeliveryStatus.DEFERRED, 451)


def test_a_route_to_no_backend_is_an_error() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        Router([Route(["example.org"], "nowhere")], {}, postmaster=POSTMASTER)


async def test_one_recipient_is_all_that_can_be_taken_at_a_time() -> None:
    assert make_router().max_recipients == 1


async def test_who_may_relay_reaches_other_domains_by_the_route_of_all_domains() -> None:
    router = relay_router()
    verification = await ask(router, "a@elsewhere.example", may_relay=True)
    assert (verification.status, verification.is_relayed) == (RecipientStatus.GOOD, True)
    assert verification.destination == "out"
    assert (await deliver(router, verification)).backend == "out"


async def test_the_route_of_all_domains_makes_no_domain_ours() -> None:
    verification = await ask(relay_router(), "a@elsewhere.example")
    assert str(verification.reply) == "550 5.7.1 Relaying denied"


async def test_who_may_relay_needs_a_route_of_all_domains() -> None:
    verification = await ask(make_router(), "a@elsewhere.example", may_relay=True)
    assert verification.status is RecipientStatus.NOT_OURS


async def test_a_domain_of_ours_is_never_relayed() -> None:
    verification = await ask(relay_router(), "nobody@example.org", may_relay=True)
    assert verification == UNKNOWN


async def test_a_recipient_taken_as_ours_whose_route_went_away_is_deferred_and_not_relayed() -> None:
    address = parse_mailbox("a@gone.example")
    taken_before = Verification(RecipientStatus.GOOD, deliver_to=address)
    outcome = await deliver(relay_router(), taken_before)
    assert (outcome.status, outcome.reply.enhanced) == (DeliveryStatus.DEFERRED, "4.3.5")


async def test_a_relayed_recipient_whose_way_out_went_away_is_deferred() -> None:
    taken_before = await ask(relay_router(), "a@elsewhere.example", may_relay=True)
    outcome = await deliver(make_router(), taken_before)
    assert (outcome.status, outcome.reply.enhanced) == (DeliveryStatus.DEFERRED, "4.3.5")


@pytest.mark.parametrize(
    ("known", "address", "final", "backend"),
    [
        ("home:alice@example.org", "info@example.org", "alice@example.org", "home"),
        ("home:alice+x@example.org", "info+x@example.org", "alice+x@example.org", "home"),
        ("home:bob@other.example", "moved@example.org", "bob@other.example", "home"),
        ("new:carol@example.org", "carol@example.org", "carol@example.org", "new"),
        ("new:Carol+y@example.org", "Carol+y@example.org", "Carol+y@example.org", "new"),
        ("new:dave+X@example.org", "dave+X@example.org", "dave+X@example.org", "new"),
        ("home:dave@example.org", "dave@example.org", "dave@example.org", "home"),
    ],
)
async def test_aliases_come_first_then_the_map_of_users_then_the_backend(
    known: str, address: str, final: str, backend: str
) -> None:
    router = make_mapped_router(known)
    verification = await ask(router, address)
    assert verification == Verification(RecipientStatus.GOOD, deliver_to=parse_mailbox(final), destination=backend)
    assert (await deliver(router, verification)).backend == backend


async def test_an_alias_whose_target_is_unknown_is_an_unknown_user() -> None:
    assert await ask(make_mapped_router(), "lost@example.org") == UNKNOWN


@pytest.mark.parametrize("address", ["nobody@example.org", "lost@example.org", "carol@example.org"])
async def test_mail_of_unknown_users_goes_to_the_catch_all_address_and_its_aliases(address: str) -> None:
    router = make_mapped_router("home:alice@example.org", catch_all="info@example.org")
    verification = await ask(router, address)
    alice = parse_mailbox("alice@example.org")
    assert verification == Verification(RecipientStatus.GOOD, deliver_to=alice, destination="home")


async def test_a_catch_all_address_catches_for_its_own_route_only() -> None:
    router = make_mapped_router("home:alice@example.org", catch_all="info@example.org")
    assert await ask(router, "nobody@other.example") == UNKNOWN
    assert await ask(router, "moved@example.org") == UNKNOWN, "the user is one of the domain that the alias leads to"


async def test_a_catch_all_address_that_nobody_has_leaves_unknown_users_unknown() -> None:
    assert await ask(make_mapped_router(catch_all="nowhere@example.org"), "nobody@example.org") == UNKNOWN


async def test_a_catch_all_address_gets_no_mail_that_its_user_cannot_take_now() -> None:
    router = make_router({"alice@example.org": FULL, "bob@example.org": SILENT, "all@example.org": None})
    caught = Router(
        [Route(["example.org"], "exact", catch_all=parse_mailbox("all@example.org"))],
        router._backends,
        postmaster=POSTMASTER,
    )
    assert [await ask(caught, f"{user}@example.org") for user in ("alice", "bob")] == [FULL, SILENT]


async def test_a_loop_of_aliases_is_deferred_as_wrong_configuration() -> None:
    verification = await ask(make_mapped_router(catch_all="info@example.org"), "round@example.org")
    assert (verification.status, str(verification.reply)[:9]) == (RecipientStatus.UNVERIFIABLE, "451 4.3.5")


async def test_postmaster_follows_his_alias_and_is_taken_before_any_catch_all_address() -> None:
    router = make_mapped_router("home:chief@example.org", "home:alice@example.org", catch_all="info@example.org")
    chief = Verification(RecipientStatus.GOOD, deliver_to=parse_mailbox("chief@example.org"), destination="home")
    assert [await ask(router, f"{user}@example.org") for user in ("postmaster", "abuse")] == [chief, chief]


async def test_abuse_is_taken_even_where_its_alias_leads_in_a_circle() -> None:
    verification = await ask(make_mapped_router(), "abuse@other.example")
    assert verification.status is RecipientStatus.GOOD


# Several recipients of one message, and mail of our own.


def to_all(*recipients: Recipient | str, is_quarantined: bool = False) -> Envelope:
    parsed = [r if isinstance(r, Recipient) else Recipient(parse_mailbox(r), parse_mailbox(r)) for r in recipients]
    return Envelope("1", None, tuple(parsed), is_quarantined=is_quarantined)


async def test_recipients_of_several_backends_have_one_outcome_each_in_their_order() -> None:
    router = make_router()
    users = ["a@example.org", "b@a.example.org", "c@gone.example", "d@lists.example.org", "e@example.org"]
    outcomes = await router.deliver(to_all(*users), [b"x\r\n"])
    assert [(o.backend, o.detail.partition("@")[0]) for o in outcomes] == [
        ("exact", "a"),
        ("any", "b"),
        ("", "no route leads there any more"),
        ("deep", "d"),
        ("exact", "e"),
    ]
    assert [o.status for o in outcomes if o.backend] == [DeliveryStatus.DELIVERED] * 4
    assert outcomes[2].status is DeliveryStatus.DEFERRED


async def test_recipients_of_one_backend_come_to_it_together() -> None:
    router = make_router()
    await router.deliver(to_all("a@example.org", "b@bücher.example", "c@example.org"), [b"x\r\n"])
    backend = router._backends["exact"]
    assert isinstance(backend, Mailboxes)
    ((envelope, _),) = backend.delivered
    assert [r.address.local for r in envelope.recipients] == ["a", "b", "c"]


@pytest.mark.parametrize(("has_left", "expected"), [(True, DeliveryStatus.IN_DOUBT), (False, DeliveryStatus.DEFERRED)])
async def test_a_crash_of_ours_in_one_backend_is_nothing_to_the_others(
    has_left: bool, expected: DeliveryStatus
) -> None:
    faults: list[None] = []
    backends = {name: Mailboxes(name, {}) for name in ("good", "broken")}
    backends["broken"].is_broken = True
    router = Router(
        [Route(["good.example"], "good"), Route(["broken.example"], "broken")],
        backends,
        postmaster=POSTMASTER,
        nursery=Nursery(on_failure=lambda: faults.append(None)),
    )
    users = ["a@broken.example", "b@good.example"] if has_left else ["a@broken.example", "b@gone.example"]
    broken, other = await router.deliver(to_all(*users), [b"x\r\n"])
    assert (broken.status, str(broken.reply)[:9]) == (expected, "451 4.3.0")
    assert other.status is (DeliveryStatus.DELIVERED if has_left else DeliveryStatus.DEFERRED)
    assert len(faults) == 1


async def test_a_relayed_recipient_and_one_of_ours_go_their_own_ways() -> None:
    there = parse_mailbox("a@elsewhere.example")
    outcomes = await relay_router().deliver(
        to_all(Recipient(there, there, is_relayed=True), "b@example.org", "c@elsewhere.example"), [b"x\r\n"]
    )
    assert [o.backend for o in outcomes] == ["out", "ours", ""]


async def test_quarantined_mail_is_diverted_for_each_recipient_where_his_backend_wants_it() -> None:
    backends = {name: Mailboxes(name, {}) for name in ("plain", "junk")}
    router = Router(
        [Route(["plain.example"], "plain"), Route(["junk.example"], "junk"), Route(["*"], "junk")],
        backends,
        postmaster=POSTMASTER,
        quarantine={"junk": "+Junk"},
    )
    there = parse_mailbox("a@elsewhere.example")
    recipients: list[Recipient | str] = [
        "b@plain.example",
        "c@junk.example",
        Recipient(there, there, is_relayed=True),
        "d+x@junk.example",
    ]
    outcomes = await router.deliver(to_all(*recipients, is_quarantined=True), [b"x\r\n"])
    assert [o.detail for o in outcomes] == [
        "b@plain.example",
        "c+Junk@junk.example",
        "a@elsewhere.example",
        "d+Junk@junk.example",
    ]
    for backend in backends.values():
        assert [b"".join(body) for _, body in backend.delivered] == [b"X-Spam-Flag: YES\r\nx\r\n"]


async def test_the_final_dot_of_every_backend_is_told() -> None:
    dot = FinalDot()
    await make_router().deliver(to_all("a@example.org", "b@a.example.org"), [b"x\r\n"], dot)
    assert dot.has_left


def test_the_hand_off_may_take_as_long_as_the_slowest_of_its_backends() -> None:
    router = make_router()
    router._backends["deep"].handoff_deadline_s = 45.0
    assert router.handoff_deadline_s(to_all("a@example.org")) == 20.0
    assert router.handoff_deadline_s(to_all("a@example.org", "b@lists.example.org", "c@gone.example")) == 45.0
    assert router.handoff_deadline_s(to_all("c@gone.example")) == 1.0


@pytest.mark.parametrize(
    ("address", "final", "backend"),
    [
        ("info@example.org", "alice@example.org", "home"),
        ("carol@example.org", "carol@example.org", "new"),
        ("nobody@example.org", "nobody@example.org", "home"),
        ("round@example.org", "round@example.org", "home"),
    ],
)
def test_mail_of_our_own_finds_its_way_as_other_mail_does(address: str, final: str, backend: str) -> None:
    expected = Recipient(parse_mailbox(address), parse_mailbox(final), destination=backend)
    assert make_mapped_router().find_recipient(parse_mailbox(address)) == expected


def test_mail_of_our_own_to_other_domains_takes_the_route_of_all_domains_or_none() -> None:
    there = parse_mailbox("a@elsewhere.example")
    assert relay_router().find_recipient(there) == Recipient(there, there, is_relayed=True, destination="out")
    assert make_router().find_recipient(there) is None


@pytest.mark.parametrize(
    ("status", "code", "is_final"),
    [
        (DeliveryStatus.DELIVERED, 250, True),
        (DeliveryStatus.REFUSED, 550, True),
        (DeliveryStatus.REFUSED, 452, False),
        (DeliveryStatus.DEFERRED, 451, False),
        (DeliveryStatus.IN_DOUBT, 451, False),
    ],
)
def test_only_a_delivery_and_a_5xx_end_it(status: DeliveryStatus, code: int, is_final: bool) -> None:
    assert Outcome(status, Reply(code, "", "x"), "m").is_final is is_final
