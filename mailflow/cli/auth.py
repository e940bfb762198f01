"""`mailflow auth check`: why a message would be taken or refused, from its file and how it came.

The checks, the policy and the sentences are those of the running service, so the two never disagree. Exit 0 where the
message would be taken, 1 where it would be refused or deferred, 2 for a fault of usage.
"""

from pathlib import Path

import typer

auth = typer.Typer(help="Who sent a message, and what would be done with it.", no_args_is_help=True)


@auth.callback()
def _group() -> None:
    """Who sent a message, and what would be done with it."""


@auth.command("check")
def check(
    file: Path = typer.Argument(..., metavar="FILE", help="The message; bare LF is read as CRLF."),
    ip: str = typer.Option(..., "--ip", metavar="IP", help="The address of the client that brought it."),
    helo: str = typer.Option("", "--helo", metavar="NAME", help="The name the client gave in EHLO."),
    mail_from: str = typer.Option(..., "--mail-from", metavar="ADDR", help='Its envelope sender; "" or "<>" is null.'),
    config: Path | None = typer.Option(
        None, "-c", "--config", metavar="FILE", help="A configuration, for its policy and its nameservers."
    ),
    nameserver: str | None = typer.Option(None, "--nameserver", metavar="HOST:PORT", help="The resolver to ask."),
    at: str | None = typer.Option(
        None, "--at", metavar="TIME", help="When it came, in Unix time or ISO 8601, for what expires. Default: now."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON document instead of text."),
) -> None:
    """Check who sent a message and tell what would be done with it, and why."""
    from mailflow.cli.auth_check import run_check
    from mailflow.cli.usage import UsageFault

    try:
        exit_code = run_check(
            file,
            ip=ip,
            helo=helo,
            mail_from=mail_from,
            config=config,
            nameserver=nameserver,
            at=at,
            as_json=as_json,
        )
    except UsageFault as fault:
        typer.echo(f"mailflow auth check: {fault}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(exit_code)
