"""``Decomposition``: the explained singular vectors of a tower, with search and storage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sith_hf.concepts import position
from sith_hf.core.escaping import sanitize
from sith_hf.core.fingerprint import BaseRef
from sith_hf.core.validation import did_you_mean, finite_number, whole_number, whole_numbers
from sith_hf.decomposition.drivers import Drivers
from sith_hf.decomposition.explanation import FDR, Explanation, Match
from sith_hf.decomposition.significance import NULLS, Significance
from sith_hf.decomposition.storage import DECOMPOSITION_LAYOUT, FIELDS, read_fields
from sith_hf.errors import InputError
from sith_hf.files import library_versions, text_tensors, write_artifact
from sith_hf.hub import Pushable, find_artifact
from sith_hf.pursuit import centred

if TYPE_CHECKING:
    from sith_hf.grounding import Grounding

# The cosine of centred text embeddings is about 0 for unrelated concepts and well above this for synonyms.
NEAR = 0.6


@dataclass(frozen=True, eq=False)
class Decomposition(Pushable):
    """R singular vectors of H heads in L layers, each pole explained by at most K of U concepts.

    One that was made without concepts has no poles and explains nothing: K, U and P are 0, and so is every ceiling.

    Attributes:
        layers: the L layer numbers, ascending.
        singular_values: ``[L, H, R]``, descending.
        energy: ``[L, H]``, the sum of all squared singular values of each head, including those beyond R.
        write, read: ``[L, H, R, D]``, unit directions (see :class:`sith_hf.decomposition.HeadSVD`).
        concept: ``[L, H, R, poles, K]``, indices into ``texts``, -1 where fewer than K.
        weight: ``[L, H, R, poles, K]``, non-negative, descending.
        fidelity, coherence: ``[L, H, R, poles]`` (see :class:`sith_hf.decomposition.Quality`).
        ceiling: ``[L, H, R]``, the highest possible fidelity; all three are of the directions of ``side``.
        texts: the U concepts that occur, sorted.
        embeddings: ``[U, P]``, their text embeddings, not centred.
        dictionary_mean: ``[P]``, the mean over the whole dictionary.
        image_mean: ``[P]``, zero if none was given.
        poles: ``("+", "-")`` or ``("+",)``; empty without explanations.
        base: the decomposed weights.
        settings: fold, centre, the pursuit's settings and the dictionary's fingerprint, as JSON values.
        significance: the fidelities of random directions, and p-values; None (not known) in a decomposition of an
            earlier release or an imported one.
        total_cosine: ``[L, H, R]``, the cosine of the direct and the total effect of each write direction: a low one
            warns that later layers turn the vector into something else. None where no total effect was measured.
        drivers: the concepts that drive each pole, measured on images; None where they were not measured.
    """

    layers: tuple[int, ...]
    singular_values: Tensor
    energy: Tensor
    write: Tensor
    read: Tensor
    concept: Tensor
    weight: Tensor
    fidelity: Tensor
    coherence: Tensor
    ceiling: Tensor
    texts: tuple[str, ...]
    embeddings: Tensor
    dictionary_mean: Tensor
    image_mean: Tensor
    poles: tuple[str, ...]
    base: BaseRef
    settings: Mapping[str, Any]
    significance: Significance | None = None
    total_cosine: Tensor | None = None
    drivers: Drivers | None = None

    def __repr__(self) -> str:
        _, heads, rank = self.singular_values.shape
        side = "" if self.side == "write" else f"{self.side} directions, "
        words = f"poles {''.join(self.poles)}, {len(self.texts)} concepts in use" if self.has_words else "no words"
        found = self.beyond_chance()
        words += "" if found is None else f", {int(found.sum())} of {found.numel()} poles beyond chance"
        side = side if self.tower == "vision" else f"{self.tower} tower, {side}"
        return (
            f"Decomposition({sanitize(self.base.name)}, {side}layers {list(self.layers)}, {heads} heads, "
            f"{rank} vectors each, {words})"
        )

    @property
    def num_heads(self) -> int:
        """The number of heads in a layer, H."""
        return int(self.singular_values.shape[1])

    @property
    def rank(self) -> int:
        """The number of vectors per head, R."""
        return int(self.singular_values.shape[2])

    @property
    def side(self) -> str:
        """The explained directions: ``"write"``, or ``"read"`` (the paper's left vectors)."""
        return str(self.settings.get("side", "write"))

    @property
    def effect(self) -> str:
        """What of a direction is explained: ``"direct"``, itself, or ``"total"``, with what later layers make of it."""
        return str(self.settings.get("effect", "direct"))

    @property
    def tower(self) -> str:
        """The tower of the vectors, ``"vision"`` or ``"text"``."""
        return str(self.settings.get("tower", "vision"))

    @property
    def has_words(self) -> bool:
        """Whether the vectors are explained by concepts."""
        return bool(self.poles)

    def require_words(self) -> None:
        """Raise InputError unless the vectors are explained by concepts."""
        if not self.has_words:
            raise InputError(
                "this decomposition was made without concepts, so no words explain its vectors: decompose with "
                "concepts, or edit by number (--gain with --layers, --heads or --vectors; Edit.vectors in Python)"
            )

    def require_side(self, side: str) -> None:
        """Raise InputError unless the explanations are of ``side``."""
        if self.side != side:
            raise InputError(
                f"this decomposition explains {self.side} directions; {side} directions are needed here: decompose "
                f'with side="{side}" (--side {side}). An edit removes what a vector writes'
            )

    @cached_property
    def atoms(self) -> Tensor:
        """The centred unit embeddings of ``texts``, ``[U, P]``."""
        return centred(self.embeddings, self.dictionary_mean)

    @cached_property
    def energy_share(self) -> Tensor:
        """The energy shares, s^2 over the head's energy, ``[L, H, R]``; zero for a head of zeros."""
        return self.singular_values**2 / self.energy.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(-1)

    @property
    def p_values(self) -> Tensor | None:
        """The p-value of each fidelity against random directions, ``[L, H, R, poles]`` float64; None if not known."""
        return None if self.significance is None else self.significance.p

    @property
    def chance(self) -> float | None:
        """The mean fidelity of random directions that are explained in the same way; None if not known."""
        return None if self.significance is None else self.significance.chance

    @property
    def p_head(self) -> Tensor | None:
        """The p-value of each fidelity against random directions of what its head can write; None if not known.

        ``[L, H, R, poles]`` float64. This null is stricter for a head whose whole write space is easy to explain.
        """
        return None if self.significance is None else self.significance.p_head

    def chance_level(self, null: str = "residual") -> Tensor | None:
        """Return the mean fidelity of random directions for each pole, ``[L, H, R, poles]``; None if not known.

        Args:
            null: ``"residual"``, directions of the residual stream, or ``"head"``, of what the pole's head can write.

        Raises:
            InputError: another null.
        """
        if null not in NULLS:
            raise InputError(f"unknown null {null!r}; the nulls are {', '.join(NULLS)}")
        if self.significance is None:
            return None
        known = self.significance.head_chance if null == "head" else self.significance.chance_of_layer.unsqueeze(-1)
        return None if known is None else known[..., None, None].expand(self.fidelity.shape).clone()

    def beyond_chance(self, fdr: float = FDR) -> Tensor | None:
        """Return which explanations are better than chance, ``[L, H, R, poles]`` bool; None if not known.

        Args:
            fdr: the false discovery rate over all poles of all vectors (Benjamini-Hochberg), above 0 and below 1.

        Raises:
            InputError: a rate out of range.
        """
        if not 0 < finite_number(fdr, "fdr, a false discovery rate,") < 1:
            raise InputError(f"fdr must be a false discovery rate above 0 and below 1; got {fdr}")
        return None if self.significance is None else self.significance.q <= fdr

    def at_rate(self, explanations: Iterable[Explanation], fdr: float) -> list[Explanation]:
        """Return explanations of this decomposition, with ``beyond_chance`` at another false discovery rate.

        Raises:
            InputError: a rate out of range.
        """
        found = self.beyond_chance(fdr)
        if found is None:
            return list(explanations)
        return [
            replace(item, beyond_chance=bool(found[(*self.place(item.layer, item.head, item.vector), pole)]))
            for item in explanations
            for pole in (self.poles.index(item.pole),)
        ]

    def position(self, layer: int) -> int:
        """Return the index of ``layer`` on axis L. Raises InputError if it was not decomposed."""
        if whole_number(layer, "a layer") not in self.layers:
            raise InputError(f"layer {layer} was not decomposed: this decomposition has layers {list(self.layers)}")
        return self.layers.index(layer)

    def resolve_layers(self, layers: Iterable[int]) -> tuple[int, ...]:
        """Return layer numbers; negative ones count from the last decomposed layer. Raises InputError for others."""
        numbers = whole_numbers(layers, "layers")
        known = {**{n: n for n in self.layers}, **{i - len(self.layers): n for i, n in enumerate(self.layers)}}
        return tuple(known[n] if n in known else self.layers[self.position(n)] for n in numbers)

    def resolve_head(self, head: int) -> int:
        """Return ``head``. Raises InputError if it does not exist."""
        if not 0 <= whole_number(head, "a head") < self.num_heads:
            raise InputError(f"head {head} does not exist: this decomposition has heads 0-{self.num_heads - 1}")
        return head

    def explain(self, layer: int, head: int, vector: int, pole: str = "+") -> Explanation:
        """Return the explanation of one pole. Raises InputError for a layer, head, vector or pole out of range."""
        position, head, vector = self.place(layer, head, vector)
        self.require_words()
        if pole not in self.poles:
            raise InputError(f"pole {pole!r} was not explained: this decomposition has {', '.join(self.poles)}")
        of_head = self._of_head(position * self.num_heads + head)
        return of_head[vector * len(self.poles) + self.poles.index(pole)]

    def place(self, layer: int, head: int, vector: int) -> tuple[int, int, int]:
        """Return the index of a vector on the axes L, H, R. Raises InputError for one that is not there."""
        position, head = self.position(layer), self.resolve_head(head)
        if not 0 <= whole_number(vector, "a vector") < self.rank:
            raise InputError(f"vector {vector} does not exist: this decomposition has vectors 0-{self.rank - 1}")
        return position, head, vector

    @cached_property
    def _explanations(self) -> tuple[Explanation, ...]:
        """Every explained pole, by layer, head, vector, pole."""
        return tuple(item for number in range(len(self.layers) * self.num_heads) for item in self._of_head(number))

    def _of_head(self, number: int) -> tuple[Explanation, ...]:
        """The poles of one head, by vector and pole; heads are counted through the layers. Computed once for each."""
        if number not in self._heads:
            self._heads[number] = self._explained(number)
        return self._heads[number]

    @cached_property
    def _heads(self) -> dict[int, tuple[Explanation, ...]]:
        return {}

    @cached_property
    def _known(self) -> dict[str, Tensor | None]:
        """What is known of each pole, by the names of ``Explanation``, ``[L, H, R, poles]`` each; None if it is not."""
        shape, cosine = self.fidelity.shape, self.total_cosine
        return {
            "p_value": self.p_values,
            "total_cosine": None if cosine is None else cosine.unsqueeze(-1).expand(shape),
            "p_head": self.p_head,
            "chance": self.chance_level("residual"),
            "head_chance": self.chance_level("head"),
            "beyond_chance": self.beyond_chance(),
        }

    def _explained(self, number: int) -> tuple[Explanation, ...]:
        at = divmod(number, self.num_heads)
        shape = self.fidelity.shape[2:]
        layer, places = self.layers[at[0]], product(range(self.rank), self.poles)
        pairs = zip(self.concept[at].flatten(0, 1).tolist(), self.weight[at].flatten(0, 1).tolist(), strict=True)
        concepts = (
            tuple((self.texts[i], w) for i, w in zip(index, weight, strict=True) if i >= 0 and w > 0)
            for index, weight in pairs
        )
        numbers = [
            tensor[at].reshape(self.rank, -1).expand(shape).flatten().tolist()
            for tensor in (self.singular_values, self.energy_share, self.fidelity, self.ceiling, self.coherence)
        ]
        unknown = [None] * shape.numel()
        more = {name: unknown if each is None else each[at].flatten().tolist() for name, each in self._known.items()}
        more |= {"side": [self.side] * shape.numel()}
        more |= {"driven_by": unknown if self.drivers is None else self.drivers.named(at)}
        return tuple(
            Explanation(layer, at[1], vector, pole, named, *values, **dict(zip(more, others, strict=True)))
            for (vector, pole), named, *values, others in zip(
                places, concepts, *numbers, zip(*more.values(), strict=True), strict=True
            )
        )

    def has(self, concept: str) -> bool:
        """Return whether a concept occurs in the explanations, ignoring case. Raises InputError for a blank text."""
        return position(self.texts, concept) is not None

    def embedding_of(self, concept: str) -> Tensor:
        """Return the embedding of a concept in the explanations, ``[P]``, not centred, ignoring case.

        Raises:
            InputError: the concept does not occur.
        """
        self.require_words()
        index = position(self.texts, concept)
        if index is None:
            raise InputError(
                f"no explanation has the concept {concept!r}{did_you_mean(concept, self.texts)}: name the decomposed "
                "model, which encodes it (--model on the command line, SithEditor.find in Python), or pass its text "
                "embedding"
            )
        return self.embeddings[index]

    def nearness(self, queries: Tensor, near: float = NEAR) -> Tensor:
        """Return the cosine of each of ``texts`` to the nearest query, ``[U]``; 0 if it is below ``near``.

        Args:
            queries: ``[Q, P]`` text embeddings, not centred; they are centred for the cosine.
            near: the lowest cosine that counts, above 0 and at most 1.

        Raises:
            InputError: ``near`` out of range, or queries of another size.
        """
        self.require_words()
        if not 0 < finite_number(near, "near") <= 1:
            raise InputError(f"near must be a cosine above 0 and at most 1; got {near}")
        if queries.ndim != 2 or queries.shape[1] != self.embeddings.shape[1]:
            raise InputError(f"queries must have shape [Q, {self.embeddings.shape[1]}]; got {list(queries.shape)}")
        cosine = (self.atoms @ centred(queries, self.dictionary_mean).T).amax(dim=1).clamp(max=1)
        # With near = 1, rounding must not exclude the concept itself.
        return torch.where(cosine >= near - 1e-4, cosine, 0.0)

    def strength(self, queries: Tensor, near: float = NEAR) -> Tensor:
        """Return the weights of concepts near any query, times their cosine, summed over K: ``[L, H, R, poles]``."""
        nearness = torch.cat([self.nearness(queries, near), torch.zeros(1)])
        return (self.weight * nearness[self.concept]).sum(dim=-1)

    def share(self, queries: Tensor, near: float = NEAR) -> Tensor:
        """Return :meth:`strength` divided by the sum of the explanation's weights, 0 to 1: ``[L, H, R, poles]``."""
        total = self.weight.sum(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
        return self.strength(queries, near) / total

    def find(
        self, concept: str, *, embedding: Tensor | None = None, near: float = NEAR, limit: int | None = 20
    ) -> list[Match]:
        """Find the poles that mention a concept or a similar one, strongest first.

        Args:
            concept: a concept of the explanations; any text if ``embedding`` is given.
            embedding: its text embedding, ``[P]``, for a concept that does not occur in the explanations.
            near: the lowest cosine of centred embeddings that counts as similar.
            limit: the largest number of results; all when None.

        Raises:
            InputError: an unknown concept without an embedding, or values out of range.
        """
        if limit is not None:
            limit = whole_number(limit, "limit", least=1)
        queries = (self.embedding_of(concept) if embedding is None else embedding).reshape(1, -1).float()
        strength, share = self.strength(queries, near).flatten(), self.share(queries, near).flatten()
        order = torch.argsort(strength, descending=True, stable=True)[:limit]
        size = self.rank * len(self.poles)
        return [
            Match(self._of_head(index // size)[index % size], float(strength[index]), float(share[index]))
            for index in order[strength[order] > 0].tolist()
        ]

    def theme(self, layer: int, head: int, vectors: int = 3) -> list[Explanation]:
        """Return the explanations of the strongest vectors of one head, every pole, in order."""
        self.require_words()
        return [self.explain(layer, head, v, p) for v in range(min(vectors, self.rank)) for p in self.poles]

    def strengths(self, layer: int, head: int, vectors: int = 3) -> list[dict[str, Any]]:
        """Return the numbers of the strongest vectors of one head: layer, head, vector, singular_value, energy_share.

        Raises:
            InputError: a layer or head that is not there.
        """
        places = [self.place(layer, head, vector) for vector in range(min(vectors, self.rank))]
        return [
            {
                "layer": self.layers[place[0]],
                "head": place[1],
                "vector": place[2],
                "singular_value": float(self.singular_values[place]),
                "energy_share": float(self.energy_share[place]),
            }
            for place in places
        ]

    def same_vectors(self, other: Decomposition, explanations: Iterable[Explanation]) -> list[Explanation]:
        """Return the explanations of the same poles in a decomposition of the other side.

        Args:
            other: a decomposition of the other side of the same weights.
            explanations: explanations of this decomposition.

        Raises:
            BaseMismatch: ``other`` was made from other weights.
            InputError: ``other`` has the same side or another folding, or lacks a layer, vector or pole.
        """
        self.require_words()
        other.require_words()
        if other.side == self.side or other.settings.get("fold") != self.settings.get("fold"):
            raise InputError(
                f"the decompositions must be of the two sides of the same vectors: one explains {self.side} directions "
                f"(fold: {self.settings.get('fold')}), the other {other.side} directions "
                f"(fold: {other.settings.get('fold')})"
            )
        self.base.only(other.base.sha256).check(other.base.sha256, "the other decomposition")
        return [other.explain(item.layer, item.head, item.vector, item.pole) for item in explanations]

    def explanations(self) -> list[Explanation]:
        """Return every explained pole, by layer, head, vector, pole. Computed once. Raises InputError without any."""
        self.require_words()
        return list(self._explanations)

    def to_dataset(self) -> Any:
        """Return a ``datasets.Dataset`` with one row per explained pole (the fields of :class:`Explanation`).

        Without explanations it has one row per vector (:meth:`strengths`).
        """
        from datasets import Dataset

        if not self.has_words:
            heads = product(self.layers, range(self.num_heads))
            return Dataset.from_list([row for place in heads for row in self.strengths(*place, self.rank)])
        rows = [
            vars(item)
            | {"concepts": [text for text, _ in item.concepts], "weights": [w for _, w in item.concepts]}
            | ({} if self.drivers is None else _driven_columns(item))
            for item in self._explanations
        ]
        return Dataset.from_list(rows)

    def ground(self, images: Any = None, model: Any | None = None, **options: Any) -> Grounding:
        """Show which images drive the vectors, and how well they agree with the words.

        Args:
            images: see :func:`sith_hf.grounding.ground`; drawn noise of shapes when None.
            model: a ``SithEditor`` of the decomposed model, or its folder or Hub id; the recorded base when None.
            options: of :meth:`sith_hf.editor.SithEditor.ground`.

        Raises:
            InputError: the base cannot be loaded by its recorded name, or as for :func:`sith_hf.grounding.ground`.
            BaseMismatch: the model has other weights than the decomposed one.
        """
        from sith_hf.editor import SithEditor

        if not isinstance(model, SithEditor):
            name, revision = (self.base.name, self.base.revision) if model is None else (str(model), None)
            try:
                model = SithEditor.from_pretrained(name, revision)
            except InputError as error:
                raise InputError(f"{error}. Pass the decomposed model: ground(images, model=...)") from None
        return model.with_decomposition(self).ground(images, **options)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write ``decomposition.safetensors`` into ``folder``. Raises OutputError."""
        tensors = {name: getattr(self, name) for name in FIELDS}
        tensors |= {"layers": torch.tensor(self.layers)} | text_tensors(self.texts)
        data = {"base": self.base.to_json(), "settings": dict(self.settings), "poles": list(self.poles)}
        if self.significance is not None:
            tensors |= self.significance.tensors()
            data["significance"] = self.significance.to_json()
        if self.total_cosine is not None:
            tensors["total_cosine"] = self.total_cosine
        if self.drivers is not None:
            tensors |= self.drivers.tensors()
            data["drivers"] = self.drivers.to_json()
        return write_artifact(folder, DECOMPOSITION_LAYOUT, tensors, {**data, "libraries": library_versions()})

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, revision: str | None = None, token: str | None = None
    ) -> Decomposition:
        """Read what :meth:`save_pretrained` wrote, from a folder or a Hub repository. Raises ArtifactError."""
        return cls(**read_fields(find_artifact(name_or_path, DECOMPOSITION_LAYOUT, revision, token)))


def _driven_columns(item: Explanation) -> dict[str, list[str] | list[float] | None]:
    """Return what drives a pole as two columns; None if it was not measured."""
    if item.driven_by is None:
        return {"driven_by": None, "correlations": None}
    return {"driven_by": [text for text, _ in item.driven_by], "correlations": [value for _, value in item.driven_by]}
