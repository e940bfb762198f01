"""What became of a sample, held against what had to become of it. Pure but for reading the mailboxes.

The verdict is read from what the peer was told last: a client that heard no final reply still has
the message and tries again, so that is "defer". That mail is in quarantine only its mailbox tells.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mailflow.cli.demo_client import Dialogue
from mailflow.cli.demo_messages import Sample
from mailflow.deliver.quarantine import QUARANTINE_FIELD

_VERDICTS = {"2": "accept", "4": "defer", "5": "reject"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One sample's outcome: what was said, the files that lie in mailboxes for it, and what is not as it must be."""

    sample: Sample
    dialogue: Dialogue
    delivered: list[Path]
    differences: list[str]
    verdict: str


def verdict_of(dialogue: Dialogue, delivered: Sequence[bytes] = ()) -> str:
    """Read the verdict from the last reply and the messages delivered: accept, quarantine, reject or defer."""
    last = dialogue.replies[-1] if dialogue.replies else ""
    verdict = _VERDICTS.get(last[:1], "defer")
    is_marked = any(QUARANTINE_FIELD in message.partition(b"\r\n\r\n")[0] + b"\r\n" for message in delivered)
    return "quarantine" if verdict == "accept" and is_marked else verdict


def compare(sample: Sample, dialogue: Dialogue, delivered: list[Path], mailbox: Path | None) -> Outcome:
    """Hold what happened against what the sample must get. `mailbox`: the Maildir it must lie in, None for nowhere."""
    differences = [f"the conversation broke off: {dialogue.fault}"] if dialogue.fault else []
    last = dialogue.replies[-1] if dialogue.replies else "nothing"
    if not last.startswith(f"{sample.expected} "):
        differences.append(f"the last reply must begin with {sample.expected}, it was: {last}")
    contents = [path.read_bytes() for path in delivered]
    verdict = verdict_of(dialogue, contents)
    if sample.verdict and verdict != sample.verdict:
        differences.append(f"the verdict must be {sample.verdict}, it was {verdict}")
    if mailbox is None:
        differences += [f"must not be delivered, lies in {path}" for path in delivered]
    elif [path.parent.parent for path in delivered] != [mailbox]:
        found = ", ".join(str(path) for path in delivered) or "nowhere"
        differences.append(f"must lie in {mailbox} once, lies: {found}")
    elif not contents[0].endswith(b"\r\n" + sample.content):
        differences.append(f"{delivered[0]} does not hold the message as it was sent")
    return Outcome(sample, dialogue, delivered, differences, verdict)
