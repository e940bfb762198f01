"""mailflow: the asynchronous SMTP/LMTP mail edge for platforms that run on Kubernetes.

An MX points at it; it decides whether to believe a mail and hands it to LMTP mailbox servers.
Rooms and their order are drawn in docs/flow.md; imports point down only:
cli, supervisor, app, receive | deliver | admin | testing, smtp, mail | dns | observe | config.
"""

__version__ = "0.1.0"
