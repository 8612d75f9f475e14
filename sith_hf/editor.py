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

from sith_hf.checkpoint import SavedCheckpoint, history, locate, revert, save_edited
from sith_hf.concepts import ConceptDictionary
from sith_hf.core.escaping import sanitize
from sith_hf.core.fingerprint import changed_setting, text_tower_sha256
from sith_hf.decomposition import NEAR, DecomposeSettings, Decomposition, Match, decompose
from sith_hf.edits import EditSpec, applied, make_spec
from sith_hf.errors import BaseMismatch, InputError
from sith_hf.files import ResumableJob, scratch_folder
from sith_hf.gains import (
    FELT,
    SHARE_THRESHOLD,
    WORD_LEVEL,
    Gains,
    Impact,
    Selection,
    WordCarriers,
    WordChoice,
    by_concepts,
    by_name,
    by_word,
    gain_rows,
    gain_table,
    impact_of,
    share_of,
    word_carriers,
)
from sith_hf.hub import PushOptions, PushResult, check_options
from sith_hf.publish import push_edited
from sith_hf.towers import (
    LoadedModel,
    VisionTower,
    encode_texts,
    load_model,
    read_tower,
    text_settings,
    unwrapped,
)


@dataclass(eq=False)
class SithEditor:
    """A CLIP checkpoint to explain and to edit.

    An editor remembers its latest decomposition: :meth:`decompose` sets it, :meth:`find` and the edits read it. The
    rest of its state is constant: results are new objects, and the weights differ only inside :meth:`applied`.

    Example::

        editor = SithEditor.from_pretrained("openai/clip-vit-large-patch14")
        decomposition = editor.decompose(ConceptDictionary.builtin(), layers=[-4, -3, -2, -1])
        spec = editor.suppress("beach", "ocean").amplify("bird", gain=1.5).spec
        editor.save_pretrained("edited/", spec)

    Attributes:
        loaded: the model and its source.
        companion: for a vision-only model, the CLIPModel that it belongs to.
        history: the edits that the checkpoint already has, newest first; empty for a model in memory.
    """

    loaded: LoadedModel
    companion: LoadedModel | None = None
    history: tuple[EditSpec, ...] = ()
    _decomposition: Decomposition | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.tower  # noqa: B018  - fail early on mismatched weights

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

        An edited checkpoint can be edited again; ``history`` lists its edits.

        Args:
            name: a Hub id or a folder.
            revision: branch, tag or commit on the Hub.
            text_model: for a vision-only model, its ``CLIPModel``: the source of the text tower and, for a
                ``CLIPVisionModel``, of the projection.
            token: a Hub token; the one of the environment or login when None.

        Raises:
            UnsupportedModel: another family, or no safetensors.
            ArtifactError: the record of an earlier edit is damaged.
            InputError: no checkpoint, a damaged one, or a companion of another width.
        """
        loaded = load_model(str(name), revision, token=token)
        companion = None if text_model is None else load_model(str(text_model), want_text=True, token=token)
        return cls(loaded, companion, () if loaded.folder is None else history(loaded.folder))

    @classmethod
    def from_model(
        cls, model: Any, tokenizer: Any | None = None, *, text_model: Any | None = None, name: str | None = None
    ) -> SithEditor:
        """Make an editor of a model in memory.

        Args:
            model: a model of a class that :meth:`from_pretrained` loads, perhaps compiled or in ``DataParallel``.
            tokenizer: the tokenizer of the text tower.
            text_model: for a vision-only model, its ``CLIPModel``.
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
            return cls(loaded)
        text_model = unwrapped(text_model)
        companion = LoadedModel(text_model, tokenizer, _name_of(text_model), None)
        return cls(loaded, companion)

    @property
    def model(self) -> Any:
        """The ``transformers`` model."""
        return self.loaded.model

    @cached_property
    def tower(self) -> VisionTower:
        """The vision tower."""
        return read_tower(self.loaded.model, None if self.companion is None else self.companion.model)

    @property
    def text(self) -> LoadedModel:
        """The model whose text tower encodes concepts. Raises InputError if there is none."""
        if self._text is None:
            raise InputError(
                f"{self.loaded.name} has no text tower: name its CLIP model with "
                'text_model="openai/clip-vit-base-patch32" (--text-model on the command line)'
            )
        return self._text

    @property
    def _text(self) -> LoadedModel | None:
        models = (item for item in (self.companion, self.loaded) if item is not None)
        return next((item for item in models if hasattr(item.model, "text_projection")), None)

    @cached_property
    def _text_sha256(self) -> str:
        return text_tower_sha256(self.text.model)

    @cached_property
    def _text_settings(self) -> dict[str, Any]:
        return text_settings(self.text.model, self.text.tokenizer)

    def _check_encoder(self, record: Mapping[str, Any], what: str) -> None:
        """Raise BaseMismatch if this text tower encoded ``what``, but with other settings or another tokenizer."""
        made = record.get("encoder_settings") or {}
        changed = changed_setting(made, self._text_settings) if made and self._text is not None else None
        if changed is not None and record.get("encoder_sha256") == self._text_sha256:
            raise BaseMismatch(
                f"{what} was encoded with {changed[0]}, but {self.text.name} has {changed[1]}: "
                "make it again from its texts, or restore the old setting"
            )

    @property
    def decomposition(self) -> Decomposition:
        """The latest decomposition. Raises InputError when there is none yet."""
        if self._decomposition is None:
            raise InputError("this editor has no decomposition yet: call decompose first, or with_decomposition")
        return self._decomposition

    def with_decomposition(self, decomposition: Decomposition) -> SithEditor:
        """Return an editor of the same model with another decomposition.

        Raises:
            BaseMismatch: the decomposition was made from other weights, or before a setting or the tokenizer changed.
        """
        layers = [layer for layer in decomposition.layers if layer < len(self.tower.layers)]
        self.tower.check(decomposition.base, layers, self.loaded.name)
        self._check_encoder(decomposition.settings, "this decomposition's dictionary")
        other = copy(self)
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
        if concepts.embeddings is None:
            text = self.text
            return concepts.encode(text.model, text.tokenizer, text.title, job=job, progress=progress)
        # A tower with its own projection needs no text tower for an encoded dictionary.
        if self._text is not None and concepts.encoder_sha256 != self._text_sha256:
            raise InputError(
                f"the dictionary was encoded by {concepts.encoder}, not by {self.text.name}: "
                "make it again from its texts, without embeddings"
            )
        self._check_encoder(concepts.encoder_record, "the dictionary")
        return concepts

    def decompose(
        self,
        concepts: ConceptDictionary,
        settings: DecomposeSettings | None = None,
        *,
        device: torch.device | str | None = None,
        job: ResumableJob | None = None,
        progress: bool = False,
        **fields: Any,
    ) -> Decomposition:
        """Factor and explain heads, and remember the result for :meth:`find` and the edits.

        Args:
            concepts: the dictionary; it is encoded first if necessary.
            settings: the choice of vectors, and the method of explanation.
            device, job, progress: as for :func:`sith_hf.decomposition.decompose`.
            fields: fields of ``settings`` by name, such as ``layers=[-2, -1]``.

        Raises:
            InputError: an unknown field, a value out of range, or a dictionary of another text tower.
        """
        settings = (settings or DecomposeSettings()).override(**fields)
        settings.check(self.tower, len(concepts))
        encoded = self.encode(concepts, job=job, progress=progress)
        self._decomposition = decompose(
            self.tower,
            encoded,
            settings,
            name=self.loaded.title,
            revision=self.loaded.revision,
            device=device,
            job=job,
            progress=progress,
        )
        return self._decomposition

    def embed(self, *concepts: str, decomposition: Decomposition | None = None) -> dict[str, Tensor]:
        """Return the text embedding of each concept, ``[P]``: from the decomposition if it occurs there, else encoded.

        Raises:
            InputError: a concept to encode, and no text tower or another than the decomposition's.
        """
        decomposition = decomposition or self.decomposition
        settings, template = decomposition.settings, decomposition.settings.get("template")
        found: dict[str, Tensor] = {}
        for concept in concepts:
            if decomposition.has(concept):
                found[concept] = decomposition.embedding_of(concept)
            elif settings.get("encoder_sha256") == self._text_sha256:
                self._check_encoder(settings, "this decomposition's dictionary")
                found[concept] = encode_texts(self.text.model, self.text.tokenizer, [concept], template)[0]
            else:
                raise InputError(
                    f"no explanation has the concept {concept!r}, and {self.text.name} cannot encode it: this "
                    f"decomposition's dictionary was encoded by {settings.get('encoder')}, so use that text model"
                )
        return found

    def find(self, concept: str, *, near: float = NEAR, limit: int | None = 20) -> list[Match]:
        """Find the poles that mention a concept or a similar one (see :meth:`Decomposition.find`)."""
        return self.decomposition.find(concept, embedding=self.embed(concept)[concept], near=near, limit=limit)

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

    def impact(self, spec: EditSpec) -> Impact:
        """Estimate how much of the model an edit of the decomposed vectors changes (see :attr:`Edit.impact`)."""
        return impact_of(self.tower, self.decomposition, dict(zip(spec.keys, spec.gain.tolist(), strict=True)))

    def applied(self, spec: EditSpec) -> AbstractContextManager[Any]:
        """Edit the model inside a ``with`` block (see :func:`sith_hf.edits.applied`)."""
        return applied(self.model, spec)

    def save_pretrained(
        self,
        folder: str | Path,
        spec: EditSpec,
        *,
        include: Iterable[str] = (),
        overwrite: bool = False,
        progress: bool = False,
    ) -> SavedCheckpoint:
        """Write an edited copy of this editor's checkpoint (see :func:`sith_hf.checkpoint.save_edited`).

        Raises:
            InputError: also for a model in memory, which has no checkpoint.
        """
        return save_edited(self._source(), spec, folder, include=include, overwrite=overwrite, progress=progress)

    def push_to_hub(
        self,
        repo_id: str,
        spec: EditSpec,
        *,
        evaluation: Mapping[str, Any] | None = None,
        include: Iterable[str] = (),
        **options: Unpack[PushOptions],
    ) -> PushResult:
        """Publish an edited copy of this editor's checkpoint (see :func:`sith_hf.publish.push_edited`).

        Args:
            repo_id: ``namespace/name``; a name alone belongs to the user of the token.
            spec: the edit.
            evaluation: measured results for the card.
            include: patterns of more files of the checkpoint to publish, such as ``*.txt``.
            options: see :class:`sith_hf.hub.PushOptions`.

        Raises:
            InputError, BaseMismatch, OutputError: as for :meth:`save_pretrained`.
            InputError, HubError: as for :func:`sith_hf.publish.push_edited`.
        """
        check_options(options)
        with scratch_folder() as scratch:
            patterns = (include,) if isinstance(include, str) else tuple(include)
            saved = self.save_pretrained(scratch / "edited", spec, include=patterns)
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


@dataclass(frozen=True, eq=False, repr=False)
class Edit:
    """An edit under construction: every method returns a new one, and ``spec`` is its current state.

    Attributes:
        editor: the editor of the model.
        decomposition: the decomposition that vectors are chosen from.
        gains: the vectors chosen so far.
        words: for each concept named so far, how strongly each vector carries it.
        choices: for each concept chosen by the rule for single words, what was chosen and left out.
    """

    editor: SithEditor
    decomposition: Decomposition
    gains: Gains = field(default_factory=Gains)
    words: Mapping[str, WordCarriers] = field(default_factory=dict)
    choices: tuple[WordChoice, ...] = ()

    def __post_init__(self) -> None:
        self.decomposition.require_side("write")

    def set_gain(
        self,
        *concepts: str,
        gain: float,
        top: int | None = None,
        threshold: float | None = None,
        near: float | None = None,
        both_poles: bool = False,
        layers: Iterable[int] | None = None,
        heads: Iterable[int] | None = None,
    ) -> Edit:
        """Set the gain of vectors by concepts, in one of two ways. If a vector is chosen again, its gains multiply.

        - Single words, the default: the vectors that carry any of ``concepts`` beyond chance, or the ``top`` strongest
          of each (see :func:`sith_hf.gains.by_word`).
        - A topic, with ``threshold``, ``near`` or ``both_poles``: the vectors whose explanation is about all
          ``concepts`` together with at least a share (see :func:`sith_hf.gains.by_concepts`).

        Raises:
            InputError: no concept, a value out of range, ``top`` with a topic, or no vector for a word or topic.
        """
        queries = self.editor.embed(*concepts, decomposition=self.decomposition)
        select = Selection(layers, heads, both_poles)
        topic = {name: value for name, value in (("threshold", threshold), ("near", near)) if value is not None}
        if topic or both_poles:
            if top is not None:
                raise InputError("top is for single words; leave it out, or leave out threshold, near and both_poles")
            return self._of_topic(queries, gain, topic, select)
        return self._of_words(queries, gain, top, select)

    def _of_topic(
        self, queries: Mapping[str, Tensor], gain: float, limits: Mapping[str, float], select: Selection
    ) -> Edit:
        chosen = by_concepts(self.decomposition, queries, gain, **limits, select=select)
        if not chosen:
            near = {name: value for name, value in limits.items() if name == "near"}
            most = float(share_of(self.decomposition, queries, **near, select=select).max())
            raise InputError(
                f"no vector is about {', '.join(queries)} with a share of at least "
                f"{limits.get('threshold', SHARE_THRESHOLD)} (the largest share in all layers is {most:.2f}): lower "
                "threshold or near, decompose more layers, or leave them out to choose by single words"
            )
        words = {item.word: item for item in word_carriers(self.editor.tower, self.decomposition, queries)}
        return replace(self, gains=self.gains.then(chosen), words={**self.words, **words})

    def _of_words(self, queries: Mapping[str, Tensor], gain: float, top: int | None, select: Selection) -> Edit:
        gains, choices, words = Gains(), [], {}
        level = WORD_LEVEL / max(1, len(queries))
        for carriers in word_carriers(self.editor.tower, self.decomposition, queries):
            chosen, choice = by_word(self.decomposition, carriers, gain, top=top, level=level, select=select)
            if not chosen:
                strongest = choice.left_out[0][1] if choice.left_out else "there is no vector to choose"
                raise InputError(
                    f"no vector carries {carriers.word} beyond chance (the strongest is {strongest}): name a number of "
                    "vectors with top, decompose more layers, or search with find"
                )
            # A vector of two words gets the gain once.
            joined = gains.then(chosen)
            gains = replace(joined, gain=dict.fromkeys(joined.gain, float(gain)))
            choices.append(choice)
            words[carriers.word] = carriers
        return replace(
            self,
            gains=self.gains.then(gains),
            words={**self.words, **words},
            choices=(*self.choices, *choices),
        )

    def suppress(self, *concepts: str, gain: float = 0.0, **rule: Any) -> Edit:
        """Remove the vectors of ``concepts``, or weaken them. ``rule``: see :meth:`set_gain`."""
        return self.set_gain(*concepts, gain=gain, **rule)

    def amplify(self, *concepts: str, gain: float = 1.5, **rule: Any) -> Edit:
        """Amplify the vectors of ``concepts``. ``rule``: see :meth:`set_gain`."""
        return self.set_gain(*concepts, gain=gain, **rule)

    def invert(self, *concepts: str, **rule: Any) -> Edit:
        """Invert the vectors of ``concepts`` (gain -1). ``rule``: see :meth:`set_gain`."""
        return self.set_gain(*concepts, gain=-1.0, **rule)

    def vectors(
        self,
        gain: float,
        *,
        layers: Iterable[int] | None = None,
        heads: Iterable[int] | None = None,
        vectors: Iterable[int] | None = None,
    ) -> Edit:
        """Set the gain of vectors by number (see :func:`sith_hf.gains.by_name`)."""
        chosen = by_name(self.decomposition, gain, layers=layers, heads=heads, vectors=vectors)
        return replace(self, gains=self.gains.then(chosen))

    def __mul__(self, strength: float) -> Edit:
        """Scale the edit: strength 0 changes nothing, 1 is the edit itself. Raises InputError."""
        return replace(self, gains=self.gains * strength)

    __rmul__ = __mul__

    @cached_property
    def spec(self) -> EditSpec:
        """The edit, to save, apply or write into a checkpoint."""
        return make_spec(self.editor.tower, self.decomposition, self.gains)

    @cached_property
    def impact(self) -> Impact:
        """How much of the model the edit changes, estimated from the weights; ``impact.check()`` compares limits."""
        return impact_of(self.editor.tower, self.decomposition, self.gains.gain)

    @cached_property
    def taken(self) -> dict[str, float]:
        """For each named concept, the estimated share of what the model writes of it that the edit changes, 0 to 1."""
        return {word: carriers.taken(self.decomposition, self.gains) for word, carriers in self.words.items()}

    @property
    def warnings(self) -> tuple[str, ...]:
        """The concepts of which the edit changes too little to change what the model sees, in words.

        An edit that only amplifies a concept, by gains below 2, is compared with the most that such a gain can change.
        """
        lines = []
        for word, share in self.taken.items():
            limit = FELT * min(1.0, self._strongest(word))
            if share < limit:
                lines.append(
                    f"{word}: the edit changes an estimated {share:.0%} of what the model writes of it, and below "
                    f"{limit:.0%} the model mostly sees {word} as before; choose more vectors (top, threshold) or a "
                    "stronger gain"
                )
        return tuple(lines)

    def _strongest(self, word: str) -> float:
        """Return the largest change of gain of the vectors chosen for a word, or 1 if most are not amplified."""
        gains = [
            self.gains.gain[key]
            for key, evidence in self.gains.evidence.items()
            if any(f", {word}, " in f", {item.about}, " for item in evidence)
        ]
        # A few vectors may be suppressed for another word.
        return max(gains) - 1 if gains and sorted(gains)[len(gains) // 2] > 1 else 1.0

    def rows(self) -> list[dict[str, Any]]:
        """Return each vector with its gain, reason, share and fidelity, as plain data."""
        return gain_rows(self.decomposition, self.gains)

    def __str__(self) -> str:
        chosen = {choice.word: f" ({choice.chosen} of {choice.candidates} vectors)" for choice in self.choices}
        above = [f"Edit of {self.editor.loaded.name}: {self.impact}"]
        above += [
            f"{word}: {share:.0%} of what the model writes of it is changed, estimated{chosen.get(word, '')}"
            for word, share in self.taken.items()
        ]
        below = []
        for choice in self.choices:
            below += [f"{choice.word}: left out, strongest first"] if choice.left_out else []
            below += [
                f"  layer {layer}, head {head}, vector {vector}; {why}"
                for (layer, head, vector), why in choice.left_out
            ]
        heading, tail = ([sanitize(line, 1000) for line in lines] for lines in (above, below))
        return "\n".join([*heading, gain_table(self.rows()), *tail])

    def __repr__(self) -> str:
        return repr(self.spec)
