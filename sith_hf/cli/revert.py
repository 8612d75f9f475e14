"""``sith-hf revert``: remove the edit from an edited checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from sith_hf.cli import messages, options
from sith_hf.cli.answer import details
from sith_hf.cli.output import show_saved


@click.command()
@click.argument("edited")
@options.output("the reverted checkpoint")
@options.include
@details
@options.as_json
def revert(edited: str, output: Path, include: tuple[str, ...], overwrite: bool, as_json: bool) -> None:
    """Revert the edit in a copy of EDITED, a folder or Hub id: the base, to within rounding."""
    from sith_hf.checkpoint import revert as revert_

    show_saved(as_json, revert_(edited, output, include=include, overwrite=overwrite, progress=messages.progress()))
