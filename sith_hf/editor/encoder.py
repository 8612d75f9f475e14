"""``ConceptEncoder``: embeddings of concepts by the text tower of an editor, and of no other text tower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from sith_hf.concepts import ConceptDictionary
from sith_hf.core.fingerprint import changed_setting
from sith_hf.core.validation import did_you_mean
from sith_hf.decomposition import Decomposition
from sith_hf.errors import BaseMismatch, InputError
from sith_hf.files import ResumableJob
from sith_hf.towers import LoadedModel, encode_texts, encoder_settings, family_of, text_tower_sha256, with_texts


@dataclass(frozen=True, eq=False)
class ConceptEncoder:
    """The text tower of a model or of its companion, if one of them has one.

    Attributes:
        loaded: the model.
        companion: for a vision-only model, the whole model that it belongs to; it comes first.
    """

    loaded: LoadedModel
    companion: LoadedModel | None

    @property
    def text(self) -> LoadedModel:
        """The model with the text tower. Raises InputError if there is none."""
        if self._text is None:
            raise InputError(f"{self.loaded.name} has no text tower: {family_of(self.loaded.model).advice}")
        return self._text

    @property
    def _text(self) -> LoadedModel | None:
        return with_texts(self.companion, self.loaded)

    @cached_property
    def _sha256(self) -> str:
        return text_tower_sha256(self.text.model)

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return encoder_settings(self.text.model, self.text.tokenizer)

    def check(self, record: Mapping[str, Any], what: str) -> None:
        """Raise BaseMismatch if this text tower encoded ``what``, but with other settings or another tokenizer."""
        made = record.get("encoder_settings") or {}
        changed = changed_setting(made, self._settings) if made and self._text is not None else None
        if changed is not None and record.get("encoder_sha256") == self._sha256:
            raise BaseMismatch(
                f"{what} was encoded with {changed[0]}, but {self.text.name} has {changed[1]}: "
                "make it again from its texts, or restore the old setting"
            )

    def encode(self, concepts: ConceptDictionary, *, job: ResumableJob | None, progress: bool) -> ConceptDictionary:
        """Return ``concepts`` with embeddings; arguments and errors as for :meth:`sith_hf.editor.SithEditor.encode`."""
        if concepts.embeddings is None:
            text = self.text
            return concepts.encode(text.model, text.tokenizer, text.title, job=job, progress=progress)
        # A tower with its own projection needs no text tower for an encoded dictionary.
        if self._text is not None and concepts.encoder_sha256 != self._sha256:
            raise InputError(
                f"the dictionary was encoded by {concepts.encoder}, not by {self.text.name}: "
                "make it again from its texts, without embeddings"
            )
        self.check(concepts.encoder_record, "the dictionary")
        return concepts

    def embed(self, concepts: Sequence[str], decomposition: Decomposition) -> dict[str, Tensor]:
        """Return the embedding of each concept, ``[P]``; errors as for :meth:`sith_hf.editor.SithEditor.embed`."""
        decomposition.require_words()
        settings, template = decomposition.settings, decomposition.settings.get("template")
        found: dict[str, Tensor] = {}
        for concept in concepts:
            if decomposition.has(concept):
                found[concept] = decomposition.embedding_of(concept)
            elif settings.get("encoder_sha256") == self._sha256:
                self.check(settings, "this decomposition's dictionary")
                found[concept] = encode_texts(self.text.model, self.text.tokenizer, [concept], template)[0]
            else:
                raise InputError(
                    f"no explanation has the concept {concept!r}{did_you_mean(concept, decomposition.texts)}, and "
                    f"{self.text.name} cannot encode it: this "
                    f"decomposition's dictionary was encoded by {settings.get('encoder')}, so use that text model"
                )
        return found
