"""Evaluate variants of a model side by side: tasks over the same data share one pass, variants share every batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

from sith_hf.core.escaping import shown_name
from sith_hf.core.validation import whole_number
from sith_hf.errors import InputError
from sith_hf.evaluation.collateral import CollateralRunner
from sith_hf.evaluation.result import Evaluation
from sith_hf.evaluation.retrieval import RetrievalRunner
from sith_hf.evaluation.task import AnyTask, TaskData, TaskRunner
from sith_hf.evaluation.task_result import TaskResult
from sith_hf.evaluation.zero_shot import ZeroShotRunner
from sith_hf.files import ResumableJob
from sith_hf.images import BASE, ImageDataset, ModelVariant, check_processors, embed_rows, open_dataset
from sith_hf.towers import LoadedModel

# With fewer samples, intervals of the bootstrap are too narrow.
FEW = 10

RUNNERS: Mapping[str, type[TaskRunner[Any]]] = MappingProxyType(
    {"zero-shot": ZeroShotRunner, "retrieval": RetrievalRunner, "collateral": CollateralRunner}
)


def evaluate(
    variants: Sequence[ModelVariant],
    tasks: Sequence[AnyTask],
    *,
    text: LoadedModel | None,
    batch_size: int = 32,
    precision: str = "no",
    resamples: int = 2000,
    seed: int = 0,
    job: ResumableJob | None = None,
    step: str = "evaluation",
    progress: bool = False,
) -> Evaluation:
    """Evaluate variants side by side.

    Args:
        variants: one of them named ``"base"``; ``"edited"`` is compared with all others.
        tasks: what to measure on which data, each with its own name.
        text: the model whose text tower encodes classes and captions for all variants without one of their own
            (``ModelVariant.text``); None if no task needs one.
        batch_size: rows at a time, in each process.
        precision: ``"no"`` for the checkpoint's own dtype, ``"bf16"`` or ``"fp16"`` for automatic mixed precision.
        resamples: of the bootstrap; at least 100.
        seed: of the bootstrap.
        job: stores finished parts of the embeddings, and shares parts between processes. The main process computes the
            metrics, and all return them.
        step: the name of this evaluation in the job.
        progress: show bars on stderr.

    Raises:
        InputError: no base, repeated names, variants with different image processors, or unusable data.
    """
    names = tuple(variant.name for variant in variants)
    if BASE not in names or len(set(names)) < len(names):
        raise InputError(f"variants need different names, one of them base; got {', '.join(names) or 'none'}")
    if len({task.name for task in tasks}) < len(tasks) or not tasks:
        raise InputError("an evaluation needs at least one task, and tasks need different names")
    check_processors(variants)
    if precision not in ("no", "bf16", "fp16"):
        raise InputError(f"precision is no, bf16 or fp16; got {precision!r}")
    batch_size = whole_number(batch_size, "batch_size", 1)
    resamples = whole_number(resamples, "resamples", 100)

    texts = tuple(text if variant.text is None else variant.text for variant in variants)
    passes: dict[tuple[str, tuple[str, ...]], list[AnyTask]] = {}
    for task in tasks:
        rows = task.data.model_dump_json(exclude={"columns", "sha256"})
        passes.setdefault((rows, RUNNERS[task.kind].image_columns(task)), []).append(task)
    job = job or ResumableJob()
    progress = progress and job.processes.is_main
    results: dict[str, TaskResult] = {}
    for number, ((_, images), together) in enumerate(passes.items()):
        source, runners = job.processes.each(partial(_opened, together, progress))

        def check(row: Mapping[str, Any], number: int, runners: Sequence[TaskRunner[Any]] = runners) -> None:
            for runner in runners:
                runner.check(row, number)

        embedded = embed_rows(
            variants,
            source,
            images,
            [column for runner in runners for column in runner.columns],
            check=check,
            batch_size=batch_size,
            precision=precision,
            job=job,
            step=f"{step}-{number}",
            progress=progress,
        )
        _check_rows(source, len(embedded) + sum(embedded.skipped.values()))
        data = TaskData(embedded, names, texts, resamples, seed, progress)
        for runner in runners:
            found = job.processes.on_main(partial(runner.run, data))
            expected, seen = runner.task.data.sha256, str(found.data_sha256)
            if expected not in (None, seen):
                raise InputError(
                    f"{found.name}: the data of {source.title} have the sha256 {seen[:12]}..., the plan expects "
                    f"{expected[:12]}...; use the same data, or remove data.sha256 from the plan"
                )
            fewest = min((metric.samples for metric in found.metrics if metric.has_interval), default=FEW)
            few = (f"as few as {fewest} samples: intervals are too narrow there",) if fewest < FEW else ()
            results[found.name] = replace(found, notes=(*found.notes, *source.notes, *few))
    settings = {
        "precision": precision,
        "resamples": resamples,
        "seed": seed,
        "interval": "95 %, paired percentile bootstrap",
        "text_model": None if text is None else shown_name(text.name) if text.revision is None else text.name,
        "unit": "fraction; drift: 1 - cosine",
    }
    return Evaluation(names, dict(sorted(settings.items())), tuple(results[task.name] for task in tasks))


def _opened(together: Sequence[AnyTask], progress: bool) -> tuple[ImageDataset, list[TaskRunner[Any]]]:
    """Open the dataset of tasks over the same rows."""
    source = open_dataset(together[0].data, progress=progress)
    runners = [RUNNERS[task.kind](task, source) for task in together]
    if not source.data.where and source.data.limit is None and isinstance(source.rows, Sized):
        _check_rows(source, len(source.rows))
    return source, runners


def _check_rows(source: ImageDataset, found: int) -> None:
    """Raise InputError unless a dataset has the number of rows that its settings expect."""
    expected = source.data.rows
    if expected not in (None, found):
        raise InputError(
            f"{source.title} has {found:,} rows, the plan expects {expected:,}: use the same split, or remove "
            "data.rows from the plan"
        )
