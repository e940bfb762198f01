"""The sample mail of `mailflow demo`, and what each must get.

Each sample shows one thing a mail edge is there for. Only data: demo_client.py sends it,
demo_run.py compares. `expected` is how the deciding reply must begin, and the verdict follows from
it; what is accepted must lie in `mailbox` byte for byte, what is not must lie nowhere.
"""

from dataclasses import dataclass

DOMAIN = "demo.example"
HOSTNAME = f"mx.{DOMAIN}"
CLIENT_NAME = "mail.friend.example"
MAX_MESSAGE_BYTES = 100_000

ANNA = f"anna@{DOMAIN}"
JUERGEN = f"jürgen@{DOMAIN}"
POSTMASTER = f"postmaster@{DOMAIN}"
MAILBOXES = (ANNA, JUERGEN, POSTMASTER)

BEN = "ben@friend.example"
NULL_MX_DOMAIN = "never-sends.example"
LISTS = "lists.example"  # whose ARC seals the demo trusts

# What the world's DNS says, in the shape of mailflow.testing.ZoneResolver.
ZONE: dict[str, list[dict[str, object]]] = {
    DOMAIN: [{"MX": [10, HOSTNAME]}],
    HOSTNAME: [{"A": "127.0.0.1"}],
    "friend.example": [{"MX": [10, CLIENT_NAME]}, {"TXT": "v=spf1 ip4:127.0.0.1 -all"}],
    "_dmarc.friend.example": [{"TXT": "v=DMARC1; p=reject"}],
    CLIENT_NAME: [{"A": "127.0.0.1"}, {"TXT": "v=spf1 a -all"}],
    "127.0.0.1": [{"PTR": CLIENT_NAME}],
    NULL_MX_DOMAIN: [{"MX": [0, "."]}],
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One message: the envelope, the content, what it shows and what it must get.

    `content` is CRLF lines, sent dot-stuffed and ended properly; with `is_raw` it is sent as it stands, its own end
    included. `telling` begins the line of the content that is worth a look. `verdict` is named where the reply does not
    tell it: what is quarantined is accepted. `is_explained` asks to show what `mailflow auth check` says of it.
    """

    name: str
    shows: str
    expected: str
    content: bytes
    sender: str = BEN
    recipient: str = ANNA
    options: tuple[str, ...] = ()
    mailbox: str = ""
    telling: str = "Subject:"
    is_raw: bool = False
    verdict: str = ""
    is_explained: bool = False


def compose(subject: str, text: str, *, sender: str = BEN, recipient: str = ANNA, extra: str = "") -> bytes:
    """Write a message in UTF-8 with CRLF lines; `extra` is header lines that come first."""
    local = sender.partition("@")[0]
    header = (
        f"{extra}From: {local.capitalize()} <{sender}>\n"
        f"To: <{recipient}>\n"
        f"Subject: {subject}\n"
        "Date: Thu, 1 Oct 2026 12:00:00 +0000\n"
        f"Message-ID: <{subject.encode('ascii', 'ignore').decode().lower().replace(' ', '-')}@friend.example>\n"
    )
    if not text.isascii():
        header += "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n"
    return f"{header}\n{text}\n".replace("\n", "\r\n").encode()


# After LF.LF some servers see a second message, from whomever its author likes (CVE-2023-51764 and its kin).
_SMUGGLED = (
    f"From: Ben <{BEN}>\r\nSubject: Invoice\r\n\r\nPlease find attached.\n.\nMAIL FROM:<director@{DOMAIN}>\r\n"
    f"RCPT TO:<{ANNA}>\r\nDATA\r\nFrom: Director <director@{DOMAIN}>\r\nSubject: Pay at once\r\n\r\n"
    "The director never wrote this.\r\n.\r\n"
).encode()

SAMPLES = (
    Sample(
        name="ordinary",
        shows="An ordinary message is in its mailbox before the sender hears 250.",
        expected="250 2.0.0",
        content=compose("Dinner on Friday", "Hello Anna,\n\nseven o'clock at the harbour?\n.\nBen"),
        mailbox=ANNA,
    ),
    Sample(
        name="8bit",
        shows="A body with 8-bit text arrives as it was sent (8BITMIME).",
        expected="250 2.0.0",
        content=compose("Menu", "Grüße aus der Küche: Äpfel, Öl, Crème brûlée."),
        options=("BODY=8BITMIME",),
        mailbox=ANNA,
        telling="Grüße",
    ),
    Sample(
        name="smtputf8",
        shows="Addresses and header may be UTF-8 (SMTPUTF8).",
        expected="250 2.0.0",
        content=compose("Schöne Grüße", "Bis bald!", sender="zoë@friend.example", recipient=JUERGEN),
        sender="zoë@friend.example",
        recipient=JUERGEN,
        options=("BODY=8BITMIME", "SMTPUTF8"),
        mailbox=JUERGEN,
    ),
    Sample(
        name="postmaster",
        shows="<postmaster> without a domain always reaches somebody.",
        expected="250 2.0.0",
        content=compose("Question about your server", "Who runs it?", recipient="postmaster"),
        recipient="postmaster",
        mailbox=POSTMASTER,
    ),
    Sample(
        name="unknown-user",
        shows="Nobody of that name: told at RCPT, so no bounce has to be sent later.",
        expected="550 5.1.1",
        content=compose("Hello", "Are you there?", recipient=f"nobody@{DOMAIN}"),
        recipient=f"nobody@{DOMAIN}",
    ),
    Sample(
        name="relay",
        shows="Mail for somebody else's domain is not carried: no open relay.",
        expected="550 5.7.1",
        content=compose("Cheap watches", "Buy now.", recipient="victim@elsewhere.example"),
        recipient="victim@elsewhere.example",
    ),
    Sample(
        name="null-mx-sender",
        shows="The sender's domain says in DNS that it sends no mail (null MX).",
        expected="550 5.7.27",
        content=compose("You have won", "Answer to this address.", sender=f"prize@{NULL_MX_DOMAIN}"),
        sender=f"prize@{NULL_MX_DOMAIN}",
    ),
    Sample(
        name="smuggling",
        shows="A second message hidden behind <LF>.<LF>: refused, and none of it delivered.",
        expected="521 5.5.2",
        content=_SMUGGLED,
        is_raw=True,
    ),
    Sample(
        name="oversize-declared",
        shows="Too large, and the client says so: refused before it is sent (SIZE).",
        expected="552 5.3.4",
        content=b"",
        options=(f"SIZE={MAX_MESSAGE_BYTES * 10}",),
    ),
    Sample(
        name="oversize",
        shows="Too large, unannounced: read to its end without keeping it, then refused.",
        expected="552 5.3.4",
        content=compose("Holiday photos", "x" * 70 + ("\n" + "x" * 70) * (MAX_MESSAGE_BYTES // 70)),
    ),
    Sample(
        name="loop",
        shows="A message that was delivered here before is not delivered again.",
        expected="554 5.4.6",
        content=compose("Forwarded in a circle", "Round and round.", extra=f"Delivered-To: {ANNA}\n"),
        telling="Delivered-To:",
    ),
)
