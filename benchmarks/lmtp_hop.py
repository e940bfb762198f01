"""The LMTP hop alone: 4 KB messages from 20 deliveries at a time over pooled connections to a sink, CPU of our side."""

import asyncio
import statistics
import sys
import time

import uvloop

from benchmarks.lmtp_sink import run_sink
from benchmarks.process import run_program
from benchmarks.report import Bar, show
from benchmarks.smtp_load import make_content
from mailflow.deliver.mailbox import LmtpBackend
from mailflow.mail.address import parse_mailbox
from mailflow.mail.envelope import Envelope, Recipient
from mailflow.mail.handoff import DeliveryStatus, FinalDot
from mailflow.observe.nursery import Nursery
from mailflow.smtp.lmtp_connect import LmtpServer

ROUNDS = 3
MESSAGES = 20_000
DELIVERIES = 20
MAX_MS = 0.1


def run() -> list[Bar]:
    """Measure; give the bars."""
    costs = []
    for _ in range(ROUNDS):
        with run_sink() as sink, run_program("benchmarks.lmtp_hop", str(sink.port), processor=0) as program:
            costs.append(float(program.first_line))
            sink.wait_for(MESSAGES)
    cost_ms = statistics.median(costs)
    show("LMTP hop, 4 KB", [f"mailflow {cost_ms:7.3f} ms CPU a message"])
    return [Bar("LMTP hop, CPU per message", cost_ms, MAX_MS, "ms", is_ceiling=True)]


async def deliver_all(port: int) -> float:
    """Deliver everything; give CPU milliseconds per message."""
    backend = LmtpBackend("sink", [LmtpServer("127.0.0.1", port)], hostname="mx.rcpt.example", nursery=Nursery())
    recipient = parse_mailbox("user@rcpt.example")
    envelope = Envelope("0", parse_mailbox("user@sender.example"), (Recipient(recipient, recipient),))
    body = (b"Received: from a by b;\r\n", make_content(4096).removesuffix(b".\r\n"))
    left = iter(range(MESSAGES))

    async def deliver_some() -> None:
        for _ in left:
            (outcome,) = await backend.deliver(envelope, body, FinalDot())
            assert outcome.status is DeliveryStatus.DELIVERED

    cpu_s = time.process_time()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(DELIVERIES):
            tasks.create_task(deliver_some())
    cost_ms = 1000 * (time.process_time() - cpu_s) / MESSAGES
    await backend.close()
    return cost_ms


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(runner.run(deliver_all(int(sys.argv[1]))), flush=True)
