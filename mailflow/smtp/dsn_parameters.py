r"""What a client asks of delivery status notifications: RET and ENVID at MAIL, NOTIFY and ORCPT at RCPT (RFC 3461).

Each function takes the value of one parameter, None where it has none, and gives what it means decoded, or raises
ProtocolError 501 5.5.4. Strict: what a DSN repeats later has to be fit to stand in one (s4.2, s4.4: printable ASCII).
The surprise is the address type `utf-8` (RFC 6533 s3): it is not xtext, its escapes are `\x{20AC}`, and only there raw
UTF-8 may stand, where MAIL asked for SMTPUTF8.
"""

import re

from mailflow.mail.address import AddressSyntaxError, parse_mailbox
from mailflow.mail.envelope import Notify
from mailflow.mail.reply import ProtocolError, Reply

MAX_ENVID_CHARS = 100  # RFC 3461 s4.4, as sent
MAX_ORCPT_CHARS = 500  # s4.2, as sent

_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_HEXCHAR = re.compile(r"\+([0-9A-F]{2})")
_PRINTABLE = re.compile(r"[ -~]*")
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]+")  # atom
# QUCHAR or EmbeddedUnicodeChar of RFC 6533 s3: ASCII is escaped only where it must be, numbers have no leading zero.
_HEXPOINT = (
    r"[01][0-9A-F]|20|2B|3D|5C|7F|[89A-F][0-9A-F]|[1-9A-F][0-9A-F]{2}"
    r"|(?:[1-9A-CEF][0-9A-F]|D[0-7])[0-9A-F]{2}|[1-9A-F][0-9A-F]{4}|10[0-9A-F]{4}"
)
_UNITEXT = re.compile(rf"(?:[!-*,-<>-\[\]-~\u0080-\ud7ff\ue000-\U0010ffff]|\\x\{{(?:{_HEXPOINT})\}})+", re.IGNORECASE)
_EMBEDDED = re.compile(r"\\x\{([0-9A-F]+)\}", re.IGNORECASE)

_NOTIFY_WORDS = {"SUCCESS": Notify.SUCCESS, "FAILURE": Notify.FAILURE, "DELAY": Notify.DELAY}


def parse_ret(value: str | None) -> bool:
    """Tell whether a DSN of failure is to bring the whole message (FULL), or its header alone (HDRS); s4.3."""
    match value.upper() if value and value.isascii() else None:
        case "FULL":
            return True
        case "HDRS":
            return False
        case _:
            raise _refuse("RET can be FULL or HDRS")


def parse_envid(value: str | None) -> str:
    """Give the sender's own name of the message, decoded; printable ASCII (s4.4)."""
    if value is None or len(value) > MAX_ENVID_CHARS:
        raise _refuse(f"ENVID is xtext of at most {MAX_ENVID_CHARS} characters")
    return _decode_xtext("ENVID", value)


def parse_notify(value: str | None) -> Notify:
    """Give the events that a DSN is asked for: NEVER, alone, or a list of SUCCESS, FAILURE, DELAY (s4.1)."""
    text = value.upper() if value and value.isascii() else ""
    if text == "NEVER":
        return Notify.NEVER
    wanted = Notify.NEVER
    for word in text.split(","):
        if word not in _NOTIFY_WORDS:
            raise _refuse("NOTIFY can be NEVER, or of SUCCESS, FAILURE and DELAY, with commas")
        wanted |= _NOTIFY_WORDS[word]
    return wanted


def parse_orcpt(value: str | None, *, is_smtputf8: bool) -> str:
    """Give the original recipient as `type;address`, its type in lower case, its address decoded (s4.2)."""
    kind, semicolon, address = (value or "").partition(";")
    if not semicolon or not _ADDRESS_TYPE.fullmatch(kind) or len(value or "") > MAX_ORCPT_CHARS:
        raise _refuse(f"ORCPT is type;address of at most {MAX_ORCPT_CHARS} characters")
    kind = kind.lower()
    if kind != "utf-8":
        return f"{kind};{_decode_xtext('ORCPT', address)}"
    if not is_smtputf8 and not address.isascii():
        raise _refuse("ORCPT is not ASCII and SMTPUTF8 was not asked for")
    return f"{kind};{_decode_unitext(address)}"


def _decode_xtext(keyword: str, text: str) -> str:
    decoded = _HEXCHAR.sub(lambda match: chr(int(match[1], 16)), text) if _XTEXT.fullmatch(text) else None
    if decoded is None or not _PRINTABLE.fullmatch(decoded):
        raise _refuse(f"{keyword} is not xtext of printable ASCII")
    return decoded


def _decode_unitext(text: str) -> str:
    """Decode an address of the type utf-8; what it stands for must be a mailbox (RFC 6533 s3)."""
    if not _UNITEXT.fullmatch(text):
        raise _refuse("ORCPT is not an address of the type utf-8")
    decoded = _EMBEDDED.sub(lambda match: chr(int(match[1], 16)), text)
    try:
        parse_mailbox(decoded)
    except AddressSyntaxError as exc:
        raise _refuse("ORCPT is not an address of the type utf-8") from exc
    return decoded


def _refuse(text: str) -> ProtocolError:
    return ProtocolError(Reply(501, "5.5.4", text))
