"""What `mailflow demo` prints: text for a person at 80 columns, or one JSON document.

Foreign text is printed as text, never as markup. Whatever a terminal cannot show is escaped rather
than raised over.
"""

import io
import json
import shutil
import sys
import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from mailflow.cli.demo_client import Dialogue
from mailflow.cli.demo_messages import ANNA, BEN
from mailflow.cli.demo_outcome import Outcome
from mailflow.cli.demo_site import Site

_VERDICT_STYLES = {"accept": "bold green", "quarantine": "bold yellow", "reject": "bold red", "defer": "bold yellow"}
_REPLY_STYLES = {"4": "yellow", "5": "red"}


class JsonReport:
    """One document on stdout after the last sample."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def show_outcome(self, outcome: Outcome, greeting: Dialogue, sentences: Sequence[str]) -> None:
        """Nothing yet."""

    def show_end(self, outcomes: list[Outcome]) -> None:
        """Print the document."""
        messages = [
            {
                "name": outcome.sample.name,
                "replies": outcome.dialogue.replies,
                "verdict": outcome.verdict,
                "delivered": [str(path) for path in outcome.delivered],
            }
            for outcome in outcomes
        ]
        print(json.dumps({"root": str(self._site.root), "messages": messages}, indent=2), flush=True)

    def show_serving(self, listeners: dict[str, list[str]]) -> None:
        """Tell the addresses on stderr: stdout has had its document."""
        print(f"mailflow demo: serving {listeners}", file=sys.stderr)


class TextReport:
    """Each sample as it goes, then where the service can be reached."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._number = 0
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")
        # Soft wrap: a path or a command broken into lines cannot be copied.
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)

    def show_outcome(self, outcome: Outcome, greeting: Dialogue, sentences: Sequence[str]) -> None:
        """Print what a sample shows, what was said, why, what was decided and where the mail lies."""
        if not self._number:
            self._say("Each sample has a connection of its own. It begins like this, then TLS:\n")
            self._show_lines(greeting)
        self._number += 1
        self._say("")
        self._say((f"{self._number:2}. {outcome.sample.name}", "bold"))
        self._say(f"    {outcome.sample.shows}")
        self._show_lines(outcome.dialogue)
        for sentence in sentences:
            self._say((textwrap.fill(sentence, 79, initial_indent="    | ", subsequent_indent="    |   "), "cyan"))
        paths = [str(path.relative_to(self._site.root)) for path in outcome.delivered]
        where = f": {', '.join(paths)}" if paths else ", nothing delivered"
        self._say("    => ", (outcome.verdict, _VERDICT_STYLES[outcome.verdict]), where)

    def show_end(self, outcomes: list[Outcome]) -> None:
        """Print whether all is well, and the folder."""
        wrong = [outcome.sample.name for outcome in outcomes if outcome.differences]
        self._say("")
        if wrong:
            self._say((f"NOT what it must be: {', '.join(wrong)}", "bold red"))
        else:
            self._say((f"All {len(outcomes)} samples got what they must get.", "bold green"))
        self._say(f"The mail, mailflow.toml and service.log lie in {self._site.root}")

    def show_serving(self, listeners: dict[str, list[str]]) -> None:
        """Print where the service can be reached, and how to try it."""
        (mx,), (admin,) = listeners["mx"], listeners["admin"]
        self._say("\nServing on until Ctrl-C:")
        self._say(f"    mail     {mx} (STARTTLS)")
        self._say(f"    metrics  http://{admin}/metrics")
        self._say(f"    probes   http://{admin}/livez  /readyz  /startupz")
        self._say("\nTry it:")
        self._say(f"    {_try_it(mx)}")

    def _show_lines(self, dialogue: Dialogue) -> None:
        for speaker, line in dialogue.lines:
            style = _REPLY_STYLES.get(line[:1], "") if speaker == "S" else ""
            self._say((f"    {speaker}:", "dim"), (f" {line}".rstrip(), style))

    def _say(self, *parts: str | tuple[str, str]) -> None:
        self._console.print(Text.assemble(*parts))


def _try_it(mx: str) -> str:
    """Give one line that sends a message: swaks where there is one, else Python."""
    if shutil.which("swaks"):
        return f"swaks --server {mx} --tls --from {BEN} --to {ANNA}"
    host, _, port = mx.rpartition(":")
    message = f"From: {BEN}\\nSubject: Hello\\n\\nHello!"
    script = f"smtplib.SMTP('{host}', {port}).sendmail('{BEN}', '{ANNA}', '{message}')"
    return f'python3 -c "import smtplib; {script}"'
