"""The command line: each command is a module here; this one only lists them.

A command's module imports what it needs inside its function, so `mailflow --help` answers without
loading the service. Exit codes everywhere: 0 fine, 1 the answer is "no", 2 usage or configuration.
"""

import typer

from mailflow import __version__
from mailflow.cli.auth import auth
from mailflow.cli.check_config import check_config
from mailflow.cli.config_reference import config_reference
from mailflow.cli.demo import demo
from mailflow.cli.dkim import dkim
from mailflow.cli.doctor import doctor
from mailflow.cli.queue import queue
from mailflow.cli.serve import serve

app = typer.Typer(
    name="mailflow",
    help="The mail edge of a platform on Kubernetes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve)
app.command("demo")(demo)
app.command("check-config")(check_config)
app.command("config-reference")(config_reference)
app.command("doctor")(doctor)
app.add_typer(auth, name="auth")
app.add_typer(dkim, name="dkim")
app.add_typer(queue, name="queue")


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"mailflow {__version__}")
        raise typer.Exit


@app.callback()
def _take_options(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    """The mail edge of a platform on Kubernetes."""


def main() -> None:
    """Run the command the arguments name and exit with its code."""
    app()
