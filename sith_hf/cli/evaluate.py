"""``sith-hf evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sith_hf.cli.options import echo_json, given, json_option, model_options
from sith_hf.errors import InputError

if TYPE_CHECKING:
    from sith_hf.evaluation import Plan


class Pairs(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases of click
    """Names with values, such as ``image=picture,label=kind``."""

    name = "NAME=VALUE,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, str]:
        if isinstance(value, dict):
            return value
        pairs = [item.partition("=") for item in str(value).split(",")]
        if not all(name and separator and text for name, separator, text in pairs):
            self.fail("expected names and values such as image=picture,label=kind", param, ctx)
        return {name.strip(): text.strip() for name, _, text in pairs}


@click.command()
@click.argument("base")
@click.argument("edited", required=False)
@click.option("--spec", "spec_path", help="Evaluate BASE with this edit spec (folder or Hub id) instead of EDITED.")
@click.option(
    "--plan", "plan_path", type=click.Path(path_type=Path), help="A YAML file of tasks, instead of one task by options."
)
@click.option("--data", help="Images: a Hub dataset, a folder, or a Parquet file.")
@click.option("--config", help="The configuration of a dataset with several.")
@click.option("--split", help="The split of a dataset with several.")
@click.option("--streaming", is_flag=True, help="Read rows as a stream, without a copy on disk.")
@click.option("--limit", type=int, help="Use only the first N rows.")
@click.option("--columns", type=Pairs(), help="Column names: image, label, group, caption, unsafe_image, ...")
@click.option(
    "--task",
    type=click.Choice(["zero-shot", "retrieval", "collateral"]),
    default="zero-shot",
    show_default=True,
    help="What to measure on --data.",
)
@click.option("--classes", help="Class names separated by commas.  [default: those of the label column]")
@click.option("--template", "templates", multiple=True, help="A prompt with {} for the class; can be repeated.")
@click.option("--batch-size", type=int, help="Images at a time.  [default: 32]")
@click.option("--precision", type=click.Choice(["no", "bf16", "fp16"]), help="Mixed precision.  [default: no]")
@click.option("--seed", type=int, help="Seed of the bootstrap.  [default: 0]")
@model_options
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="A file for the results as JSON.")
@json_option
def evaluate(
    base: str,
    edited: str | None,
    spec_path: str | None,
    plan_path: Path | None,
    data: str | None,
    config: str | None,
    split: str | None,
    streaming: bool,
    limit: int | None,
    columns: dict[str, str] | None,
    task: str,
    classes: str | None,
    templates: tuple[str, ...],
    batch_size: int | None,
    precision: str | None,
    seed: int | None,
    revision: str | None,
    text_model: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure BASE and EDITED, folders or Hub ids, on the same images, with intervals of differences."""
    if (edited is None) == (spec_path is None):
        raise InputError("name one model to compare BASE with: EDITED, a folder or Hub id, or --spec")
    source = given(dataset=data, name=config, split=split, limit=limit, columns=columns)
    wanted = given(classes=None if classes is None else [name.strip() for name in classes.split(",")])
    if templates:
        wanted["templates"] = list(templates)
    if plan_path is not None and (source or wanted or streaming):
        raise InputError("--plan names data, classes and templates; remove the options for them")
    if plan_path is None and data is None:
        raise InputError("no images: name them with --data, or with --plan, a YAML file of tasks")

    from sith_hf.evaluation import Plan

    options = given(batch_size=batch_size, precision=precision, seed=seed)
    if plan_path is None:
        plan = Plan.from_data(
            {"tasks": [{"kind": task, "data": {**source, "streaming": streaming}, **wanted}], **options}, "the options"
        )
    else:
        plan = _read(plan_path, options)

    from accelerate import PartialState

    from sith_hf.edits import EditSpec
    from sith_hf.evaluation import evaluate as evaluate_variants
    from sith_hf.images import EDITED, Comparison

    where = given(revision=revision, text_model=text_model)
    if edited is not None:
        comparison = Comparison.from_checkpoints(base, {EDITED: edited}, **where)
    else:
        comparison = Comparison.from_spec(base, EditSpec.from_pretrained(str(spec_path)), **where)
    found = evaluate_variants(comparison.variants, plan.tasks, text=comparison.text, progress=True, **plan.options)
    if not PartialState().is_main_process:  # the state that the evaluation made
        return
    if output is not None:
        found.save(output)
    if as_json:
        echo_json(found.to_json())
    else:
        click.echo(found.table() if output is None else f"{found.table()}\n\n{output}")


def _read(path: Path, options: dict[str, Any]) -> Plan:
    from sith_hf.evaluation import Plan
    from sith_hf.recipe import read_yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({' '.join(str(error).split())[:200]})") from None
    data = read_yaml(text, str(path))
    if not isinstance(data, dict):
        raise InputError(f"{path} is not a plan; expected a mapping with the key tasks")
    return Plan.from_data({**data, **options}, str(path))
