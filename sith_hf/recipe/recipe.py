"""``Recipe``: every key of its YAML, with its default and meaning."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from sith_hf.core.settings import Settings
from sith_hf.evaluation import Plan
from sith_hf.recipe.edit_rules import EditStep
from sith_hf.recipe.source import load_data, shipped_text
from sith_hf.recipe.strict_yaml import read_yaml


class Base(Settings):
    """The checkpoint to edit."""

    model: str = "embedded"
    """A Hub id or a folder; "embedded" is the small checkpoint that comes with sith-hf."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    text_model: str | None = None
    """The CLIPModel that a vision-only checkpoint belongs to."""

    sha256: str | None = None
    """The fingerprint of the decomposed tensors, filled in by a run; other weights are refused."""


class Dictionary(Settings):
    """The concepts of explanations: texts, a file or a dataset; the built-in list when none is given."""

    texts: tuple[str, ...] | None = None
    """The concepts themselves."""
    file: str | None = None
    """A text file, UTF-8, one concept per line."""
    dataset: str | None = None
    """A Hub id or folder for datasets.load_dataset."""
    column: str | None = None
    """The text column of the dataset."""
    split: str = "train"
    """The split of the dataset."""
    revision: str | None = None
    """Branch, tag or commit of the dataset."""
    template: str | None = None
    """The prompt around each concept, such as "a photo of a {}"."""

    sha256: str | None = None
    """The fingerprint of texts and template, filled in by a run; others are refused."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("texts", "file", "dataset") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"name one source of concepts, not {' and '.join(given)}")
        if (self.dataset is None) != (self.column is None):
            raise ValueError("dataset and column go together")
        return self


class DecomposeStep(Settings):
    """Settings of the decomposition (:class:`sith_hf.decomposition.DecomposeSettings`)."""

    layers: tuple[int, ...] | None = None
    """Layers to decompose; negative numbers count from the last. All when null."""
    rank: int | None = None
    """Singular vectors per head; all when null."""
    poles: Literal["+-", "+"] = "+-"
    """Explain both directions of a vector, or only "+" (the paper's setting)."""
    method: str = "comp"
    """The sparse coder: comp, omp, mp, top-k or lasso."""
    sparsity: int = 5
    """K, the number of concepts of an explanation."""
    coherence_weight: float = 0.3
    """lambda, the preference for concepts that resemble those already chosen."""
    fold: bool = True
    """Fold the layer norm's gain into the weights of the heads."""
    centre: bool | None = None
    """Remove the all-ones direction; the value of fold when null."""
    image_mean: str | None = None
    """A folder from sith-hf image-mean, or a safetensors file with a vector image_mean [P]; none when null."""


class Baselines(Settings):
    """Edits to compare with, in the same run."""

    random: int = 0
    """The number of random draws: as many vectors, in the same layers, with the same gains."""
    heads: bool = False
    """Add an edit that removes the heads that hold most of the edit."""
    seed: int = 0
    """The seed of the random draws."""


class SweepStep(Settings):
    """Worst group and average for several strengths of the edit and of the baselines."""

    strengths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """0 is no edit, 1 the edit itself."""
    task: str | None = None
    """The name of the task to plot; the first with groups when null."""


class EvaluationStep(Plan):
    """An evaluation of base, edited and baselines, in one run on the same batches."""

    baselines: Baselines = Baselines()
    """The edits to compare with."""
    sweep: SweepStep | None = None
    """A sweep over strengths, with a plot; none when null."""


class CardTexts(Settings):
    """Texts for the model card."""

    intended_use: str | None = None
    """The intended uses of the edited model."""
    limitations: str | None = None
    """The limits of the edit, and uses that are not intended."""


class Recipe(Settings):
    """A recipe: purpose, base, concepts, edits, evaluation and texts for the card."""

    title: str
    """The purpose of the edit, in one line."""
    description: str = ""
    """More about the edit."""
    base: Base = Base()
    """The checkpoint to edit."""
    dictionary: Dictionary = Dictionary()
    """The concepts of explanations."""
    decompose: DecomposeStep = DecomposeStep()
    """The settings of the decomposition."""
    edits: tuple[EditStep, ...]
    """The edits. The gains of a vector that two edits choose multiply."""
    large_edit: bool = False
    """Accept an edit above the limits on energy and drift."""
    evaluate: EvaluationStep | None = None
    """The evaluation; none when null."""
    card: CardTexts = CardTexts()
    """Texts for the model card."""

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not self.edits:
            raise ValueError("edits: name at least one edit")
        return self

    @classmethod
    def from_text(cls, text: str, source: str) -> Recipe:
        """Read a recipe without ``extends``. Raises InputError, naming ``source``, for invalid YAML or keys."""
        return cls.from_data(read_yaml(text, source), source)

    @classmethod
    def from_file(cls, path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
        """Read a YAML file or a shipped recipe; arguments as for :func:`sith_hf.recipe.source.load_data`."""
        return cls.from_data(load_data(path, overrides)[0], str(path))

    @classmethod
    def shipped(cls, name: str) -> Recipe:
        """Read a recipe that comes with sith-hf. Raises InputError for an unknown name."""
        shipped_text(name)
        return cls.from_file(name)
