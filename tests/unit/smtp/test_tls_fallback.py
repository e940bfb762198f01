"""A worker that restarts while a bad pair lies on the disk shows the pair that was good last."""

import ssl
from pathlib import Path

import pytest

from mailflow.smtp.tls import ServerTls, read_pair
from tests.certificates import write_pair


def test_a_bad_pair_at_the_start_is_replaced_by_the_last_good_one(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path)
    good = read_pair(certificate, key)
    key.write_text("no key")
    faults: list[str | None] = []
    tls = ServerTls(certificate, key, fallback=good, on_reload=faults.append)
    assert tls.context().get_ca_certs() == []
    assert len(faults) == 1
    certificate, key = write_pair(tmp_path)
    tls.context()
    assert faults[1:] == [None], "a good pair is taken up as soon as it is there"


def test_without_a_fallback_a_bad_pair_is_told_at_the_start(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path)
    key.write_text("no key")
    with pytest.raises(ssl.SSLError):
        ServerTls(certificate, key)


def test_the_key_is_in_no_repr(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path)
    assert "PRIVATE" not in repr(read_pair(certificate, key))
