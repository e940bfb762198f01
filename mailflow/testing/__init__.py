"""Verified fakes, shipped: what code built on mailflow tests itself with, and what `mailflow demo` runs on.

A fake here passes the contract suite of the real thing, so a test that passes on the fake means something. Nothing in
here opens a socket or reads the clock.

    resolver = ZoneResolver({"example.com": [{"TXT": "v=spf1 -all"}, "TIMEOUT"]})
    clock = FakeClock()
    store = MemoryStore(clock=clock)
"""

from mailflow.testing.clock import FakeClock
from mailflow.testing.memory_store import MemoryStore
from mailflow.testing.zone import Row, Zone, ZoneResolver

__all__ = ["FakeClock", "MemoryStore", "Row", "Zone", "ZoneResolver"]
