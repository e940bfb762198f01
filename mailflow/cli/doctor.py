"""`mailflow doctor`: a domain's mail set-up as the world sees it, and the records that would mend it.

Exit 0 where nothing is bad, 1 where something is, 2 for a fault of usage.
"""

import typer


def doctor(
    domain: str = typer.Argument(..., metavar="DOMAIN", help="The domain behind the @."),
    nameserver: str | None = typer.Option(None, "--nameserver", metavar="HOST:PORT", help="The resolver to ask."),
    selectors: list[str] = typer.Option(
        [], "--selector", metavar="S", help="A DKIM selector to look at beside the common ones; may be repeated."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON document instead of text."),
) -> None:
    """Examine a domain's MX, SPF, DKIM, DMARC and BIMI as the world sees them."""
    from mailflow.cli.doctor_run import run_doctor
    from mailflow.cli.usage import UsageFault

    try:
        exit_code = run_doctor(domain, nameserver=nameserver, selectors=selectors, as_json=as_json)
    except UsageFault as fault:
        typer.echo(f"mailflow doctor: {fault}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(exit_code)
