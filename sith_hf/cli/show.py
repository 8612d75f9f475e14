"""``sith-hf show``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sith_hf.cli.options import Numbers, echo_json, json_option

if TYPE_CHECKING:
    from sith_hf.edits import EditSpec


@click.command()
@click.argument("artifact")
@click.option("--layers", type=Numbers(), help="Only these layers.  [default: all]")
@click.option("--heads", type=Numbers(), help="Only these heads.  [default: all]")
@click.option("--top", type=click.IntRange(min=1), default=3, show_default=True, help="Strongest vectors per head.")
@json_option
def show(artifact: str, layers: tuple[int, ...] | None, heads: tuple[int, ...] | None, top: int, as_json: bool) -> None:
    """Print ARTIFACT, a decomposition or an edit spec: a folder or Hub id.

    For a decomposition, print the strongest vectors of each head: both poles, each with its concepts.
    """
    import os
    from pathlib import Path

    from sith_hf.core.tables import table
    from sith_hf.decomposition import DECOMPOSITION_LAYOUT, Decomposition, explanation_rows
    from sith_hf.edits import EDIT_SPEC_LAYOUT, EditSpec
    from sith_hf.errors import ArtifactError

    folder = Path(artifact)
    specs = folder / EDIT_SPEC_LAYOUT.filename, folder / "sith" / EDIT_SPEC_LAYOUT.filename
    if not os.path.isfile(folder / DECOMPOSITION_LAYOUT.filename) and any(os.path.isfile(path) for path in specs):
        show_spec(EditSpec.from_pretrained(folder), as_json)
        return
    try:
        decomposition = Decomposition.from_pretrained(artifact)
    except ArtifactError:
        if os.path.exists(artifact):
            raise
        # A repository may contain either.
        show_spec(EditSpec.from_pretrained(artifact), as_json)
        return
    found = [
        explanation
        for layer in (decomposition.layers if layers is None else decomposition.resolve_layers(layers))
        for head in (range(decomposition.num_heads) if heads is None else heads)
        for explanation in decomposition.theme(layer, head, top)
    ]
    if as_json:
        echo_json([vars(item) for item in found])
    else:
        click.echo(table(*explanation_rows(found)))


def show_spec(spec: EditSpec, as_json: bool) -> None:
    """Print an edit spec."""
    echo_json(spec.rows()) if as_json else click.echo(str(spec))
