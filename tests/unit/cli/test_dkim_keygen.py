"""`mailflow dkim keygen`: the key signs, the record verifies, the files are safe, names are checked."""

import base64
import json
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import dkim  # type: ignore[import-untyped]
import dns.rdata
import dns.zone
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from dns.rdtypes.ANY.TXT import TXT

from mailflow.cli.dkim_keygen import NameFault, make_key, parse_names, write_key
from mailflow.mailauth import sign_dkim, verify_dkim
from mailflow.mailauth.result import AuthStatus
from mailflow.testing import ZoneResolver

RUN = (sys.executable, "-c", "from mailflow.cli import main; main()")
MESSAGE = b"From: joe@example.com\r\nTo: jane@example.org\r\nSubject: x\r\nDate: x\r\nMessage-ID: <x>\r\n\r\nbody\r\n"


def keygen(
    out: Path, *args: str, domain: str = "example.com", selector: str = "s1"
) -> subprocess.CompletedProcess[str]:
    env = {"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": "", "NO_COLOR": "1"}
    command = [*RUN, "dkim", "keygen", "--domain", domain, "--selector", selector, "--out", str(out), *args]
    return subprocess.run(command, env=env, umask=0, capture_output=True, text=True, timeout=60, check=False)


def read_zone(text: str) -> tuple[str, list[bytes]]:
    """Read the only record of a zone file: its owner, and its strings."""
    zone = dns.zone.from_text("$TTL 60\n" + text, origin=".", relativize=False, check_origin=False)
    ((name, _, rdata),) = zone.iterate_rdatas("TXT")
    assert isinstance(rdata, TXT)
    return str(name), list(rdata.strings)


def test_rsa_key_signs_what_the_printed_record_verifies(tmp_path: Path) -> None:
    done = keygen(tmp_path)
    assert (done.returncode, done.stdout) == (0, (tmp_path / "s1.example.com.txt").read_text())
    owner, strings = read_zone(done.stdout)
    zone = {owner: b"".join(strings)}
    pem = (tmp_path / "s1.example.com.key").read_bytes()
    signed = dkim.sign(MESSAGE, b"s1", b"example.com", pem) + MESSAGE
    assert dkim.verify(signed, dnsfunc=lambda name, timeout=5: zone.get(name.decode()))
    assert not dkim.verify(signed + b"more\r\n", dnsfunc=lambda name, timeout=5: zone.get(name.decode()))


def test_rsa_key_has_2048_bits_and_strings_of_at_most_255_octets(tmp_path: Path) -> None:
    owner, strings = read_zone(keygen(tmp_path).stdout)
    key = load_pem_private_key((tmp_path / "s1.example.com.key").read_bytes(), None)
    assert isinstance(key, RSAPrivateKey)
    assert (key.key_size, owner) == (2048, "s1._domainkey.example.com.")
    assert [len(string) for string in strings[:-1]] == [255]
    assert re.fullmatch(rb"v=DKIM1; k=rsa; p=[A-Za-z0-9+/]+=*", b"".join(strings))


def test_ed25519_key_signs_what_the_printed_record_verifies(tmp_path: Path) -> None:
    # dkimpy does Ed25519 only where PyNaCl is installed.
    _, (record,) = read_zone(keygen(tmp_path, "--ed25519").stdout)
    assert record.startswith(b"v=DKIM1; k=ed25519; p=")
    public_key = Ed25519PublicKey.from_public_bytes(base64.b64decode(record.partition(b"p=")[2], validate=True))
    key = load_pem_private_key((tmp_path / "s1.example.com.key").read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    public_key.verify(key.sign(b"digest"), b"digest")
    with pytest.raises(InvalidSignature):
        public_key.verify(key.sign(b"digest"), b"other")


@pytest.mark.parametrize(("is_ed25519", "algorithm"), [(False, "rsa-sha256"), (True, "ed25519-sha256")])
async def test_key_signs_and_its_published_record_verifies(is_ed25519: bool, algorithm: str) -> None:
    names = parse_names("B\u00fccher.example", "s1")
    key = make_key(names, is_ed25519=is_ed25519)
    owner, strings = read_zone(key.zone_line)
    zone = ZoneResolver({owner: [{"TXT": strings}]})
    signed = await sign_dkim(MESSAGE, domain=names.domain, selector=names.selector, key=key.pem) + MESSAGE
    (result,) = await verify_dkim(signed, resolver=zone)
    assert (result.status, result.domain, result.selector) == (AuthStatus.PASS, "xn--bcher-kva.example", "s1")
    assert (result.algorithm, key.algorithm) == (algorithm, algorithm)
    (changed,) = await verify_dkim(signed + b"more\r\n", resolver=zone)
    assert changed.status is AuthStatus.FAIL


def test_private_key_is_for_its_owner_alone_whatever_the_umask_allows(tmp_path: Path) -> None:
    keygen(tmp_path / "new" / "folder")
    path = tmp_path / "new" / "folder" / "s1.example.com.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")


@pytest.mark.parametrize("name", ["s1.example.com.key", "s1.example.com.txt"])
def test_file_that_is_there_is_never_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    done = keygen(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert name in done.stderr
    assert "File exists" in done.stderr
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "precious")]


def test_link_to_nowhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "s1.example.com.key").symlink_to(tmp_path / "elsewhere")
    assert keygen(tmp_path).returncode == 1
    assert not (tmp_path / "elsewhere").exists()


def test_folder_that_cannot_be_written_is_told_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in ("/proc", str(tmp_path / "file"), str(tmp_path / "file" / "below")):
        done = keygen(Path(folder))
        assert (done.returncode, done.stdout) == (1, "")
        assert folder.rstrip("/") in done.stderr or str(tmp_path / "file") in done.stderr
        assert "Traceback" not in done.stderr


def test_json_is_one_document_without_the_secret(tmp_path: Path) -> None:
    done = keygen(tmp_path, "--ed25519", "--json", domain="Example.COM", selector="S1.Mail")
    document: dict[str, Any] = json.loads(done.stdout)
    assert {key: document[key] for key in ("domain", "selector", "algorithm", "name", "type")} == {
        "domain": "example.com",
        "selector": "s1.mail",
        "algorithm": "ed25519-sha256",
        "name": "s1.mail._domainkey.example.com",
        "type": "TXT",
    }
    assert read_zone(document["zone"]) == (document["name"] + ".", [document["record"].encode()])
    assert Path(document["record_file"]).read_text() == document["zone"]
    assert Path(document["key_file"]).read_text().splitlines()[1] not in done.stdout


def test_domain_of_u_labels_is_published_in_a_labels(tmp_path: Path) -> None:
    key = make_key(parse_names("Bücher.example", "müll"), is_ed25519=True)
    owner, _ = read_zone(key.zone_line)
    assert owner == "xn--mll-hoa._domainkey.xn--bcher-kva.example."
    assert write_key(key, tmp_path).key.name == "xn--mll-hoa.xn--bcher-kva.example.key"


@pytest.mark.parametrize(
    ("domain", "selector"),
    [
        ("", "s1"),
        ("example.com", ""),
        ("com", "s1"),
        ("example..com", "s1"),
        ("example.com.", "s1"),
        ("exa mple.com", "s1"),
        ("-example.com", "s1"),
        ("../example.com", "s1"),
        ("example.com", "../s1"),
        ("example.com", "a/b"),
        ("example.com", "s_1"),
        ("example.com", "s1\n"),
        ("example.com", "s" * 64),
        ("\ud800.example", "s1"),
    ],
)
def test_name_that_is_no_name_is_refused(domain: str, selector: str) -> None:
    with pytest.raises(NameFault):
        parse_names(domain, selector)


@pytest.mark.parametrize(("length", "is_good"), [(63, True), (64, False)])
def test_selector_of_more_than_63_octets_is_refused(tmp_path: Path, length: int, is_good: bool) -> None:
    assert keygen(tmp_path, "--ed25519", selector="s" * length).returncode == (0 if is_good else 2)


@pytest.mark.parametrize(("length", "is_good"), [(253, True), (254, False)])
def test_record_whose_name_dns_cannot_hold_is_refused(tmp_path: Path, length: int, is_good: bool) -> None:
    domain = ".".join(["d" * 61] * 4)[: length - len("s1._domainkey.")]
    done = keygen(tmp_path, "--ed25519", domain=domain)
    assert done.returncode == (0 if is_good else 2)
    assert len(list(tmp_path.iterdir())) == 2 * is_good


def test_bad_name_exits_2_with_one_line_that_says_which(tmp_path: Path) -> None:
    done = keygen(tmp_path / "new", selector="a b")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mailflow dkim keygen: --selector 'a b': ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "new").exists()
