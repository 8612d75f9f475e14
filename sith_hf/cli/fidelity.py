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
@click.option("--rank", type=int, help="Singular vectors looked at per head.  [default: all]")
@click.option("--poles", type=click.Choice(["+-", "+"]), help="Both poles, or one as in the paper.  [default: +-]")
@click.option(
    "--methods", type=Names(), help="Of comp, omp, mp, top-k, lasso.  [default: all; lasso if scikit-learn is there]"
)
@click.option("--sparsities", type=Numbers(), help="Concepts per explanation.  [default: 5,10,20,50]")
@click.option("--coherence-weights", type=Floats(), help="The lambdas of comp.  [default: 0.1,0.3,0.5]")
@click.option("--fold/--no-fold", default=None, help="Fold the layer norm into what heads read.  [default: fold]")
@click.option("--centre/--no-centre", default=None, help="Drop the all-ones direction.  [default: as --fold]")
@click.option("--image-mean", type=click.Path(path_type=Path), help="Safetensors file with one vector, image_mean.")
@click.option("--weight", type=click.Choice(["equal", "energy"]), help="How vectors count in means.  [default: equal]")
@click.option(
    "--null",
    type=click.Choice(["residual", "head", "none"]),
    default="residual",
    show_default=True,
    help="Random directions of the residual stream, or (stricter) of what each head writes.",
)
@click.option("--draws", type=int, help="Random directions.  [default: 999; 199 for each head with --null head]")
@click.option("--seed", type=int, help="Of the random directions.  [default: 0]")
@click.option("--level", type=float, help="False discovery rate at which vectors are counted.  [default: 0.05]")
@click.option("--plot", type=click.Path(path_type=Path), help="Write a picture, a .png (needs matplotlib).")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write a CSV with a row for every vector.")
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
    """Measure how faithful and how coherent explanations of MODEL are, by method and by length, and against chance.

    Every vector and pole of the chosen layers is explained by every method at every sparsity, and so are random
    directions. Fidelity is the cosine between a direction and what its explanation rebuilds; coherence the mean
    cosine between its concepts. A p-value is the share of random directions that are explained as well; the last
    column counts those that remain at a false discovery rate of --level.
    """
    if output is not None and output.suffix != ".csv":
        raise InputError(f"{output}: the table of all vectors is a CSV; give a name that ends with .csv")
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
        where = "what each head writes" if result.null == "head" else "the residual stream"
        click.echo(
            f"null: {result.draws} random directions of {where}, seed {result.seed}; "
            f"the smallest p-value possible is {1 / (1 + result.draws):.2g}"
        )
    for path in (output, plot):
        if path is not None:
            click.echo(f"{path}")


def _installed() -> tuple[str, ...]:
    """All methods; without lasso, which is then said, where scikit-learn is missing."""
    from importlib.util import find_spec

    from sith_hf.pursuit import METHODS

    if find_spec("sklearn") is not None:
        return tuple(METHODS)
    click.echo('lasso is left out: it needs scikit-learn, pip install "sith-hf[lasso]"', err=True)
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
