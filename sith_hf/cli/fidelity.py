"""``sith-hf fidelity``: measure explanations by method and against chance."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from sith_hf.cli import messages, options
from sith_hf.cli.answer import details, show_answer
from sith_hf.errors import InputError

WEIGHTS = options.CommaSeparated("X,X,...", float, "numbers such as 0.1,0.3")


@click.command()
@click.argument("model")
@options.tower
@options.model
@options.dictionary
@options.vectors
@options.group(
    "grid_options",
    click.option(
        "--methods",
        type=options.TEXTS,
        help="Sparse coders, such as comp,omp.  [default: all; lasso needs scikit-learn]",
    ),
    click.option("--sparsities", type=options.NUMBERS, help="Concepts per explanation.  [default: 5,10,20,50]"),
    click.option("--coherence-weights", type=WEIGHTS, help="The lambdas of comp.  [default: 0.1,0.3,0.5]"),
)
@options.folding
@options.image_mean
@options.group(
    "test",
    click.option(
        "--weight", type=click.Choice(["equal", "energy"]), help="Weight of vectors in means.  [default: equal]"
    ),
    click.option(
        "--null",
        type=click.Choice(["residual", "head", "none"]),
        default="residual",
        show_default=True,
        help="Random directions of the residual stream, or of each head's write space (stricter).",
    ),
    click.option(
        "--draws", type=int, help="Number of random directions.  [default: 999; 199 per head with --null head]"
    ),
    click.option("--seed", type=int, help="Seed of the random directions.  [default: 0]"),
    click.option("--level", type=float, help="False discovery rate of significant vectors.  [default: 0.05]"),
)
@click.option("--plot", type=options.PATH, help="Write a chart, a .png file (needs matplotlib).")
@click.option("-o", "--output", type=options.PATH, help="Write a .csv file with a row for every vector.")
@options.new_files("output", "plot")
@details
@options.as_json
def fidelity(
    model: str,
    loading: dict[str, Any],
    words: dict[str, Any],
    vectors: dict[str, Any],
    grid_options: dict[str, Any],
    image_mean: Path | None,
    test: dict[str, Any],
    plot: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure fidelity and coherence of explanations of MODEL by method and sparsity, and against chance.

    Every method explains every vector and pole of the layers at every sparsity, and random directions too. Fidelity is
    the cosine between a direction and its reconstruction from the explanation; coherence is the mean cosine between
    its concepts. A p-value is the share of random directions with at least this fidelity; the last column counts
    vectors at a false discovery rate of --level.
    """
    if output is not None and output.suffix != ".csv":
        raise InputError(f"{output}: the table of vectors is a CSV file; use a name that ends with .csv")
    source = options.dictionary_of(**words)

    from sith_hf.core.escaping import sanitize
    from sith_hf.core.tables import table
    from sith_hf.decomposition import DecomposeSettings
    from sith_hf.editor import SithEditor
    from sith_hf.fidelity import check_plot, fidelity_chart, fidelity_table, grid, vectors_csv
    from sith_hf.files import write_whole
    from sith_hf.images import mean_for
    from sith_hf.pursuit import METHODS

    if plot is not None:
        check_plot(plot)
    if "methods" not in grid_options and find_spec("sklearn") is None:
        messages.note('lasso is skipped: it needs scikit-learn, pip install "sith-hf[lasso]"')
        grid_options["methods"] = tuple(name for name in METHODS if name != "lasso")
    pursuits = grid(**grid_options)
    editor = SithEditor.from_pretrained(model, **loading)
    mean = None if image_mean is None else mean_for(editor, image_mean)
    settings = DecomposeSettings(image_mean=mean, **vectors)
    settings.check(editor.tower)
    null = None if test["null"] == "none" else test["null"]
    encoded = editor.encode(source, progress=messages.progress())
    result = fidelity_table(
        editor.tower, encoded, pursuits, settings, progress=messages.progress(), **{**test, "null": null}
    )
    if output is not None:
        write_whole(output, vectors_csv(result).encode("ascii"))
    if plot is not None:
        fidelity_chart(result, plot)
    ways = "; ".join(way.title for way, _ in editor.tower.readouts)
    lines = [
        f"{editor.tower.kind} tower, read out by {sanitize(ways, 400)}",
        f"{result.count} explanations per row, weighted {'equally' if result.weight == 'equal' else 'by energy'}; "
        f"mean ceiling of fidelity {float(result.ceiling.double().mean()):.3f}",
    ]
    if result.null is not None:
        where = "each head's write space" if result.null == "head" else "the residual stream"
        lines.append(
            f"null: {result.draws} random directions of {where}, seed {result.seed}; "
            f"smallest possible p-value {result.smallest_p:.2g}"
        )
    files = (path for path in (output, plot) if path is not None)
    data = {"tower": editor.tower.kind, "readout": ways, **result.to_json()}
    show_answer(as_json, data, result.answer(), table(*result.rows()), *files, rest=lines)
