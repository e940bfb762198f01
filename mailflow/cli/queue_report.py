"""How `mailflow queue` says what it found: a table, or one JSON document; faults and progress on stderr."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from mailflow.mail.reply import printable
from mailflow.store import Change
from mailflow.store.desk import Json

_DONE = {
    Change.RETRY: "due now",
    Change.HOLD: "held",
    Change.RELEASE: "released",
    Change.REMOVE: "removed",
}


class Report:
    """Text or JSON. `exit_code` becomes 1 with the first complaint."""

    def __init__(self, *, as_json: bool) -> None:
        self.exit_code = 0
        self._as_json = as_json
        self._console = Console(highlight=False)

    def complain(self, text: str) -> None:
        """Say on stderr what is missing or wrong."""
        self.exit_code = 1
        typer.echo(f"mailflow queue: {printable(text)}", err=True)

    def show_entries(self, entries: Sequence[Json]) -> None:
        """Show a list."""
        if self._as_json:
            self._print_json(entries)
            return
        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in ("id", "state", "age", "size", "next try", "sender", "recipients", "last error"):
            table.add_column(name, overflow="fold", no_wrap=name in ("id", "state", "age", "next try"))
        for entry in entries:
            table.add_row(*(Text(printable(cell)) for cell in _cells(entry)))
        self._console.print(table)

    def show_entry(self, entry: Json, content: bytes) -> None:
        """Show one message."""
        text = content.decode("utf-8", "replace")
        if self._as_json:
            self._print_json(entry | {"content": text})
            return
        for name, value in entry.items():
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            self._console.print(Text(f"{name:<16}{printable(shown)}"))
        self._console.print()
        for line in text.split("\r\n"):
            self._console.print(Text(printable(line.expandtabs(8))))

    def show_changed(self, changed: Sequence[str], change: Change) -> None:
        """Show what was done."""
        if self._as_json:
            self._print_json({"changed": list(changed)})
        else:
            typer.echo(f"{len(changed)} message{'' if len(changed) == 1 else 's'} {_DONE[change]}")

    def show_statistics(self, found: Json) -> None:
        """Show the figures."""
        if self._as_json:
            self._print_json({name: found[name] for name in ("messages", "size_bytes", "oldest_s")})
            return
        for state, count in found["messages"].items():
            typer.echo(f"{state:<12}{count:>10}")
        typer.echo(f"{'bytes':<12}{found['size_bytes']:>10}")
        typer.echo(f"{'oldest':<12}{_age(found['oldest_s']):>10}")

    @contextlib.contextmanager
    def progress(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show on a terminal how far a long operation has got; gives what to call with each step."""
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(name, total=total)
            yield lambda step: progress.advance(task, step)

    def _print_json(self, document: object) -> None:
        typer.echo(json.dumps(document, ensure_ascii=False, indent=2))


def _cells(entry: Json) -> tuple[str, ...]:
    sender = entry["sender"]
    return (
        entry["id"],
        entry["state"],
        _age(entry["age_s"]) if "age_s" in entry else "",
        str(entry.get("size_bytes", "")),
        entry["next_try"] or "",
        "?" if sender is None else sender or "<>",
        ", ".join(entry["recipients"]),
        entry["last_error"],
    )


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
