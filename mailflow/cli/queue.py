"""`mailflow queue`: look at the stored mail, and act on it.

On a running service by its admin listener, on a stopped one directly on the store. Exit 0 where it was done, 1 where
something was not there or did not answer, 2 for a fault of usage or configuration.
"""

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from mailflow.cli.queue_run import Task

queue = typer.Typer(help="Look at the stored mail, and act on it.", no_args_is_help=True)

_CONFIG = typer.Option(Path("mailflow.toml"), "-c", "--config", metavar="FILE", help="The configuration file.")
_JSON = typer.Option(False, "--json", help="Print one JSON document instead of text.")
_IDS = typer.Argument(None, metavar="[ID]...", help="The messages.", show_default=False)
_ALL = typer.Option(False, "--all", help="All of them.")
_SENDER = typer.Option(
    None, "--sender", metavar="ADDR", help="Only mail of this envelope sender; <> is the null sender."
)
_RECIPIENT = typer.Option(None, "--recipient", metavar="ADDR", help="Only mail still owed to this address.")
_DOMAIN = typer.Option(None, "--domain", metavar="D", help="Only mail from or to this domain.")
_OLDER = typer.Option(None, "--older-than", metavar="AGE", help="Only mail that is older: 90s, 15m, 2h, 3d.")
_ERROR = typer.Option(None, "--error", metavar="TEXT", help="Only mail whose last error has this in it.")
_STATE = typer.Option(
    None, "--state", metavar="STATE", help="Only mail in this state: new, active, deferred, in_doubt, held, set_aside."
)

_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@queue.command("ls")
def list_command(
    config: Path = _CONFIG,
    sender: str | None = _SENDER,
    recipient: str | None = _RECIPIENT,
    domain: str | None = _DOMAIN,
    older_than: str | None = _OLDER,
    error: str | None = _ERROR,
    state: str | None = _STATE,
    limit: int = typer.Option(100, "--limit", min=1, help="At most so many."),
    as_json: bool = _JSON,
) -> None:
    """List stored messages, oldest first."""
    given = _filter(sender, recipient, domain, older_than, error, state)

    def make() -> "Task":
        from mailflow.cli.queue_run import list_entries

        return partial(list_entries, given=given, limit=limit)

    _run(config, make, as_json=as_json)


@queue.command("show")
def show_command(
    id: str = typer.Argument(..., metavar="ID", help="The message."),
    config: Path = _CONFIG,
    body: bool = typer.Option(False, "--body", help="The whole message, not its header alone."),
    as_json: bool = _JSON,
) -> None:
    """Show all that is known of one message, and its header."""

    def make() -> "Task":
        from mailflow.cli.queue_run import show_entry

        return partial(show_entry, id=id, with_body=body)

    _run(config, make, as_json=as_json)


@queue.command("retry")
def retry_command(
    ids: list[str] = _IDS,
    everything: bool = _ALL,
    config: Path = _CONFIG,
    sender: str | None = _SENDER,
    recipient: str | None = _RECIPIENT,
    domain: str | None = _DOMAIN,
    older_than: str | None = _OLDER,
    error: str | None = _ERROR,
    state: str | None = _STATE,
    as_json: bool = _JSON,
) -> None:
    """Try messages now, those that were set aside as well."""
    given = _filter(sender, recipient, domain, older_than, error, state)
    _change("retry", ids, given, config, everything=everything, as_json=as_json)


@queue.command("hold")
def hold_command(
    ids: list[str] = _IDS,
    everything: bool = _ALL,
    config: Path = _CONFIG,
    sender: str | None = _SENDER,
    recipient: str | None = _RECIPIENT,
    domain: str | None = _DOMAIN,
    older_than: str | None = _OLDER,
    error: str | None = _ERROR,
    state: str | None = _STATE,
    as_json: bool = _JSON,
) -> None:
    """Keep messages from being delivered until they are released."""
    given = _filter(sender, recipient, domain, older_than, error, state)
    _change("hold", ids, given, config, everything=everything, as_json=as_json)


@queue.command("release")
def release_command(
    ids: list[str] = _IDS,
    everything: bool = _ALL,
    config: Path = _CONFIG,
    sender: str | None = _SENDER,
    recipient: str | None = _RECIPIENT,
    domain: str | None = _DOMAIN,
    older_than: str | None = _OLDER,
    error: str | None = _ERROR,
    as_json: bool = _JSON,
) -> None:
    """Let held messages go."""
    given = _filter(sender, recipient, domain, older_than, error, None) | {"state": "held"}
    _change("release", ids, given, config, everything=everything or len(given) > 1, as_json=as_json)


@queue.command("rm")
def remove_command(
    ids: list[str] = _IDS,
    everything: bool = _ALL,
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
    config: Path = _CONFIG,
    sender: str | None = _SENDER,
    recipient: str | None = _RECIPIENT,
    domain: str | None = _DOMAIN,
    older_than: str | None = _OLDER,
    error: str | None = _ERROR,
    state: str | None = _STATE,
    as_json: bool = _JSON,
) -> None:
    """Remove messages for good; nobody is told."""
    given = _filter(sender, recipient, domain, older_than, error, state)
    if not ids and (everything or given) and not yes and sys.stdin.isatty():
        typer.confirm("Remove every message that matches?", abort=True, err=True)
    _change("remove", ids, given, config, everything=everything, as_json=as_json)


@queue.command("stats")
def statistics_command(config: Path = _CONFIG, as_json: bool = _JSON) -> None:
    """Count stored messages by state."""

    def make() -> "Task":
        from mailflow.cli.queue_run import show_statistics

        return show_statistics

    _run(config, make, as_json=as_json)


def _change(
    name: str, ids: list[str] | None, given: dict[str, str], config: Path, *, everything: bool, as_json: bool
) -> None:
    """Change what is named, or what matches; never all of it by accident."""
    filters = {key: value for key, value in given.items() if (name, key) != ("release", "state")}
    if bool(ids) == bool(everything or filters):
        _fail("name messages, or --all, or a filter; not ids beside one of the others")

    def make() -> "Task":
        from mailflow.cli.queue_run import change_ids, change_matching
        from mailflow.store import Change

        change = Change(name)
        return (
            partial(change_ids, ids=ids, change=change) if ids else partial(change_matching, given=given, change=change)
        )

    _run(config, make, as_json=as_json)


def _run(config: Path, make: "Callable[[], Task]", *, as_json: bool) -> None:
    from mailflow.cli.queue_report import Report
    from mailflow.cli.queue_run import run
    from mailflow.cli.usage import UsageFault

    try:
        exit_code = run(config, make(), Report(as_json=as_json))
    except UsageFault as fault:
        _fail(str(fault))
    raise typer.Exit(exit_code)


def _filter(
    sender: str | None,
    recipient: str | None,
    domain: str | None,
    older_than: str | None,
    error: str | None,
    state: str | None,
) -> dict[str, str]:
    from mailflow.cli.queue_run import check_filter
    from mailflow.cli.usage import UsageFault

    given = {"sender": sender, "recipient": recipient, "domain": domain, "error": error, "state": state}
    wanted = {name: value for name, value in given.items() if value is not None}
    if older_than is not None:
        match = _AGE.fullmatch(older_than)
        if match is None:
            _fail(f"--older-than {older_than!r}: allowed is a number with s, m, h or d behind it")
        wanted["min_age_s"] = str(float(match[1]) * _UNITS[match[2]])
    try:
        check_filter(wanted)
    except UsageFault as fault:
        _fail(str(fault))
    return wanted


def _fail(text: str) -> NoReturn:
    typer.echo(f"mailflow queue: {text}", err=True)
    raise typer.Exit(2) from None
