"""`mailflow check-config`: is this configuration usable, and if not, everything that is wrong with it.

Uses the loading `serve` uses, so the two never disagree. Faults are the answer and go to stdout,
one a line; no Python traceback ever does.
"""

import os
from pathlib import Path

import typer


def check_config(
    config: Path = typer.Option(
        Path("mailflow.toml"), "-c", "--config", metavar="FILE", help="The configuration file."
    ),
) -> None:
    """Check a configuration: exit 0, or 2 with every fault."""
    from mailflow.config import ConfigFaults, load_settings

    try:
        settings = load_settings(config, os.environ)
    except ConfigFaults as faults:
        typer.echo(faults)
        raise typer.Exit(2) from None
    typer.echo(f"{config}: fine; runs {' and '.join(settings.roles)} as {settings.hostname}")
