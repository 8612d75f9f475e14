"""``sith-hf fidelity``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sith_hf.cli.decompose import _concepts
from sith_hf.cli.options import Numbers, echo_json, given, json_option, model_options
from sith_hf.core.escaping import sanitize
from sith_hf.errors import InputError

if TYPE_CHECKING:
    from sith_hf.fidelity import FidelityTable


class Floats(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases of click
    """Numbers separated by commas, such as ``0.1,0.3``."""

    name = "X,X,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(item) for item in str(value).split(","))
        except ValueError:
            self.fail(f"{sanitize(str(value))!r} is not a list of numbers such as 0.1,0.3", param, ctx)


class Names(click.ParamType):  # type: ignore[type-arg]
    """Names separated by commas, such as ``comp,omp``."""

    name = "NAME,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(item.strip() for item in str(value).split(","))


@click.command()
@click.argument("model")
@model_options
@click.option("--concepts", type=click.Path(path_type=Path), help="Text file, UTF-8, one concept a line.")
@click.option("--dictionary", help="An encoded dictionary: folder or Hub id.")
@click.option("--dataset", help="A dataset with a column of concepts: folder or Hub id (with --column).")
@click.option("--column", help="The column of --dataset.")
@click.option("--template", help='Prompt for each concept, such as "a photo of a {}".')
@click.option("--layers", type=Numbers(), help="Layers, negative ones from the last.  [default: all]")
@click.option("--rank", type=int, help="Singular vectors per head.  [default: all]")
@click.option("--poles", type=click.Choice(["+-", "+"]), help="Both poles, or only + as in the paper.  [default: +-]")
@click.option(
    "--methods", type=Names(), help="Of comp, omp, mp, top-k, lasso.  [default: all; lasso needs scikit-learn]"
)
@click.option("--sparsities", type=Numbers(), help="Concepts per explanation.  [default: 5,10,20,50]")
@click.option("--coherence-weights", type=Floats(), help="The lambdas of comp.  [default: 0.1,0.3,0.5]")
@click.option("--fold/--no-fold", default=None, help="Fold the layer norm into the heads.  [default: fold]")
@click.option("--centre/--no-centre", default=None, help="Drop the all-ones direction.  [default: as --fold]")
@click.option(
    "--image-mean",
    type=click.Path(path_type=Path),
    help="What sith-hf image-mean wrote, or a safetensors file with one vector, image_mean.",
)
@click.option("--weight", type=click.Choice(["equal", "energy"]), help="Weight of vectors in means.  [default: equal]")
@click.option(
    "--null",
    type=click.Choice(["residual", "head", "none"]),
    default="residual",
    show_default=True,
    help="Random directions of the residual stream, or of each head's write space (stricter).",
)
@click.option("--draws", type=int, help="Number of random directions.  [default: 999; 199 per head with --null head]")
@click.option("--seed", type=int, help="Seed of the random directions.  [default: 0]")
@click.option("--level", type=float, help="False discovery rate of significant vectors.  [default: 0.05]")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a chart, a .png file (needs matplotlib).")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write a .csv file with a row for every vector.")
@json_option
def fidelity(
    model: str,
    revision: str | None,
    text_model: str | None,
    concepts: Path | None,
    dictionary: str | None,
    dataset: str | None,
    column: str | None,
    template: str | None,
    methods: tuple[str, ...] | None,
    sparsities: tuple[int, ...] | None,
    coherence_weights: tuple[float, ...] | None,
    layers: tuple[int, ...] | None,
    rank: int | None,
    poles: str | None,
    fold: bool | None,
    centre: bool | None,
    image_mean: Path | None,
    null: str,
    plot: Path | None,
    output: Path | None,
    as_json: bool,
    **settings: object,
) -> None:
    """Measure fidelity and coherence of explanations of MODEL by method and sparsity, and against chance.

    Every method explains every vector and pole of the layers at every sparsity, and random directions too. Fidelity is
    the cosine between a direction and its reconstruction from the explanation; coherence is the mean cosine between
    its concepts. A p-value is the share of random directions with at least this fidelity; the last column counts
    vectors at a false discovery rate of --level.
    """
    if output is not None and output.suffix != ".csv":
        raise InputError(f"{output}: the table of vectors is a CSV file; use a name that ends with .csv")
    source = _concepts(concepts, dictionary, dataset, column, template)

    from sith_hf.core.tables import table
    from sith_hf.decomposition import DecomposeSettings
    from sith_hf.editor import SithEditor
    from sith_hf.fidelity import fidelity_table, grid
    from sith_hf.towers import read_image_mean

    if plot is not None:
        from sith_hf.fidelity import check_plot, fidelity_chart

        check_plot(plot)
    if methods is None:
        methods = _installed()
    pursuits = grid(**given(methods=methods, sparsities=sparsities, coherence_weights=coherence_weights))
    editor = SithEditor.from_pretrained(model, revision, text_model=text_model)
    mean = None if image_mean is None else read_image_mean(image_mean, editor.tower)
    vectors = DecomposeSettings(
        image_mean=mean, **given(layers=layers, rank=rank, poles=poles, fold=fold, centre=centre)
    )
    vectors.check(editor.tower)
    result = fidelity_table(
        editor.tower,
        editor.encode(source, progress=True),
        pursuits,
        vectors,
        null=None if null == "none" else null,
        progress=True,
        **given(**settings),
    )
    if output is not None:
        _write(output, result)
    if plot is not None:
        fidelity_chart(result, plot)
    if as_json:
        echo_json(result.to_json())
        return
    click.echo(table(*result.rows()))
    click.echo(
        f"{result.count} explanations a row, weighted {'equally' if result.weight == 'equal' else 'by energy'}; "
        f"mean ceiling of fidelity {float(result.ceiling.double().mean()):.3f}"
    )
    if result.null is not None:
        where = "each head's write space" if result.null == "head" else "the residual stream"
        click.echo(
            f"null: {result.draws} random directions of {where}, seed {result.seed}; "
            f"smallest possible p-value {1 / (1 + result.draws):.2g}"
        )
    for path in (output, plot):
        if path is not None:
            click.echo(f"{path}")


def _installed() -> tuple[str, ...]:
    """Return all methods, without lasso if scikit-learn is missing, and print a note about that."""
    from importlib.util import find_spec

    from sith_hf.pursuit import METHODS

    if find_spec("sklearn") is not None:
        return tuple(METHODS)
    click.echo('lasso is skipped: it needs scikit-learn, pip install "sith-hf[lasso]"', err=True)
    return tuple(name for name in METHODS if name != "lasso")


def _write(path: Path, result: FidelityTable) -> None:
    import csv
    import io

    from sith_hf.files import write_whole

    rows = list(result.vectors())
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode("ascii"))
