"""The client side of LMTP (RFC 2033): one connection to a mailbox server, and the transactions on it.

Pipelined where the server offers it (RFC 2920), step by step where not. After the final dot the
server answers once per recipient it accepted. A connection knows at every moment what it is owed:
`is_reusable` holds only between transactions with every owed reply read, so that no transaction
hears another's answer. A 2xx that is no answer to the command (220, 221, 252) is out of step and
never a yes. Whoever is cancelled or fails in a transaction aborts the connection.
Never retries and never decides what a reply means for the mail: deliver does.
"""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn

from mailflow.mail.address import Address
from mailflow.mail.handoff import FinalDot
from mailflow.mail.reply import Reply
from mailflow.smtp.capabilities import Capabilities, parse_capabilities
from mailflow.smtp.dot_stuffing import MAX_SLICE_BYTES, DotStuffer, iter_slices
from mailflow.smtp.lmtp_errors import LmtpClosing, LmtpOutOfStep, LmtpUnreachable
from mailflow.smtp.reply_stream import ReplyStream

# What is a yes (RFC 5321 s4.3.2). Any other 2xx or 3xx answers another command: a greeting, a farewell, a VRFY.
_YES = {"MAIL": (250,), "RCPT": (250, 251), "DATA": (354,), "RSET": (250,), "final dot": (250,)}


class Stage(Enum):
    """The command that a reply answers; CONTENT is what follows the final dot."""

    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    CONTENT = "final dot"


@dataclass(frozen=True, slots=True)
class Answer:
    """The reply that settled one recipient, and where it was given."""

    stage: Stage
    reply: Reply


class _Phase(Enum):
    READY = "between transactions"
    COMMANDS = "MAIL, RCPT, DATA"
    CONTENT = "the content"
    ANSWERS = "the answers after the final dot"


class LmtpConnection:
    """One session with a server, made by `lmtp_connect`; one task at a time. Deadlines are in loop time, seconds.

    A transaction is `open_transaction`, then, where recipients are left, `send_content` and one `read_answer` for each.
    """

    def __init__(self, stream: ReplyStream) -> None:
        self._stream = stream
        self._phase = _Phase.READY
        self._unanswered = 0  # recipients accepted at RCPT whose answer after the final dot was not read yet
        self._needs_reset = False
        self._has_farewell = False  # 421 was among the answers to the final dot
        self.capabilities = Capabilities()
        self.has_answered = False  # in the transaction begun last

    @property
    def is_reusable(self) -> bool:
        """Tells that another transaction may begin: every owed reply was read, nothing else came, no end of file."""
        return self._phase is _Phase.READY and self._stream.is_quiet

    @property
    def is_final_dot_sent(self) -> bool:
        """Tells that the server may have taken the message of the current transaction."""
        return self._stream.is_final_dot_sent

    def abort(self) -> None:
        """Drop the connection; the server sees it end in the middle and, before the final dot, keeps nothing."""
        self._stream.abort()

    def quit(self) -> None:
        """Say QUIT and close, without waiting for an answer that changes nothing."""
        self._stream.close(b"QUIT\r\n")

    async def greet(self, hostname: str, deadline: float) -> None:
        """Hear the greeting and say LHLO. Raises LmtpUnreachable where the server will not serve."""
        greeting = await self._stream.read_reply(deadline, "the greeting")
        if greeting.code != 220:
            raise LmtpUnreachable(f"the server greeted with {greeting}")
        await self._say_lhlo(hostname, deadline)

    async def start_tls(self, context: ssl.SSLContext, server_name: str, hostname: str, deadline: float) -> None:
        """Say STARTTLS and LHLO again: what was offered in plain text counts no more (RFC 3207 s4.2)."""
        if not self.capabilities.has_starttls:
            raise LmtpUnreachable("the server does not offer STARTTLS")
        self._stream.write(b"STARTTLS\r\n", replies=1)
        reply = await self._stream.read_reply(deadline, "the reply to STARTTLS")
        if reply.code != 220:
            raise LmtpUnreachable(f"the server answered STARTTLS with {reply}")
        await self._stream.start_tls(context, server_name)
        await self._say_lhlo(hostname, deadline)

    async def open_transaction(
        self,
        sender: Address | None,
        recipients: Sequence[Address],
        *,
        size_bytes: int,
        is_8bit: bool,
        is_smtputf8: bool,
        deadline: float,
    ) -> list[Answer | None]:
        """Say MAIL, RCPT for each, DATA. Gives for each recipient its refusal, None where it waits for the content.

        Where none waits the transaction is over. Asks only for extensions that the server offers. Raises LmtpError.
        """
        self._begin()
        mail = self._mail_command(sender, size_bytes=size_bytes, is_8bit=is_8bit, is_smtputf8=is_smtputf8)
        rcpts = [f"RCPT TO:<{path_text(address, is_smtputf8=is_smtputf8)}>\r\n".encode() for address in recipients]
        self._write_group([mail, *rcpts, b"DATA\r\n"])
        answers = await self._ask_recipients(mail, rcpts, deadline)
        self._unanswered = answers.count(None)
        if self._unanswered or self.capabilities.has_pipelining:
            answers = await self._ask_for_content(answers, deadline)
        self._phase = _Phase.CONTENT if self._unanswered else _Phase.READY
        self._needs_reset = not self._unanswered
        return answers

    async def send_content(self, body: Sequence[bytes], dot: FinalDot, *, deadline: float) -> None:
        """Send the message, dot-stuffed, and the final dot, which `dot` is told of.

        Raises LmtpError, UnsafeContent, DotWithheld; then no final dot left.
        """
        assert self._phase is _Phase.CONTENT
        stuffer = DotStuffer()
        batch: list[bytes] = []
        batch_bytes = 0
        for block in iter_slices(body):
            if batch_bytes + len(block) > MAX_SLICE_BYTES:
                self._stream.write(b"".join(batch))
                await self._stream.drain(deadline)
                await asyncio.sleep(0)  # the other sessions have their turn, however fast the server reads
                batch, batch_bytes = [], 0
            batch.append(stuffer.feed(block))
            batch_bytes += len(block)
        batch.append(stuffer.finish())
        if not self._stream.is_quiet:
            raise self._stream.fault or self._out_of_step("the server spoke while it was sent the content")
        dot.leave()  # no write before this one held a line of a lone dot
        self._stream.is_final_dot_sent = True
        self._phase = _Phase.ANSWERS
        self._stream.write(b"".join(batch), replies=self._unanswered)

    async def read_answer(self, *, deadline: float) -> Answer:
        """Give the answer of the next waiting recipient, in their order (RFC 2033 s4.2). Raises LmtpError.

        It may be cancelled and called again. The last answer ends the transaction: then `check_in_step`. A 421 is an
        answer too, as the next recipient may have been told another; the connection is not used again.
        """
        assert self._phase is _Phase.ANSWERS
        reply = await self._stream.read_reply(deadline, "the answer to the final dot")
        self._check_answers(Stage.CONTENT.value, reply)
        self._unanswered -= 1
        self._has_farewell |= reply.code == 421
        if not self._unanswered and not self._has_farewell:
            self._phase = _Phase.READY
        return Answer(Stage.CONTENT, reply)

    def check_in_step(self) -> None:
        """Raise LmtpOutOfStep where more replies came than were owed: then no answer given means anything."""
        if isinstance(self._stream.fault, LmtpOutOfStep):
            raise self._stream.fault

    async def ask_recipient(self, recipient: Address, *, is_smtputf8: bool, deadline: float) -> Answer:
        """Ask whether `recipient` would be taken from the null sender: MAIL, RCPT, RSET. Raises LmtpError."""
        self._begin()
        mail = self._mail_command(None, size_bytes=0, is_8bit=False, is_smtputf8=is_smtputf8)
        rcpt = f"RCPT TO:<{path_text(recipient, is_smtputf8=is_smtputf8)}>\r\n".encode()
        self._write_group([mail, rcpt, b"RSET\r\n"])
        (answer,) = await self._ask_recipients(mail, [rcpt], deadline, accepted=Stage.RCPT)
        await self._reset(deadline)
        self._phase = _Phase.READY
        assert answer is not None
        return answer

    def _begin(self) -> None:
        self.has_answered = False
        if not self.is_reusable:  # the server closed, or spoke, since it was looked at
            raise self._stream.fault or self._out_of_step("the server spoke before it was asked")
        self._phase = _Phase.COMMANDS
        self._stream.is_final_dot_sent = False

    async def _say_lhlo(self, hostname: str, deadline: float) -> None:
        self._stream.write(f"LHLO {hostname}\r\n".encode("ascii"), replies=1)
        reply = await self._stream.read_reply(deadline, "the reply to LHLO")
        if reply.code != 250:
            raise LmtpUnreachable(f"the server answered LHLO with {reply}")
        self.capabilities = parse_capabilities(reply.text)

    def _mail_command(self, sender: Address | None, *, size_bytes: int, is_8bit: bool, is_smtputf8: bool) -> bytes:
        offered = self.capabilities
        parameters = ""
        if size_bytes and offered.max_size_bytes is not None:
            parameters += f" SIZE={size_bytes}"
        # Without 8BITMIME the content goes as it is: RFC 6152 s3 would have it re-encoded, which breaks signatures.
        if is_8bit and offered.has_8bitmime:
            parameters += " BODY=8BITMIME"
        if is_smtputf8 and offered.has_smtputf8:
            parameters += " SMTPUTF8"
        path = path_text(sender, is_smtputf8=is_smtputf8) if sender else ""
        return f"MAIL FROM:<{path}>{parameters}\r\n".encode()

    def _write_group(self, commands: list[bytes]) -> None:
        """With PIPELINING send all commands in one write; without, each is sent when its reply is asked for."""
        if self._needs_reset:
            commands = [b"RSET\r\n", *commands]
        if self.capabilities.has_pipelining:
            self._stream.write(b"".join(commands), replies=len(commands))

    async def _command(self, command: bytes, deadline: float) -> Reply:
        if not self.capabilities.has_pipelining:
            self._stream.write(command, replies=1)
        verb = command[:4].decode()
        reply = await self._stream.read_reply(deadline, f"the reply to {verb}")
        if reply.code == 421:
            self._stream.abort()
            raise LmtpClosing(reply)
        self.has_answered = True
        self._check_answers(verb, reply)
        return reply

    def _check_answers(self, what: str, reply: Reply) -> None:
        """Raise LmtpOutOfStep on a yes that cannot be meant for the command `what`."""
        if reply.code < 400 and reply.code not in _YES[what]:
            self._out_of_step(f"the server answered {what} with {reply}")

    async def _reset(self, deadline: float) -> None:
        reply = await self._command(b"RSET\r\n", deadline)
        if not reply.is_positive:
            self._out_of_step(f"the server answered RSET with {reply}")

    async def _ask_recipients(
        self, mail: bytes, rcpts: list[bytes], deadline: float, *, accepted: Stage | None = None
    ) -> list[Answer | None]:
        """Read the replies to MAIL and each RCPT. An accepted recipient gives None, or an Answer at `accepted`."""
        if self._needs_reset:
            await self._reset(deadline)
            self._needs_reset = False
        mail_reply = await self._command(mail, deadline)
        if not mail_reply.is_positive and not self.capabilities.has_pipelining:
            return [Answer(Stage.MAIL, mail_reply)] * len(rcpts)
        answers: list[Answer | None] = []
        for rcpt in rcpts:
            reply = await self._command(rcpt, deadline)
            if not mail_reply.is_positive:
                answers.append(Answer(Stage.MAIL, mail_reply))
            elif not reply.is_positive:
                answers.append(Answer(Stage.RCPT, reply))
            else:
                answers.append(Answer(accepted, reply) if accepted else None)
        return answers

    async def _ask_for_content(self, answers: list[Answer | None], deadline: float) -> list[Answer | None]:
        """Read the reply to DATA. Refused, it answers for every recipient that was left."""
        reply = await self._command(b"DATA\r\n", deadline)
        if reply.code == 354:
            # All refused, and it wants content all the same: a lone dot (RFC 2920 s3.1) might create an empty message
            # for a recipient it thinks accepted. Closing cannot.
            if not self._unanswered:
                self._stream.abort()
            return answers
        self._unanswered = 0
        return [answer or Answer(Stage.DATA, reply) for answer in answers]

    def _out_of_step(self, text: str) -> NoReturn:
        self._stream.fail_out_of_step(text)


def path_text(address: Address, *, is_smtputf8: bool) -> str:
    """Give the address as a command carries it: the domain in A-labels unless the transaction is SMTPUTF8."""
    if is_smtputf8 or address.is_ascii:
        return str(address)
    return str(Address(address.local, address.ascii_domain, address.ascii_domain))
