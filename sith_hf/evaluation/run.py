"""An evaluation from end to end: tasks over the same data share one pass, and all contenders share every batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sith_hf.cards import shown_name
from sith_hf.core.validation import whole_number
from sith_hf.errors import InputError
from sith_hf.evaluation.collateral import collateral
from sith_hf.evaluation.plan import Collateral, Plan, Retrieval, ZeroShot
from sith_hf.evaluation.result import Evaluation, TaskResult
from sith_hf.evaluation.retrieval import check as check_captions
from sith_hf.evaluation.retrieval import retrieval
from sith_hf.evaluation.zero_shot import Labels, zero_shot
from sith_hf.images import BASE, Check, Embedded, ModelVariant, Source, embed_rows, open_data
from sith_hf.towers import LoadedModel

# From fewer samples a bootstrap draws too little variety to tell how sure a figure is.
FEW = 10

AnyTask = ZeroShot | Retrieval | Collateral


def evaluate(
    variants: Sequence[ModelVariant],
    tasks: Sequence[AnyTask],
    *,
    text: LoadedModel | None,
    batch_size: int = 32,
    precision: str = "no",
    resamples: int = 2000,
    seed: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Evaluate contenders side by side.

    Args:
        variants: one of them named ``"base"``; ``"edited"`` is compared with all others too.
        tasks: what to measure on what, each of another name.
        text: the CLIPModel whose text tower encodes classes and captions; None where no task needs one.
        batch_size: rows at a time, in each process.
        precision: ``"no"`` for the checkpoint's own, ``"bf16"`` or ``"fp16"`` for automatic mixed precision.
        resamples: of the bootstrap; at least 100.
        seed: of the bootstrap.
        progress: show bars on stderr.

    Raises:
        InputError: no base, names that occur twice, contenders that prepare images in different ways, or data that
            cannot be used.
    """
    names = tuple(variant.name for variant in variants)
    if BASE not in names or len(set(names)) < len(names):
        raise InputError(f"contenders have names of their own, one of them base; got {', '.join(names) or 'none'}")
    if len({task.name for task in tasks}) < len(tasks) or not tasks:
        raise InputError("an evaluation has at least one task, and each a name of its own")
    if any(variant.processor is not variants[0].processor for variant in variants):
        prepared = [getattr(c.processor, "to_dict", lambda: None)() for c in variants]
        if any(settings is None or settings != prepared[0] for settings in prepared):
            raise InputError("all contenders see the same batches, so they need one image processor")
    if precision not in ("no", "bf16", "fp16"):
        raise InputError(f"precision is no, bf16 or fp16; got {precision!r}")
    batch_size = whole_number(batch_size, "batch_size", 1)
    resamples = whole_number(resamples, "resamples", 100)

    passes: dict[tuple[str, tuple[str, ...]], list[AnyTask]] = {}
    for task in tasks:
        passes.setdefault((task.data.model_dump_json(exclude={"columns", "sha256"}), _pictures(task)), []).append(task)
    results: dict[str, TaskResult] = {}
    for (_, pictures), together in passes.items():
        source = open_data(together[0].data, progress=progress)
        fits = [_Fit(task, source) for task in together]
        embedded = embed_rows(
            variants,
            source,
            pictures,
            [column for fit in fits for column in fit.columns],
            check=_together(fits),
            batch_size=batch_size,
            precision=precision,
            progress=progress,
        )
        for fit in fits:
            seen = embedded.sha256(fit.columns)
            if fit.task.data.sha256 not in (None, seen):
                raise InputError(
                    f"{fit.task.name}: {source.title} has the sha256 {seen[:12]}..., and the plan was made for "
                    f"{str(fit.task.data.sha256)[:12]}...; use the same data, or take data.sha256 out of the plan"
                )
            measured = fit.measure(embedded, names, text, resamples=resamples, seed=seed, progress=progress)
            results[fit.task.name] = replace(measured, data_sha256=seen, notes=(*measured.notes, *_few(measured)))
    settings = {
        "precision": precision,
        "resamples": resamples,
        "seed": seed,
        "interval": "95 %, paired percentile bootstrap",
        "text_model": None if text is None else shown_name(text.name) if text.revision is None else text.name,
        "unit": "fraction; drift: 1 - cosine",
    }
    return Evaluation(names, tuple(results[task.name] for task in tasks), settings)


def evaluate_plan(
    variants: Sequence[ModelVariant], plan: Plan, *, text: LoadedModel | None, progress: bool = False
) -> Evaluation:
    """:func:`evaluate` with everything that a plan says."""
    return evaluate(
        variants,
        plan.tasks,
        text=text,
        batch_size=plan.batch_size,
        precision=plan.precision,
        resamples=plan.resamples,
        seed=plan.seed,
        progress=progress,
    )


def _few(result: TaskResult) -> tuple[str, ...]:
    fewest = min((measure.samples for measure in result.measures), default=0)
    return (f"as few as {fewest} samples: intervals are too narrow there",) if fewest < FEW else ()


class _Fit:
    """A task, with what it reads of each row besides pictures."""

    def __init__(self, task: AnyTask, source: Source) -> None:
        self.task, self.source = task, source
        self.labels = Labels(task, source) if isinstance(task, ZeroShot) else None
        columns = task.data.columns
        if self.labels is not None:
            self.columns = self.labels.columns
        elif isinstance(task, Retrieval):
            self.columns = tuple(name for name in (columns.caption, columns.unsafe_caption) if name is not None)
        else:
            self.columns = ()

    def check(self, row: Mapping[str, Any], number: int) -> None:
        """Raises InputError where a row does not fit the task."""
        if self.labels is not None:
            self.labels.check(row, number)
        elif isinstance(self.task, Retrieval):
            check_captions(self.task, self.source, row, number)

    def measure(
        self, embedded: Embedded, names: tuple[str, ...], text: LoadedModel | None, **options: Any
    ) -> TaskResult:
        """The task's result."""
        if isinstance(self.task, Retrieval):
            return retrieval(self.task, embedded, names, text, **options)
        if isinstance(self.task, Collateral):
            return collateral(self.task, embedded, names, text, **options)
        return zero_shot(self.task, Labels(self.task, self.source), embedded, names, text, **options)


def _together(fits: Sequence[_Fit]) -> Check:
    def check(row: Mapping[str, Any], number: int) -> None:
        for fit in fits:
            fit.check(row, number)

    return check


def _pictures(task: AnyTask) -> tuple[str, ...]:
    columns = task.data.columns
    unsafe = columns.unsafe_image if isinstance(task, Retrieval) else None
    return (columns.image,) if unsafe is None else (columns.image, unsafe)
