"""``sith-hf import-reference``: convert decompositions of the paper's authors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sith_hf.cli import options
from sith_hf.cli.output import show_decomposition


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
    help="The authors' image_mean.pt, or the output of sith-hf image-mean. Needed if the authors used one.",
)
@click.option("--check/--no-check", default=True, show_default=True, help="Refuse files that do not fit MODEL.")
@options.as_json
def import_reference(
    files: tuple[Path, ...],
    model: str,
    concepts: Path,
    output: Path,
    loading: dict[str, Any],
    template: str | None,
    image_mean: Path | None,
    check: bool,
    as_json: bool,
) -> None:
    """Convert FILES, decompositions of MODEL that the paper's authors publish, to a decomposition.

    A file is a .pt dictionary of scores and indices for one layer; its name holds its settings:
    layer-20_right_foldln_conceptnet_comp-0.3_sparsity-5.pt. Directions and singular values come from MODEL, and the
    scores are compared with weights fitted to MODEL.
    """
    from sith_hf.editor import SithEditor
    from sith_hf.files import new_folder
    from sith_hf.images import mean_for
    from sith_hf.reference import FITS, numbered_concepts, read_mean, read_reference
    from sith_hf.reference import import_reference as read
    from sith_hf.towers import read_image_mean

    # Check small files before a large model is downloaded.
    for path in files:
        read_reference(path)
    numbered_concepts(concepts, template)
    reader = read_mean if image_mean is not None and image_mean.suffix == ".pt" else read_image_mean
    mean = None if image_mean is None else reader(image_mean)
    editor = SithEditor.from_pretrained(model, **loading)
    if image_mean is not None and reader is read_image_mean:
        mean = mean_for(editor, image_mean)
    imported = read(
        files,
        editor.tower,
        concepts,
        lambda dictionary: editor.encode(dictionary, progress=True),
        name=editor.loaded.name,
        revision=editor.loaded.revision,
        template=template,
        image_mean=mean,
        check=check,
        progress=True,
    )
    for fit in imported.fits:
        if fit.difference > FITS:
            click.echo(f"Warning: {fit}. Check the image mean, precision and release of the model.", err=True)
    result = imported.decomposition
    with new_folder(output, keep_others=True) as folder:
        imported.dictionary.save_pretrained(folder)
        saved = str(output / result.save_pretrained(folder).name)
    fits = [vars(fit) for fit in imported.fits]
    show_decomposition(as_json, result, saved, *map(str, imported.fits), fits=fits)
