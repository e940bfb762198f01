"""A Dovecot per module, for the tests that do it no harm."""

from collections.abc import Iterator

import pytest

from tests.integration.dovecot_server import Dovecot, run_dovecot


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    """Serves until the module ends; a test looks for mail of its own, by a token."""
    with run_dovecot() as server:
        yield server
