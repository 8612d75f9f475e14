"""Decompositions as the paper's authors publish them, computed in float64 by literal formulas, without our package.

Every head has its explicit D x D matrix; every line of the file of concepts is an atom.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from sklearn.linear_model import Lasso

Array = np.ndarray[Any, np.dtype[np.float64]]


def array(tensor: torch.Tensor) -> Array:
    """A tensor in float64."""
    return tensor.detach().double().numpy()


def unit(rows: Array) -> Array:
    """Rows of length 1."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def embedded(model: Any, tokenizer: Any, lines: Sequence[str]) -> Array:
    """The model's own embedding of each line, one at a time, of length 1."""
    found = []
    for line in lines:
        with torch.no_grad():
            output = model.get_text_features(**tokenizer([line], return_tensors="pt"))
        found.append(array(getattr(output, "pooler_output", output))[0])
    return unit(np.stack(found))


class Triples(NamedTuple):
    """Singular triples of one head: rows are directions."""

    left: Array
    values: Array
    right: Array


def triples(model: Any, layer: int, head: int, fold: bool) -> Triples:
    """Left (read) and right (write) singular vectors of one head; the largest entry of the left one is positive."""
    tower = getattr(model, "vision_model", model)
    block = tower.encoder.layers[layer]
    size, heads = tower.config.hidden_size, tower.config.num_attention_heads
    width = size // heads
    part = slice(head * width, (head + 1) * width)
    # As the authors have it: rows are what goes in, columns what comes out.
    matrix = array(block.self_attn.v_proj.weight)[part].T @ array(block.self_attn.out_proj.weight)[:, part].T
    if fold:
        matrix = array(block.layer_norm1.weight)[:, None] * matrix
        drop = np.eye(size) - 1 / size
        matrix = drop @ matrix @ drop
    left, values, right = np.linalg.svd(matrix)
    left, right = left[:, :width].T, right[:width]
    sign = np.sign([row[np.abs(row).argmax()] for row in left])[:, None]
    return Triples(left * sign, values[:width], right * sign)


def joint(model: Any, directions: Array, mean: Array | float) -> Array:
    """Directions of the residual stream as points of the joint space."""
    tower = getattr(model, "vision_model", model)
    norm = tower.post_layernorm
    middle = directions - directions.mean(axis=1, keepdims=True)
    normed = middle / np.sqrt(directions.var(axis=1, keepdims=True) + norm.eps) * array(norm.weight) + array(norm.bias)
    return unit(unit(normed @ array(model.visual_projection.weight).T) - mean)


Code = tuple[list[int], Array]


def comp(x: Array, atoms: Array, sparsity: int, coherence: float = 0.3) -> Code:
    """Coherent orthogonal matching pursuit."""
    chosen: list[int] = []
    residual = x
    weights = np.zeros(0)
    for _ in range(sparsity):
        score = atoms @ residual
        if chosen:
            score = score + coherence * (atoms @ atoms[chosen].T).mean(axis=1)
        score[chosen] = -np.inf
        chosen.append(int(score.argmax()))
        weights, _ = nnls(atoms[chosen].T, x)
        residual = x - weights @ atoms[chosen]
    return chosen, weights


def omp(x: Array, atoms: Array, sparsity: int) -> Code:
    """Non-negative orthogonal matching pursuit."""
    return comp(x, atoms, sparsity, 0.0)


def mp(x: Array, atoms: Array, sparsity: int) -> Code:
    """Non-negative matching pursuit: no refit, and no atom twice."""
    codes, residual = np.zeros(len(atoms)), x
    for _ in range(sparsity):
        score = np.where(codes != 0, 0.0, atoms @ residual)
        best = int(score.argmax())
        codes[best] = max(score[best], 0.0)
        residual = residual - codes[best] * atoms[best]
    chosen = np.argsort(-codes, kind="stable")[:sparsity].tolist()
    return chosen, codes[chosen]


def top_k(x: Array, atoms: Array, sparsity: int) -> Code:
    """The most similar atoms, refit once."""
    chosen = np.argsort(-(atoms @ x), kind="stable")[:sparsity].tolist()
    return chosen, nnls(atoms[chosen].T, x)[0]


def lasso(x: Array, atoms: Array, sparsity: int) -> Code:
    """Positive lasso, no refit."""
    fitted = Lasso(alpha=0.05 / len(x), fit_intercept=False, positive=True, max_iter=100_000, tol=1e-12)
    codes = fitted.fit(atoms.T, x).coef_
    chosen = np.argsort(-codes, kind="stable")[:sparsity].tolist()
    assert np.count_nonzero(codes) <= sparsity
    return chosen, codes[chosen]


METHODS: dict[str, Callable[[Array, Array, int], Code]] = {
    "comp-0.3": comp, "nnomp": omp, "omp": omp, "mp": mp, "topk": top_k, "lasso-0.1": lasso,
}  # fmt: skip


def publish(
    folder: Path,
    model: Any,
    tokenizer: Any,
    lines: Sequence[str],
    *,
    layers: Sequence[int],
    side: str = "right",
    fold: bool = True,
    named: str | None = None,
    method: str = "comp-0.3",
    sparsity: int = 4,
    mean: Array | float = 0.0,
    words: str = "words",
) -> list[Path]:
    """Write one file for each layer as the authors do; ``named`` replaces the part ``foldln`` of the name."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = embedded(model, tokenizer, lines)
    atoms = unit(rows - rows.mean(axis=0))
    files = []
    tower = getattr(model, "vision_model", model)
    for layer in layers:
        scores, indices = [], []
        for head in range(tower.config.num_attention_heads):
            found = triples(model, layer, head, fold)
            for x in joint(model, found.left if side == "left" else found.right, mean):
                chosen, weights = METHODS[method](x, atoms, sparsity)
                order = np.argsort(-weights, kind="stable")
                scores.append(weights[order])
                indices.append(np.array(chosen)[order])
        name = f"layer-{layer:02d}_{side}_{named or ('foldln' if fold else 'nofoldln')}_{words}_{method}"
        files.append(folder / f"{name}_sparsity-{sparsity}.pt")
        content = {"scores": torch.tensor(np.stack(scores)).float(), "indices": torch.tensor(np.stack(indices))}
        torch.save(content, files[-1])
    return files
