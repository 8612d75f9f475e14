"""Choose gains as the edits of a recipe say: ask judges and apply rules, in the recipe's order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import cached_assets_path

from sith_hf.concepts import ConceptDictionary
from sith_hf.decomposition import Decomposition
from sith_hf.editor import SithEditor
from sith_hf.edits import EditSpec, make_spec
from sith_hf.errors import InputError
from sith_hf.gains import (
    Gains,
    Keep,
    Scores,
    Selection,
    budgeted,
    by_concepts,
    by_name,
    by_relevance,
    by_threshold,
    class_task,
    drift_shares,
    level_offset,
    task_relevance,
    three_way,
    topic_shares,
)
from sith_hf.judges import JudgeSettings, make_judge
from sith_hf.recipe.edit_rules import (
    BudgetEdit,
    EditStep,
    RelevanceEdit,
    ShareEdit,
    ThreeWayEdit,
    ThresholdEdit,
    VectorsEdit,
)
from sith_hf.recipe.recipe import Recipe
from sith_hf.towers import fill_template


@dataclass(frozen=True, eq=False)
class ChosenEdit:
    """The edit that a recipe chooses.

    Attributes:
        gains: the chosen vectors and the protected ones, with reasons.
        spec: the edit.
        scores: the judges' scores by a name such as "0-judge" or "0-keep": the number of the edit and its field.
    """

    gains: Gains
    spec: EditSpec
    scores: dict[str, Scores]


@dataclass(frozen=True, eq=False)
class _Chooser:
    """The model, its explanations and the judges' scores so far."""

    editor: SithEditor
    decomposition: Decomposition
    concepts: ConceptDictionary
    folder: Path
    token: str | None
    transcripts: Path | None
    say: Callable[[str], object]
    progress: bool
    scores: dict[str, Scores] = field(default_factory=dict)

    def gains(self, number: int, step: EditStep) -> Gains:
        """The gains of one edit."""
        select = Selection(step.layers, step.heads, getattr(step, "both_poles", False))
        match step:
            case ShareEdit():
                queries = self.editor.embed(*step.concepts, decomposition=self.decomposition)
                return by_concepts(
                    self.decomposition, queries, step.gain, threshold=step.threshold, near=step.near, select=select
                )
            case VectorsEdit():
                return by_name(
                    self.decomposition, step.gain, layers=step.layers, heads=step.heads, vectors=step.vectors
                )
            case RelevanceEdit():
                task = class_task(
                    self.editor.encode(self.concepts),
                    fill_template(step.classes, step.template),
                    self.editor.embed,
                    leave_out=step.classes if step.leave_out is None else step.leave_out,
                    sparsity=step.sparsity,
                    coherence_weight=step.coherence_weight,
                )
                relevant = task_relevance(self.decomposition, task.embeddings)
                offset = step.offset
                if isinstance(offset, str):
                    offset = level_offset(self.decomposition, relevant)
                limits: dict[str, Any] = {"floor": step.floor, "ceiling": step.ceiling, "offset": offset}
                return by_relevance(self.decomposition, relevant, **limits, select=select)
        scores = self.judged(f"{number}-judge", step.judge)
        keep = None
        if step.keep is not None:
            keep = Keep(self.judged(f"{number}-keep", step.keep), step.keep_threshold, step.keep_gain)
        match step:
            case ThreeWayEdit():
                borders = {"invert_from": step.invert_from, "remove_from": step.remove_from}
                return three_way(scores, self.decomposition, **borders, keep=keep, select=select)
            case ThresholdEdit():
                found = by_threshold(
                    scores, self.decomposition, threshold=step.threshold, gain=step.gain, keep=keep, select=select
                )
        if not isinstance(step, BudgetEdit):
            return found
        share = topic_shares(scores, self.decomposition, select)
        drift = drift_shares(self.editor.tower, self.decomposition)
        return budgeted(self.decomposition, found, share, drift, step.limit, whole=step.whole)

    def judged(self, name: str, settings: JudgeSettings) -> Scores:
        """The scores of a judge; they are kept under ``name``."""
        written = None if self.transcripts is None else self.transcripts / f"{name}.jsonl"
        judge = make_judge(
            settings, self.editor.embed, folder=self.folder, cache=_answers(), transcript=written, token=self.token
        )
        found = judge.score(self.decomposition, progress=self.progress)
        self.say(repr(found))
        self.scores[name] = found
        return found


def choose(
    recipe: Recipe,
    editor: SithEditor,
    decomposition: Decomposition,
    concepts: ConceptDictionary,
    folder: Path,
    *,
    token: str | None = None,
    transcripts: Path | None = None,
    say: Callable[[str], object] = lambda line: None,
    progress: bool = False,
) -> ChosenEdit:
    """Choose what a recipe edits. Gains of a vector that two edits choose multiply.

    Args:
        recipe: its edits.
        editor, decomposition, concepts: the model, its explained vectors, and the dictionary of the explanations.
        folder: where relative paths of the recipe start.
        token: for a language model on the Hub; the usual places when None.
        transcripts: a folder for the questions and answers of language models, a file for each judge.
        say: is called with a line on each judge's scores.
        progress: show bars on stderr.

    Raises:
        InputError: an edit that chooses no vector, or values that its rule refuses.
        HubError: a judge on a server refused, failed or could not be reached.
    """
    chooser = _Chooser(
        editor.with_decomposition(decomposition), decomposition, concepts, folder, token, transcripts, say, progress
    )
    gains = Gains()
    for number, step in enumerate(recipe.edits):
        found = chooser.gains(number, step)
        if not found:
            protected = f" ({len(found.protected)} are protected by keep)" if found.protected else ""
            raise InputError(
                f"edits.{number}: the rule {step.rule} chooses no vector{protected}; look with sith-hf find, or lower "
                "the threshold"
            )
        gains = gains.then(found)
    return ChosenEdit(gains, make_spec(editor.tower, decomposition, gains), chooser.scores)


def _answers() -> Path:
    """Where answers of language models are kept, so that no question is paid for twice: beside the Hub's cache."""
    return cached_assets_path("sith-hf", namespace="judge", subfolder="answers")
