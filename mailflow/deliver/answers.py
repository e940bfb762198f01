"""What a mailbox server's answer means for the mail, and what the client is told (RFC 2033, 3463, 5321 s4.2).

Pure. A refusal is passed on as code and enhanced code with a text of ours: the server's own text
may name hosts, paths and users, so it goes to the log only. The surprise: some 5xx speak of our
session with the server and not of the mail; they are our trouble and never bounce a message.
"""

from mailflow.mail.handoff import DeliveryStatus
from mailflow.mail.reply import Reply
from mailflow.smtp.lmtp import Answer, Stage

DELIVERED = Reply(250, "2.0.0", "Ok")
NOT_ANSWERING = Reply(451, "4.4.1", "The mailbox server does not answer, try again later")
NOT_NOW = Reply(451, "4.4.0", "The mailbox server cannot take this message now, try again later")
UNCONFIRMED = Reply(451, "4.4.2", "The mailbox server did not confirm the message, try again later")
OWN_FAULT = Reply(451, "4.3.0", "Internal error, try again later")
NO_SUCH_USER = Reply(550, "5.1.1", "No such user here")
NO_SMTPUTF8 = Reply(550, "5.6.7", "This mailbox cannot take internationalized mail")
TOO_LARGE = Reply(552, "5.3.4", "Message too large for this mailbox")
WITHHELD = "the final dot was withheld"  # in an outcome's detail

# Unknown or misplaced commands and parameters, authentication and encryption asked of us, a host that takes no mail
# at all (RFC 5321 s4.2.2, 4954, 7504): the configuration of one side is wrong, not the mail.
_ABOUT_OUR_SESSION = frozenset({500, 502, 503, 504, 521, 530, 534, 535, 538, 555})

# A server without ENHANCEDSTATUSCODES: what RFC 5321 s4.2.3 says the code means where it was given. A 4xx not listed
# is the server's trouble, not the mailbox's.
_IMPLIED = {
    (Stage.MAIL, 552): "5.3.4",
    (Stage.RCPT, 452): "4.2.2",
    (Stage.RCPT, 501): "5.1.3",
    (Stage.RCPT, 550): "5.1.1",
    (Stage.RCPT, 551): "5.1.6",
    (Stage.RCPT, 552): "5.2.2",
    (Stage.RCPT, 553): "5.1.3",
    (Stage.DATA, 552): "5.3.4",
    (Stage.CONTENT, 552): "5.2.2",
}

_TEXTS = {
    "1.1": NO_SUCH_USER.text,
    "2.2": "Mailbox full",
    "2.3": TOO_LARGE.text,
    "3.4": TOO_LARGE.text,
    "6.7": NO_SMTPUTF8.text,
}


def judge_answer(answer: Answer) -> tuple[DeliveryStatus, Reply]:
    """Give what the answer makes of a recipient's copy, and the reply for the client: never the server's text.

    2xx DELIVERED (the client lets only true ones through); 5xx and a mailbox's own 4.2.x REFUSED with code and enhanced
    code kept; 421 after the final dot IN_DOUBT; every other 4xx, and 5xx about our session DEFERRED.
    """
    reply = answer.reply
    if reply.is_positive:
        return DeliveryStatus.DELIVERED, DELIVERED
    if reply.code == 421 and answer.stage is Stage.CONTENT:
        # "I am closing" says nothing of the message: a server that shuts down may have saved it before.
        return DeliveryStatus.IN_DOUBT, UNCONFIRMED
    enhanced = reply.enhanced or _IMPLIED.get((answer.stage, reply.code), f"{reply.code // 100}.0.0")
    is_mailbox_full_or_off = enhanced.startswith("4.2.") and reply.code != 421
    if is_mailbox_full_or_off or (reply.is_permanent and reply.code not in _ABOUT_OUR_SESSION):
        return DeliveryStatus.REFUSED, Reply(reply.code, enhanced, refusal_text(enhanced))
    return DeliveryStatus.DEFERRED, NOT_NOW


def refusal_text(enhanced: str) -> str:
    """Give our words for an enhanced status code."""
    return _TEXTS.get(enhanced[2:], "The mailbox refused this message")


def is_about_recipient(answer: Answer) -> bool:
    """Tell whether a refusal would meet every message to this recipient: an address or mailbox status given at RCPT.

    Others (5.7.1 for this sender, 5.3.4 for this size) say nothing of the next message.
    """
    status, reply = judge_answer(answer)
    is_status_of_recipient = reply.enhanced[2:].startswith(("1.", "2."))
    return answer.stage is Stage.RCPT and status is DeliveryStatus.REFUSED and is_status_of_recipient
