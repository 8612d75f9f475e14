"""``sith-hf tune``: search better edits of a recipe."""

from __future__ import annotations

from pathlib import Path

import click

from sith_hf.cli import messages, options
from sith_hf.cli.answer import details, show_answer


@click.command()
@click.argument("recipe")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a value of the recipe, such as tune.trials=200 or tune.max_vectors=10.",
)
@options.servers
@options.placed
@options.output("the results")
@details
@options.as_json
def tune(
    recipe: str,
    overrides: tuple[str, ...],
    servers: tuple[str, ...],
    placed: dict[str, str],
    output: Path,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Search thresholds, strengths, layers and the number of vectors of RECIPE, a YAML file with a part tune.

    Trials look at validation data only; the data that the recipe reports are looked at once, at the end. The output
    folder then holds recipe.yaml (the chosen edit, for sith-hf run), tune.json, trials.db (all trials, for Optuna),
    pareto.png and results.json.

    Finished trials are stored in OUTPUT.work until the end: run the same command again to resume after an interruption.
    To use several processes: OMP_NUM_THREADS=N torchrun --nproc_per_node 2 -m sith_hf tune ...
    """
    from sith_hf.core.distributed import join_processes

    # First, so that any later error ends every process.
    processes = join_processes()

    from sith_hf.evaluation import answers
    from sith_hf.tuning import tune_recipe

    done = tune_recipe(
        recipe,
        output,
        overrides=overrides,
        servers=servers,
        **placed,
        overwrite=overwrite,
        processes=processes,
        say=messages.note,
        progress=processes.is_main and messages.progress(),
    )
    if processes.is_main:
        lines = [] if done.evaluation is None else answers(done.evaluation)
        recipe = f"{done.to_json()['recipe']} (write the edit with sith-hf run)"
        show_answer(as_json, done.to_json(), done.answer(), *lines, recipe, rest=[done])
