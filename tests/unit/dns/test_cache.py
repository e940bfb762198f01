import gc
import tracemalloc

import pytest

from mailflow.dns.cache import Age, AnswerCache, Key
from mailflow.dns.resolver import Answer, AnswerStatus, DnsFailure, MxRecord, RdType, Record

KEY: Key = ("example.com", RdType.TXT)
MAX_STALE_S = 3600.0


def found(ttl_s: int, text: bytes = b"v=spf1 -all") -> Answer[Record]:
    return Answer(AnswerStatus.FOUND, (text,), ttl_s, "example.com")


def make_cache(max_bytes: int = 100_000) -> AnswerCache:
    return AnswerCache(max_bytes=max_bytes, max_stale_s=MAX_STALE_S)


@pytest.mark.parametrize(
    ("after_s", "age"),
    [
        (0, Age.FRESH),
        (99.9, Age.FRESH),
        (100, Age.DUE),
        (129.9, Age.DUE),
        (130, Age.STALE),
        (100 + MAX_STALE_S - 0.1, Age.STALE),
        (100 + MAX_STALE_S, Age.GONE),
    ],
)
def test_an_answer_is_fresh_then_due_then_stale_then_gone(after_s: float, age: Age) -> None:
    cache = make_cache()
    cache.store(KEY, found(100), 1000)
    entry = cache.find(KEY)
    assert entry is not None
    assert cache.age(entry, 1000 + after_s) is age


def test_a_short_lived_answer_is_due_no_longer_than_it_was_fresh() -> None:
    cache = make_cache()
    cache.store(KEY, found(5), 0)
    entry = cache.find(KEY)
    assert entry is not None
    assert (cache.age(entry, 9), cache.age(entry, 10)) == (Age.DUE, Age.STALE)


@pytest.mark.parametrize("status", [AnswerStatus.NODATA, AnswerStatus.NXDOMAIN])
def test_absence_is_never_served_stale(status: AnswerStatus) -> None:
    cache = make_cache()
    cache.store(KEY, Answer(status, (), 60), 0)
    entry = cache.find(KEY)
    assert entry is not None
    assert (cache.age(entry, 59), cache.age(entry, 60)) == (Age.FRESH, Age.GONE)


def test_an_answer_with_ttl_0_is_not_kept_and_ends_the_one_before() -> None:
    cache = make_cache()
    cache.store(KEY, found(60), 0)
    cache.store(KEY, found(0), 1)
    assert (cache.find(KEY), cache.size_bytes) == (None, 0)


def failing_spells(cache: AnswerCache, *, pause_s: float, count: int) -> list[float]:
    now, spells = 0.0, []
    for _ in range(count):
        cache.store_failure(KEY, DnsFailure.SERVFAIL, now)
        entry = cache.find(KEY)
        assert entry is not None
        assert entry.is_failing(entry.failed_until - 0.01)
        assert not entry.is_failing(entry.failed_until)
        spells.append(entry.failed_until - now)
        now = entry.failed_until + pause_s
    return spells


def test_failures_are_kept_for_1_s_doubling_to_30_s() -> None:
    assert failing_spells(make_cache(), pause_s=0.5, count=7) == [1, 2, 4, 8, 16, 30, 30]


def test_failures_far_apart_do_not_add_up() -> None:
    assert failing_spells(make_cache(), pause_s=60, count=3) == [1, 1, 1]


def test_an_answer_ends_the_count_of_failures() -> None:
    cache = make_cache()
    assert failing_spells(cache, pause_s=0, count=3) == [1, 2, 4]
    cache.store(KEY, found(60), 7)
    cache.store_failure(KEY, DnsFailure.TIMEOUT, 8)
    entry = cache.find(KEY)
    assert entry is not None
    assert entry.failed_until == 9


def test_a_failure_leaves_the_older_answer_in_place() -> None:
    cache = make_cache()
    cache.store(KEY, found(60), 0)
    cache.store_failure(KEY, DnsFailure.TIMEOUT, 100)
    entry = cache.find(KEY)
    assert entry is not None
    assert (entry.answer, cache.age(entry, 100)) == (found(60), Age.STALE)


def test_the_least_recently_used_goes_first_when_the_bytes_are_full() -> None:
    cache = make_cache(max_bytes=40_000)
    for number in range(1000):
        cache.store((f"n{number}.example", RdType.TXT), found(60), 0)
        assert cache.size_bytes <= 40_000
        cache.find(("n0.example", RdType.TXT))
    assert cache.find(("n0.example", RdType.TXT)) is not None
    assert cache.find(("n1.example", RdType.TXT)) is None
    assert cache.find(("n999.example", RdType.TXT)) is not None


def test_an_answer_larger_than_the_cache_is_not_kept() -> None:
    cache = make_cache(max_bytes=40_000)
    cache.store(KEY, found(60, b"x" * 60_000), 0)
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_bytes_counted_are_bytes_taken() -> None:
    def fill(cache: AnswerCache) -> None:
        for number in range(2000):
            name = f"selector{number}._domainkey.example.com"
            cache.store(
                (name, RdType.TXT), Answer(AnswerStatus.FOUND, (bytes(100 + number % 300),), 60, name), float(number)
            )
            records = (MxRecord(number, f"mx{number}.example.net"), MxRecord(number, f"mx{number}.example.org"))
            cache.store((name, RdType.MX), Answer(AnswerStatus.FOUND, records, 60, name), float(number))
            cache.store_failure((f"{name}.test", RdType.A), DnsFailure.TIMEOUT, float(number))

    cache = make_cache(max_bytes=10**9)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        fill(cache)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(cache) == 6000
    assert 0.8 < (after - before) / cache.size_bytes < 1.05
