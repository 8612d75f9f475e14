"""``sith-hf import-reference``."""

from __future__ import annotations

from pathlib import Path

import click

from sith_hf.cli.options import echo_json, json_option, model_options, output_option


@click.command(name="import-reference")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("model")
@click.option(
    "--concepts",
    type=click.Path(path_type=Path),
    required=True,
    help="The authors' text file of concepts, one a line.",
)
@output_option("decomposition.safetensors and dictionary.safetensors")
@model_options
@click.option("--template", help="The authors' prompt template, if they used one.")
@click.option(
    "--image-mean",
    type=click.Path(path_type=Path),
    help="The authors' image_mean.pt, or what sith-hf image-mean wrote. Needed if the authors used one.",
)
@click.option("--check/--no-check", default=True, show_default=True, help="Refuse files that do not fit MODEL.")
@json_option
def import_reference(
    files: tuple[Path, ...],
    model: str,
    concepts: Path,
    output: Path,
    revision: str | None,
    text_model: str | None,
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
    from sith_hf.reference import FITS, numbered_concepts, read_mean, read_reference
    from sith_hf.reference import import_reference as read
    from sith_hf.towers import read_image_mean

    # Check small files before a large model is downloaded.
    for path in files:
        read_reference(path)
    numbered_concepts(concepts, template)
    theirs = image_mean is not None and image_mean.suffix == ".pt"
    mean = None
    if image_mean is not None:
        mean = read_mean(image_mean) if theirs else read_image_mean(image_mean)
    editor = SithEditor.from_pretrained(model, revision, text_model=text_model)
    if image_mean is not None and not theirs:
        mean = read_image_mean(image_mean, editor.tower)
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
    result = imported.decomposition
    for fit in imported.fits:
        if fit.difference > FITS:
            click.echo(f"Warning: {fit}. Is the image mean, precision or release of the model another one?", err=True)
    with new_folder(output, keep_others=True) as folder:
        imported.dictionary.save_pretrained(folder)
        path = output / result.save_pretrained(folder).name
    if as_json:
        echo_json(
            {
                "decomposition": str(path),
                "layers": list(result.layers),
                "heads": result.num_heads,
                "vectors": result.rank,
                "fidelity": float(result.fidelity.mean()),
                "fits": [vars(fit) for fit in imported.fits],
                "settings": dict(result.settings),
            }
        )
        return
    click.echo(f"{result!r}")
    for fit in imported.fits:
        click.echo(str(fit))
    click.echo(f"mean fidelity {result.fidelity.mean():.3f} of at most {result.ceiling.mean():.3f}")
    click.echo(f"{path}")
