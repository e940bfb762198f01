"""Loading a configuration: file, environment, secret files, and every fault at once."""

import datetime
import os
import pickle
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailflow.config import ConfigFaults, HostPort, LmtpBackend, MaildirBackend, Settings, UnixPath, load_settings
from mailflow.config.value import parse_route_domain
from mailflow.mail.address import AddressSyntaxError, parse_domain

MINIMAL = """
hostname = "mx1.example.org"
[[backend]]
name = "mailbox"
lmtp = ["127.0.0.1:24"]
[[route]]
domains = ["example.org"]
backend = "mailbox"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "mailflow.toml"
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str = MINIMAL, **environ: str) -> Settings:
    return load_settings(write(folder, text), environ)


def faults_of(folder: Path, text: str = MINIMAL, **environ: str) -> dict[str, str]:
    """Load what must be refused; give the faults as key: the whole line."""
    with pytest.raises(ConfigFaults) as raised:
        load(folder, text, **environ)
    return {fault.key: str(fault) for fault in raised.value.faults}


def test_what_is_not_set_has_the_documented_default(folder: Path) -> None:
    settings = load(folder)
    assert settings.roles == ("mx", "delivery", "admin")
    assert settings.mx.listen == (HostPort("0.0.0.0", 25), HostPort("::", 25))
    assert settings.mx.max_message_bytes == 52428800
    assert settings.drain.delay_s == 0
    assert settings.admin.listen == HostPort("127.0.0.1", 8080)
    assert settings.postmaster == "postmaster@example.org"
    (backend,) = settings.backend
    assert isinstance(backend, LmtpBackend)
    assert (backend.handoff_deadline_s, backend.when_unverifiable, backend.tls) == (20, "defer", "off")


@pytest.mark.parametrize(
    ("text", "domain", "network"),
    [
        ("example.org 192.0.2.0/24", "example.org", "192.0.2.0/24"),
        (".BÜCHER.example  2001:db8::/32", ".xn--bcher-kva.example", "2001:db8::/32"),
        ("* 192.0.2.1", "*", "192.0.2.1/32"),
    ],
)
def test_allowance_is_an_author_domain_and_a_network(folder: Path, text: str, domain: str, network: str) -> None:
    (entry,) = load(folder, f'{MINIMAL}[mailauth]\nallow = ["{text}"]').mailauth.allow
    assert (entry.domain, str(entry.network)) == (domain, network)


@pytest.mark.parametrize(
    ("quarantine", "subaddress", "is_fine"),
    [
        ("header", "", True),
        ("+Junk", "+", True),
        ("+Junk", "-", False),
        ("+Junk", "", False),
        ("-Spam.2", "-", True),
        ("+", "+", False),
        ("Junk", "+", False),
        ("+a b", "+", False),
        ("", "+", False),
    ],
)
def test_quarantine_is_a_subaddress_that_the_routes_have(
    folder: Path, quarantine: str, subaddress: str, is_fine: bool
) -> None:
    text = MINIMAL.replace("lmtp =", f'quarantine = "{quarantine}"\nlmtp =') + f'subaddress = "{subaddress}"\n'
    if is_fine:
        assert load(folder, text).backend[0].quarantine == quarantine.removeprefix("header")
    else:
        assert faults_of(folder, text).keys() == {"backend[0].quarantine"}


def test_every_fault_is_told_at_once(folder: Path) -> None:
    faults = faults_of(
        folder,
        """
        workers = 999
        [mx]
        max_errors = 0
        max_errrs = 7
        bare_newline = "keep"
        listen = ["127.0.0.1:0", "localhost:25", "127.0.0.1:65536"]
        [drain]
        delay_s = "10"
        [[backend]]
        name = "a"
        lmtp = ["unix:/run/lmtp"]
        tls = "tls"
        [[backend]]
        name = "a"
        maildir = "mail"
        connections = 5
        [[route]]
        domains = ["example.org", "*."]
        backend = "b"
        [[route]]
        domains = ["EXAMPLE.org"]
        backend = "a"
        """,
        MAILFLOW_MX__MAX_RECIPIENTS="many",
    )
    assert faults.keys() == {
        "hostname",
        "workers",
        "mx.max_errors",
        "mx.max_errrs",
        "mx.bare_newline",
        "mx.listen[1]",
        "mx.listen[2]",
        "mx.max_recipients",
        "drain.delay_s",
        "backend[0].tls",
        "backend[1].name",
        "backend[1].connections",
        "route[0].domains[1]",
        "route[0].backend",
        "route[1].domains[0]",
    }
    assert faults["mx.max_errors"] == "mx.max_errors = 0: allowed is a whole number, 1 to 10000"
    assert "0 to 256" in faults["workers"]
    assert "did you mean max_errors?" in faults["mx.max_errrs"]
    assert '"reject", "normalize"' in faults["mx.bare_newline"]
    assert "MAILFLOW_MX__MAX_RECIPIENTS" in faults["mx.max_recipients"]


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("hostname = [", "mailflow.toml", "line 1"),
        ("a" * 5 + " = 0" + "9" * 5000, "mailflow.toml", "not TOML"),
        ("x = " + "[" * 100000, "mailflow.toml", "nested too deep"),
        ('max_errors = 5\nhostname = "mx"', "max_errors", "did you mean mx.max_errors?"),
        ('hostname = "mx"\nmx = 5', "mx", "[mx]"),
        ('hostname = "mx"\n[backend]\nname = "a"', "backend", "[[backend]]"),
        ('hostname = "mx"\nbackend = ["a"]', "backend[0]", "[[backend]]"),
        ('hostname = "mx 1"', "hostname", "host name"),
        ('hostname = "mx"\n[mx]\nmax_errors = true', "mx.max_errors", "whole number"),
        ('hostname = "mx"\n[mx]\nmax_errors = 1.0', "mx.max_errors", "whole number"),
        ('hostname = "mx"\n[mx]\nmax_errors = 0x' + "f" * 9000, "mx.max_errors", "too large to show"),
        ('hostname = "mx"\nmx.max_errors.' + ".".join("a" * 3000) + " = 1", "mx.max_errors", "whole number"),
        ('hostname = "mx"\n[drain]\ntimeout_s = nan', "drain.timeout_s", "0 to 86400"),
        ('hostname = "mx"\n[mx]\ncommand_timeout_s = 0', "mx.command_timeout_s", "0.01 to 86400"),
        ('hostname = "mx"\n[mailauth]\ndmarc = "off"', "mailauth.dmarc", '"enforce", "monitor"'),
        ('hostname = "mx"\n[mailauth]\non_temperror = "reject"', "mailauth.on_temperror", '"defer", "accept"'),
        ('hostname = "mx"\n[mailauth]\nauthserv_id = "mx; dmarc=pass"', "mailauth.authserv_id", "host name"),
        ('hostname = "mx"\n[mailauth]\ntrusted_arc_sealers = ["*"]', "mailauth.trusted_arc_sealers[0]", "host name"),
        ('hostname = "mx"\n[mailauth]\nallow = ["example.org"]', "mailauth.allow[0]", "a blank and a network"),
        ('hostname = "mx"\n[mailauth]\nallow = ["192.0.2.0/24 example.org"]', "mailauth.allow[0]", "author domain"),
        ('hostname = "mx"\n[mailauth]\nreceived_spf = "yes"', "mailauth.received_spf", "true or false"),
        ('hostname = "mx"\nroles = []', "roles", '"delivery" or "admin"'),
        ('hostname = "mx"\nroles = ["submission"]', "roles[0]", '"delivery" or "admin"'),
        ('hostname = "mx"\n[mx]\nproxy_protocol_from = ["10.0.0.1/8"]', "mx.proxy_protocol_from[0]", "a network"),
        ('hostname = "mx"\n[mx]\nrelay_from = ["10.0.0.0/8"]', "mx.relay_from", 'the domain "*"'),
        ('hostname = "mx"\n[mx]\nlisten = ["127.0.0.1:25", "127.0.0.1:25"]', "mx.listen[1]", "mx.listen[0]"),
        ('hostname = "mx"\n[mx]\nlisten = ["127.0.0.1:8080"]', "admin.listen", "mx.listen[0]"),
        ('hostname = "mx"\n[dns]\nnameservers = ["dns.example"]', "dns.nameservers[0]", "IPv4:PORT"),
        ('hostname = "mx"\n[[backend]]\nname = "a"', "backend[0].lmtp", "maildir instead"),
        ('hostname = "mx"\n[[backend]]\nname = "a"\nlmtp = ["h:1"]\nmaildir = "m"', "backend[0].maildir", "not both"),
        ('hostname = "mx"\n[[backend]]\nname = "a"\nlmtp = []', "backend[0].lmtp", "a list"),
        ('hostname = "mx"\n[[backend]]\nname = "a"\nlmtp = ["h"]', "backend[0].lmtp[0]", "HOST:PORT"),
        ('hostname = "mx"\n[[backend]]\nname = "a"\nlmtp = ["h:0"]', "backend[0].lmtp[0]", "HOST:PORT"),
        ('hostname = "mx"\n[[backend]]\nname = "a"\nlmtp = ["h:1"]\ncreate = true', "backend[0].create", "maildir"),
        ('hostname = "mx"\n[[backend]]\nname = "a"\nlmtp = ["h:1"]\ntls_ca = "x"', "backend[0].tls_ca", "read"),
    ],
)
def test_a_fault_names_its_key_and_what_is_allowed(folder: Path, text: str, key: str, words: str) -> None:
    faults = faults_of(folder, text)
    line = next(line for name, line in faults.items() if name.removeprefix(f"{folder}/") == key)
    assert words in line
    assert "\n" not in line


def test_the_mx_role_needs_a_backend_and_a_route(folder: Path) -> None:
    assert faults_of(folder, 'hostname = "mx"').keys() == {"backend", "route"}
    assert load(folder, 'hostname = "mx"\nroles = ["admin"]').backend == ()


def test_a_file_that_is_not_there_is_a_fault(folder: Path) -> None:
    with pytest.raises(ConfigFaults, match="No such file"):
        load_settings(folder / "none.toml", {})


def test_a_file_that_is_not_utf8_is_a_fault(folder: Path) -> None:
    path = folder / "mailflow.toml"
    path.write_bytes(b'hostname = "\xff"')
    with pytest.raises(ConfigFaults, match="not UTF-8"):
        load_settings(path, {})


def test_the_environment_goes_before_the_file(folder: Path) -> None:
    settings = load(
        folder,
        'roles = ["admin"]\n' + MINIMAL + "[mx]\nmax_errors = 3\n",
        MAILFLOW_HOSTNAME="mx9.example.org",
        MAILFLOW_ROLES="mx",
        MAILFLOW_WORKERS="1",
        MAILFLOW_MX__MAX_ERRORS="5",
        MAILFLOW_MX__COMMAND_TIMEOUT_S="0.5",
        MAILFLOW_MX__LISTEN="0.0.0.0:2525, [::]:2525",
        MAILFLOW_DNS__NAMESERVERS='["127.0.0.1:53", "[::1]"]',
    )
    assert settings.hostname == "mx9.example.org"
    assert (settings.roles, settings.workers) == (("mx",), 1)
    assert (settings.mx.max_errors, settings.mx.command_timeout_s) == (5, 0.5)
    assert settings.mx.listen == (HostPort("0.0.0.0", 2525), HostPort("::", 2525))
    assert settings.dns.nameservers == (HostPort("127.0.0.1", 53), HostPort("::1", 53))


def test_an_ipv6_listener_alone_is_no_json(folder: Path) -> None:
    assert load(folder, MAILFLOW_MX__LISTEN="[::]:25").mx.listen == (HostPort("::", 25),)


def test_every_key_of_mailauth_can_come_from_the_environment(folder: Path) -> None:
    mailauth = load(
        folder,
        MAILFLOW_MAILAUTH__AUTHSERV_ID="mail.example.org",
        MAILFLOW_MAILAUTH__DMARC="monitor",
        MAILFLOW_MAILAUTH__ON_TEMPERROR="accept",
        MAILFLOW_MAILAUTH__TRUSTED_ARC_SEALERS="a.example, B.example",
        MAILFLOW_MAILAUTH__ALLOW='["example.org 192.0.2.0/24", "* 2001:db8::/32"]',
        MAILFLOW_MAILAUTH__RECEIVED_SPF="true",
    ).mailauth
    assert (mailauth.authserv_id, mailauth.dmarc, mailauth.on_temperror) == ("mail.example.org", "monitor", "accept")
    assert mailauth.trusted_arc_sealers == ("a.example", "b.example")
    assert [str(entry) for entry in mailauth.allow] == ["example.org 192.0.2.0/24", "* 2001:db8::/32"]
    assert mailauth.received_spf is True
    assert load(folder, MAILFLOW_MAILAUTH__RECEIVED_SPF="false").mailauth.received_spf is False


@pytest.mark.parametrize("text", ["yes", "1", "True", ""])
def test_variable_that_is_neither_true_nor_false_is_a_fault(folder: Path, text: str) -> None:
    line = faults_of(folder, MAILFLOW_MAILAUTH__RECEIVED_SPF=text)["mailauth.received_spf"]
    assert "true or false" in line
    assert "MAILFLOW_MAILAUTH__RECEIVED_SPF" in line


def test_an_empty_variable_is_an_empty_list(folder: Path) -> None:
    text = MINIMAL + '[dns]\nnameservers = ["127.0.0.1"]\n'
    assert load(folder, text, MAILFLOW_DNS__NAMESERVERS="").dns.nameservers == ()


def test_variables_kubernetes_makes_are_ignored(folder: Path) -> None:
    environ = {
        "MAILFLOW_PORT": "tcp://10.0.0.1:25",
        "MAILFLOW_SERVICE_HOST": "10.0.0.1",
        "MAILFLOW_MX_PORT_25_TCP": "tcp://10.0.0.1:25",
        "MAILFLOW_HOSTNAME_FILE": "/nowhere",
        "OTHER_MX__MAX_ERRORS": "5",
    }
    assert load(folder, **environ) == load(folder)


def test_a_variable_that_names_no_key_is_a_fault(folder: Path) -> None:
    faults = faults_of(folder, MAILFLOW_MX__MAX_ERORS="5", MAILFLOW_BACKEND__NAME="a", MAILFLOW_MX__LISTEN__X="1")
    assert faults.keys() == {"MAILFLOW_MX__MAX_ERORS", "MAILFLOW_BACKEND__NAME", "MAILFLOW_MX__LISTEN__X"}
    assert "did you mean MAILFLOW_MX__MAX_ERRORS?" in faults["MAILFLOW_MX__MAX_ERORS"]
    assert "file alone" in faults["MAILFLOW_BACKEND__NAME"]


def test_a_value_is_read_from_the_file_a_variable_names(folder: Path) -> None:
    (folder / "errors").write_text("7\n")
    assert load(folder, MAILFLOW_MX__MAX_ERRORS_FILE="errors").mx.max_errors == 7


def test_a_value_from_a_secret_file_is_never_shown(folder: Path) -> None:
    (folder / "errors").write_text("hunter2")
    line = faults_of(folder, MAILFLOW_MX__MAX_ERRORS_FILE=str(folder / "errors"))["mx.max_errors"]
    assert "hunter2" not in line
    assert "MAILFLOW_MX__MAX_ERRORS_FILE" in line


def test_an_element_of_a_list_from_a_secret_file_is_never_shown(folder: Path) -> None:
    (folder / "listen").write_text("127.0.0.1:0,hunter2")
    assert "hunter2" not in faults_of(folder, MAILFLOW_MX__LISTEN_FILE="listen")["mx.listen[1]"]


def test_the_value_of_an_unknown_key_is_not_shown(folder: Path) -> None:
    assert "hunter2" not in faults_of(folder, MINIMAL + '[admin]\npassword = "hunter2"\n')["admin.password"]


def test_a_secret_file_that_cannot_be_read_is_a_fault(folder: Path) -> None:
    assert "No such file" in faults_of(folder, MAILFLOW_MX__MAX_ERRORS_FILE="none")["MAILFLOW_MX__MAX_ERRORS_FILE"]


def test_a_variable_and_its_file_together_are_a_fault(folder: Path) -> None:
    (folder / "errors").write_text("7")
    faults = faults_of(folder, MAILFLOW_MX__MAX_ERRORS="5", MAILFLOW_MX__MAX_ERRORS_FILE="errors")
    assert "only one of" in faults["MAILFLOW_MX__MAX_ERRORS_FILE"]


def test_relative_paths_are_from_the_files_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "etc").mkdir()
    monkeypatch.chdir(folder)
    text = """
    hostname = "mx"
    [[backend]]
    name = "disk"
    maildir = "var/mail"
    [[backend]]
    name = "socket"
    lmtp = ["unix:run/lmtp"]
    [[route]]
    domains = ["example.org"]
    backend = "disk"
    """
    (folder / "etc" / "mailflow.toml").write_text(text)
    disk, socket = load_settings(Path("etc/mailflow.toml"), {}).backend
    assert isinstance(disk, MaildirBackend)
    assert disk.maildir == folder / "etc/var/mail"
    assert isinstance(socket, LmtpBackend)
    assert socket.lmtp == (UnixPath(folder / "etc/run/lmtp"),)


def test_domains_are_compared_as_a_labels_in_lower_case(folder: Path) -> None:
    text = MINIMAL.replace('["example.org"]', '[".Example.ORG", "Bücher.example"]')
    settings = load(folder, text)
    assert settings.route[0].domains == (".example.org", "xn--bcher-kva.example")
    assert settings.postmaster == "postmaster@xn--bcher-kva.example"
    double = text + '[[route]]\ndomains = ["xn--bcher-kva.EXAMPLE"]\nbackend = "mailbox"\n'
    assert "route[0].domains[1]" in faults_of(folder, double)["route[1].domains[0]"]


@given(st.text(max_size=30) | st.from_regex(r"[a-zü0-9.\-]{1,20}", fullmatch=True))
def test_a_route_knows_a_domain_exactly_where_an_envelope_does(text: str) -> None:
    try:
        expected = parse_domain(text)
    except AddressSyntaxError:
        with pytest.raises(ValueError, match="domain"):
            parse_route_domain("." + text)
    else:
        assert parse_route_domain("." + text) == "." + expected


def test_the_postmasters_mail_must_lead_to_a_backend(folder: Path) -> None:
    assert "mx.postmaster" in faults_of(folder, MINIMAL + '[mx]\npostmaster = "a@elsewhere.example"\n')
    assert "mx.postmaster" in faults_of(folder, MINIMAL.replace('"example.org"', '".example.org"'))
    assert load(folder, MINIMAL + '[mx]\npostmaster = "Chief@Example.org"\n').postmaster == "Chief@example.org"


def test_routes_need_a_domain_of_ours(folder: Path) -> None:
    text = MINIMAL.replace('["example.org"]', '["*"]')
    assert "a domain of ours" in faults_of(folder, text)["route"]
    assert "a domain of ours" in faults_of(folder, text + '[mx]\npostmaster = "a@example.org"\n')["route"]


def test_the_defaults_of_a_route_are_no_files_and_plus(folder: Path) -> None:
    (route,) = load(folder).route
    assert (route.aliases, route.map, route.catch_all, route.subaddress) == (None, None, "", "+")


def test_files_of_addresses_are_read_and_travel_with_the_settings(folder: Path) -> None:
    (folder / "aliases.toml").write_text('"info@example.org" = "alice@example.org"')
    (folder / "users.toml").write_text('"alice@example.org" = "mailbox"')
    settings = load(folder, MINIMAL + 'aliases = "aliases.toml"\nmap = "users.toml"\nsubaddress = "-"\n')
    for file in folder.iterdir():
        file.unlink()
    travelled = pickle.loads(pickle.dumps(settings))  # noqa: S301 - our own
    assert {path.name: dict(entries.entries) for path, entries in travelled.address_maps.items()} == {
        "aliases.toml": {"info@example.org": "alice@example.org"},
        "users.toml": {"alice@example.org": "mailbox"},
    }
    assert travelled == settings


FILES_OF_ADDRESSES = {
    "aliases.toml": """
        "info@example.org" = ["alice@example.org", "bob@example.org"]
        "x@elsewhere.example" = "alice@example.org"
        """,
    "loop.toml": """
        "a@sub.example.org" = "A@sub.example.org"
        "b@sub.example.org" = "b@x.example"
        """,
    "users.toml": """
        "alice@example.org" = "mailbx"
        """,
}
ROUTES_WITH_FAULTS = """
    aliases = "aliases.toml"
    map = "users.toml"
    catch_all = "all@elsewhere.example"
    subaddress = "."
    [[route]]
    domains = ["sub.example.org"]
    backend = "mailbox"
    aliases = "loop.toml"
    map = "none.toml"
    catch_all = "all"
    [[route]]
    domains = ["third.example.org"]
    backend = "mailbox"
    map = "loop.toml"
    [mx]
    max_errors = 0
    """
FAULTS_OF_ROUTES = """
mx.max_errors = 0: allowed is a whole number, 1 to 10000
route[0].aliases (/aliases.toml) "info@example.org" = ["alice@example.org", "bob@example.org"]: allowed is an address
    such as "alice@example.org"; several targets are not supported yet
route[0].aliases (/aliases.toml) "x@elsewhere.example" = "alice@example.org": allowed is addresses in domains whose
    route names this file
route[0].catch_all = "all@elsewhere.example": allowed is an address in a domain of the routes
route[0].map (/users.toml, line 2) "alice@example.org" = "mailbx": allowed is the name of a backend ("mailbox")
route[0].subaddress = ".": allowed is one of "+", "-", "_", "=", "#", "~", or "" for no subaddresses
route[1].aliases (/loop.toml, line 2) "a@sub.example.org" = "A@sub.example.org": allowed is a target that leads to a
    mailbox within 10 steps; this is a loop or a longer chain
route[1].aliases (/loop.toml, line 3) "b@sub.example.org" = "b@x.example": allowed is an address in a domain of the
    routes; targets elsewhere are not supported yet
route[1].catch_all = "all": allowed is an address such as "postmaster@example.org"
route[1].map = "/none.toml": allowed is a file that can be read (No such file or directory)
route[2].map = "/loop.toml": allowed is another file than route[1].aliases
"""


def test_a_pipe_in_place_of_a_file_is_a_fault_and_nobody_waits_for_a_writer(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    told = faults_of(folder, MINIMAL + 'aliases = "pipe"\n[tls]\ncertificate = "pipe"\nkey = "pipe"\n').values()
    assert {text.partition(" = ")[0] for text in told} == {"route[0].aliases", "tls.certificate", "tls.key"}
    assert all("a file that can be read (not a regular file)" in text for text in told)


def test_a_catch_all_address_of_all_domains_is_a_fault_as_it_would_catch_nothing(folder: Path) -> None:
    route = '\n[[route]]\ndomains = ["*"]\nbackend = "mailbox"\ncatch_all = "alice@example.org"\n'
    assert list(faults_of(folder, MINIMAL + route).values()) == [
        'route[1].catch_all = "alice@example.org": allowed is "" in a route of "*" alone'
    ]


def test_faults_inside_files_of_addresses_are_told_with_all_others(folder: Path) -> None:
    for name, text in FILES_OF_ADDRESSES.items():
        (folder / name).write_text(text)
    told = faults_of(folder, MINIMAL + ROUTES_WITH_FAULTS).values()
    expected = FAULTS_OF_ROUTES.replace("\n    ", " ").strip().splitlines()
    assert sorted(line.replace(str(folder), "") for line in told) == expected


def test_settings_are_frozen(folder: Path) -> None:
    settings = load(folder)
    with pytest.raises(ValueError, match="frozen"):
        settings.hostname = "other"


def make_pair(folder: Path, name: str, password: bytes | None = None) -> None:
    """Write NAME.crt and NAME.key, self-signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mx.example.org")])
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 1, now, now + datetime.timedelta(days=3650))
    ).sign(key, hashes.SHA256())
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )


def with_tls(certificate: str, key: str) -> str:
    return MINIMAL + f'[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n'


def test_a_matching_pair_is_accepted_and_its_paths_are_absolute(folder: Path) -> None:
    make_pair(folder, "a")
    tls = load(folder, with_tls("a.crt", "a.key")).tls
    assert (tls.certificate, tls.key) == (folder / "a.crt", folder / "a.key")


@pytest.mark.parametrize(
    ("certificate", "key", "fault", "words"),
    [
        ("a.crt", "", "tls.key", "since the other"),
        ("", "a.key", "tls.certificate", "since the other"),
        ("a.crt", "b.key", "tls.key", "the private key of the certificate"),
        ("a.crt", "locked.key", "tls.key", "without a password"),
        ("mailflow.toml", "a.key", "tls.certificate", "in PEM"),
        ("none.crt", "a.key", "tls.certificate", "No such file"),
        (".", "a.key", "tls.certificate", "Is a directory"),
    ],
)
def test_a_pair_that_does_not_work_is_a_fault(folder: Path, certificate: str, key: str, fault: str, words: str) -> None:
    make_pair(folder, "a")
    make_pair(folder, "b")
    make_pair(folder, "locked", b"secret")
    assert words in faults_of(folder, with_tls(certificate, key))[fault]


def test_ca_certificates_are_read(folder: Path) -> None:
    make_pair(folder, "a")
    text = MINIMAL.replace('["127.0.0.1:24"]', '["127.0.0.1:24"]\ntls = "starttls"\ntls_ca = "{}"')
    (backend,) = load(folder, text.format("a.crt")).backend
    assert isinstance(backend, LmtpBackend)
    assert backend.tls_ca == folder / "a.crt"
    assert "PEM" in faults_of(folder, text.format("a.key"))["backend[0].tls_ca"]
    without_tls = text.replace("starttls", "off").format("a.crt")
    assert "backend[0].tls_ca" in faults_of(folder, without_tls)


def test_a_variable_of_odd_bytes_is_a_printable_fault(folder: Path) -> None:
    odd = os.fsdecode(b"\xff\x1b[2J\xc2\x9b")
    line = faults_of(folder, MAILFLOW_HOSTNAME=odd)["hostname"]
    assert line.isprintable()
    line.encode()


VALUES = st.recursive(
    st.integers()
    | st.text(max_size=5).filter(lambda t: '"' not in t and "\\" not in t and t.isprintable())
    | st.booleans(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
KEYS = st.sampled_from(
    [
        "hostname",
        "roles",
        "workers",
        "mx",
        "mx.listen",
        "mx.postmaster",
        "tls.key",
        "dns",
        "route",
        "backend",
        "log.level",
        "x",
    ]
)


def as_toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case list():
            return "[" + ", ".join(map(as_toml, value)) + "]"
        case str():
            return f'"{value}"'
    return str(value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_whatever_the_file_holds_is_settings_or_faults(folder: Path, document: dict[str, object]) -> None:
    text = "\n".join(f"{key} = {as_toml(value)}" for key, value in document.items())
    refused = None
    try:
        load(folder, text)
    except ConfigFaults as faults:
        refused = faults
    assert refused is None or refused.faults
    assert refused is None or all(str(fault).isprintable() for fault in refused.faults)
