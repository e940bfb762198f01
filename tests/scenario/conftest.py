"""Scenarios run on the event loop the service runs on; one certificate serves them all."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from tests.certificates import write_pair
from tests.scenario.service import Certificate


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A self-signed certificate for mx.test."""
    return Certificate(*write_pair(tmp_path_factory.mktemp("tls"), host="mx.test"))
