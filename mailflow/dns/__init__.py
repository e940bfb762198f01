"""DNS as the mail checks need it: one question, one answer, and every way to fail told apart.

`Resolver` is the seam the rest of the house knows; `StubResolver` asks real servers, `BudgetedResolver` bounds what
one message may ask, `mailflow.testing.ZoneResolver` answers from a dictionary. The `lookup_*` functions ask for one
type and return typed records.

    resolver = StubResolver(["192.0.2.53:53"])
    answer = await lookup_txt(BudgetedResolver(resolver), "example.org")
    if answer.status is AnswerStatus.FOUND: ...

That a name does not exist is an answer; only what a retry could mend is raised (`DnsTemporary`).
"""

from mailflow.dns.budget import BudgetedResolver
from mailflow.dns.lookup import lookup_addresses, lookup_mx, lookup_ptr, lookup_txt
from mailflow.dns.recording import RecordingResolver
from mailflow.dns.resolver import (
    Answer,
    AnswerStatus,
    DnsFailure,
    DnsTemporary,
    IpAddress,
    MxRecord,
    RdType,
    Record,
    Resolver,
    TlsaRecord,
)
from mailflow.dns.stub import StubResolver

__all__ = [
    "Answer",
    "AnswerStatus",
    "BudgetedResolver",
    "DnsFailure",
    "DnsTemporary",
    "IpAddress",
    "MxRecord",
    "RdType",
    "Record",
    "RecordingResolver",
    "Resolver",
    "StubResolver",
    "TlsaRecord",
    "lookup_addresses",
    "lookup_mx",
    "lookup_ptr",
    "lookup_txt",
]
