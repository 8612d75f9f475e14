"""``Recipe``: every key of its YAML, with its default and meaning."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from sith_hf.core.settings import NumberChoice, Settings
from sith_hf.core.strict_yaml import read_yaml
from sith_hf.evaluation import Plan
from sith_hf.fidelity import COHERENCE_WEIGHTS, SPARSITIES
from sith_hf.recipe.edit_rules import EditStep
from sith_hf.recipe.source import load_data, shipped_text
from sith_hf.recipe.tune_step import TuneStep
from sith_hf.towers import TOWERS


class Base(Settings):
    """The checkpoint to edit."""

    model: str = "embedded"
    """A Hub id or a folder; "embedded" is the small checkpoint that comes with sith-hf."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    text_model: str | None = None
    """The whole model that a checkpoint of one tower, or LLaVA, belongs to."""

    sha256: str | None = None
    """The fingerprint of the decomposed tensors of the vision tower, filled in by a run; other weights are refused."""
    settings: dict[str, Any] | None = None
    """The settings of the vision tower, such as its number of heads, filled in by a run; others are refused."""
    text_sha256: str | None = None
    """As sha256, of the text tower."""
    text_settings: dict[str, Any] | None = None
    """As settings, of the text tower."""


class Dictionary(Settings):
    """The concepts of explanations: texts, a file or a dataset; the built-in list when none is given."""

    texts: tuple[str, ...] | None = None
    """The concepts themselves."""
    file: str | None = None
    """A text file, UTF-8, one concept per line."""
    dataset: str | None = None
    """A Hub id, folder or file for datasets.load_dataset."""
    column: str | None = None
    """The text column of the dataset."""
    config: str | None = None
    """The configuration, for a dataset with several."""
    split: str | None = None
    """The split of the dataset; when null the only one, or train of several."""
    revision: str | None = None
    """Branch, tag or commit of the dataset."""
    template: str | None = None
    """The prompt around each concept, such as "a photo of a {}"."""

    sha256: str | None = None
    """The fingerprint of texts and template, filled in by a run; others are refused."""
    encoder: dict[str, Any] | None = None
    """The text tower, its settings and its tokenizer, filled in by a run; others are refused."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("texts", "file", "dataset") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"name one source of concepts, not {' and '.join(given)}")
        if (self.dataset is None) != (self.column is None):
            raise ValueError("dataset and column go together")
        return self


class DecomposeStep(Settings):
    """Settings of the decomposition (:class:`sith_hf.decomposition.DecomposeSettings`).

    With ``from``, nothing is decomposed: other keys that are given and not null must be those of the decomposition.
    """

    from_: str | None = Field(default=None, alias="from")
    """An existing decomposition of the base, a folder or Hub id, such as the output of sith-hf import-reference."""
    layers: NumberChoice | None = None
    """Layers to decompose: numbers, negative ones from the last, or a text such as "-4:", "8-11" or "last4". All when
    null."""
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
    effect: Literal["direct", "total"] = "direct"
    """Explain what a vector writes itself, or also what later layers make of it, over 64 drawn pictures of shapes."""
    fold: bool = True
    """Fold the layer norm's gain into the weights of the heads."""
    centre: bool | None = None
    """Remove the all-ones direction; the value of fold when null."""
    image_mean: str | None = None
    """A folder from sith-hf image-mean, a safetensors file with a vector image_mean [P], or torch.save of the vector;
    none when null."""

    sha256: str | None = None
    """The fingerprint of the file of ``from``, filled in by a run; others are refused."""

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.sha256 is not None and self.from_ is None:
            raise ValueError("sha256 is the fingerprint of from; name from too")
        return self

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # "from" cannot be the name of a field in Python.
        written = {"from" if name == "from_" else name: value for name, value in handler(self).items()}
        if self.effect == "direct":
            written.pop("effect", None)  # earlier releases read the recipe, too
        return written


class FidelityStep(Settings):
    """A table of fidelity and coherence by method, sparsity and lambda (:func:`sith_hf.fidelity.fidelity_table`).

    It takes layers, rank, poles, folding and image mean from ``decompose``.
    """

    methods: tuple[str, ...] = ("comp", "omp", "mp", "top-k")
    """The sparse coders."""
    sparsities: tuple[int, ...] = SPARSITIES
    """Each K, concepts for each explanation."""
    coherence_weights: tuple[float, ...] = COHERENCE_WEIGHTS
    """Each lambda of comp."""
    weight: Literal["equal", "energy"] = "equal"
    """The weight of vectors in means."""
    null: Literal["residual", "head"] | None = "residual"
    """Random directions to compare with; none when null."""
    draws: int | None = None
    """The number of random directions; the command's default when null."""
    seed: int = 0
    """The seed of the random directions."""


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
    """The settings of the decomposition of the vision tower."""
    decompose_text: DecomposeStep | None = None
    """The settings of the decomposition of the text tower, if an edit is of it; when null, those of ``decompose``, with
    all layers, all vectors and no mean."""
    edits: tuple[EditStep, ...] = ()
    """The edits, of the vision tower, the text tower or both. The gains of a vector that two edits choose multiply."""
    fidelity: FidelityStep | None = None
    """A table of fidelity, in place of edits and their evaluation."""
    large_edit: bool = False
    """Accept an edit above the limits on energy and drift."""
    evaluate: EvaluationStep | None = None
    """The evaluation; none when null."""
    card: CardTexts = CardTexts()
    """Texts for the model card."""
    tune: TuneStep | None = None
    """A search for better edits by ``sith-hf tune``; a run has no use for it."""

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if not self.edits and self.fidelity is None:
            raise ValueError("edits: name at least one edit")
        if self.fidelity is not None and (self.edits or self.evaluate is not None or self.tune is not None):
            raise ValueError("fidelity measures explanations and edits nothing: leave out edits, evaluate and tune")
        return self

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Recipes without a search read as in earlier releases.
        return {name: value for name, value in handler(self).items() if name != "tune" or value is not None}

    @property
    def towers(self) -> tuple[str, ...]:
        """The towers that the edits change, vision first."""
        named = {step.tower for step in self.edits}
        return tuple(tower for tower in TOWERS if tower in named)

    def step_of(self, tower: str) -> DecomposeStep:
        """Return the settings of the decomposition of a tower."""
        if tower == "vision":
            return self.decompose
        if self.decompose_text is not None:
            return self.decompose_text
        own = dict.fromkeys(("from_", "layers", "rank", "image_mean", "sha256"))
        # Images have no effect in a text tower.
        return self.decompose.model_copy(update={**own, "effect": "direct"})

    @classmethod
    def from_text(cls, text: str, source: str) -> Recipe:
        """Read a recipe without ``extends``. Raises InputError, naming ``source``, for invalid YAML or keys."""
        return cls.from_data(read_yaml(text, source), source)

    @classmethod
    def from_file(cls, path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
        """Read a YAML file or a shipped recipe; arguments as for :func:`sith_hf.recipe.source.load_data`."""
        return cls.load(path, overrides)[0]

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> tuple[Recipe, Path]:
        """Return a recipe and the folder that its paths start from; arguments as for :meth:`from_file`."""
        data, folder = load_data(path, overrides, cls.fits)
        return cls.from_data(data, str(path)), folder

    @classmethod
    def fits(cls, data: dict[str, Any]) -> bool:
        """Return whether data may be a part of a recipe: known keys, and values of their types."""
        try:
            cls.model_validate_json(json.dumps(data))
        except ValidationError as error:
            return all(item["type"] in ("missing", "value_error", "too_short") for item in error.errors())
        except (TypeError, ValueError, RecursionError):
            return False
        return True

    @classmethod
    def shipped(cls, name: str) -> Recipe:
        """Read a recipe that comes with sith-hf. Raises InputError for an unknown name."""
        shipped_text(name)
        return cls.from_file(name)
