"""The certificate we show in STARTTLS, read again when its files change (RFC 8996: TLS 1.2 or later).

Kubernetes swaps a Secret by turning a symbolic link, so what is compared is the resolved file.
A pair that cannot be loaded or does not match changes nothing: the old one goes on, and the log
says so once per change.
"""

import contextlib
import os
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mailflow.observe.file_stamp import FileStamp, read_bounded, read_stamp

MAX_PEM_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class PemPair:
    """The content of a certificate chain and of its key, both PEM; known to be good."""

    certificate: bytes = field(repr=False)
    key: bytes = field(repr=False)


def read_pair(certificate: Path, key: Path) -> PemPair:
    """Read a pair that a server could show. Raises OSError or ssl.SSLError."""
    pair = PemPair(read_bounded(certificate, MAX_PEM_BYTES), read_bounded(key, MAX_PEM_BYTES))
    _load_pair(pair)
    return pair


class ServerTls:
    """Certificate chain and key, as a context for the server side.

    `fallback` is shown where the files cannot be: a process that restarts while a bad pair lies there has no old one
    of its own. Without it, raises OSError or ssl.SSLError when made.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        *,
        fallback: PemPair | None = None,
        on_reload: Callable[[str | None], None] = lambda fault: None,
    ) -> None:
        self._files = (certificate, key)
        self._on_reload = on_reload
        self._stamp: tuple[FileStamp, ...] = ()
        try:
            self._stamp = self._read_stamp()
            self._context = _load_pair(read_pair(certificate, key))
        except (OSError, ssl.SSLError) as exc:
            if fallback is None:
                raise
            self._forget_unread(exc)
            self._context = _load_pair(fallback)
            on_reload(str(exc))

    def context(self) -> ssl.SSLContext:
        """Give the context for the next handshake; two `stat` calls, a load only where the files changed.

        `on_reload` hears None after a good reload, else what was wrong with the new pair.
        """
        try:
            stamp = self._read_stamp()
        except OSError as exc:
            stamp = ()
            if self._stamp:
                self._on_reload(str(exc))
        if stamp != self._stamp:
            is_told = not self._stamp  # that the files cannot be read
            self._stamp = stamp
            if stamp:
                self._reload(is_told=is_told)
        return self._context

    def _reload(self, *, is_told: bool) -> None:
        try:
            self._context = _load_pair(read_pair(*self._files))
        except (OSError, ssl.SSLError) as exc:
            self._forget_unread(exc)
            if self._stamp or not is_told:
                self._on_reload(str(exc))
        else:
            self._on_reload(None)

    def _forget_unread(self, fault: OSError) -> None:
        """Try again at the next handshake where the pair could not be read: that may pass without a change of it."""
        if not isinstance(fault, ssl.SSLError):
            self._stamp = ()

    def _read_stamp(self) -> tuple[FileStamp, ...]:
        return tuple(map(read_stamp, self._files))


def _load_pair(pair: PemPair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with _as_file(pair.certificate) as certificate, _as_file(pair.key) as key:
        # A key under a passphrase is a fault; without the argument OpenSSL would ask the terminal and wait.
        context.load_cert_chain(certificate, key, password="")
    return context


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Give the content a name for a moment, in memory alone: ssl loads from files only."""
    fd = os.memfd_create("pem")
    try:
        os.write(fd, content)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
