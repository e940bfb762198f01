"""What can go wrong with an LMTP server, as exceptions that say the one thing that matters: had our final dot left?

Before the final dot nothing was delivered and another try is safe; after it nobody knows, and
another try may make a double (RFC 1047). OSError, TimeoutError and TLS errors are translated into
these at the edge of this room. A refusal of a message or a recipient is a reply, not an error.
The text of these is for logs: it may quote the server, so no client may hear it.
"""

from mailflow.mail.reply import Reply


class LmtpError(Exception):
    """The exchange cannot go on and its connection is gone. `is_final_dot_sent` tells that the mail is in doubt."""

    def __init__(self, text: str, *, is_final_dot_sent: bool = False) -> None:
        super().__init__(text)
        self.is_final_dot_sent = is_final_dot_sent


class LmtpUnreachable(LmtpError):
    """No session came about: no connection, no TLS, a greeting or LHLO answered with a refusal, or not in time."""


class LmtpConnectionLost(LmtpError):
    """The server closed or reset the connection."""


class LmtpTimeout(LmtpError):
    """The server did not answer, or did not read, in time, in a session that stood; or no connection was free."""


class LmtpOutOfStep(LmtpError):
    """The server sent what is no reply, a reply nobody asked for, or one that cannot answer the command."""


class LmtpClosing(LmtpError):
    """The server ended the session with 421 (RFC 5321 s3.8)."""

    def __init__(self, reply: Reply, *, is_final_dot_sent: bool = False) -> None:
        super().__init__(f"the server said {reply}", is_final_dot_sent=is_final_dot_sent)
