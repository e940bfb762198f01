from collections.abc import Sequence

import pytest

from mailflow.deliver.route import Route, Router
from mailflow.mail.address import Address, parse_mailbox
from mailflow.mail.envelope import Envelope, Recipient
from mailflow.mail.handoff import DeliveryStatus, Handoff, Outcome, RecipientStatus, Verification
from mailflow.mail.reply import Reply

UNKNOWN = Verification(RecipientStatus.REFUSED, reply=Reply(550, "5.1.1", "No such user here"), is_unknown_user=True)
FULL = Verification(RecipientStatus.REFUSED, reply=Reply(452, "4.2.2", "Mailbox full"))
SILENT = Verification(RecipientStatus.UNVERIFIABLE, reply=Reply(451, "4.4.1", "later"))
POSTMASTER = parse_mailbox("postmaster@example.org")


class Mailboxes:
    """A backend of named mailboxes; `answers` by address, others are unknown users."""

    def __init__(self, name: str, answers: dict[str, Verification | None]) -> None:
        self.name = name
        self.answers = answers
        self.delivered: list[Envelope] = []
        self.is_open = False

    async def open(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False

    async def verify(self, address: Address, *, is_smtputf8: bool) -> Verification:
        good = Verification(RecipientStatus.GOOD, deliver_to=address)
        return self.answers.get(str(address), UNKNOWN) or good

    async def deliver(self, envelope: Envelope, body: Sequence[bytes]) -> list[Outcome]:
        self.delivered.append(envelope)
        return [Outcome(DeliveryStatus.DELIVERED, Reply(250, "2.0.0", "Ok"), self.name)]


def make_router(answers: dict[str, Verification | None] | None = None) -> Router:
    routes = [
        Route([".example.org"], "any"),
        Route(["example.org", "bücher.example".encode("idna").decode()], "exact"),
        Route([".deep.example.org", "lists.example.org"], "deep"),
    ]
    backends = {name: Mailboxes(name, answers or {}) for name in ("any", "exact", "deep")}
    return Router(routes, backends, postmaster=POSTMASTER)


async def ask(router: Handoff, address: str) -> Verification:
    return await router.verify_recipient(parse_mailbox(address), is_smtputf8=False, may_relay=False)


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
    assert verification == Verification(RecipientStatus.GOOD, deliver_to=POSTMASTER)


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
