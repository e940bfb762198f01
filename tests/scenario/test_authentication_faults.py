"""A fault of ours in one check: that message gets 451, nothing is believed or bounced, and the session goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from mailflow.dns import Answer, RdType, Record
from mailflow.receive import authenticate, inbound
from mailflow.testing import ZoneResolver
from tests.arc_chains import HOPS, pass_on
from tests.arc_chains import zone as hop_zone
from tests.scenario.mailauth_site import ENFORCE, KEY, SIGNED, ZONE, decisions, key_of, send
from tests.scenario.service import RunningService, serve

LOCAL_ERROR = "451 4.3.0 Local error in processing, try again later"
SENDER = "x@news.bank.example"


class FaultyOnce(ZoneResolver):
    """A resolver with a fault of ours that the first question for one name meets."""

    def __init__(self, zone: dict[str, list[Any]], name: str, rdtype: str) -> None:
        super().__init__(zone)
        self._broken = (name, rdtype)
        self.has_failed = False

    async def resolve(self, name: str, rdtype: RdType | str) -> Answer[Record]:
        """Raise what nobody expects, with words that no peer may read."""
        if not self.has_failed and key_of(name, rdtype) == self._broken:
            self.has_failed = True
            raise RuntimeError("SecretClass at /etc/mailflow/secret.py")
        return await super().resolve(name, rdtype)


class FailsOnce:
    """A function whose first call raises."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.has_failed = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.has_failed:
            self.has_failed = True
            raise RuntimeError("SecretClass at /etc/mailflow/secret.py")
        return self._function(*args, **kwargs)


async def expect_451_then_delivery(service: RunningService, content: bytes) -> None:
    client = await service.greeted()
    assert await send(client, content, sender=SENDER) == LOCAL_ERROR
    assert service.all_delivered() == []
    assert service.count("mailflow_internal_errors_total") >= 1
    assert await client.command("NOOP") == "250 2.0.0 Ok"
    assert (await send(client, content, sender=SENDER)).startswith("250 2.0.0 Ok ")
    (mail,) = service.all_delivered()
    assert mail.endswith(content)
    assert b"iprev=pass" in mail
    assert service.count("mailflow_messages_total", listener="mx", action="defer") == 1
    assert service.count("mailflow_messages_total", listener="mx", action="accept") == 1


def expect_traceback_and_two_decisions(events: Any) -> None:
    faults = [e for e in events if e["event"] == "internal_error"]
    assert [(fault["command"], fault["exc_info"]) for fault in faults] == [("DATA", True)]
    deferred, accepted = decisions(events)
    assert (deferred["action"], deferred["reply"]) == ("defer", LOCAL_ERROR)
    assert (accepted["action"], accepted["rule"]) == ("accept", "dmarc_pass")
    assert "rule" not in deferred, "nothing was decided about it"


@pytest.mark.parametrize(
    ("name", "rdtype"),
    [
        pytest.param("1.0.0.127.in-addr.arpa", "PTR", id="iprev"),
        pytest.param("mail.client.example", "A", id="iprev-address"),
        pytest.param("news.bank.example", "TXT", id="spf"),
        pytest.param(KEY, "TXT", id="dkim"),
        pytest.param("s._domainkey.hop1.example", "TXT", id="arc"),
        pytest.param("_dmarc.bank.example", "TXT", id="dmarc-discovery"),
        pytest.param("_dmarc.news.bank.example", "TXT", id="dmarc-alignment"),
    ],
)
async def test_fault_in_one_check_is_451_for_that_message_alone(tmp_path: Path, name: str, rdtype: str) -> None:
    sealed = await pass_on(SIGNED, HOPS[0])
    resolver = FaultyOnce(ZONE | hop_zone(HOPS[0]), name, rdtype)
    with capture_logs() as events:
        async with serve(tmp_path, config=ENFORCE, resolver=resolver, expects_faults=True) as service:
            await expect_451_then_delivery(service, sealed)
    assert resolver.has_failed
    expect_traceback_and_two_decisions(events)


@pytest.mark.parametrize(
    ("module", "function"),
    [
        (authenticate, "read_author"),
        (authenticate, "check_spf"),
        (authenticate, "verify_dkim_signatures"),
        (authenticate, "verify_arc_chain"),
        (authenticate, "discover_policy"),
        (authenticate, "evaluate_dmarc"),
        (inbound, "take_message"),
        (inbound, "refuse_loop"),
        (inbound, "decide"),
        (inbound, "describe_message"),
        (inbound, "trace_fields"),
        (inbound, "strip_forged"),
    ],
)
async def test_fault_in_one_step_is_451_for_that_message_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any, function: str
) -> None:
    faulty = FailsOnce(getattr(module, function))
    monkeypatch.setattr(module, function, faulty)
    with capture_logs() as events:
        async with serve(tmp_path, config=ENFORCE, zone=ZONE, expects_faults=True) as service:
            await expect_451_then_delivery(service, SIGNED)
    assert faulty.has_failed
    faults = [e for e in events if e["event"] == "internal_error"]
    assert [(fault["command"], fault["exc_info"]) for fault in faults] == [("DATA", True)]


@pytest.mark.parametrize("mailauth", ['dmarc = "monitor"', 'on_temperror = "accept"'])
async def test_no_setting_makes_a_fault_of_ours_an_acceptance(tmp_path: Path, mailauth: str) -> None:
    resolver = FaultyOnce(ZONE, "news.bank.example", "TXT")
    async with serve(tmp_path, config=f"[mailauth]\n{mailauth}\n", resolver=resolver, expects_faults=True) as service:
        await expect_451_then_delivery(service, SIGNED)
