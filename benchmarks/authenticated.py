"""The whole path with every check on: SPF, one DKIM signature and DMARC of each message, on the way to an LMTP sink.

CPU is that of supervisor and workers. No message that is measured was sent before, only others of its domain: these
are sent until a pass over all domains asks the DNS nothing any more. How it is with a cold cache is measured beside.
What counts is that the checks were made: each message must have passed all three by the service's own counters.
Postfix's bare relay stands beside it, which checks nothing: how fast the machine is at the moment shows there.
"""

import asyncio
import contextlib
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.corpus import Corpus, write_corpus
from benchmarks.lmtp_sink import LmtpSink, run_sink
from benchmarks.nameserver import Nameserver, run_nameserver
from benchmarks.noop_latency import describe_delays, p99_ms, probe_beside
from benchmarks.report import Bar, show
from benchmarks.rounds import Rounds, Run, list_rounds, take_rounds
from benchmarks.signed_mail import CLIENT_ZONE, SenderDomain, Writer, make_domains, make_keys
from benchmarks.whole_path import CONFIG, measure_postfix, measure_relay
from tests.integration.mailflow_process import MailflowProcess

ROUNDS = 3
WORKERS = 2
KEYS = 20
DOMAINS = 200
MESSAGES = 2_000
POSTFIX_MESSAGES = 2_000
POSTFIX_BYTES = 4 << 10
# name, octets of a message, arguments of the client, bar in milliseconds
WORKLOADS: tuple[tuple[str, int, list[str], float], ...] = (
    ("4 KB, reused connections", POSTFIX_BYTES, [], 0.8),
    ("4 KB, a connection per message", POSTFIX_BYTES, ["--new-connections"], 1.1),
    ("100 KB, reused connections", 100 << 10, [], 2.5),
)
COLD_DOMAINS = 1_000
LARGE_MESSAGES = 10
LARGE_BYTES = 20 << 20
NOOP_PERIOD_S = 0.01
MAX_NOOP_P99_MS = 50
MAX_WARMING_PASSES = 40
BLANK_LINES = (b" " * 996 + b"\r\n", b"\r\n")  # of which one large message each is made: the worst for a canonicalizer


class Service:
    """mailflow between a name server and a sink; knows how many messages it was sent."""

    def __init__(self, mailflow: MailflowProcess, sink: LmtpSink, nameserver: Nameserver) -> None:
        self.mailflow = mailflow
        self.nameserver = nameserver
        self._sink = sink
        self._sent = 0

    async def send(self, corpus: Corpus, arguments: Sequence[str] = ()) -> Run:
        """Send each message once and wait until the last has reached the sink."""
        self._sent += corpus.messages
        load = ["--pipelining", *arguments, *corpus.load]
        return await asyncio.to_thread(measure_relay, self._sink, self.mailflow.pid, self.mailflow.mx_port, load)

    async def warm(self, corpus: Corpus, arguments: Sequence[str]) -> None:
        """Send them again and again until every worker knows all that the DNS has to say of them."""
        for _ in range(MAX_WARMING_PASSES):
            before = self.nameserver.queries
            await self.send(corpus, arguments)
            if self.nameserver.queries == before:
                return
        raise AssertionError(f"{MAX_WARMING_PASSES} passes over the same domains, and the last still asked the DNS")

    async def probe(self, corpus: Corpus) -> tuple[list[float], dict[str, float]]:
        """Send all at once, a session each, beside one that says NOOP; give its delays and the client's figures."""
        self._sent += corpus.messages
        load = [*corpus.load, "--sessions", str(corpus.messages)]
        found = await probe_beside(self.mailflow.mx_port, load, period_s=NOOP_PERIOD_S)
        await asyncio.to_thread(self._sink.wait_for, self._sent)
        return found

    async def require_passes(self) -> None:
        """Raise AssertionError unless each message sent so far passed every check, by the service's own count."""
        assert self._sink.messages == self._sent, f"{self._sent} messages were sent, {self._sink.messages} arrived"
        results = (await self.mailflow.metrics()).get("mailflow_auth_results_total", {})
        for method in ("spf", "dkim", "dmarc"):
            found = {dict(labels)["result"]: n for labels, n in results.items() if ("method", method) in labels}
            assert found, f"the checks were not on: no mailflow_auth_results_total of {method}"
            passed = {result: count for result, count in found.items() if count} == {"pass": self._sent}
            assert passed, f"{self._sent} messages were sent, {method} gave {found}"


@contextlib.asynccontextmanager
async def _serve(nameserver: Nameserver, *, workers: int = WORKERS) -> AsyncIterator[Service]:
    """Serve until the block ends; then all that was sent must have passed."""
    with run_sink() as sink, TemporaryDirectory() as folder:
        config = CONFIG.format(port=sink.port)
        nameservers = [f"127.0.0.1:{nameserver.port}"]
        async with MailflowProcess(Path(folder), config=config, workers=workers, nameservers=nameservers) as mailflow:
            service = Service(mailflow, sink, nameserver)
            yield service
            await service.require_passes()


async def run() -> list[Bar]:
    """Measure; give the bars."""
    keys = make_keys(KEYS)
    domains = make_domains("warm", DOMAINS, keys)
    cold_domains = make_domains("cold", COLD_DOMAINS, keys)
    writer = Writer()
    with TemporaryDirectory() as root:
        folder = Path(root)
        zone = folder / "zone"
        lines = [*CLIENT_ZONE, *(line for domain in (*domains, *cold_domains) for line in domain.zone)]
        zone.write_text("\n".join(lines), encoding="ascii")
        with run_nameserver(zone) as nameserver:
            warming = write_corpus(folder / "warming", await writer.write(domains, DOMAINS, 4 << 10))
            bars = []
            for name, size_bytes, arguments, limit_ms in WORKLOADS:
                corpus = write_corpus(folder / "measured", await writer.write(domains, MESSAGES, size_bytes))
                warm_up = partial(Service.warm, corpus=warming, arguments=arguments)
                has_peer = size_bytes == POSTFIX_BYTES
                rounds = await _measure(
                    f"{name}, warm DNS cache", nameserver, corpus, arguments, warm_up, has_peer=has_peer
                )
                what = f"authenticated, {name}, CPU per message"
                bars.append(Bar(what, rounds.cost_ms, limit_ms, "ms", is_ceiling=True))
            corpus = write_corpus(folder / "cold", await writer.write(cold_domains, COLD_DOMAINS, 4 << 10))
            connect = partial(Service.send, corpus=warming)
            await _measure("4 KB, a domain per message, cold DNS cache", nameserver, corpus, [], connect)
            corpus = write_corpus(folder / "large", await _write_large(writer, domains))
            return [*bars, await _measure_noop(nameserver, corpus)]


async def _measure(
    title: str,
    nameserver: Nameserver,
    corpus: Corpus,
    arguments: Sequence[str],
    warm_up: Callable[[Service], Awaitable[object]],
    *,
    has_peer: bool = False,
) -> Rounds:
    """Send all messages to a new service in each round; show what was found."""
    queries: list[float] = []

    async def measure() -> Run:
        async with _serve(nameserver) as service:
            await warm_up(service)
            before = nameserver.queries
            found = await service.send(corpus, arguments)
            queries.append((nameserver.queries - before) / corpus.messages)
            return found

    measures: dict[str, Callable[[], Awaitable[Run]]] = {"mailflow": measure}
    if has_peer:
        measures["Postfix"] = partial(measure_postfix, list(arguments), POSTFIX_MESSAGES)
    found = await take_rounds(ROUNDS, measures)
    rounds = found["mailflow"]
    asked = f"{statistics.median(queries):.2f} DNS queries a message"
    show(f"authenticated, {title}", [*list_rounds(found), f"{rounds.latency}, {asked}"])
    return rounds


async def _write_large(writer: Writer, domains: Sequence[SenderDomain]) -> list[tuple[str, bytes]]:
    bodies = [line * (LARGE_BYTES // len(line)) for line in BLANK_LINES]
    bodies += [writer.write_text(LARGE_BYTES) for _ in range(LARGE_MESSAGES - len(bodies))]
    return [await writer.sign(domain, body) for domain, body in zip(domains, bodies, strict=False)]


async def _measure_noop(nameserver: Nameserver, corpus: Corpus) -> Bar:
    rows, found_ms = [], []
    for _ in range(ROUNDS):
        async with _serve(nameserver, workers=1) as service:
            delays_s, figures = await service.probe(corpus)
        rows.append(describe_delays(delays_s, figures["seconds"]))
        found_ms.append(p99_ms(delays_s))
    show(
        f"NOOP beside {corpus.messages} signed messages of {LARGE_BYTES >> 20} MB (one blank, one of empty lines), one"
        " worker",
        rows,
    )
    what = "NOOP beside ten signed 20 MB messages, p99"
    return Bar(what, statistics.median(found_ms), MAX_NOOP_P99_MS, "ms", is_ceiling=True)
