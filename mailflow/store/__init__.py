"""The durable store: who owns a message between 250 and its delivery.

    store.MessageStore   the protocol: accept, claim, begin, settle (`store.py`)
    postgres             PostgresStore: one queue in PostgreSQL for any number of Pods
    record               entries as bytes, with a checksum: what is not as it was written is Corrupt, not a crash

`testing.MemoryStore` passes the same contract suite (`tests/contract`) as the stores here.
"""

from mailflow.store.store import (
    MAX_CRASHES,
    Batch,
    Change,
    Claim,
    ClaimLost,
    Corrupt,
    Entry,
    Epoch,
    Filter,
    MessageStore,
    Report,
    Settlement,
    State,
    Statistics,
    StoreUnavailable,
    Unhealthy,
)

__all__ = [
    "MAX_CRASHES",
    "Batch",
    "Change",
    "Claim",
    "ClaimLost",
    "Corrupt",
    "Entry",
    "Epoch",
    "Filter",
    "MessageStore",
    "Report",
    "Settlement",
    "State",
    "Statistics",
    "StoreUnavailable",
    "Unhealthy",
]
