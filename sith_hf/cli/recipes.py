"""``sith-hf recipes``."""

from __future__ import annotations

import click

from sith_hf.cli.options import echo_json, json_option
from sith_hf.errors import InputError


@click.command()
@click.argument("name", required=False)
@click.option("--schema", is_flag=True, help="Print the JSON schema of recipes, for editors that check YAML.")
@json_option
def recipes(name: str | None, schema: bool, as_json: bool) -> None:
    """List the recipes that come with sith-hf, or show one of them by NAME."""
    if schema and name is not None:
        raise InputError("--schema describes every recipe; leave out NAME")

    from sith_hf.core.tables import table
    from sith_hf.recipe import Recipe, shipped_names, shipped_text

    if schema:
        echo_json(Recipe.model_json_schema())
    elif name is not None:
        text = shipped_text(name)
        if as_json:
            echo_json(Recipe.shipped(name).model_dump(mode="json"))
        else:
            click.echo(text, nl=False)
    else:
        known = {item: Recipe.shipped(item) for item in shipped_names()}
        if as_json:
            echo_json([{"name": item, "title": r.title, "base": r.base.model} for item, r in known.items()])
        else:
            click.echo(table(["recipe", "base", "title"], [[item, r.base.model, r.title] for item, r in known.items()]))
