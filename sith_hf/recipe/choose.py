"""From the edits of a recipe to gains: judges are asked, rules applied, in the recipe's order."""

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
    Scores,
    budgeted,
    by_concepts,
    by_name,
    by_relevance,
    by_threshold,
    class_task,
    drift_shares,
    level_offset,
    relevance,
    three_way,
    topic_shares,
)
from sith_hf.judges import JudgeSettings, make_judge
from sith_hf.recipe.model import Recipe
from sith_hf.recipe.steps import (
    BudgetEdit,
    EditStep,
    RelevanceEdit,
    ShareEdit,
    ThreeWayEdit,
    ThresholdEdit,
    VectorsEdit,
)
from sith_hf.towers import fill_template


@dataclass(frozen=True, eq=False)
class Chosen:
    """What a recipe's edits came to.

    Attributes:
        gains: every vector with another gain than 1, and those that were spared, with reasons.
        spec: the edit.
        scores: what judges said, by a name such as "0-judge" or "0-keep": the number of the edit and its field.
    """

    gains: Gains
    spec: EditSpec
    scores: dict[str, Scores]


@dataclass(frozen=True, eq=False)
class _Choice:
    """What the edits of one recipe are chosen with."""

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
        where: dict[str, Any] = {"layers": step.layers, "heads": step.heads}
        match step:
            case ShareEdit():
                queries = self.editor.embed(*step.concepts, decomposition=self.decomposition)
                rule: dict[str, Any] = step.model_dump(include={"threshold", "near", "both_poles"})
                return by_concepts(self.decomposition, queries, step.gain, **rule, **where)
            case VectorsEdit():
                return by_name(self.decomposition, step.gain, vectors=step.vectors, **where)
            case RelevanceEdit():
                task = class_task(
                    self.editor.encode(self.concepts),
                    fill_template(step.classes, step.template),
                    self.editor.embed,
                    leave_out=step.classes if step.leave_out is None else step.leave_out,
                    sparsity=step.sparsity,
                    coherence_weight=step.coherence_weight,
                )
                relevant = relevance(self.decomposition, task.embeddings)
                offset = step.offset
                if isinstance(offset, str):
                    offset = level_offset(self.decomposition, relevant)
                return by_relevance(
                    self.decomposition, relevant, floor=step.floor, ceiling=step.ceiling, offset=offset, **where
                )
        scores = self.judged(f"{number}-judge", step.judge)
        kept = None if step.keep is None else self.judged(f"{number}-keep", step.keep)
        where |= {"both_poles": step.both_poles, "keep": kept}
        where |= {"keep_threshold": step.keep_threshold, "keep_gain": step.keep_gain}
        match step:
            case ThreeWayEdit():
                return three_way(
                    scores, self.decomposition, invert_from=step.invert_from, remove_from=step.remove_from, **where
                )
            case ThresholdEdit():
                found = by_threshold(scores, self.decomposition, threshold=step.threshold, gain=step.gain, **where)
        if not isinstance(step, BudgetEdit):
            return found
        share = topic_shares(scores, self.decomposition, both_poles=step.both_poles)
        drift = drift_shares(self.editor.tower, self.decomposition)
        return budgeted(self.decomposition, found, share, drift, step.limit, whole=step.whole)

    def judged(self, name: str, settings: JudgeSettings) -> Scores:
        """What a judge says; kept under ``name``."""
        written = None if self.transcripts is None else self.transcripts / f"{name}.jsonl"
        judge = make_judge(
            settings, self.editor.embed, folder=self.folder, cache=_answers(), transcript=written, token=self.token
        )
        found = judge.score(self.decomposition, progress=self.progress)
        self.say(f"{found!r}")
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
) -> Chosen:
    """Choose what a recipe edits. Gains of a vector that two edits choose multiply.

    Args:
        recipe: its edits.
        editor, decomposition, concepts: the model, its explained vectors and the dictionary they are explained over.
        folder: where relative paths of the recipe start.
        token: for a language model on the Hub; the usual places when None.
        transcripts: a folder for the questions and answers of language models, a file for each judge.
        say: is told what judges found.
        progress: show bars on stderr.

    Raises:
        InputError: an edit that chooses no vector, or values that its rule refuses.
        HubError: a judge on a server refused, failed or could not be reached.
    """
    work = _Choice(
        editor.with_decomposition(decomposition), decomposition, concepts, folder, token, transcripts, say, progress
    )
    gains = Gains()
    for number, step in enumerate(recipe.edits):
        found = work.gains(number, step)
        if not found:
            spared = f" ({len(found.spared)} were spared)" if found.spared else ""
            raise InputError(
                f"edits.{number}: no vector is chosen by the rule {step.rule}{spared}; look with sith-hf find, or "
                "lower its threshold"
            )
        gains = gains.then(found)
    return Chosen(gains, make_spec(editor.tower, decomposition, gains), work.scores)


def _answers() -> Path:
    """Where answers of language models are kept, so that no question is paid twice: beside the cache of the Hub."""
    return cached_assets_path("sith-hf", namespace="judge", subfolder="answers")
