"""``sith-hf revert``."""

from __future__ import annotations

from pathlib import Path

import click

from sith_hf.cli.options import json_option, output_option, overwrite_option
from sith_hf.cli.save_edited import report


@click.command()
@click.argument("edited")
@output_option("the reverted checkpoint")
@overwrite_option
@json_option
def revert(edited: str, output: Path, overwrite: bool, as_json: bool) -> None:
    """Revert the edit in a copy of EDITED, a folder or Hub id: the base, to within rounding."""
    from sith_hf.checkpoint import revert as revert_

    report(revert_(edited, output, overwrite=overwrite, progress=True), as_json)
