"""Where a decomposition has words: how many vectors, and which heads words explain best."""

from __future__ import annotations

import torch
from torch import Tensor

from sith_hf.core.escaping import sanitize
from sith_hf.core.formatting import count, counted, listed, percent
from sith_hf.decomposition.decomposition import Decomposition
from sith_hf.decomposition.explanation import FDR
from sith_hf.towers import layer_title

_LAYERS = 3


def word_energy(found: Decomposition, fdr: float = FDR) -> Tensor:
    """Return the part of each head's energy that words better than chance reconstruct, ``[L, H]``, 0 to 1.

    Of a vector with energy share e and fidelity f (of its better pole), words reconstruct e f^2. Where it is not known
    what is better than chance, all words count.
    """
    loud = found.beyond_chance(fdr)
    squares = found.fidelity.double().clamp(min=0) ** 2
    kept = squares if loud is None else squares * loud
    return (_shares(found) * kept.amax(dim=-1)).sum(dim=-1)


def clearest_heads(found: Decomposition, most: int, fdr: float = FDR) -> list[tuple[int, int]]:
    """Return at most ``most`` heads as (layer, head), those first whose energy words reconstruct best; none without."""
    energy = word_energy(found, fdr)
    order = torch.argsort(energy.flatten(), descending=True, stable=True)[:most].tolist()
    places = [divmod(number, found.num_heads) for number in order if energy.flatten()[number] > 0]
    return [(found.layers[position], head) for position, head in places]


def speaking(found: Decomposition, fdr: float = FDR) -> str:
    """Return in one sentence how many vectors have words better than chance, and where."""
    total = found.singular_values.numel()
    heads = f"{counted(len(found.layers), 'layer')} of {counted(found.num_heads, 'head')}"
    if not found.has_words:
        return f"{counted(total, 'vector')} in {heads}, by number: there are no words"
    loud = found.beyond_chance(fdr)
    if loud is None:
        return f"{counted(total, 'vector')} in {heads}; whether their words are better than chance is not known"
    of_head = loud.any(dim=-1).sum(dim=-1)
    if not of_head.any():
        return f"No vector of {count(total)} has words better than chance"
    of_layer = of_head.sum(dim=-1)
    order = torch.argsort(of_layer, descending=True, stable=True).tolist()
    names = [layer_title(layer, found.base.settings) for layer in found.layers]
    layers = [f"{count(int(of_layer[i]))} in layer {names[i]}" for i in order if of_layer[i]]
    position, head = divmod(int(of_head.argmax()), found.num_heads)
    more = [f"{count(int(of_layer[order[_LAYERS:]].sum()))} in others"] if len(layers) > _LAYERS else []
    where = listed([*layers[:_LAYERS], *more])
    verb = "has" if int(of_head.sum()) == 1 else "have"
    return (
        f"{count(int(of_head.sum()))} of {counted(total, 'vector')} {verb} words better than chance: {where}; "
        f"most in layer {names[position]}, head {head} ({count(int(of_head[position, head]))})"
    )


def head_sentence(found: Decomposition, layer: int, head: int, fdr: float = FDR, most: int = 4) -> str:
    """Return in one sentence what a head writes (or reads): the first concept of its strongest poles with words."""
    name = f"Layer {layer_title(layer, found.base.settings)}, head {head}"
    position = found.layers.index(layer)
    verb = "writes" if found.side == "write" else "looks for"
    items = found.at_rate(found.theme(layer, head, found.rank), fdr)
    known = [item for item in items if item.concepts and not item.silent]
    names = list(dict.fromkeys(sanitize(item.concepts[0][0], 60) or '""' for item in known))
    if not names:
        return f"{name} has no vector with words better than chance"
    loud = found.beyond_chance(fdr)
    if loud is None:
        return f"{name} {verb} {listed(names, most)}; whether that is better than chance is not known"
    own = loud[position, head].any(dim=-1)
    share = float(_shares(found)[position, head][own].sum())
    return (
        f"{name} {verb} {listed(names, most)}: words better than chance for {int(own.sum())} of "
        f"{counted(found.rank, 'vector')}, with {percent(share)} of its energy"
    )


def _shares(found: Decomposition) -> Tensor:
    return found.singular_values.double() ** 2 / found.energy.double().clamp(min=1e-30).unsqueeze(-1)
