"""What was asked is remembered with its outcome, and nothing is changed on the way."""

import pytest

from mailflow.dns import Answer, DnsTemporary, RdType, RecordingResolver
from mailflow.testing import ZoneResolver

ZONE = ZoneResolver({"a.test": [{"TXT": "x"}], "slow.test": ["TIMEOUT"]})


async def test_questions_are_remembered_in_order_each_once() -> None:
    recorder = RecordingResolver(ZONE)
    answer = await recorder.resolve("a.test", "TXT")
    with pytest.raises(DnsTemporary):
        await recorder.resolve("slow.test", RdType.MX)
    await recorder.resolve("a.test", RdType.TXT)
    assert list(recorder.seen) == [("a.test", RdType.TXT), ("slow.test", RdType.MX)]
    assert recorder.seen["a.test", RdType.TXT] == answer
    assert isinstance(answer, Answer)
    assert isinstance(recorder.seen["slow.test", RdType.MX], DnsTemporary)
