"""Delivery is tested on the event loop the service runs on; no background task may fail unseen."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import pytest_asyncio
import uvloop

from mailflow.observe.nursery import Nursery


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest_asyncio.fixture
async def nursery() -> AsyncIterator[Nursery]:
    failures: list[None] = []
    nursery = Nursery(on_failure=lambda: failures.append(None))
    yield nursery
    await nursery.cancel_all()
    assert not failures
