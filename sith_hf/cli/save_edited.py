"""``sith-hf save-edited``: write an edit into a copy of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sith_hf.cli import messages, options
from sith_hf.cli.answer import details
from sith_hf.cli.images import effect_images, images_of
from sith_hf.cli.output import show_saved


@click.command("save-edited")
@click.argument("base")
@options.specs("The edit spec: folder or Hub id.", required=True)
@options.output("the edited checkpoint")
@effect_images
@click.option("--text-model", help="For a BASE of one tower: the whole model it belongs to, to measure the effect.")
@options.placed
@options.include
@details
@options.as_json
def save_edited(
    base: str,
    spec_paths: tuple[str, ...],
    output: Path,
    images: dict[str, Any],
    text_model: str | None,
    placed: dict[str, Any],
    include: tuple[str, ...],
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write an edit into a copy of BASE, a folder or Hub id; from_pretrained of transformers loads the result.

    The copy has the weights, configuration, tokenizer, processor and licence, and a README.md that describes the edit.
    Other files are left out and listed.

    First, the effect of the edit on the concepts that it names is measured, against other concepts and random vectors.
    An edit without effect on them is refused. This takes about three passes of the model over the images.
    """
    from sith_hf.checkpoint import save_edited as save_edited_
    from sith_hf.editor import Proof
    from sith_hf.towers import partial_layers, partial_lines, read_config

    spec = options.spec_of(spec_paths)
    proof = Proof(images_of(images), text_model, say=messages.warn, progress=messages.progress(), **placed)
    saved = save_edited_(
        base, spec, output, include=include, overwrite=overwrite, measure=proof, progress=messages.progress()
    )
    config = read_config(saved.folder)
    for part in spec.parts:
        for line in partial_lines(partial_layers(config, part.tower), part.layers):
            messages.warn(f"warning: {line}")
    show_saved(as_json, saved)
