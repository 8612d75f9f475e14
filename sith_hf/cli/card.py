"""``sith-hf card``: show or renew the card of a folder."""

from __future__ import annotations

from pathlib import Path

import click

from sith_hf.cli import options
from sith_hf.cli.output import show_result
from sith_hf.errors import InputError


@click.command()
@click.argument("folder", type=options.PATH)
@click.option("--write", is_flag=True, help="Write the card of an edited checkpoint into its README.md.")
@click.option("--overwrite", is_flag=True, help="With --write: replace a README.md that was changed by hand.")
@options.as_json
def card(folder: Path, write: bool, overwrite: bool, as_json: bool) -> None:
    """Show or renew the card of a folder.

    FOLDER is an edited checkpoint, an edit spec, a decomposition or a dictionary. The Hub is not asked. An edited
    checkpoint has its card in README.md already; --write renews it, after an evaluation for example.
    """
    if overwrite and not write:
        raise InputError("--overwrite belongs to --write: give both")

    from sith_hf.checkpoint import write_card
    from sith_hf.publish import card_of

    text = card_of(folder)
    place = write_card(folder, overwrite=overwrite) if write else None
    data = {"card": text, "written": None if place is None else str(place)}
    show_result(as_json, data, text.rstrip("\n") if place is None else place)
