"""`mailflow dkim keygen`: a key to sign with, and the DNS record by which others verify it.

On stdout is the record as a line of a zone file (with --json one document), and nothing else. Exit 0, 1 where the files
could not be written, one of them being there already included, 2 for a name that cannot be used.
"""

from pathlib import Path

import typer

dkim = typer.Typer(help="Keys that sign mail.", no_args_is_help=True)


@dkim.callback()
def _group() -> None:
    """Keys that sign mail."""


@dkim.command("keygen")
def keygen(
    domain: str = typer.Option(..., "--domain", metavar="D", help="The domain that signs: d= of its signatures."),
    selector: str = typer.Option(..., "--selector", metavar="S", help="The key's name below the domain: s=."),
    ed25519: bool = typer.Option(False, "--ed25519", help="An Ed25519 key instead of RSA with 2048 bits."),
    out: Path = typer.Option(..., "--out", metavar="DIR", help="The folder for S.D.key (mode 0600) and S.D.txt."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON document instead of a zone file's line."),
) -> None:
    """Make a private key and the DNS record to publish; never overwrites a file."""
    from mailflow.cli.dkim_keygen import NameFault, make_key, parse_names, render_json, write_key

    try:
        names = parse_names(domain, selector)
    except NameFault as fault:
        typer.echo(f"mailflow dkim keygen: {fault}", err=True)
        raise typer.Exit(2) from None
    key = make_key(names, is_ed25519=ed25519)
    try:
        files = write_key(key, out)
    except OSError as error:
        typer.echo(f"mailflow dkim keygen: {error.filename or out}: {error.strerror}", err=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(render_json(key, files))
    else:
        typer.echo(key.zone_line, nl=False)
        typer.echo(f"Private key in {files.key}, the record also in {files.record}", err=True)
