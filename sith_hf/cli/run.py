"""``sith-hf run``: run a recipe."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

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
    help="Set a value of the recipe, such as decompose.layers=[-2,-1] or base.model=openai/clip-vit-base-patch32.",
)
@options.servers
@options.placed
@options.output("all results")
@options.include
@details
@options.as_json
def run(
    recipe: str,
    overrides: tuple[str, ...],
    servers: tuple[str, ...],
    placed: dict[str, str],
    output: Path,
    include: tuple[str, ...],
    overwrite: bool,
    as_json: bool,
) -> None:
    """Run RECIPE, a YAML file or the name of one that comes with sith-hf (see sith-hf recipes).

    The output folder then holds edited/ (the checkpoint), spec/, decomposition/, the results, and recipe.yaml with all
    defaults and fingerprints: running that file again gives the same bytes. Of a recipe that measures fidelity, the
    folder holds the table.

    Finished parts are stored in OUTPUT.work until the end: run the same command again to resume after an interruption.
    To use several processes: OMP_NUM_THREADS=N torchrun --nproc_per_node 2 -m sith_hf run ...
    """
    from sith_hf.core.distributed import join_processes

    # First, so that any later error ends every process.
    processes = join_processes()

    from sith_hf.cards import headline
    from sith_hf.core.escaping import sanitize
    from sith_hf.evaluation import answers
    from sith_hf.recipe import Recipe, run_fidelity, run_recipe

    plan, home = processes.each(lambda: Recipe.load(recipe, overrides))
    if plan.fidelity is not None:
        measure = partial(
            run_fidelity,
            plan,
            output,
            home,
            **placed,
            overwrite=overwrite,
            say=messages.note,
            progress=messages.progress(),
        )
        measured = processes.main_only(measure)
        if measured is not None:
            answer = measured.table.answer()
            show_answer(as_json, measured.to_json(), answer, measured.folder, rest=[measured])
        return
    given: dict[str, Any] = {"overrides": overrides, "include": include, "servers": servers, **placed}
    done = run_recipe(
        recipe,
        output,
        **given,
        overwrite=overwrite,
        processes=processes,
        say=messages.note,
        progress=messages.progress(),
    )
    if processes.is_main:
        edit = headline(done.spec, sanitize)
        lines = [edit] if done.evaluation is None else [*answers(done.evaluation), edit]
        publish = f"{done.folder / 'edited'} (publish it with sith-hf push-edited)"
        show_answer(as_json, done.to_json(), *lines, publish, rest=[done])
