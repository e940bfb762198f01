"""`mailflow demo`: the whole service on loopback, sample mail sent through it, what came of each shown.

Exit 0 if every sample got what it must get, 1 otherwise. Everything lies in a fresh folder that
outlives the command. With --json stdout holds one JSON document and nothing else; the service's own
log goes to a file in the folder.
"""

import typer


def demo(
    once: bool = typer.Option(False, "--once", help="Stop after the sample mail instead of serving on."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON document instead of text."),
) -> None:
    """Run the whole service on loopback and send sample mail through it: exit 0 if each got what it must."""
    from mailflow.cli.demo_run import run_demo

    raise typer.Exit(run_demo(once=once, as_json=as_json))
