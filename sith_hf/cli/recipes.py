"""``sith-hf recipes``: list or show the shipped recipes."""

from __future__ import annotations

import click

from sith_hf.cli import options
from sith_hf.cli.answer import show_answer
from sith_hf.cli.output import show_result
from sith_hf.errors import InputError


@click.command()
@click.argument("name", required=False)
@click.option("--schema", is_flag=True, help="Print the JSON schema of recipes, for editors that check YAML.")
@options.as_json
def recipes(name: str | None, schema: bool, as_json: bool) -> None:
    """List the recipes that come with sith-hf, or show one of them by NAME."""
    if schema and name is not None:
        raise InputError("--schema describes every recipe; leave out NAME")

    from sith_hf.core.tables import table
    from sith_hf.recipe import Recipe, shipped_names, shipped_text

    if schema:
        show_result(True, Recipe.model_json_schema())
    elif name is not None:
        text = shipped_text(name)
        show_result(as_json, Recipe.shipped(name).model_dump(mode="json"), text.removesuffix("\n"))
    else:
        known = [(item, Recipe.shipped(item)) for item in shipped_names()]
        data = [{"name": item, "title": recipe.title, "base": recipe.base.model} for item, recipe in known]
        rows = [[item, recipe.base.model, recipe.title] for item, recipe in known]
        answer = f"{len(rows)} recipes come with sith-hf; run one with sith-hf run NAME -o FOLDER"
        show_answer(as_json, data, answer, table(["recipe", "base", "title"], rows))
