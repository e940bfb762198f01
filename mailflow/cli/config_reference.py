"""`mailflow config-reference`: every key with default, unit and range, as TOML that loads.

With --markdown it is docs/configuration.md, which a test compares with what this prints.
"""

import typer


def config_reference(
    markdown: bool = typer.Option(False, "--markdown", help="Print the page docs/configuration.md."),
) -> None:
    """Print every key with its default, unit and range."""
    from mailflow.config.reference import render_markdown, render_toml

    typer.echo(render_markdown() if markdown else render_toml(), nl=False)
