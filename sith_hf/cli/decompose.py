"""``sith-hf decompose``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sith_hf.cli.options import Numbers, echo_json, given, json_option, model_options, output_option
from sith_hf.errors import InputError

if TYPE_CHECKING:
    from sith_hf.concepts import ConceptDictionary


# For dictionaries of this size or more the required memory is printed first.
LARGE = 100_000


@click.command()
@click.argument("model")
@output_option("decomposition.safetensors and dictionary.safetensors")
@model_options
@click.option("--concepts", type=click.Path(path_type=Path), help="A text file of concepts: UTF-8, one per line.")
@click.option("--dictionary", help="An encoded dictionary: folder or Hub id.")
@click.option("--dataset", help="A dataset with a column of concepts: folder or Hub id (with --column).")
@click.option("--column", help="The column of --dataset.")
@click.option("--template", help='Prompt for each concept, such as "a photo of a {}".')
@click.option(
    "--layers", type=Numbers(), help="Layer numbers, negative ones from the last, such as -4,-3,-2,-1.  [default: all]"
)
@click.option("--rank", type=int, help="Singular vectors kept per head.  [default: all]")
@click.option(
    "--poles", type=click.Choice(["+-", "+"]), help="Explain both poles, or + only as in the paper.  [default: +-]"
)
@click.option("--method", help="Sparse coder: comp, omp, mp, top-k or lasso.  [default: comp]")
@click.option("--sparsity", type=int, help="Concepts per explanation.  [default: 5]")
@click.option("--coherence-weight", type=float, help="Coherence weight lambda, for comp only.  [default: 0.3]")
@click.option("--fold/--no-fold", default=None, help="Fold the layer norm into the read directions.  [default: fold]")
@click.option("--centre/--no-centre", default=None, help="Drop the all-ones direction.  [default: as --fold]")
@click.option(
    "--image-mean",
    type=click.Path(path_type=Path),
    help="Output of sith-hf image-mean, or a safetensors file with a vector image_mean.",
)
@json_option
def decompose(
    model: str,
    output: Path,
    revision: str | None,
    text_model: str | None,
    concepts: Path | None,
    dictionary: str | None,
    dataset: str | None,
    column: str | None,
    template: str | None,
    image_mean: Path | None,
    method: str | None,
    sparsity: int | None,
    coherence_weight: float | None,
    as_json: bool,
    **settings: object,
) -> None:
    """Explain the attention heads of MODEL, a folder or Hub id of a CLIP checkpoint.

    The concepts come from --concepts, --dictionary or --dataset, or else from a built-in list of everyday concepts.

    Finished parts are stored in OUTPUT.work until the end: run the same command again to resume after an interruption.
    To use several processes: OMP_NUM_THREADS=N torchrun --nproc_per_node 2 -m sith_hf decompose ...
    """
    from sith_hf.core.distributed import device_of_this_process, join_processes

    # First, so that any later error ends every process.
    processes = join_processes()
    source = _concepts(concepts, dictionary, dataset, column, template)

    from sith_hf.decomposition import DecomposeSettings
    from sith_hf.editor import SithEditor
    from sith_hf.files import ResumableJob, new_folder
    from sith_hf.pursuit import ROWS, Pursuit
    from sith_hf.towers import read_image_mean

    pursuit = Pursuit(**given(method=method, sparsity=sparsity, coherence_weight=coherence_weight))
    editor = SithEditor.from_pretrained(model, revision, text_model=text_model)
    mean = None if image_mean is None else read_image_mean(image_mean, editor.tower)
    chosen = DecomposeSettings(pursuit=pursuit, image_mean=mean, **given(**settings))
    chosen.check(editor.tower, len(source))  # before hours of work
    if processes.is_main and len(source) >= LARGE:
        most = pursuit.memory(ROWS, len(source), editor.tower.require_projection().shape[0])
        click.echo(f"explaining needs at most {most / 1e9:.1f} GB beside the model and the dictionary", err=True)
    with ResumableJob.beside(output, processes) as job:
        encoded = editor.encode(source, job=job, progress=True)
        result = editor.decompose(encoded, chosen, device=device_of_this_process(), job=job, progress=True)

        def write() -> str:
            with new_folder(output, keep_others=True) as folder:
                encoded.save_pretrained(folder)
                return str(output / result.save_pretrained(folder).name)

        path = processes.on_main(write)
    if not processes.is_main:
        return
    if as_json:
        echo_json(
            {
                "decomposition": path,
                "layers": list(result.layers),
                "heads": result.num_heads,
                "vectors": result.rank,
                "poles": list(result.poles),
                "concepts": len(source),
                "blank": source.blank,
                "duplicates": source.duplicates,
                "fidelity": float(result.fidelity.mean()),
                "settings": dict(result.settings),
                "processes": processes.world_size,
            }
        )
        return
    click.echo(f"{result!r}")
    click.echo(f"{encoded!r}")
    click.echo(f"mean fidelity {result.fidelity.mean():.3f} of at most {result.ceiling.mean():.3f}")
    click.echo(path)


def _concepts(
    path: Path | None, dictionary: str | None, dataset: str | None, column: str | None, template: str | None
) -> ConceptDictionary:
    if sum(item is not None for item in (path, dictionary, dataset)) > 1:
        raise InputError("--concepts, --dictionary and --dataset exclude each other: give only one")
    if (dataset is None) != (column is None):
        raise InputError("--dataset and --column need each other: give both")
    if dictionary is not None and template is not None:
        raise InputError("--template has no effect on --dictionary, which is already encoded: leave one out")

    from sith_hf.concepts import ConceptDictionary

    if path is not None:
        return ConceptDictionary.from_file(path, template=template)
    if dictionary is not None:
        return ConceptDictionary.from_pretrained(dictionary)
    if dataset is not None and column is not None:
        return ConceptDictionary.from_dataset(dataset, column, template=template)
    return ConceptDictionary.builtin(template=template)
