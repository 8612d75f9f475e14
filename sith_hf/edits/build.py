"""From gains to an ``EditSpec``: the rank-one terms of the changed singular vectors (Method, sec. 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from sith_hf.decomposition import Decomposition, poles_label
from sith_hf.edits.place import Place
from sith_hf.edits.provenance import Provenance
from sith_hf.edits.spec import EditSpec
from sith_hf.errors import BaseMismatch, InputError, UnsupportedModel
from sith_hf.gains import Direction, Gains, check_gain
from sith_hf.towers import Tower

# Concepts of the dictionary that an edit records, at most: enough for the median of what else it changes.
OTHERS = 100


def make_spec(tower: Tower, decomposition: Decomposition, gains: Gains) -> EditSpec:
    """Build the edit that sets ``gains`` of singular vectors of ``decomposition``.

    Args:
        tower: the tower that was decomposed.
        decomposition: its singular vectors.
        gains: the vectors to change, with their new gains.

    Raises:
        BaseMismatch: the decomposition was made from other weights, or of the other tower.
        UnsupportedModel: a layer whose output reaches nothing, or cannot be written.
        InputError: a vector that is not in the decomposition, a gain that is not finite, or explanations of read
            directions.
    """
    decomposition.require_side("write")
    numbers = sorted({layer for layer, _, _ in gains.gain})
    if any(layer >= len(tower.layers) for layer in numbers):
        raise BaseMismatch(
            f"this was made for {decomposition.base.name}, but this model has {len(tower.layers)} layers: layer "
            f"{numbers[-1]} is not there"
        )
    if decomposition.tower != tower.kind:
        raise BaseMismatch(f"this decomposition is of the {decomposition.tower} tower, not of the {tower.kind} tower")
    tower.check_writable(numbers)
    # The projection may belong to a companion model, outside the checkpoint that is edited.
    sha256 = tower.sha256(numbers, outside=False)
    decomposition.base.only(sha256).check(sha256, "this model", tower.settings)

    fold, centre = decomposition.settings.get("fold"), decomposition.settings.get("centre")
    if not isinstance(fold, bool) or not isinstance(centre, bool):
        raise InputError("the decomposition does not record fold and centre: decompose again")
    size, head_size = tower.hidden_size, tower.head_size
    keys = sorted(gains.gain)
    write, columns, row = torch.zeros(len(keys), size), torch.zeros(len(keys), size), torch.zeros(len(keys), head_size)
    constant, explained = torch.zeros(len(keys)), []
    factors = {n: tower.layers[n].factors(tower.num_heads, fold=fold, centre=centre) for n in numbers}
    for i, (layer, head, vector) in enumerate(keys):
        check_gain(gains.gain[layer, head, vector])
        explained.append(tuple(decomposition.explain(layer, head, vector, pole) for pole in decomposition.poles))
        direction = decomposition.write[decomposition.position(layer), head, vector]
        term = direction.double() @ factors[layer].write[head].cpu()
        write[i], row[i] = direction, term
        constant[i] = term @ factors[layer].constant[head].cpu()
        columns[i] = tower.layers[layer].columns(direction)
    for layer in numbers:
        _check_bias(tower, layer, constant[[key[0] == layer for key in keys]], fold=fold)
    place = Place(tower.kind, tower.family).of({layer: tower.layers[layer].outputs for layer in numbers})
    scaled = any(tower.layers[layer].scale is not None for layer in numbers)
    positions = torch.tensor(keys, dtype=torch.int64).reshape(-1, 3)
    reasons = tuple(gains.reason.get(key, "") for key in keys)
    return EditSpec.from_terms(
        layer=positions[:, 0],
        head=positions[:, 1],
        vector=positions[:, 2],
        gain=torch.tensor([gains.gain[k] for k in keys], dtype=torch.float64),
        write=write,
        row=row,
        constant=constant,
        column=columns if scaled else None,
        place=place,
        labels=tuple(map(poles_label, explained)),
        provenance=Provenance(tuple(explained), reasons, dict(decomposition.settings), *_named(decomposition, gains)),
        base=replace(decomposition.base, sha256=sha256),
        settings={"fold": fold, "centre": centre},
    )


def _named(decomposition: Decomposition, gains: Gains) -> tuple[tuple[Mapping[str, Direction], ...], tuple[str, ...]]:
    """Return the concepts by which each vector was chosen, and others from the same dictionary; none without such."""
    if not any(gains.named.get(key) for key in gains.gain):
        return (), ()
    chosen = {concept.casefold() for key in gains.gain for concept in gains.named.get(key, ())}
    others = [text for text in decomposition.texts if text.casefold() not in chosen]
    named = tuple(gains.named.get(key, {}) for key in sorted(gains.gain))
    return named, tuple(others[:: -(-len(others) // OTHERS) or 1])


def _check_bias(tower: Tower, layer: int, constant: Tensor, *, fold: bool) -> None:
    """Raise UnsupportedModel if an edit of a layer must change a bias that its output projection lacks."""
    names = tower.layers[layer].names
    if "out_bias" not in names and bool((constant != 0).any()):
        # Without a bias of the values, the constant is the offset of the norm, which only folding makes one.
        advice = "; decompose with fold=False (--no-fold)" if fold and "value_bias" not in names else ""
        raise UnsupportedModel(
            f"{names['out_weight']} has no bias beside it, but the values of its heads have a constant part, which an "
            f"edit moves into that bias: the edit cannot be written{advice}"
        )
