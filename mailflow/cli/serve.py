"""`mailflow serve`: run the roles of the configuration until SIGTERM.

Only loads the configuration and hands it to the supervisor. Faults go to stderr: stdout is the log.
"""

import os
from pathlib import Path

import typer


def serve(
    config: Path = typer.Option(
        Path("mailflow.toml"), "-c", "--config", metavar="FILE", help="The configuration file."
    ),
    workers: int | None = typer.Option(
        None, "--workers", metavar="N", help="Worker processes, instead of the configured."
    ),
) -> None:
    """Run the roles of the configuration until SIGTERM: exit 0 after a drain, 1 if it was cut short."""
    from mailflow.config import ConfigFaults, load_settings

    environ = dict(os.environ)
    if workers is not None:  # checked as the key is
        environ["MAILFLOW_WORKERS"] = str(workers)
    try:
        settings = load_settings(config, environ)
    except ConfigFaults as faults:
        typer.echo(faults, err=True)
        raise typer.Exit(2) from None

    from mailflow.supervisor.service import serve as run

    raise typer.Exit(run(settings, lambda: load_settings(config, environ)))
