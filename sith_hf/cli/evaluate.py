"""``sith-hf evaluate``: compare an edited model with its base."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sith_hf.cli import messages, options
from sith_hf.cli.answer import details, show_answer
from sith_hf.core.reading import read_text_input
from sith_hf.core.strict_yaml import MAX_CHARACTERS, read_yaml
from sith_hf.errors import InputError

if TYPE_CHECKING:
    from sith_hf.editor import Comparison


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not (name and value):
        raise ValueError
    return name.strip(), value.strip()


PAIRS = options.CommaSeparated("NAME=VALUE,...", _pair, "names and values such as image=picture,label=kind")


@click.command()
@click.argument("base")
@click.argument("edited", required=False)
@options.specs("Evaluate BASE with this edit spec (folder or Hub id) instead of EDITED.")
@click.option("--plan", "plan_path", type=options.PATH, help="A YAML file of tasks, instead of one task by options.")
@options.group(
    "data",
    options.data,
    options.config,
    options.split,
    options.data_revision,
    options.streaming,
    options.limit,
    click.option("--columns", type=PAIRS, help="Column names: image, label, group, caption, unsafe_image, ..."),
)
@click.option(
    "--task",
    type=click.Choice(["zero-shot", "retrieval", "collateral"]),
    default="zero-shot",
    show_default=True,
    help="What to measure on --data.",
)
@click.option("--classes", type=options.TEXTS, help="Class names.  [default: those of the label column]")
@click.option("--template", "templates", multiple=True, help="A prompt with {} for the class; can be repeated.")
@options.group(
    "plan_options",
    options.batch_size,
    click.option("--precision", type=click.Choice(["no", "bf16", "fp16"]), help="Mixed precision.  [default: no]"),
    click.option("--seed", type=int, help="Seed of the bootstrap.  [default: 0]"),
)
@options.model
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="A file for the results as JSON.")
@options.new_files("output")
@details
@options.as_json
def evaluate(
    base: str,
    edited: str | None,
    spec_paths: tuple[str, ...],
    plan_path: Path | None,
    data: dict[str, Any],
    task: str,
    classes: tuple[str, ...] | None,
    templates: tuple[str, ...],
    plan_options: dict[str, Any],
    loading: dict[str, Any],
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure BASE and EDITED, folders or Hub ids, on the same images, with intervals of differences.

    With --output, finished parts are stored in OUTPUT.work until the end: run the same command again to resume after an
    interruption. To use several processes: OMP_NUM_THREADS=N torchrun --nproc_per_node 2 -m sith_hf evaluate ...
    """
    from sith_hf.core.distributed import join_processes

    # First, so that any later error ends every process.
    processes = join_processes()
    if (edited is None) != bool(spec_paths):
        raise InputError("name one model to compare BASE with: EDITED, a folder or Hub id, or --spec")
    if plan_path is not None and (data or classes or templates):
        raise InputError("--plan names data, classes and templates; remove the options for them")
    if plan_path is None and "dataset" not in data:
        raise InputError("no images: name them with --data, or with --plan, a YAML file of tasks")

    from sith_hf.evaluation import Plan, answers

    if plan_path is not None:
        plan = Plan.from_data({**_read(plan_path), **plan_options}, str(plan_path))
    else:
        if "columns" in data:
            data["columns"] = dict(data["columns"])
        if "data_revision" in data:
            data["revision"] = data.pop("data_revision")
        wanted = options.given(classes=classes, templates=templates or None)
        plan = Plan.from_data({"tasks": [{"kind": task, "data": data, **wanted}], **plan_options}, "the options")

    from sith_hf.evaluation import evaluate as evaluate_variants
    from sith_hf.files import ResumableJob
    from sith_hf.images import preprocessing_warning

    comparison = processes.each(lambda: _compared(base, edited, spec_paths, loading))
    if processes.is_main and (warning := preprocessing_warning(base, comparison.variants[0].processor)) is not None:
        messages.warn(warning)
    with ExitStack() as held:
        job = ResumableJob(None, processes)
        if output is not None:
            job = held.enter_context(ResumableJob.beside(output, processes, is_file=True))
        found = evaluate_variants(
            comparison.variants, plan.tasks, text=comparison.text, job=job, progress=messages.progress(), **plan.options
        )
        processes.main_only(lambda: None if output is None else found.save(output))
    if processes.is_main:
        lines = answers(found) or ["no task has a figure"]
        show_answer(as_json, found.to_json(), *lines, *([] if output is None else [output]), rest=[found.table()])


def _compared(base: str, edited: str | None, spec_paths: tuple[str, ...], loading: dict[str, Any]) -> Comparison:
    from sith_hf.editor import Comparison
    from sith_hf.images import EDITED

    if edited is not None:
        return Comparison.from_checkpoints(base, {EDITED: edited}, **loading)
    return Comparison.from_spec(base, options.spec_of(spec_paths), **loading)


def _read(path: Path) -> dict[str, Any]:
    text = read_text_input(path, "the plan", "--plan names a YAML file of tasks", 4 * MAX_CHARACTERS)
    data = read_yaml(text, str(path))
    if not isinstance(data, dict):
        raise InputError(f"{path} is not a plan; expected a mapping with the key tasks")
    return data
