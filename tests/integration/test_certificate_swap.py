"""The certificate changes as a Kubernetes Secret does: a symbolic link is turned, and the next handshake shows it."""

import ssl
from pathlib import Path

from cryptography import x509

from tests.certificates import write_pair
from tests.integration.mail_client import MailClient
from tests.integration.mailflow_process import MailflowProcess, route

CONFIG = '[tls]\ncertificate = "secret/tls.crt"\nkey = "secret/tls.key"\n\n' + route(
    "example.org", maildir="mail", create=True
)


class Secret:
    """A mounted Secret: `tls.crt` -> `..data/tls.crt`, and `..data` -> a folder of this version."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        for name in ("tls.crt", "tls.key"):
            (folder / name).symlink_to(f"..data/{name}")

    def version(self, number: int) -> Path:
        """The folder of one version."""
        return self._folder / f"..version_{number}"

    def publish(self, number: int) -> None:
        """Turn `..data` to this version, in one step as the kubelet does."""
        link = self._folder / "..data_tmp"
        link.symlink_to(self.version(number).name)
        link.rename(self._folder / "..data")


def write_version(folder: Path) -> x509.Certificate:
    certificate, _ = write_pair(folder)
    return x509.load_pem_x509_certificate(certificate.read_bytes())


async def shown_certificate(mailflow: MailflowProcess) -> tuple[MailClient, x509.Certificate]:
    """Say STARTTLS on a new connection; the session, and what it was shown."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    client = await MailClient.greeted(mailflow.mx_port)
    tls = await client.start_tls(context, "mx.example.org")
    der = tls.getpeercert(binary_form=True)
    assert der is not None
    return client, x509.load_der_x509_certificate(der)


async def test_a_swapped_secret_is_shown_in_the_next_handshake_and_old_sessions_go_on(tmp_path: Path) -> None:
    secret = Secret(tmp_path / "secret")
    first, second = (write_version(secret.version(number)) for number in (1, 2))
    secret.publish(1)
    async with MailflowProcess(tmp_path, config=CONFIG) as mailflow:
        session, shown = await shown_certificate(mailflow)
        assert shown == first
        secret.publish(2)
        _, shown = await shown_certificate(mailflow)
        assert shown == second
        assert (await session.command("EHLO client.example")).startswith("250")
        assert (await session.deliver("a@example.org", "old-session")).startswith("250 2.0.0 ")
        assert await mailflow.metric("mailflow_tls_handshakes_total", result="done") == 2


async def test_a_mismatched_pair_or_a_missing_file_keeps_the_old_certificate(tmp_path: Path) -> None:
    secret = Secret(tmp_path / "secret")
    first, _, third = (write_version(secret.version(number)) for number in (1, 2, 3))
    (secret.version(2) / "tls.key").write_bytes((secret.version(3) / "tls.key").read_bytes())
    secret.version(4).mkdir()
    secret.publish(1)
    async with MailflowProcess(tmp_path, config=CONFIG) as mailflow:
        for bad in (2, 4):
            secret.publish(bad)
            for _ in range(2):
                _, shown = await shown_certificate(mailflow)
                assert shown == first
        secret.publish(3)
        _, shown = await shown_certificate(mailflow)
        assert shown == third
        assert await mailflow.terminate() == 0
    told = [event["event"] for event in mailflow.events if event["event"].startswith("certificate")]
    # Once per change, not once per handshake.
    assert told == ["certificate_not_reloaded", "certificate_not_reloaded", "certificate_reloaded"]
