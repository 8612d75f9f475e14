"""The drift of an edit: how far it moves the embeddings of its tower, estimated from the weights alone.

Those of a vision tower are of images, those of a text tower of texts. For a text tower, read "end token" for "class
token"; the calibration is of the vision tower.

In layer l an edit adds to every token's residual stream

    delta = sum over edited i of (g_i - 1) s_i (r_i . x) w_i

where x is the head's input after the layer norm. The effect beyond the layer has no bound from weights alone:
the next layer norm divides by the length of the residual stream, which can be arbitrarily small. The estimate follows
the direct path into the embedding. With P = W_P diag(gamma) C of the last layer norm and the projection, and sigma the
residual stream's deviation at the class token, the embedding before normalisation moves by P delta / sigma. For an x of
length sqrt(D) without a preferred direction E(r_i . x)^2 = 1, and the coefficients of different vectors are
uncorrelated, so E|P delta|^2 = sum (1 - g_i)^2 s_i^2 |P w_i|^2. For small moves 1 - cos is half of the squared relative
move. If the length of the whole is what all heads of all layers write there, sigma cancels::

    e_i = s_i^2 |P w_i|^2        drift = 1/2 * sum over edited i of (1 - g_i)^2 e_i / sum over all i of e_i

So the drift is half of the edited share of all that heads write into the joint space. The estimate leaves out what
MLPs and the patch embedding write (the true share is smaller), what later layers do with the change (vectors of an
early layer mostly reach the class token through later ones, and arrive weaker), and that a trained head's input does
have preferred directions (its strong vectors are driven more than its weak ones, those of one topic together).

Calibration, on the embedded checkpoint by ``python benchmarks/drift.py`` (120 pictures, 161 edits of 1 to 128 vectors
with gains 0, 0.5 and -1; measured over estimated drift at three quantiles, and Spearman's rank correlation)::

                              5%     50%    95%    rank correlation
    all edits                0.08   0.60   1.10         0.978
    random, last layer       0.09   0.57   0.94         0.985
    random, last two layers  0.09   0.53   0.87         0.987
    random, all four layers  0.04   0.32   0.68         0.983
    vectors of one topic     0.56   0.80   1.32         0.985

The estimate ranks edits well, is about right for edits of a topic, and mostly too high for others. The formula was
chosen on another checkpoint of the same world. Both checkpoints are small: elsewhere, measure one edit and scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sith_hf.decomposition import Decomposition
from sith_hf.errors import InputError
from sith_hf.gains.gains import Gains, check_gain
from sith_hf.towers import AttentionLayer, Tower


def drift_shares(tower: Tower, decomposition: Decomposition) -> Tensor:
    """Estimate the drift of removing each singular vector alone, ``[L, H, R]`` float64 from 0 to 1/2.

    Args:
        tower: the tower that was decomposed; it needs a way to the joint space.
        decomposition: the singular vectors.

    Raises:
        BaseMismatch: the tower's weights are not the ones that were decomposed.
        InputError: no projection, or a decomposition that does not record whether it was folded.
    """
    tower.check(decomposition.base, decomposition.layers)
    # What a pooling head writes is no part of the residual stream: it counts by itself.
    totals = {
        id(way): sum(_written(tower.layers[number], tower.num_heads, way.linear) for number in numbers)
        for way, numbers in tower.readouts
    }
    ways = [tower.readout(layer) for layer in decomposition.layers]
    values, write = decomposition.singular_values.double(), decomposition.write.double()
    onto = [(each @ way.linear.T).square().sum(dim=-1) for each, way in zip(write, ways, strict=True)]
    written = values**2 * torch.stack(onto) * _driven(tower, decomposition)
    total = torch.tensor([totals[id(way)] for way in ways], dtype=torch.float64)[:, None, None]
    return written / (2 * total).clamp(min=torch.finfo(torch.float64).tiny)


def drift_of(decomposition: Decomposition, drift: Tensor, gains: Gains) -> float:
    """Estimate the drift of an edit: the mean of 1 - cos between embeddings before and after.

    Args:
        decomposition: the one that ``gains`` were chosen from.
        drift: ``[L, H, R]``, from :func:`drift_shares`.
        gains: the edit.

    Raises:
        InputError: a vector that is not in the decomposition, or drift of another shape, negative or not finite.
    """
    shape = decomposition.singular_values.shape
    if drift.shape != shape or not torch.isfinite(drift).all() or bool((drift < 0).any()):
        raise InputError(f"drift must be finite, not negative and of shape {list(shape)} (see drift_shares)")
    moved = 0.0
    for (layer, head, vector), gain in sorted(gains.gain.items()):
        decomposition.explain(layer, head, vector)
        moved += (1 - check_gain(gain)) ** 2 * float(drift[decomposition.position(layer), head, vector])
    return moved


def _written(layer: AttentionLayer, num_heads: int, readout: Tensor) -> float:
    """Return the sum of s^2 |P w|^2 over all heads of a layer, with the vectors beyond the rank."""
    factors = layer.factors(num_heads)
    # |P B A|^2 without the P x D product: both Gram matrices are d x d.
    out, into = readout @ factors.write.cpu(), factors.read.cpu()
    return float(((out.mT @ out) * (into @ into.mT)).sum())


def _driven(tower: Tower, decomposition: Decomposition) -> Tensor:
    """Return E(r . x)^2 for an input without a preferred direction, ``[L, H, R]``: 1 with a folded layer norm."""
    read, fold = decomposition.read.double(), decomposition.settings.get("fold")
    if not isinstance(fold, bool):
        raise InputError("the decomposition does not record whether the layer norm was folded; decompose again")
    layers = [tower.layers[number] for number in decomposition.layers]
    return torch.stack([_driven_of(layer, each, fold) for layer, each in zip(layers, read, strict=True)])


def _driven_of(layer: AttentionLayer, read: Tensor, fold: bool) -> Tensor:
    scaled = read if fold else read * layer.norm_weight.cpu().double()
    if layer.read_centred:
        scaled = scaled - scaled.mean(dim=-1, keepdim=True)
    driven = scaled.square().sum(dim=-1)
    if fold or layer.norm_bias is None:
        return driven
    return driven + (read * layer.norm_bias.cpu().double()).sum(dim=-1) ** 2
