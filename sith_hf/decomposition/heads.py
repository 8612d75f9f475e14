"""``ExplainedHeads``: the tensors of a decomposition, what is known of them, and where a vector is in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from sith_hf.concepts import position
from sith_hf.core.fingerprint import BaseRef
from sith_hf.core.ranges import Numbers, choose_numbers
from sith_hf.core.validation import did_you_mean, finite_number, whole_number
from sith_hf.decomposition.drivers import Drivers
from sith_hf.decomposition.explanation import FDR
from sith_hf.decomposition.significance import NULLS, Significance
from sith_hf.errors import InputError, OutOfRange
from sith_hf.pursuit import centred

# The cosine of centred text embeddings is about 0 for unrelated concepts and well above this for synonyms.
NEAR = 0.6


@dataclass(frozen=True, eq=False, repr=False)
class ExplainedHeads:
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

    @cached_property
    def energy_beyond_chance(self) -> Tensor | None:
        """The share of each head's energy in vectors with a pole beyond chance, ``[L, H]`` float64, 0 to 1.

        None if that is not known.
        """
        found = self.beyond_chance()
        return None if found is None else (self.energy_share.double() * found.any(dim=-1)).sum(dim=-1)

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

    def position(self, layer: int) -> int:
        """Return the index of ``layer`` on axis L. Raises InputError if it was not decomposed."""
        if whole_number(layer, "a layer") not in self.layers:
            raise self._no_layer(layer)
        return self.layers.index(layer)

    def _no_layer(self, layer: int) -> OutOfRange:
        return OutOfRange(f"layer {layer} was not decomposed: this decomposition has layers {list(self.layers)}")

    def resolve_layers(self, layers: Numbers | None) -> tuple[int, ...]:
        """Return layer numbers in the order of the choice; all when None.

        Args:
            layers: numbers, negative ones from the last decomposed layer, or a text with ranges such as ``"-4:"``,
                ``"8-11"`` or ``"last4"``.

        Raises:
            InputError: a layer that was not decomposed, or an empty range.
        """
        return self.layers if layers is None else choose_numbers(layers, "layers", self.layers, self._no_layer)

    def resolve_heads(self, heads: Numbers | None) -> tuple[int, ...]:
        """Return head numbers as :meth:`resolve_layers` does layers. Raises InputError for one that does not exist."""
        return _chosen(heads, "head", self.num_heads)

    def resolve_vectors(self, vectors: Numbers | None) -> tuple[int, ...]:
        """Return numbers of vectors, 0 for the strongest of a head, as :meth:`resolve_heads` does heads."""
        return _chosen(vectors, "vector", self.rank)

    def resolve_head(self, head: int) -> int:
        """Return ``head``. Raises InputError if it does not exist."""
        if not 0 <= whole_number(head, "a head") < self.num_heads:
            raise _missing("head", self.num_heads, head)
        return head

    def place(self, layer: int, head: int, vector: int) -> tuple[int, int, int]:
        """Return the index of a vector on the axes L, H, R. Raises InputError for one that is not there."""
        position, head = self.position(layer), self.resolve_head(head)
        if not 0 <= whole_number(vector, "a vector") < self.rank:
            raise _missing("vector", self.rank, vector)
        return position, head, vector

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


def _chosen(given: Numbers | None, what: str, count: int) -> tuple[int, ...]:
    if given is None:
        return tuple(range(count))
    return choose_numbers(given, f"{what}s", range(count), partial(_missing, what, count))


def _missing(what: str, count: int, number: int) -> OutOfRange:
    return OutOfRange(f"{what} {number} does not exist: this decomposition has {what}s 0-{count - 1}")
