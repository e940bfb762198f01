"""The server's certificate: read again when what its name leads to changes, kept when the new one is bad."""

import os
import resource
import ssl
from pathlib import Path

import pytest

from mailflow.smtp.tls import ServerTls
from tests.certificates import write_pair


class Reports:
    """Hears every reload."""

    def __init__(self) -> None:
        self.faults: list[str | None] = []

    def __call__(self, fault: str | None) -> None:
        self.faults.append(fault)


def shown_certificate(context: ssl.SSLContext) -> str:
    """Give the certificate, as PEM, that a client of `context` is shown."""
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    shown = client.getpeercert(binary_form=True)
    assert shown is not None
    return ssl.DER_cert_to_PEM_cert(shown)


def point(link: Path, target: str) -> None:
    """Turn a symbolic link in one step, as the kubelet does."""
    fresh = link.with_name("..fresh")
    fresh.symlink_to(target)
    fresh.replace(link)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A folder as a Secret is mounted: tls.crt -> ..data/tls.crt, ..data -> ..first, and a ..second beside it."""
    for name in ("..first", "..second"):
        write_pair(tmp_path / name)
    (tmp_path / "..data").symlink_to("..first")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    return tmp_path


def open_tls(folder: Path, reports: Reports) -> ServerTls:
    return ServerTls(folder / "tls.crt", folder / "tls.key", on_reload=reports)


def test_unchanged_files_give_the_same_context_and_no_report(secret: Path) -> None:
    tls = open_tls(secret, reports := Reports())
    assert tls.context() is tls.context()
    assert reports.faults == []


def test_swapped_secret_is_shown_from_the_next_handshake_on(secret: Path) -> None:
    tls = open_tls(secret, reports := Reports())
    assert shown_certificate(tls.context()) == (secret / "..first/tls.crt").read_text()
    point(secret / "..data", "..second")
    assert shown_certificate(tls.context()) == (secret / "..second/tls.crt").read_text()
    assert tls.context() is tls.context()
    assert reports.faults == [None]


def test_file_written_anew_in_place_is_shown(tmp_path: Path) -> None:
    write_pair(tmp_path)
    tls = open_tls(tmp_path, reports := Reports())
    write_pair(tmp_path, host="other-name.example.org")
    assert shown_certificate(tls.context()) == (tmp_path / "tls.crt").read_text()
    assert reports.faults == [None]


def test_mismatched_pair_keeps_the_old_one_and_is_reported_once(secret: Path) -> None:
    tls = open_tls(secret, reports := Reports())
    old = tls.context()
    (secret / "tls.key").unlink()
    (secret / "tls.key").symlink_to("..second/tls.key")
    assert [tls.context() for _ in range(3)] == [old] * 3
    (fault,) = reports.faults
    assert fault is not None
    assert "mismatch" in fault.lower()


def test_mismatch_that_is_mended_is_loaded(secret: Path) -> None:
    tls = open_tls(secret, reports := Reports())
    (secret / "tls.key").unlink()
    (secret / "tls.key").symlink_to("..second/tls.key")
    tls.context()
    (secret / "tls.crt").unlink()
    (secret / "tls.crt").symlink_to("..second/tls.crt")
    assert shown_certificate(tls.context()) == (secret / "..second/tls.crt").read_text()
    assert reports.faults[1:] == [None]


def test_files_that_vanish_keep_the_old_pair_and_are_reported_once(secret: Path) -> None:
    tls = open_tls(secret, reports := Reports())
    old = tls.context()
    (secret / "..data").unlink()
    assert [tls.context() for _ in range(3)] == [old] * 3
    assert len(reports.faults) == 1
    assert reports.faults[0]
    (secret / "..data").symlink_to("..second")
    assert shown_certificate(tls.context()) == (secret / "..second/tls.crt").read_text()
    assert reports.faults[1:] == [None]


def test_files_that_cannot_be_read_for_want_of_descriptors_are_read_at_the_next_handshake(secret: Path) -> None:
    tls = open_tls(secret, reports := Reports())
    old = tls.context()
    point(secret / "..data", "..second")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptor = os.open(secret, os.O_RDONLY)  # the lowest that is free
    os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptor, limits[1]))
    try:
        assert [tls.context() for _ in range(3)] == [old] * 3
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(reports.faults) == 1
    assert shown_certificate(tls.context()) == (secret / "..second/tls.crt").read_text()
    assert reports.faults[1:] == [None]


def test_a_pipe_in_place_of_a_key_keeps_the_old_pair_and_nobody_waits(tmp_path: Path) -> None:
    write_pair(tmp_path)
    tls = open_tls(tmp_path, reports := Reports())
    old = tls.context()
    (tmp_path / "tls.key").unlink()
    os.mkfifo(tmp_path / "tls.key")
    assert [tls.context() for _ in range(3)] == [old] * 3
    (fault,) = reports.faults
    assert "not a regular file" in (fault or "")


def test_garbage_in_place_of_a_certificate_keeps_the_old_pair(tmp_path: Path) -> None:
    write_pair(tmp_path)
    tls = open_tls(tmp_path, reports := Reports())
    old = tls.context()
    (tmp_path / "tls.crt").write_text("not a certificate")
    assert tls.context() is old
    assert [bool(fault) for fault in reports.faults] == [True]


def test_key_under_a_passphrase_is_a_fault_and_asks_nobody(tmp_path: Path) -> None:
    write_pair(tmp_path, passphrase=b"secret")
    with pytest.raises(ssl.SSLError):  # and not a prompt that waits for ever
        open_tls(tmp_path, Reports())


def test_pair_that_cannot_be_loaded_at_the_start_is_raised(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        open_tls(tmp_path, Reports())
    write_pair(tmp_path)
    (tmp_path / "tls.key").write_text("not a key")
    with pytest.raises(ssl.SSLError):
        open_tls(tmp_path, Reports())


def test_tls_older_than_1_2_is_not_spoken(tmp_path: Path) -> None:
    write_pair(tmp_path)
    assert open_tls(tmp_path, Reports()).context().minimum_version is ssl.TLSVersion.TLSv1_2
