"""Choose gains by the edits of a recipe: ask judges and apply rules, in the recipe's order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

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
    RelevanceEdit,
    ShareEdit,
    ThreeWayEdit,
    ThresholdEdit,
    VectorsEdit,
    WordsEdit,
)
from sith_hf.recipe.recipe import Recipe
from sith_hf.towers import fill_template


@dataclass(frozen=True, eq=False)
class ChosenEdit:
    """The edit of a recipe in one tower.

    Attributes:
        gains: the chosen vectors and the protected ones, with reasons.
        spec: the edit.
        scores: the judges' scores by number and field of the edit, such as "0-judge" or "0-keep".
    """

    gains: Gains
    spec: EditSpec
    scores: dict[str, Scores]


def choose(
    recipe: Recipe,
    editor: SithEditor,
    decomposition: Decomposition,
    concepts: ConceptDictionary | None,
    folder: Path,
    *,
    token: str | None = None,
    servers: Iterable[str] = (),
    transcripts: Path | None = None,
    say: Callable[[str], object] = lambda line: None,
    progress: bool = False,
) -> ChosenEdit:
    """Choose the vectors and gains of a recipe in the decomposed tower.

    The gains of a vector that two edits choose multiply.

    Args:
        recipe: the recipe with the edits; those of the other tower are passed over.
        editor, decomposition, concepts: the model, its explained vectors, and the dictionary of the explanations,
            None if it is not at hand; the rule relevance needs it.
        folder: the folder that relative paths of the recipe start from.
        token: a token for a language model on the Hub; the usual places when None.
        servers: the servers of judges that the user named (see :func:`sith_hf.judges.check_judge_server`).
        transcripts: a folder for questions to and answers of language models, one file per judge; none when None.
        say: called with a line on each judge's scores.
        progress: show bars on stderr.

    Raises:
        InputError: an edit that chooses no vector, or as for its rule.
        HubError: a server of a judge refused, failed or could not be reached.
    """
    editor = editor.with_decomposition(decomposition)
    scores: dict[str, Scores] = {}

    def judged(name: str, settings: JudgeSettings) -> Scores:
        written = None if transcripts is None else transcripts / f"{name}.jsonl"
        # All runs share the cache, so that no question is asked twice.
        cache = cached_assets_path("sith-hf", namespace="judge", subfolder="answers")
        judge = make_judge(
            settings, editor.embed, folder=folder, cache=cache, transcript=written, token=token, servers=servers
        )
        scores[name] = judge.score(decomposition, progress=progress)
        say(repr(scores[name]))
        return scores[name]

    gains = Gains()
    for number, step in enumerate(recipe.edits):
        if step.tower != decomposition.tower:
            continue
        if isinstance(step, ThresholdEdit | ThreeWayEdit):
            found = _by_judge(step, editor, decomposition, str(number), judged)
        else:
            found = _by_explanation(step, editor, decomposition, concepts)
        if not found:
            protected = f" ({len(found.protected)} are protected by keep)" if found.protected else ""
            raise InputError(
                f"edits.{number}: the rule {step.rule} chooses no vector{protected}; lower the threshold, or see which "
                "concepts there are with sith-hf find"
            )
        gains = gains.then(found)
    return ChosenEdit(gains, make_spec(editor.tower, decomposition, gains), scores)


def _by_explanation(
    step: ShareEdit | WordsEdit | VectorsEdit | RelevanceEdit,
    editor: SithEditor,
    decomposition: Decomposition,
    concepts: ConceptDictionary | None,
) -> Gains:
    if isinstance(step, VectorsEdit):
        return by_name(decomposition, step.gain, layers=step.layers, heads=step.heads, vectors=step.vectors)
    if isinstance(step, WordsEdit):
        words = dict.fromkeys(step.concepts)
        draft = editor.with_decomposition(decomposition).edit()
        return draft.set_gain(*words, gain=step.gain, top=step.top, layers=step.layers, heads=step.heads).gains
    if isinstance(step, ShareEdit):
        queries = editor.embed(*step.concepts, decomposition=decomposition)
        select = Selection(step.layers, step.heads, step.both_poles)
        limits = {"threshold": step.threshold, "near": step.near}
        return by_concepts(decomposition, queries, step.gain, **limits, select=select)
    if concepts is None:
        raise InputError(
            "the rule relevance selects from the dictionary of the decomposition, which is not at hand: put "
            "dictionary.safetensors beside the decomposition, or name its concepts in the recipe (dictionary)"
        )
    task = class_task(
        editor.encode(concepts),
        fill_template(step.classes, step.template),
        editor.embed,
        leave_out=step.classes if step.leave_out is None else step.leave_out,
        sparsity=step.sparsity,
        coherence_weight=step.coherence_weight,
    )
    relevant = task_relevance(decomposition, task.embeddings)
    offset = level_offset(decomposition, relevant) if isinstance(step.offset, str) else step.offset
    select = Selection(step.layers, step.heads)
    return by_relevance(decomposition, relevant, floor=step.floor, ceiling=step.ceiling, offset=offset, select=select)


def _by_judge(
    step: ThresholdEdit | ThreeWayEdit,
    editor: SithEditor,
    decomposition: Decomposition,
    number: str,
    judged: Callable[[str, JudgeSettings], Scores],
) -> Gains:
    select = Selection(step.layers, step.heads, step.both_poles)
    scores, keep = judged(f"{number}-judge", step.judge), None
    if step.keep is not None:
        keep = Keep(judged(f"{number}-keep", step.keep), step.keep_threshold, step.keep_gain)
    if isinstance(step, ThreeWayEdit):
        borders = {"invert_from": step.invert_from, "remove_from": step.remove_from}
        return three_way(scores, decomposition, **borders, keep=keep, select=select)
    found = by_threshold(scores, decomposition, threshold=step.threshold, gain=step.gain, keep=keep, select=select)
    if not isinstance(step, BudgetEdit):
        return found
    share, drift = topic_shares(scores, decomposition, select), drift_shares(editor.tower, decomposition)
    return budgeted(decomposition, found, share, drift, step.limit, whole=step.whole)
