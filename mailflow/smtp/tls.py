"""The certificate we show in STARTTLS, read again when its files change (RFC 8996: TLS 1.2 or later).

Kubernetes swaps a Secret by turning a symbolic link, so what is compared is the resolved file.
A pair that cannot be loaded or does not match changes nothing: the old one goes on, and the log
says so once per change.
"""

import os
import ssl
from collections.abc import Callable
from pathlib import Path

_Stamp = tuple[tuple[str, int, int, int], ...]


class ServerTls:
    """Certificate chain and key, as a context for the server side. Raises OSError or ssl.SSLError when made."""

    def __init__(
        self, certificate: Path, key: Path, *, on_reload: Callable[[str | None], None] = lambda fault: None
    ) -> None:
        self._files = (certificate, key)
        self._on_reload = on_reload
        self._stamp = self._read_stamp()
        self._context = self._load()

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
            self._stamp = stamp
            if stamp:
                self._reload()
        return self._context

    def _reload(self) -> None:
        try:
            self._context = self._load()
        except (OSError, ssl.SSLError) as exc:
            self._on_reload(str(exc))
        else:
            self._on_reload(None)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # A key under a passphrase is a fault; without the argument OpenSSL would ask the terminal and wait.
        context.load_cert_chain(*self._files, password="")
        return context

    def _read_stamp(self) -> _Stamp:
        stamps = []
        for file in self._files:
            path = os.path.realpath(file)
            stat = os.stat(path)
            stamps.append((path, stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return tuple(stamps)
