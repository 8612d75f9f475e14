"""``sith-hf import-reference``: convert decompositions of the paper's authors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sith_hf.cli import messages, options
from sith_hf.cli.answer import details
from sith_hf.cli.output import save_results, show_decomposition
from sith_hf.errors import InputError


@click.command(name="import-reference")
@click.argument("files", nargs=-1, required=True, type=options.PATH)
@click.argument("model")
@click.option("--concepts", type=options.PATH, required=True, help="The authors' text file of concepts, one per line.")
@options.output("decomposition.safetensors and dictionary.safetensors")
@options.model
@click.option("--template", help="The authors' prompt template, if they used one.")
@click.option(
    "--image-mean",
    type=options.PATH,
    help="The authors' image_mean.pt, or the output of sith-hf image-mean. The authors' results subtract one.",
)
@click.option("--without-mean", is_flag=True, help="Accept scores that the authors computed with an image mean.")
@click.option(
    "--fold/--no-fold", default=None, help="The layer norm was folded in, or not.  [default: as the names of FILES say]"
)
@click.option("--check/--no-check", default=True, show_default=True, help="Refuse files that do not fit MODEL.")
@details
@options.as_json
def import_reference(
    files: tuple[Path, ...],
    model: str,
    concepts: Path,
    output: Path,
    overwrite: bool,
    loading: dict[str, Any],
    template: str | None,
    image_mean: Path | None,
    without_mean: bool,
    fold: bool | None,
    check: bool,
    as_json: bool,
) -> None:
    """Convert FILES, decompositions of MODEL that the paper's authors publish, to a decomposition.

    A file is a .pt dictionary of scores and indices for one layer; its name holds its settings:
    layer-20_right_foldln_conceptnet_comp-0.3_sparsity-5.pt (left for read directions). Directions and singular values
    come from MODEL, and the scores are compared with weights computed again for MODEL.
    """
    from sith_hf.concepts import ConceptDictionary
    from sith_hf.editor import SithEditor
    from sith_hf.images import mean_for
    from sith_hf.reference import FITS, read_reference
    from sith_hf.reference import import_reference as read
    from sith_hf.towers import read_image_mean

    if image_mean is not None and without_mean:
        raise InputError("--image-mean and --without-mean exclude each other: give one")
    # Check small files before a large model is downloaded.
    for path in files:
        read_reference(path)
    ConceptDictionary.from_file(concepts, template=template)
    if image_mean is not None:
        read_image_mean(image_mean)
    editor = SithEditor.from_pretrained(model, **loading)
    mean = None if image_mean is None else mean_for(editor, image_mean)
    imported = read(
        files,
        editor.tower,
        concepts,
        lambda dictionary: editor.encode(dictionary, progress=messages.progress()),
        name=editor.loaded.title,
        revision=editor.loaded.revision,
        template=template,
        image_mean=mean,
        without_mean=without_mean,
        fold=fold,
        check=check,
        progress=messages.progress(),
    )
    for fit in imported.fits:
        if fit.difference > FITS:
            messages.warn(f"Warning: {fit}. Check the image mean, precision and release of the model.")
    result = imported.decomposition
    saved = save_results(output, overwrite, imported.dictionary, result)
    fits = [vars(fit) for fit in imported.fits]
    show_decomposition(as_json, result, saved, *map(str, imported.fits), fits=fits)
