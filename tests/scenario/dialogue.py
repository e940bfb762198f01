r"""Scenario files: an SMTP dialogue, what is configured before it, the mail that lies in the mailboxes after it.

A file is named for its fact and has sections, each begun by a line `--- name`. Before the first one, `#` comments.

    # RFC 5321 s4.5.2: a dot is added to what begins with one, and taken off again.
    --- setup                      TOML, optional:
    modes = ["bytes", "tcp", "tls"]    how it runs (this is the default)
    mailboxes = ["alice@example.org"]  (default: alice@ and postmaster@example.org)
    certificate = true                 STARTTLS is offered outside mode tls too
    store = "works"                    there is a store; "full" and "down": it takes nothing
    is_dns_broken = true               every DNS query ends in an exception that nobody expects
    --- config                     TOML, optional: [mx] and [limits]; the rest is in service.py
    --- zone                       TOML, optional: "name" = [rows] as ZoneResolver takes them
    --- dialogue
    C: EHLO client.test            a line, sent with CRLF
    C*3: NOOP                      sent three times
    RAW: QUI                       octets, sent without CRLF
    S: 250 2.0.0 Ok                a line that must come next, exactly
    S*3: 250 2.0.0 Ok              the same three times
    S: re:250 2\.0\.0 Ok \w+       a line that must match as a whole
    S+: 250 LIMITS RCPTMAX=1       the last line of a reply, whatever lines stand before it
    EOF                            the server must close, with nothing more said, and not by RST
    HALF-CLOSE  RESET  DISCONNECT  the client sends FIN and reads on, sends RST, goes
    TLS                            the client shakes hands (after STARTTLS was answered)
    DRAIN                          the worker begins to drain
    --- mail alice@example.org <bob@client.test>
    Subject: hello                 one delivered message: mailbox, Return-Path, and the exact octets behind our trace
                                   fields, each line with CRLF. What is not listed here must not be in any mailbox.

Client lines that follow each other are one segment: pipelined. In `C`, `RAW` and mail lines `\r \n \t \0 \\ \xNN`
stand for octets and `\{3000*xy}` for 3,000 times `xy`. An empty line of a dialogue says nothing.

Modes: `bytes`, the protocol with a transport in memory, each octet an event of its own; `tcp`, over a socket; `tls`,
over a socket after STARTTLS, behind the greeting that the dialogue begins with.
"""

import re
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODES = ("bytes", "tcp", "tls")
ACTIONS = ("EOF", "HALF-CLOSE", "RESET", "DISCONNECT", "TLS", "DRAIN")

_STEP = re.compile(r"(C|RAW|S\+?)(?:\*(\d+))?:(?: (.*))?")
_ESCAPE = re.compile(rb"\\(?:([rnt0\\])|x([0-9a-fA-F]{2})|\{(\d+)\*((?:[^\\}]|\\.)*)\})", re.DOTALL)
_OCTETS = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


@dataclass(frozen=True, slots=True)
class Send:
    """One segment of the client."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Expect:
    """One line of the server."""

    pattern: str
    line_number: int
    ends_reply: bool = False

    def matches(self, line: str) -> bool:
        """Tell whether the server's line is the one."""
        if self.pattern.startswith("re:"):
            return re.fullmatch(self.pattern[3:], line) is not None
        return line == self.pattern


@dataclass(frozen=True, slots=True)
class Act:
    """Something else that happens: one of ACTIONS."""

    name: str
    line_number: int


Step = Send | Expect | Act
# mailbox, Return-Path, content
DeliveredMail = tuple[str, str, bytes]


@dataclass(slots=True)
class Scenario:
    """One file, parsed."""

    path: Path
    setup: dict[str, Any] = field(default_factory=dict)
    config: str = ""
    zone: dict[str, Any] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    mail: Counter[DeliveredMail] = field(default_factory=Counter)

    @property
    def modes(self) -> list[str]:
        """How it runs."""
        return list(self.setup.get("modes", MODES))


def parse_scenario(path: Path) -> Scenario:
    """Parse a file. Raises ValueError naming file and line where it is not in the format."""
    scenario = Scenario(path)
    head, *sections = re.split(r"^--- (.*)\n", path.read_text(), flags=re.MULTILINE)
    if any(line and not line.startswith("#") for line in head.splitlines()):
        raise ValueError(f"{path}: only comments may stand before the first section")
    line_number = head.count("\n") + 2
    for title, text in zip(sections[::2], sections[1::2], strict=True):
        name, *words = title.split(maxsplit=2)
        match name, words:
            case "setup", []:
                scenario.setup = tomllib.loads(text)
            case "config", []:
                scenario.config = text
            case "zone", []:
                scenario.zone = tomllib.loads(text)
            case "dialogue", []:
                scenario.steps = _parse_steps(text, path, line_number)
            case "mail", [mailbox, return_path]:
                content = b"".join(unescape(line) + b"\r\n" for line in text.splitlines())
                scenario.mail[mailbox, return_path, content] += 1
            case _:
                raise ValueError(f"{path}:{line_number - 1}: not a section: {title}")
        line_number += text.count("\n") + 1
    return scenario


def unescape(text: str) -> bytes:
    r"""Give the octets a line stands for."""

    def replace(match: re.Match[bytes]) -> bytes:
        if match[1]:
            return _OCTETS[match[1]]
        if match[2]:
            return bytes.fromhex(match[2].decode())
        return int(match[3]) * _ESCAPE.sub(replace, match[4])

    return _ESCAPE.sub(replace, text.encode())


def split_trace(message: bytes, mailbox: str) -> tuple[str, bytes]:
    """Give the Return-Path of a delivered message and what stands behind our trace fields, which must be there."""
    trace = re.match(
        rb"Return-Path: (<.*>)\r\nDelivered-To: (.*)\r\n"
        rb"Authentication-Results: mx.test;(?:.*\r\n\t)+.*\r\nReceived: from (?:.*\r\n\t)+.*\r\n",
        message,
    )
    assert trace, f"no trace fields: {message[:300]!r}"
    assert trace[2].decode() == mailbox
    return trace[1].decode(), message[trace.end() :]


def _parse_steps(text: str, path: Path, line_number: int) -> list[Step]:
    steps: list[Step] = []
    for number, line in enumerate(text.splitlines(), line_number):
        if not line.strip():
            continue
        match = _STEP.fullmatch(line)
        if not match:
            if line not in ACTIONS:
                raise ValueError(f"{path}:{number}: not a step: {line}")
            steps.append(Act(line, number))
            continue
        kind, times, argument = match[1], int(match[2] or 1), match[3] or ""
        if kind.startswith("S"):
            steps += [Expect(argument, number, ends_reply=kind == "S+")] * times
            continue
        data = times * (unescape(argument) + (b"\r\n" if kind == "C" else b""))
        if steps and isinstance(steps[-1], Send):
            data = steps.pop().data + data  # type: ignore[union-attr]
        steps.append(Send(data))
    return steps
