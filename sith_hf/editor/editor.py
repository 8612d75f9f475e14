"""``SithEditor``: one object from a checkpoint to an edited checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from sith_hf.adaptation import DIRECTIONS, Adaptation, compare, explain_change, load_tuned
from sith_hf.checkpoint import SavedCheckpoint, history, locate, measured, revert, save_edited
from sith_hf.concepts import ConceptDictionary
from sith_hf.core.devices import exact_device
from sith_hf.core.escaping import sanitize
from sith_hf.core.html import block, fact_table
from sith_hf.core.ranges import Numbers
from sith_hf.decomposition import NEAR, DecomposeSettings, Decomposition, Match, decompose
from sith_hf.editor.edit import Edit
from sith_hf.editor.encoder import ConceptEncoder
from sith_hf.editor.evidence import check_images, total_effect, with_drivers
from sith_hf.editor.notebook import editor_facts
from sith_hf.edits import AnySpec, EditEffect, applied
from sith_hf.errors import BaseMismatch, InputError
from sith_hf.evaluation import measure_effect
from sith_hf.files import ResumableJob, scratch_folder
from sith_hf.gains import Impact, impact_of
from sith_hf.grounding import Grounding, chosen_vectors, ground
from sith_hf.hub import PushOptions, PushResult, check_options
from sith_hf.images import DatasetSettings, Images
from sith_hf.publish import push_edited
from sith_hf.towers import (
    LoadedModel,
    Tower,
    load_model,
    read_tower,
    unwrapped,
)


@dataclass(eq=False, repr=False)
class SithEditor:
    """A checkpoint to explain and to edit: one of its towers (``docs/guide/models.md`` lists the families).

    An editor remembers its latest decomposition: :meth:`decompose` sets it, :meth:`find` and the edits read it. The
    rest of its state is constant: results are new objects, and the weights differ only inside :meth:`applied`.

    Example::

        editor = SithEditor.from_pretrained("openai/clip-vit-large-patch14")
        decomposition = editor.decompose(ConceptDictionary.builtin(), layers=[-4, -3, -2, -1])
        spec = editor.suppress("beach", "ocean").amplify("bird", gain=1.5).spec
        editor.save_pretrained("edited/", spec)

    Attributes:
        loaded: the model and its source.
        companion: for a tower alone, the whole model that it belongs to; for LLaVA, the one its tower was taken from.
        history: the edits that the checkpoint already has, newest first; empty for a model in memory.
        kind: the tower to explain and edit, ``"vision"`` or ``"text"``; when None, vision if the model has it.
    """

    loaded: LoadedModel
    companion: LoadedModel | None = None
    history: tuple[AnySpec, ...] = ()
    kind: str | None = None
    _decomposition: Decomposition | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.tower  # noqa: B018  - fail early on mismatched weights

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        revision: str | None = None,
        *,
        tower: str | None = None,
        text_model: str | Path | None = None,
        token: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
    ) -> SithEditor:
        """Load a model of a supported family, such as a ``CLIPModel`` (docs/guide/models.md lists them).

        An edited checkpoint can be edited again; ``history`` lists its edits.

        Args:
            name: a Hub id or a folder.
            revision: branch, tag or commit on the Hub.
            tower: the tower to explain and edit, ``"vision"`` or ``"text"``; when None, vision if the model has it.
            text_model: for a tower alone, the whole model that it belongs to; for LLaVA, the model that its tower was
                taken from. It provides the text tower, and what is missing on the way to the joint space.
            token: a Hub token; the one of the environment or login when None.
            device: where passes over images and products with a dictionary run, such as ``"cpu"``, ``"cuda:1"`` or
                ``"mps"``; an accelerator if there is one when None or ``"auto"``. The model moves there for a pass, and
                back. Sums in float64 stay on the CPU with ``"mps"``, which has none.
            dtype: of the weights, ``"float32"``, ``"bfloat16"`` or ``"float16"``. When None or ``"auto"``, the
                narrowest that holds them exactly. A wider one changes no result by more than the rounding of passes; a
                narrower one rounds the weights, and results are then of the rounded weights, with a warning.

        Raises:
            UnsupportedModel: another family, or no safetensors.
            ArtifactError: the record of an earlier edit is damaged.
            InputError: no checkpoint, a damaged one, or a companion of another width.
        """
        placed: dict[str, Any] = {"token": token, "device": device, "dtype": dtype}
        loaded = load_model(str(name), revision, **placed)
        companion = None if text_model is None else load_model(str(text_model), want_text=True, **placed)
        return cls(loaded, companion, () if loaded.folder is None else history(loaded.folder), tower)

    @classmethod
    def from_model(
        cls,
        model: Any,
        tokenizer: Any | None = None,
        *,
        tower: str | None = None,
        text_model: Any | None = None,
        name: str | None = None,
    ) -> SithEditor:
        """Make an editor of a model in memory.

        Args:
            model: a model of a class that :meth:`from_pretrained` loads, perhaps compiled or in ``DataParallel``.
            tokenizer: the tokenizer of the text tower.
            tower: as for :meth:`from_pretrained`.
            text_model: as for :meth:`from_pretrained`, a model in memory.
            name: the model's name in provenance; the name that it was loaded by when None.

        Raises:
            UnsupportedModel: another kind of model, or one with adapters, parametrizations, quantized or replaced
                layers, or hooks that may change its outputs.
            InputError: a weight that is not finite, or a companion of another width.
        """
        model = unwrapped(model)
        revision = getattr(getattr(model, "config", None), "_commit_hash", None)
        loaded = LoadedModel(model, tokenizer, name or _name_of(model), revision)
        if text_model is None:
            return cls(loaded, kind=tower)
        text_model = unwrapped(text_model)
        companion = LoadedModel(text_model, tokenizer, _name_of(text_model), None)
        return cls(loaded, companion, kind=tower)

    def __repr__(self) -> str:
        facts = (f"{name}: {sanitize(value)}" for name, value in self._facts().items())
        return f"SithEditor({'; '.join(facts)})"

    def _repr_html_(self) -> str:
        return block("SithEditor", fact_table(self._facts().items()))

    def _facts(self) -> dict[str, str]:
        return editor_facts(self.loaded, self.companion, self.tower, len(self.history), self._decomposition)

    @property
    def model(self) -> Any:
        """The ``transformers`` model."""
        return self.loaded.model

    @cached_property
    def tower(self) -> Tower:
        """The tower that this editor explains and edits."""
        return read_tower(self.loaded.model, None if self.companion is None else self.companion.model, self.kind)

    @property
    def text(self) -> LoadedModel:
        """The model whose text tower encodes concepts. Raises InputError if there is none."""
        return self._encoder.text

    @cached_property
    def _encoder(self) -> ConceptEncoder:
        return ConceptEncoder(self.loaded, self.companion)

    @property
    def decomposition(self) -> Decomposition:
        """The latest decomposition. Raises InputError when there is none yet."""
        if self._decomposition is None:
            raise InputError("this editor has no decomposition yet: call decompose first, or with_decomposition")
        return self._decomposition

    def with_decomposition(self, decomposition: Decomposition) -> SithEditor:
        """Return an editor of the same model with another decomposition, and of the tower that was decomposed.

        Raises:
            BaseMismatch: the decomposition was made from other weights, or before a setting or the tokenizer changed.
        """
        other = self
        if decomposition.tower != self.tower.kind:
            other = SithEditor(self.loaded, self.companion, self.history, decomposition.tower)
        layers = [layer for layer in decomposition.layers if layer < len(other.tower.layers)]
        other.tower.check(decomposition.base, layers, self.loaded.name)
        self._encoder.check(decomposition.settings, "this decomposition's dictionary")
        other = copy(other)
        other._decomposition = decomposition
        return other

    def encode(
        self, concepts: ConceptDictionary, *, job: ResumableJob | None = None, progress: bool = False
    ) -> ConceptDictionary:
        """Return ``concepts`` with embeddings of this model's text tower; unchanged if it already has them.

        ``job`` and ``progress`` as for :func:`sith_hf.towers.encode_texts`.

        Raises:
            InputError: no text tower, or a dictionary that another text tower encoded.
            BaseMismatch: a dictionary from before a setting of the text tower or the tokenizer changed.
        """
        return self._encoder.encode(concepts, job=job, progress=progress)

    def decompose(
        self,
        concepts: ConceptDictionary | None,
        settings: DecomposeSettings | None = None,
        *,
        images: Images = None,
        processor: Any | None = None,
        device: torch.device | str | None = None,
        job: ResumableJob | None = None,
        progress: bool = False,
        **fields: Any,
    ) -> Decomposition:
        """Factor and explain heads, and remember the result for :meth:`find` and the edits.

        The words say what each vector writes. With ``images``, others say what drives it, which is not the same
        (:attr:`Decomposition.drivers`). With ``effect="total"``, what a vector writes includes what later layers make
        of it; that costs one backward pass for each joint dimension and 8 images.

        Args:
            concepts: the dictionary; it is encoded first if necessary. None for vectors without explanations, which
                every tower has, also one without texts: they are edited by number (:meth:`Edit.vectors`).
            settings: the choice of vectors, and the method of explanation.
            images: the images that show what drives the vectors: a dataset of at least 32, opened, or its folder, file
                or Hub id; or ``"leaves"`` for 1,000 drawn pictures of shapes. None measures nothing. A total effect is
                averaged over the first 64, or over 64 leaves when None.
            processor: the image processor, for a model in memory; the one in the checkpoint's folder when None.
            device, job, progress: as for :func:`sith_hf.decomposition.decompose`.
            fields: fields of ``settings`` by name, such as ``layers=[-2, -1]`` or ``effect="total"``.

        Raises:
            InputError: an unknown field, a value out of range, a dictionary of another text tower, fewer than 32
                readable images, or images for a text tower or for vectors without words.
        """
        settings = (settings or DecomposeSettings()).override(**fields)
        device = self.loaded.device and exact_device(self.loaded.device) if device is None else device
        check_images(self, settings, images, words=concepts is not None)
        encoded = total = None
        if concepts is not None:
            settings.check(self.tower, len(concepts))
            encoded = self.encode(concepts, job=job, progress=progress)
        if settings.effect == "total":
            total = total_effect(self, settings, images, processor=processor, device=device, job=job, progress=progress)
        found = decompose(
            self.tower,
            encoded,
            settings,
            total=total,
            name=self.loaded.title,
            revision=self.loaded.revision,
            device=device,
            job=job,
            progress=progress,
        )
        if images is not None and encoded is not None:
            options = {"processor": processor, "job": job, "progress": progress}
            found = with_drivers(self, found, encoded, images, settings, **options)
        self._decomposition = found
        return found

    def embed(self, *concepts: str, decomposition: Decomposition | None = None) -> dict[str, Tensor]:
        """Return the text embedding of each concept, ``[P]``: from the decomposition if it occurs there, else encoded.

        Raises:
            InputError: a concept to encode, and no text tower or another than the decomposition's.
        """
        return self._encoder.embed(concepts, decomposition or self.decomposition)

    def find(self, concept: str, *, near: float = NEAR, limit: int | None = 20) -> list[Match]:
        """Find the poles that mention a concept or a similar one (see :meth:`Decomposition.find`)."""
        return self.decomposition.find(concept, embedding=self.embed(concept)[concept], near=near, limit=limit)

    def ground(
        self,
        images: Any = None,
        *,
        layers: Numbers | None = None,
        heads: Numbers | None = None,
        vectors: Numbers | None = None,
        top: int | None = None,
        spec: AnySpec | None = None,
        **options: Any,
    ) -> Grounding:
        """Show which images drive vectors of the latest decomposition, and how well they agree with its words.

        Args:
            images: see :func:`sith_hf.grounding.ground`; drawn noise of shapes when None.
            layers, heads, vectors, top, spec: the choice of vectors (:func:`sith_hf.grounding.chosen_vectors`); the ten
                strongest when all are None.
            options: ``processor``, ``batch_size``, ``job`` and ``progress`` of :func:`sith_hf.grounding.ground`.

        Raises:
            InputError, BaseMismatch: as for these two functions.
        """
        chosen = chosen_vectors(self.decomposition, layers=layers, heads=heads, vectors=vectors, top=top, spec=spec)
        return ground(self, self.decomposition, images, vectors=chosen, **options)

    def compare(
        self,
        tuned: str | Path | SithEditor,
        concepts: ConceptDictionary | None = None,
        *,
        layers: Numbers | None = None,
        directions: int = DIRECTIONS,
        device: torch.device | str | None = None,
        progress: bool = False,
    ) -> Adaptation:
        """Compare this tower with a fine-tuned one, head by head (see :func:`sith_hf.adaptation.compare`).

        Args:
            tuned: a checkpoint by folder or Hub id, a LoRA adapter of this model (merged by peft), or an editor.
            concepts: explain the leading directions of the change over this dictionary; None for no words.
            layers: layer numbers; all when None.
            directions: leading directions of each head's change.
            device, progress: as for :meth:`decompose`.

        Raises:
            InputError: another architecture, values out of range, or a dictionary of another text tower.
            MissingExtra: an adapter, without peft.
        """
        if not isinstance(tuned, SithEditor):
            tuned = SithEditor(load_tuned(self.loaded, tuned), kind=self.tower.kind)
        found = compare(self.tower, tuned.tower, layers, directions=directions, progress=progress)
        if concepts is None:
            return found
        encoded = self.encode(concepts, progress=progress)
        device = self.loaded.device and exact_device(self.loaded.device) if device is None else device
        words = explain_change(self.tower, tuned.tower, found.changed, encoded, device=device, progress=progress)
        return replace(found, words=words)

    def edit(self) -> Edit:
        """Start an empty edit."""
        return Edit(self, self.decomposition)

    def suppress(self, *concepts: str, gain: float = 0.0, **rule: Any) -> Edit:
        """Start an edit and suppress concepts (see :meth:`Edit.suppress`)."""
        return self.edit().suppress(*concepts, gain=gain, **rule)

    def amplify(self, *concepts: str, gain: float = 1.5, **rule: Any) -> Edit:
        """Start an edit and amplify concepts (see :meth:`Edit.amplify`)."""
        return self.edit().amplify(*concepts, gain=gain, **rule)

    def invert(self, *concepts: str, **rule: Any) -> Edit:
        """Start an edit and invert concepts (see :meth:`Edit.invert`)."""
        return self.edit().invert(*concepts, **rule)

    def impact(self, spec: AnySpec) -> Impact:
        """Estimate how much of the decomposed tower an edit of its vectors changes (see :attr:`Edit.impact`).

        Of an edit of both towers, only the part of the decomposed tower counts.

        Raises:
            BaseMismatch: the edit is of the other tower, or of other weights.
        """
        kind = self.tower.kind
        part = next((part for part in spec.parts if part.tower == kind), None)
        if part is None:
            raise BaseMismatch(
                f"this edit is of the {spec.parts[0].tower} tower, and the decomposition of the {kind} tower: use "
                f"with_decomposition with one of the {spec.parts[0].tower} tower"
            )
        return impact_of(self.tower, self.decomposition, dict(zip(part.keys, part.gain.tolist(), strict=True)))

    def effect(
        self, spec: AnySpec, images: DatasetSettings | None = None, *, batch_size: int = 32, progress: bool = False
    ) -> EditEffect:
        """Measure what an edit does to the concepts that it names (see :func:`sith_hf.evaluation.measure_effect`).

        ``effect.check()`` raises InputError if it has no effect on them.
        """
        return measure_effect(self, spec, images, batch_size=batch_size, progress=progress)

    def applied(self, spec: AnySpec) -> AbstractContextManager[Any]:
        """Edit the model inside a ``with`` block (see :func:`sith_hf.edits.applied`)."""
        return applied(self.model, spec)

    def save_pretrained(
        self,
        folder: str | Path,
        spec: AnySpec,
        *,
        include: Iterable[str] = (),
        overwrite: bool = False,
        effect: EditEffect | None = None,
        progress: bool = False,
    ) -> SavedCheckpoint:
        """Write an edited copy of this editor's checkpoint (see :func:`sith_hf.checkpoint.save_edited`).

        With ``effect``, a result of :meth:`effect`, the copy records what the edit does to the concepts that it names.

        Raises:
            InputError: also for a model in memory, which has no checkpoint, for an edit without effect on what it
                names, and for the effect of another edit.
        """
        return save_edited(
            self._source(),
            spec,
            folder,
            include=include,
            overwrite=overwrite,
            measure=measured(effect),
            progress=progress,
        )

    def push_to_hub(
        self,
        repo_id: str,
        spec: AnySpec,
        *,
        evaluation: Mapping[str, Any] | None = None,
        effect: EditEffect | None = None,
        include: Iterable[str] = (),
        **options: Unpack[PushOptions],
    ) -> PushResult:
        """Publish an edited copy of this editor's checkpoint (see :func:`sith_hf.publish.push_edited`).

        Args:
            repo_id: ``namespace/name``; a name alone belongs to the user of the token.
            spec: the edit.
            evaluation: measured results for the card.
            effect: as for :meth:`save_pretrained`.
            include: patterns of more files of the checkpoint to publish, such as ``*.txt``.
            options: see :class:`sith_hf.hub.PushOptions`.

        Raises:
            InputError, BaseMismatch, OutputError: as for :meth:`save_pretrained`.
            InputError, HubError: as for :func:`sith_hf.publish.push_edited`.
        """
        check_options(options)
        with scratch_folder() as scratch:
            patterns = (include,) if isinstance(include, str) else tuple(include)
            saved = self.save_pretrained(scratch / "edited", spec, include=patterns, effect=effect)
            pushed = push_edited(scratch / "edited", repo_id, evaluation=evaluation, include=patterns, **options)
            reasons = {**saved.reasons, **pushed.reasons}
            return replace(pushed, left_out=tuple(reasons), reasons=reasons)

    def revert(self, folder: str | Path, *, overwrite: bool = False, progress: bool = False) -> SavedCheckpoint:
        """Write a copy of the checkpoint without its newest edit (see :func:`sith_hf.checkpoint.revert`)."""
        return revert(self._source(), folder, overwrite=overwrite, progress=progress)

    def _source(self) -> Path:
        name, folder = self.loaded.name, self.loaded.folder
        if name == "in memory":
            raise InputError("this model has no checkpoint to copy: save it with save_pretrained and load that folder")
        return folder or locate(name, self.loaded.revision)


def _name_of(model: Any) -> str:
    return getattr(getattr(model, "config", None), "_name_or_path", "") or "in memory"
