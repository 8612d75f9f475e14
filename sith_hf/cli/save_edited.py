"""``sith-hf save-edited``."""

from __future__ import annotations

from pathlib import Path

import click

from sith_hf.cli.options import echo_json, json_option, output_option, overwrite_option


@click.command("save-edited")
@click.argument("base")
@click.option("--spec", "spec_path", required=True, help="The edit spec: folder or Hub id.")
@output_option("the edited checkpoint")
@overwrite_option
@json_option
def save_edited(base: str, spec_path: str, output: Path, overwrite: bool, as_json: bool) -> None:
    """Write an edit into a copy of BASE, a folder or Hub id; from_pretrained of transformers loads the result."""
    from sith_hf.checkpoint import save_edited as save_edited_
    from sith_hf.edits import EditSpec

    saved = save_edited_(base, EditSpec.from_pretrained(spec_path), output, overwrite=overwrite, progress=True)
    report(saved, as_json)


def report(saved: object, as_json: bool) -> None:
    """Print what was written (a :class:`sith_hf.checkpoint.SavedCheckpoint`)."""
    from sith_hf.checkpoint import SavedCheckpoint
    from sith_hf.core.escaping import sanitize

    assert isinstance(saved, SavedCheckpoint)
    if as_json:
        echo_json({"folder": str(saved.folder), "changed": dict(saved.changed), "left_out": list(saved.left_out)})
        return
    for key, change in saved.changed.items():
        click.echo(f"{key}: largest change {change:.3g}")
    for name in saved.left_out:
        click.echo(f"left out {sanitize(name)}: it holds the unedited weights", err=True)
    click.echo(f"{saved.folder}")
