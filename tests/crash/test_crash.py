"""A short campaign on each store; `make crash` runs the long ones."""

import contextlib
from pathlib import Path

import pytest

from tests.crash.campaign import Campaign
from tests.postgres_server import PostgresServer

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]
KILLS = 5


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
async def test_what_was_answered_250_is_delivered_or_returned_whatever_is_killed(tmp_path: Path, store: str) -> None:
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer()) if store == "postgresql" else None
        ledger = await Campaign(tmp_path, kills=KILLS, seed=1, postgres=postgres).run()
    print(ledger.summary())
    assert len(ledger.promised) > 100
    assert ledger.delivered
    assert ledger.returned
    assert ledger.missing() == []
    assert ledger.unexcused() == {}
    assert ledger.damaged == 0
