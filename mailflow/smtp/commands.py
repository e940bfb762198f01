"""SMTP commands as values: RFC 5321 s4.1.1, with the parameters of the extensions we offer.

`parse_*` takes the argument of one command (the line after the verb, CRLF taken off) and gives a
frozen value or raises ProtocolError with the reply. Strict on purpose: `<a(comment)@b>`,
`<a..b@c>`, `< a@b >` and `FROM: <a@b>` (s3.3 forbids that space) are 501, since two servers that
read one line differently are how filters are passed. Only trailing white space is forgiven (s4.1.1).
"""

import re
from dataclasses import dataclass

from mailflow.mail.address import Address, AddressSyntaxError, parse_domain, parse_mailbox
from mailflow.mail.envelope import Notify
from mailflow.mail.reply import ProtocolError, Reply
from mailflow.smtp.dsn_parameters import parse_envid, parse_notify, parse_orcpt, parse_ret

# Real clients greet with names that are no Domain (underscores, a bare host name with a port). s4.1.4 forbids
# to refuse mail for what the name says; what gets in is only what can do no harm in a trace field.
_GREETING_NAME = re.compile(r"[A-Za-z0-9._:\-]{1,255}|\[[A-Za-z0-9.:\-]{1,255}\]")
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9\-]*)(?:=([\x21-\x3c\x3e-\x7e\u0080-\U0010ffff]+))?")
# What stands before the first `>` outside quotes; possessive, so that a quote without an end costs one pass.
_PATH = re.compile(r'<((?:[^">]|"(?:[^"\\]|\\.)*")*)>', re.DOTALL)
_CHUNK = re.compile(r"(\d{1,20})( LAST)?", re.IGNORECASE | re.ASCII)
_SOURCE_ROUTE = re.compile(r"(@[^,:@<>\"]+(?:,@[^,:@<>\"]+)*):")


@dataclass(frozen=True, slots=True)
class Mail:
    """MAIL FROM. `reverse_path` None is the null sender; `size_bytes` is the SIZE that was declared (RFC 1870).

    `envelope_id` is ENVID decoded, "" where none came; `returns_full` is RET, None where none came (RFC 3461).
    """

    reverse_path: Address | None
    size_bytes: int | None = None
    is_8bit: bool = False
    is_smtputf8: bool = False
    envelope_id: str = ""
    returns_full: bool | None = None


@dataclass(frozen=True, slots=True)
class Rcpt:
    """RCPT TO. `forward_path` None is `<postmaster>` without a domain (RFC 5321 s4.5.1).

    `notify` is NOTIFY, None where none came; `original_recipient` is ORCPT decoded, `type;address`, "" where none came.
    """

    forward_path: Address | None
    notify: Notify | None = None
    original_recipient: str = ""


@dataclass(frozen=True, slots=True)
class Bdat:
    """BDAT (RFC 3030): `size_bytes` octets follow the line; `is_last` ends the message."""

    size_bytes: int
    is_last: bool


def split_command(line: bytes) -> tuple[str, str]:
    """Split a command line without its CRLF into the verb in upper case and its argument.

    Raises ProtocolError where the line is not UTF-8 (RFC 6531 s3.2) or holds a control character.
    """
    try:
        verb, _, argument = line.rstrip(b" \t").decode().partition(" ")
    except UnicodeDecodeError as exc:
        raise ProtocolError(Reply(500, "5.5.2", "Syntax error: command is not UTF-8")) from exc
    name = verb.upper()
    if not (name.isalnum() and verb.isascii() and (argument.isprintable() or not _has_control(argument))):
        raise ProtocolError(Reply(500, "5.5.2", "Syntax error"))
    return name, argument


def parse_greeting(argument: str) -> str:
    """Parse the argument of HELO or EHLO: the client's name or address literal, as it wrote it."""
    if not _GREETING_NAME.fullmatch(argument):
        raise ProtocolError(Reply(501, "5.5.4", "Syntax: EHLO hostname"))
    return argument


def parse_mail(argument: str, *, is_extended: bool, has_dsn: bool = False) -> Mail:
    """Parse `FROM:<reverse-path> [SP parameters]`. Parameters need an EHLO (`is_extended`), RET and ENVID `has_dsn`."""
    path, parameters = _split_path(argument, "FROM:", is_extended=is_extended, syntax="MAIL FROM:<address>")
    size_bytes, is_8bit, is_smtputf8 = None, False, False
    envelope_id, returns_full = "", None
    for name, value in parameters.items():
        match name:
            case "SIZE":
                size_bytes = _parse_size(value)
            case "BODY":
                is_8bit = _parse_body(value)
            case "SMTPUTF8":
                if value is not None:
                    raise ProtocolError(Reply(501, "5.5.4", "SMTPUTF8 takes no value"))
                is_smtputf8 = True
            case "RET" if has_dsn:
                returns_full = parse_ret(value)
            case "ENVID" if has_dsn:
                envelope_id = parse_envid(value)
            case _:
                raise ProtocolError(Reply(555, "5.5.4", "MAIL parameter not recognized or not implemented"))
    reverse_path = _parse_path(path, enhanced="5.1.7", is_smtputf8=is_smtputf8) if path else None
    return Mail(reverse_path, size_bytes, is_8bit, is_smtputf8, envelope_id, returns_full)


def parse_rcpt(argument: str, *, is_extended: bool, is_smtputf8: bool, has_dsn: bool = False) -> Rcpt:
    """Parse `TO:<forward-path> [SP parameters]`; `is_smtputf8` tells whether MAIL asked for it.

    NOTIFY and ORCPT need `has_dsn`.
    """
    path, parameters = _split_path(argument, "TO:", is_extended=is_extended, syntax="RCPT TO:<address>")
    notify, original_recipient = None, ""
    for name, value in parameters.items():
        match name:
            case "NOTIFY" if has_dsn:
                notify = parse_notify(value)
            case "ORCPT" if has_dsn:
                original_recipient = parse_orcpt(value, is_smtputf8=is_smtputf8)
            case _:
                raise ProtocolError(Reply(555, "5.5.4", "RCPT parameter not recognized or not implemented"))
    is_postmaster = path.lower() == "postmaster"
    forward_path = None if is_postmaster else _parse_path(path, enhanced="5.1.3", is_smtputf8=is_smtputf8)
    return Rcpt(forward_path, notify, original_recipient)


def parse_bdat(argument: str) -> Bdat:
    """Parse `chunk-size [SP LAST]` (RFC 3030 s2). The reply to a bad one must close: what follows is no command."""
    match = _CHUNK.fullmatch(argument)
    if not match:
        raise ProtocolError(Reply(501, "5.5.4", "Syntax: BDAT size [LAST]"), closes=True)
    return Bdat(int(match[1]), bool(match[2]))


def refuse_argument(verb: str, argument: str) -> None:
    """Raise 501 where a command that takes no argument got one."""
    if argument:
        raise ProtocolError(Reply(501, "5.5.4", f"{verb} takes no argument"))


def _split_path(argument: str, keyword: str, *, is_extended: bool, syntax: str) -> tuple[str, dict[str, str | None]]:
    """Give what stands between the angle brackets and the parameters behind them."""
    path = _PATH.match(argument, len(keyword)) if argument[: len(keyword)].upper() == keyword else None
    tail = argument[path.end() :] if path else ""
    if path is None or (tail and (not is_extended or not tail.startswith(" "))):
        raise ProtocolError(Reply(501, "5.5.4", f"Syntax: {syntax}"))
    parameters: dict[str, str | None] = {}
    for word in tail[1:].split(" ") if tail else ():
        match = _PARAMETER.fullmatch(word)
        if not match or match[1].upper() in parameters:
            raise ProtocolError(Reply(501, "5.5.4", "Syntax error in parameters"))
        parameters[match[1].upper()] = match[2]
    return path[1], parameters


def _has_control(text: str) -> bool:
    return any(char < " " or char == "\x7f" for char in text.replace("\t", " "))


def _parse_path(path: str, *, enhanced: str, is_smtputf8: bool) -> Address:
    if not is_smtputf8 and not path.isascii():  # as written: UTS 46 maps some of it to ASCII
        raise ProtocolError(Reply(553, "5.6.7", "Address is not ASCII and SMTPUTF8 was not asked for"))
    # Source routes MUST be accepted and SHOULD be ignored (s4.1.1.3, appendix C): the mailbox alone is judged.
    route = _SOURCE_ROUTE.match(path)
    if route:
        path = path[route.end() :]
    try:
        if route:
            for hop in route[1].split(","):
                parse_domain(hop[1:])
        return parse_mailbox(path)
    except AddressSyntaxError as exc:
        raise ProtocolError(Reply(501, enhanced, f"Bad address syntax: {exc}")) from exc


def _parse_size(value: str | None) -> int:
    if value is None or not value.isascii() or not value.isdigit() or len(value) > 20:
        raise ProtocolError(Reply(501, "5.5.4", "Syntax: SIZE=octets"))
    return int(value)


def _parse_body(value: str | None) -> bool:
    match value.upper() if value and value.isascii() else None:  # upper() makes ASCII of a dotless i
        case "7BIT":
            return False
        case "8BITMIME":
            return True
        case _:
            raise ProtocolError(Reply(501, "5.5.4", "BODY can be 7BIT or 8BITMIME"))
