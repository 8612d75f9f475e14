"""The recipe as frozen objects: every key that its YAML can hold, with its default and a sentence on it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from sith_hf.core.settings import Settings
from sith_hf.evaluation import Plan
from sith_hf.recipe.source import RecipeSource, shipped_text
from sith_hf.recipe.steps import EditStep
from sith_hf.recipe.text import read_yaml


class Base(Settings):
    """The checkpoint to edit."""

    model: str = "embedded"
    """A Hub id or a folder; "embedded" is the small checkpoint that comes with sith-hf."""

    revision: str | None = None
    """Branch, tag or commit on the Hub."""

    text_model: str | None = None
    """For a vision-only checkpoint, the CLIPModel that it belongs to."""

    sha256: str | None = None
    """The fingerprint of the tensors that are decomposed; other weights are refused. Filled in by a run."""


class Dictionary(Settings):
    """The concepts that explanations are made of: texts, a file or a dataset; our own list when none is named."""

    texts: tuple[str, ...] | None = None
    """The concepts themselves."""

    file: str | None = None
    """A text file, UTF-8, one concept a line."""

    dataset: str | None = None
    """A Hub id or folder for datasets.load_dataset."""

    column: str | None = None
    """The text column of the dataset."""

    split: str = "train"
    """The split of the dataset."""

    revision: str | None = None
    """Branch, tag or commit of the dataset."""

    template: str | None = None
    """The prompt that concepts are put into before encoding, such as "a photo of a {}"."""

    sha256: str | None = None
    """The fingerprint of texts and template; other ones are refused. Filled in by a run."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("texts", "file", "dataset") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"name one source of concepts, not {' and '.join(given)}")
        if (self.dataset is None) != (self.column is None):
            raise ValueError("dataset and column go together")
        return self


class DecomposeStep(Settings):
    """How to decompose; fields as for :func:`sith_hf.decomposition.decompose`."""

    layers: tuple[int, ...] | None = None
    """Layer numbers, negative ones from the last; all when null."""

    rank: int | None = None
    """Singular vectors kept per head; all when null."""

    poles: Literal["+-", "+"] = "+-"
    """Explain both directions of a vector, or the written one only (the paper's setting)."""

    method: str = "comp"
    """The sparse coder: comp, omp, mp, top-k or lasso."""

    sparsity: int = 5
    """K, the number of concepts in an explanation."""

    coherence_weight: float = 0.3
    """lambda, how much concepts are preferred that resemble those already chosen."""

    fold: bool = True
    """Fold the layer norm into what heads read."""

    centre: bool | None = None
    """Drop the all-ones direction; as fold when null."""

    image_mean: str | None = None
    """What sith-hf image-mean wrote, or a safetensors file with a vector image_mean [P]; none when null."""


class Baselines(Settings):
    """What the edit is compared with, in the same run."""

    random: int = 0
    """How many draws of random vectors: as many, in the same layers, with the same gains."""

    heads: bool = False
    """Whole heads removed: those that hold most of the edit."""

    seed: int = 0
    """Of the random draws."""


class SweepStep(Settings):
    """Worst group against average for several strengths of the edit and of the baselines."""

    strengths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """0 is no edit, 1 the edit itself."""

    task: str | None = None
    """The name of the task to plot; the first with groups when null."""


class EvaluationStep(Plan):
    """What is measured, on base, edited and baselines alike, in one run on the same batches."""

    baselines: Baselines = Baselines()
    """What else is measured."""

    sweep: SweepStep | None = None
    """A sweep with its plot; none when null."""


class CardTexts(Settings):
    """What the model card says in the words of whoever wrote the recipe."""

    intended_use: str | None = None
    """What the edited model is for."""

    limitations: str | None = None
    """What it is not for, and what the edit does not do."""


class Recipe(Settings):
    """A recipe: what it is for, from which base, over which concepts, what to edit, what to measure, what to say."""

    title: str
    """What the edit is for, in one line."""

    description: str = ""
    """More about it."""

    base: Base = Base()
    """The checkpoint to edit."""

    dictionary: Dictionary = Dictionary()
    """The concepts that explanations are made of."""

    decompose: DecomposeStep = DecomposeStep()
    """How to decompose."""

    edits: tuple[EditStep, ...]
    """What to edit; where two edits choose one vector, its gains multiply."""

    evaluate: EvaluationStep | None = None
    """What to measure; nothing when null."""

    card: CardTexts = CardTexts()
    """What the card says."""

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not self.edits:
            raise ValueError("edits: name at least one edit")
        return self

    @classmethod
    def from_text(cls, text: str, source: str) -> Recipe:
        """A recipe of YAML that extends no other. Raises InputError, naming ``source``, for anything else."""
        return cls.from_data(read_yaml(text, source), source)

    @classmethod
    def from_file(cls, path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
        """A recipe of a YAML file or of those that come with sith-hf (see :meth:`RecipeSource.load`)."""
        source = RecipeSource.load(path, overrides)
        return cls.from_data(source.data, source.name)

    @classmethod
    def shipped(cls, name: str) -> Recipe:
        """A recipe that comes with sith-hf. Raises InputError for a name that is not among them."""
        shipped_text(name)
        return cls.from_file(name)
