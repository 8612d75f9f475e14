"""``SithEditor``: one object from a checkpoint to an edited checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from sith_hf.checkpoint import SavedCheckpoint, locate, revert, save_edited
from sith_hf.checkpoint import history as history_
from sith_hf.concepts import ConceptDictionary
from sith_hf.core.fingerprint import text_tower_sha256
from sith_hf.decomposition import NEAR, Decomposition, Match, decompose
from sith_hf.edits import EditSpec, applied, make_spec
from sith_hf.errors import InputError
from sith_hf.files import ResumableJob
from sith_hf.gains import SHARE_THRESHOLD, Gains, Selection, by_concepts, by_name, share_of
from sith_hf.hub import PushOptions, PushResult, check_options
from sith_hf.publish import push_edited, scratch_folder
from sith_hf.pursuit import Pursuit
from sith_hf.towers import LoadedModel, VisionTower, encode_texts, load_model, read_tower


@dataclass(frozen=True, eq=False)
class SithEditor:
    """A CLIP checkpoint to look into and to edit. Results are new objects, and its weights never change but inside
    :meth:`applied`. What it remembers is its latest decomposition, which :meth:`find` and the edits ask.

    Example::

        editor = SithEditor.from_pretrained("openai/clip-vit-large-patch14")
        decomposition = editor.decompose(ConceptDictionary.builtin(), layers=[-4, -3, -2, -1])
        spec = editor.suppress("beach", "ocean").amplify("bird", gain=1.5).spec
        editor.save_pretrained("edited/", spec)

    Attributes:
        loaded: the model and where it came from.
        companion: for a vision-only model, the CLIPModel that it belongs to.
        history: the edits that are in the checkpoint already, the newest first; empty for a model in memory.
    """

    loaded: LoadedModel
    companion: LoadedModel | None = None
    history: tuple[EditSpec, ...] = ()
    _latest: list[Decomposition] = field(default_factory=list, repr=False)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        revision: str | None = None,
        *,
        text_model: str | Path | None = None,
        token: str | None = None,
    ) -> SithEditor:
        """Load a ``CLIPModel``, ``CLIPVisionModelWithProjection`` or ``CLIPVisionModel``.

        An edited checkpoint is one of these like any other, and can be edited again; ``history`` tells its edits.

        Args:
            name: a Hub id or a folder.
            revision: branch, tag or commit on the Hub.
            text_model: for the last two, the ``CLIPModel`` that they belong to: the text tower, and for a
                ``CLIPVisionModel`` the projection, come from there.
            token: for the Hub; the usual places when None.

        Raises:
            UnsupportedModel: another family, or no safetensors.
            ArtifactError: the record of an earlier edit is damaged.
            InputError: nothing there, a damaged checkpoint, or a companion that does not fit.
        """
        loaded = load_model(str(name), revision, token=token)
        companion = None if text_model is None else load_model(str(text_model), want_text=True, token=token)
        editor = cls(loaded, companion, () if loaded.folder is None else history_(loaded.folder))
        editor.tower  # noqa: B018  - what does not fit is told now, not at the first question
        return editor

    @classmethod
    def from_model(
        cls, model: Any, tokenizer: Any | None = None, *, text_model: Any | None = None, name: str | None = None
    ) -> SithEditor:
        """An editor of a model in memory.

        Args:
            model: as for :meth:`from_pretrained`, as an object.
            tokenizer: the tokenizer of the text tower in use.
            text_model: the companion ``CLIPModel``, as an object.
            name: what to call the model in provenance; the name it was loaded by when None.
        """
        title = name or getattr(model.config, "_name_or_path", "") or "in memory"
        loaded = LoadedModel(model, tokenizer, title, getattr(model.config, "_commit_hash", None))
        companion = None
        if text_model is not None:
            other = getattr(text_model.config, "_name_or_path", "") or "in memory"
            companion = LoadedModel(text_model, tokenizer, other, None)
        editor = cls(loaded, companion)
        editor.tower  # noqa: B018
        return editor

    @property
    def model(self) -> Any:
        """The ``transformers`` model."""
        return self.loaded.model

    @cached_property
    def tower(self) -> VisionTower:
        """Its vision tower."""
        return read_tower(self.loaded.model, None if self.companion is None else self.companion.model)

    @property
    def text(self) -> LoadedModel:
        """The model whose text tower encodes concepts. Raises InputError for a vision-only model without companion."""
        if self._text is not None:
            return self._text
        raise InputError(
            f"{self.loaded.name} has no text tower; name the CLIP model that it belongs to: "
            'text_model="openai/clip-vit-base-patch32" (--text-model on the command line)'
        )

    @property
    def _text(self) -> LoadedModel | None:
        candidates = [item for item in (self.companion, self.loaded) if item is not None]
        return next((item for item in candidates if hasattr(item.model, "text_projection")), None)

    @cached_property
    def _text_sha256(self) -> str:
        return text_tower_sha256(self.text.model)

    @property
    def decomposition(self) -> Decomposition:
        """The latest decomposition. Raises InputError when there is none yet."""
        if not self._latest:
            raise InputError("nothing is decomposed yet: call decompose first, or with_decomposition")
        return self._latest[0]

    def with_decomposition(self, decomposition: Decomposition) -> SithEditor:
        """An editor of the same model that asks ``decomposition``.

        Raises:
            BaseMismatch: it was made from other weights.
        """
        decomposition.base.check(self.tower.sha256(self.tower.resolve_layers(decomposition.layers)), self.loaded.name)
        return replace(self, _latest=[decomposition])

    def encode(
        self, concepts: ConceptDictionary, *, job: ResumableJob | None = None, progress: bool = False
    ) -> ConceptDictionary:
        """``concepts`` with embeddings by this model's text tower; as it is if that encoded it already.

        ``work`` as for :func:`sith_hf.towers.encode_texts`.

        Raises:
            InputError: no text tower, or a dictionary that another text tower encoded.
        """
        if concepts.embeddings is None:
            text = self.text
            return concepts.encode(text.model, text.tokenizer, text.name, job=job, progress=progress)
        if self._text is None:
            # A tower with its own projection needs no text tower once the dictionary is encoded.
            return concepts
        if concepts.encoder_sha256 != self._text_sha256:
            raise InputError(
                f"the dictionary was encoded by {concepts.encoder}, not by {self.text.name}: "
                "make it from its texts again, and this model will encode it"
            )
        return concepts

    def decompose(
        self,
        concepts: ConceptDictionary,
        *,
        layers: Iterable[int] | None = None,
        rank: int | None = None,
        poles: str = "+-",
        pursuit: Pursuit | None = None,
        fold: bool = True,
        centre: bool | None = None,
        image_mean: Tensor | None = None,
        device: torch.device | str | None = None,
        job: ResumableJob | None = None,
        progress: bool = False,
    ) -> Decomposition:
        """Factor and explain heads; arguments as for :func:`sith_hf.decomposition.decompose`.

        The result is what :meth:`find`, :meth:`suppress` and the like ask from now on.
        """
        self.tower.require_projection()
        result = decompose(
            self.tower,
            self.encode(concepts, job=job, progress=progress),
            name=self.loaded.name,
            revision=self.loaded.revision,
            layers=layers,
            rank=rank,
            poles=poles,
            pursuit=pursuit,
            fold=fold,
            centre=centre,
            image_mean=image_mean,
            device=device,
            job=job,
            progress=progress,
        )
        self._latest[:] = [result]
        return result

    def embed(self, *concepts: str, decomposition: Decomposition | None = None) -> dict[str, Tensor]:
        """Each concept's text embedding, ``[P]``, from the decomposition where it occurs, else from the text tower."""
        decomposition = decomposition or self.decomposition
        found: dict[str, Tensor] = {}
        for concept in concepts:
            if not isinstance(concept, str) or not concept.strip():
                raise InputError("a concept is a text that is not blank")
            try:
                found[concept] = decomposition.embedding_of(concept)
            except InputError:
                settings = decomposition.settings
                if settings.get("encoder_sha256") != self._text_sha256:
                    raise InputError(
                        f"no explanation has the concept {concept!r}, and {self.text.name} cannot encode it for this "
                        f"decomposition, whose dictionary was encoded by {settings.get('encoder')}"
                    ) from None
                template = settings.get("template")
                found[concept] = encode_texts(self.text.model, self.text.tokenizer, [concept], template)[0]
        return found

    def find(self, concept: str, *, near: float = NEAR, limit: int | None = 20) -> list[Match]:
        """The poles that speak of a concept, in the dictionary or not (see :meth:`Decomposition.find`)."""
        return self.decomposition.find(concept, embedding=self.embed(concept)[concept], near=near, limit=limit)

    def edit(self) -> Edit:
        """An edit with nothing in it yet."""
        return Edit(self, self.decomposition)

    def suppress(self, *concepts: str, gain: float = 0.0, **rule: Any) -> Edit:
        """See :meth:`Edit.suppress`."""
        return self.edit().suppress(*concepts, gain=gain, **rule)

    def amplify(self, *concepts: str, gain: float = 1.5, **rule: Any) -> Edit:
        """See :meth:`Edit.amplify`."""
        return self.edit().amplify(*concepts, gain=gain, **rule)

    def invert(self, *concepts: str, **rule: Any) -> Edit:
        """See :meth:`Edit.invert`."""
        return self.edit().invert(*concepts, **rule)

    def applied(self, spec: EditSpec) -> AbstractContextManager[Any]:
        """The model with the edit in it, inside a ``with`` block (see :func:`sith_hf.edits.applied`)."""
        return applied(self.model, spec)

    def save_pretrained(
        self, folder: str | Path, spec: EditSpec, *, overwrite: bool = False, progress: bool = False
    ) -> SavedCheckpoint:
        """Write a copy of the checkpoint that this editor was loaded from, edited.

        Arguments and results are those of :func:`sith_hf.checkpoint.save_edited`.

        Raises:
            InputError: also when the model was made in memory, so that there is no checkpoint to copy.
        """
        return save_edited(self._source(), spec, folder, overwrite=overwrite, progress=progress)

    def push_to_hub(
        self,
        repo_id: str,
        spec: EditSpec,
        *,
        evaluation: Mapping[str, Any] | None = None,
        **options: Unpack[PushOptions],
    ) -> PushResult:
        """Publish the checkpoint that this editor was loaded from, edited (see :func:`sith_hf.publish.push_edited`).

        Args:
            repo_id: ``namespace/name``; a name alone goes into the namespace of the token's user.
            spec: the edit.
            evaluation: measured results for the card.
            options: ``private``, ``revision``, ``create_pr``, ``commit_message``, ``token``, ``overwrite_card``,
                ``dry_run`` (see :class:`sith_hf.hub.PushOptions`).

        Raises:
            InputError, BaseMismatch, OutputError: as for :meth:`save_pretrained`, and options or a repository that
                do not go together with this.
            HubError: the Hub refused, failed or could not be reached; the message says what stands there.
        """
        check_options(options)
        with scratch_folder() as scratch:
            self.save_pretrained(scratch / "edited", spec)
            return push_edited(scratch / "edited", repo_id, evaluation=evaluation, **options)

    def revert(self, folder: str | Path, *, overwrite: bool = False, progress: bool = False) -> SavedCheckpoint:
        """Write a copy of the checkpoint with its newest edit taken out (see :func:`sith_hf.checkpoint.revert`)."""
        return revert(self._source(), folder, overwrite=overwrite, progress=progress)

    def with_history(self, spec: EditSpec) -> EditSpec:
        """The edits of ``history`` and ``spec`` as one edit of the base that the oldest of them was made for.

        Raises:
            BaseMismatch: they do not compose, as where a later edit changes layers that an earlier one changed.
        """
        whole = spec
        for earlier in self.history:
            whole = earlier.compose(whole)
        return whole

    def _source(self) -> Path:
        name, folder = self.loaded.name, self.loaded.folder
        if name == "in memory":
            raise InputError("this model has no checkpoint to copy: save it with save_pretrained, and open that folder")
        return folder or locate(name, self.loaded.revision)


@dataclass(frozen=True, eq=False, repr=False)
class Edit:
    """An edit in the making: every method returns a new one, ``spec`` is the edit so far.

    Attributes:
        editor: whose model it is for.
        decomposition: what vectors are chosen from.
        gains: the vectors chosen so far.
    """

    editor: SithEditor
    decomposition: Decomposition = field(repr=False)
    gains: Gains = field(default_factory=Gains)

    def set_gain(
        self,
        *concepts: str,
        gain: float,
        threshold: float = SHARE_THRESHOLD,
        near: float = NEAR,
        both_poles: bool = False,
        layers: Iterable[int] | None = None,
        heads: Iterable[int] | None = None,
    ) -> Edit:
        """Give the vectors that are about any of ``concepts`` a gain; the rule is :func:`sith_hf.gains.by_concepts`.

        The gains of a vector that is chosen again multiply, so that suppressing twice suppresses.

        Raises:
            InputError: no concept, a value out of range, or no vector that is about the concepts.
        """
        queries = self.editor.embed(*concepts, decomposition=self.decomposition)
        select = Selection(layers, heads, both_poles)
        chosen = by_concepts(self.decomposition, queries, gain, threshold=threshold, near=near, select=select)
        if not chosen:
            most = float(share_of(self.decomposition, queries, near=near, select=select).max())
            raise InputError(
                f"no vector is about {', '.join(concepts)} with a share of at least {threshold} (the largest share in "
                f"all layers is {most:.2f}): lower threshold or near, decompose more layers, or look with find"
            )
        return replace(self, gains=self.gains.then(chosen))

    def suppress(self, *concepts: str, gain: float = 0.0, **rule: Any) -> Edit:
        """Remove the vectors that are about ``concepts`` (gain 0), or weaken them. ``rule``: see :meth:`set_gain`."""
        return self.set_gain(*concepts, gain=gain, **rule)

    def amplify(self, *concepts: str, gain: float = 1.5, **rule: Any) -> Edit:
        """Turn up the vectors that are about ``concepts``. ``rule``: see :meth:`set_gain`."""
        return self.set_gain(*concepts, gain=gain, **rule)

    def invert(self, *concepts: str, **rule: Any) -> Edit:
        """Turn the vectors that are about ``concepts`` into their opposites (gain -1)."""
        return self.set_gain(*concepts, gain=-1.0, **rule)

    def vectors(
        self,
        gain: float,
        *,
        layers: Iterable[int] | None = None,
        heads: Iterable[int] | None = None,
        vectors: Iterable[int] | None = None,
    ) -> Edit:
        """Give vectors named by number a gain (see :func:`sith_hf.gains.by_name`)."""
        chosen = by_name(self.decomposition, gain, layers=layers, heads=heads, vectors=vectors)
        return replace(self, gains=self.gains.then(chosen))

    @cached_property
    def spec(self) -> EditSpec:
        """The edit as it can be saved, applied and written into a checkpoint."""
        return make_spec(self.editor.tower, self.decomposition, self.gains)

    def __str__(self) -> str:
        return str(self.spec)

    __repr__ = __str__
