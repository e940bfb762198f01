"""What Postfix says became of each recipient of each message, read from its log.

The log is how a client's side of a transaction is known: whether the final reply reached it. Postfix itself marks the
only case where a message may arrive twice: "lost connection with … while sending end of data -- message may be sent
more than once". Everything was sent then, and no final reply came.
"""

import collections
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

RESULT = re.compile(
    r"(?:smtp|error|retry|bounce)\[\d+\]: (?P<queue_id>\w+): to=<(?P<recipient>[^>]*)>,.* "
    r"status=(?P<status>\w+) \((?P<text>.*)\)$"
)
NO_FINAL_REPLY = re.compile(
    r"^(?:lost connection|conversation) with .* while sending end of data -- message may be sent"
)

# (token, recipient)
Pair = tuple[str, str]


@dataclass(slots=True)
class Results:
    """How often Postfix came to which result for a (token, recipient)."""

    sent: collections.Counter[Pair] = field(default_factory=collections.Counter)
    no_final_reply: collections.Counter[Pair] = field(default_factory=collections.Counter)
    deferred: collections.Counter[str] = field(default_factory=collections.Counter)  # by the text, ids left out
    bounced: dict[Pair, str] = field(default_factory=dict)


def read_results(lines: Iterable[str], *, tokens: Mapping[str, str]) -> Results:
    """Gather the results of the messages whose queue ids are in `tokens` (queue id -> token)."""
    results = Results()
    for line in lines:
        found = RESULT.search(line)
        if found is None or found["queue_id"] not in tokens:
            continue
        pair = tokens[found["queue_id"]], found["recipient"]
        match found["status"]:
            case "sent":
                results.sent[pair] += 1
            case "deferred":
                results.deferred[_without_address(found["text"])] += 1
                results.no_final_reply[pair] += bool(NO_FINAL_REPLY.match(found["text"]))
            case _:
                results.bounced[pair] = found["text"]
    return results


def _without_address(text: str) -> str:
    return re.sub(r"(host|with|to) 127\.0\.0\.1\[127\.0\.0\.1\](:\d+)?", r"\1 relay", text)
