"""From gains to an ``EditSpec``: the rank-one terms of the changed singular vectors (Method, sec. 6)."""

from __future__ import annotations

from dataclasses import replace

import torch

from sith_hf.decomposition import Decomposition
from sith_hf.edits.provenance import Provenance
from sith_hf.edits.spec import EditSpec
from sith_hf.errors import InputError
from sith_hf.gains import Gains, check_gain
from sith_hf.towers import LAYER_PARTS, PROJECTION, VisionTower, tensor_key


def make_spec(tower: VisionTower, decomposition: Decomposition, gains: Gains) -> EditSpec:
    """Build the edit that sets ``gains`` of singular vectors of ``decomposition``.

    Args:
        tower: the tower that was decomposed.
        decomposition: its singular vectors.
        gains: the vectors to change, with their new gains.

    Raises:
        BaseMismatch: the decomposition was made from other weights.
        InputError: a vector that is not in the decomposition, a gain that is not finite, or explanations of read
            directions.
    """
    decomposition.require_side("write")
    layers = sorted({layer for layer, _, _ in gains.gain})
    numbers = [layer for layer in layers if layer < len(tower.layers)]
    # The projection may belong to a companion model, outside the checkpoint that is edited.
    sha256 = {key: value for key, value in tower.sha256(numbers).items() if key != PROJECTION}
    read = {tensor_key(layer, part) for layer in layers for part in LAYER_PARTS}
    decomposition.base.only({*sha256, *read}).check(sha256, "this model", tower.settings)

    fold, centre = decomposition.settings.get("fold"), decomposition.settings.get("centre")
    if not isinstance(fold, bool) or not isinstance(centre, bool):
        raise InputError("the decomposition does not record fold and centre: decompose again")
    size, head_size = tower.hidden_size, tower.hidden_size // tower.num_heads
    keys = sorted(gains.gain)
    write, row = torch.zeros(len(keys), size), torch.zeros(len(keys), head_size)
    constant, explained = torch.zeros(len(keys)), []
    factors = {n: tower.layers[n].factors(tower.num_heads, fold=fold, centre=centre) for n in numbers}
    for i, (layer, head, vector) in enumerate(keys):
        check_gain(gains.gain[layer, head, vector])
        explained.append(tuple(decomposition.explain(layer, head, vector, pole) for pole in decomposition.poles))
        direction = decomposition.write[decomposition.position(layer), head, vector]
        term = direction.double() @ factors[layer].write[head].cpu()
        write[i], row[i] = direction, term
        constant[i] = term @ factors[layer].constant[head].cpu()
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
        labels=tuple(
            " | ".join(f"{p.pole} {', '.join(text for text, _ in p.concepts)}" for p in poles) for poles in explained
        ),
        provenance=Provenance(tuple(explained), reasons, dict(decomposition.settings)),
        base=replace(decomposition.base, sha256=sha256),
        settings={"fold": fold, "centre": centre},
    )
