"""The sample mail of `mailflow demo` that shows two senders: who the envelope names, and whom the reader sees.

Unlike demo_messages.py these are signed, with keys made here, whose records go into the demo's zone.
"""

from typing import TypeAlias

from mailflow.cli.demo_messages import ANNA, CLIENT_NAME, LISTS, ZONE, Sample, compose
from mailflow.cli.dkim_keygen import KeyNames, KeyPair, make_key
from mailflow.mailauth import seal_arc, sign_dkim
from mailflow.mailauth.result import ArcResult, AuthStatus

Zone: TypeAlias = dict[str, list[dict[str, object]]]

# What these senders' DNS says; the demo's client is 127.0.0.1.
_SENDERS: Zone = {
    "bounces.mailer.example": [{"TXT": "v=spf1 ip4:127.0.0.1 -all"}],
    "_dmarc.shop.example": [{"TXT": "v=DMARC1; p=reject"}],
    "shop.example": [{"MX": [10, "mx.shop.example"]}],
    "author.example": [{"TXT": "v=spf1 ip4:192.0.2.10 -all"}],
    "_dmarc.author.example": [{"TXT": "v=DMARC1; p=reject"}],
    LISTS: [{"TXT": "v=spf1 ip4:127.0.0.1 -all"}],
    "attacker.example": [{"TXT": "v=spf1 ip4:127.0.0.1 -all"}],
    "bank.example": [{"TXT": "v=spf1 ip4:192.0.2.20 -all"}],
    "_dmarc.bank.example": [{"TXT": "v=DMARC1; p=reject"}],
    "club.example": [{"TXT": "v=spf1 ip4:192.0.2.30 -all"}],
    "_dmarc.club.example": [{"TXT": "v=DMARC1; p=quarantine"}],
}


async def make_senders() -> tuple[tuple[Sample, ...], Zone]:
    """Sign the samples; give them, and the whole zone in which they are what they are."""
    shop, author, lists = (
        make_key(KeyNames(domain, "s1"), is_ed25519=domain != "shop.example")
        for domain in ("shop.example", "author.example", LISTS)
    )
    samples = (
        await _make_newsletter(shop),
        await _make_forwarded(author),
        await _make_list_post(author, lists),
        _make_spoof(),
        _make_suspicious(),
        _make_bounce(),
    )
    keys: Zone = {key.names.owner: [{"TXT": key.record}] for key in (shop, author, lists)}
    return samples, ZONE | _SENDERS | keys


async def _sign(content: bytes, key: KeyPair) -> bytes:
    return await sign_dkim(content, domain=key.names.domain, selector=key.names.selector, key=key.pem) + content


async def _make_newsletter(key: KeyPair) -> Sample:
    content = compose("Offers of the week", "Umbrellas at half price.", sender="news@shop.example")
    return Sample(
        name="newsletter",
        shows="EnvFrom is a mailer's, HeaderFrom the shop: its signature stands for it.",
        expected="250 2.0.0",
        content=await _sign(content, key),
        sender="bounce-4711@bounces.mailer.example",
        mailbox=ANNA,
        telling="From:",
        is_explained=True,
    )


async def _make_forwarded(key: KeyPair) -> Sample:
    content = compose("Minutes", "As promised.", sender="carla@author.example")
    return Sample(
        name="forwarded",
        shows="Forwarded: SPF fails, but the author's signature has come through.",
        expected="250 2.0.0",
        content=await _sign(content, key),
        sender="carla@author.example",
        mailbox=ANNA,
        telling="From:",
        is_explained=True,
    )


async def _make_list_post(author: KeyPair, lists: KeyPair) -> Sample:
    content = compose("Next meeting", "On Tuesday?", sender="carla@author.example", recipient=f"dev@{LISTS}")
    signed = await _sign(content, author)
    posted = signed.replace(b"Subject: Next", b"Subject: [dev] Next") + b"-- \r\nThe list dev\r\n"
    seal = await seal_arc(
        posted,
        domain=LISTS,
        selector=lists.names.selector,
        key=lists.pem,
        authserv_id=LISTS,
        authentication_results="dkim=pass header.d=author.example; dmarc=pass header.from=author.example",
        arc=ArcResult(AuthStatus.NONE),
    )
    return Sample(
        name="mailing-list",
        shows="The list changed the post and broke its signature; its seal is trusted.",
        expected="250 2.0.0",
        content=seal + posted,
        sender=f"dev-bounces@{LISTS}",
        mailbox=ANNA,
        telling="Subject:",
        is_explained=True,
    )


def _make_spoof() -> Sample:
    return Sample(
        name="spoof",
        shows="SPF passes for the attacker's domain, but the reader would see the bank.",
        expected="550 5.7.1",
        content=compose("Your account", "Please confirm your password.", sender="service@bank.example"),
        sender="ceo@attacker.example",
        telling="From:",
        is_explained=True,
    )


def _make_suspicious() -> Sample:
    return Sample(
        name="suspicious",
        shows="Nothing stands for the author, who asks for quarantine: X-Spam-Flag.",
        expected="250 2.0.0",
        content=compose("Summer party", "Bring a friend.", sender="board@club.example"),
        sender="board@club.example",
        mailbox=ANNA,
        telling="From:",
        is_explained=True,
        verdict="quarantine",
    )


def _make_bounce() -> Sample:
    return Sample(
        name="bounce",
        shows="A bounce has no envelope sender: SPF judges the client's own name.",
        expected="250 2.0.0",
        content=compose("Undelivered mail", "No such user.", sender=f"mailer-daemon@{CLIENT_NAME}"),
        sender="",
        mailbox=ANNA,
        telling="From:",
        is_explained=True,
    )
