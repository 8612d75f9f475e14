"""``fidelity_table``: explain the same vectors by several methods, and random directions beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from tqdm import tqdm

from sith_hf.concepts import ConceptDictionary
from sith_hf.core.validation import finite_number, whole_number
from sith_hf.decomposition import (
    NULLS,
    DecomposeSettings,
    adjusted,
    check_joint_size,
    factored_svd,
    head_p_values,
    measure_explanations,
    null_directions,
    p_values,
)
from sith_hf.errors import InputError
from sith_hf.fidelity.table import FEWEST_OF_HEAD, WEIGHTS, FidelityTable, MethodQuality
from sith_hf.pursuit import METHODS, Pursuit
from sith_hf.towers import Tower

SPARSITIES = (5, 10, 20, 50)
COHERENCE_WEIGHTS = (0.1, 0.3, 0.5)
DRAWS = {"residual": 999, "head": 199}
"""Default number of null directions; for ``head``, of each head."""


def grid(
    methods: Iterable[str] = tuple(METHODS),
    sparsities: Iterable[int] = SPARSITIES,
    coherence_weights: Iterable[float] = COHERENCE_WEIGHTS,
) -> tuple[Pursuit, ...]:
    """Combine methods, sparsities and, for COMP, coherence weights. Raises InputError for values out of range."""
    pairs = [(m, weight) for m in methods for weight in (coherence_weights if m == "comp" else (0.0,))]
    found = [Pursuit(method=m, sparsity=k, coherence_weight=weight) for m, weight in pairs for k in sparsities]
    if not found:
        raise InputError("nothing to compare: name at least one method, sparsity and, for comp, coherence weight")
    return tuple(dict.fromkeys(found))


def fidelity_table(
    tower: Tower,
    dictionary: ConceptDictionary,
    pursuits: Sequence[Pursuit] | None = None,
    settings: DecomposeSettings | None = None,
    *,
    weight: str = "equal",
    null: str | None = "residual",
    draws: int | None = None,
    seed: int = 0,
    level: float = 0.05,
    progress: bool = False,
) -> FidelityTable:
    """Explain singular vectors and random directions by several methods (Method, sec. 4 and 5).

    The heads are factored once; only the pursuit runs again. All methods explain the same random directions.

    Args:
        tower: a tower with a projection.
        dictionary: M encoded concepts.
        pursuits: methods and settings, from :func:`grid`; all methods at 5, 10, 20 and 50 concepts when None.
        settings: which vectors; ``pursuits`` take the place of its pursuit.
        weight: of vectors in means, ``"equal"`` or ``"energy"`` (see :class:`FidelityTable`).
        null: ``"residual"``, ``"head"``, or None for no random directions (see
            :mod:`sith_hf.decomposition.significance`).
        draws: number of random directions; 999, or 199 for each head, when None.
        seed: of the random directions.
        level: the false discovery rate of significant findings, above 0 and below 1.
        progress: show a bar on stderr.

    Raises:
        InputError: a value out of range, or a dictionary that is not encoded, has another embedding size, or is
            smaller than the largest sparsity.
        MissingExtra: lasso without scikit-learn.
    """
    settings = settings or DecomposeSettings()
    numbers, rank, image_mean = settings.check(tower), settings.rank, settings.image_mean
    pursuits = grid() if pursuits is None else tuple(pursuits)
    atoms = dictionary.atoms
    if not pursuits:
        raise InputError("nothing to compare: pass at least one pursuit")
    if weight not in WEIGHTS:
        raise InputError(f"unknown weight {weight!r}; the weights are {', '.join(WEIGHTS)}")
    if null is not None and null not in NULLS:
        raise InputError(f"unknown null {null!r}; the nulls are {', '.join(NULLS)}, or None for no null")
    if not 0 < finite_number(level, "level, a false discovery rate,") < 1:
        raise InputError(f"level must be a false discovery rate above 0 and below 1; got {level}")
    most = max(pursuit.sparsity for pursuit in pursuits)
    if most > len(atoms):
        raise InputError(
            f"sparsity {most} needs a dictionary of at least {most} concepts; this one has {len(atoms)}. Use smaller "
            "sparsities (--sparsities 5,10 on the command line) or more concepts"
        )
    check_joint_size(atoms, tower.joint_size)
    layer = _one_way(tower, numbers)
    whole_number(seed, "seed", least=0, most=2**63 - 1)

    parts = []
    for number in tqdm(numbers, desc="factoring", unit="layer", disable=not progress):
        factors = tower.layers[number].factors(tower.num_heads, fold=settings.fold, centre=settings.centred)
        svd = factored_svd(factors.write.cpu(), factors.read.cpu())
        parts.append((svd.write, svd.values**2))
    write, energy = (torch.stack(part) for part in zip(*parts, strict=True))
    directions = write[:, :, :rank].unsqueeze(-2) * settings.signs.unsqueeze(-1)
    share = energy[..., :rank] / energy.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    count, random, pooled = 0, None, False
    if null is not None:
        count = whole_number(DRAWS[null] if draws is None else draws, "draws", least=1)
        generator = torch.Generator().manual_seed(seed)
        pooled = null == "head" and count >= FEWEST_OF_HEAD
        random = null_directions(null, write, count, centre=settings.centres(tower.layers[layer]), generator=generator)

    results = []
    total = directions.shape[:-1].numel() + (0 if random is None else random.shape[:-1].numel())
    with tqdm(total=total * len(pursuits), desc="explaining", unit="vector", disable=not progress) as bar:
        for pursuit in pursuits:
            found = measure_explanations(tower, atoms, directions, pursuit, image_mean, bar.update, layer)
            chance = p = None
            if random is not None:
                chance = measure_explanations(tower, atoms, random, pursuit, image_mean, bar.update, layer)
                p = (head_p_values if pooled else p_values)(found.fidelity, chance.fidelity)
            q = None if p is None else adjusted(p)
            results.append(MethodQuality(pursuit, found.fidelity, found.coherence, chance, p, q))
    return FidelityTable(
        results=tuple(results),
        layers=numbers,
        poles=tuple(settings.poles),
        ceiling=tower.readout(layer).projected_norm(write[:, :, :rank]).float(),
        share=share.float(),
        weight=weight,
        null=null,
        null_ceiling=None if random is None else tower.readout(layer).projected_norm(random).float(),
        draws=count,
        seed=seed,
        level=level,
        concepts=len(dictionary),
    )


def _one_way(tower: Tower, layers: Sequence[int]) -> int:
    """Return the first of ``layers``. Raises InputError if they reach the joint space in different ways."""
    ways = {id(tower.readout(layer)): tower.readout(layer).name for layer in layers}
    if len(ways) > 1:
        raise InputError(
            f"these layers reach the joint space in different ways ({'; '.join(ways.values())}), so random directions "
            "of one are no null of the other: compare them one by one (layers=[-1], --layers -1, is the pooling head)"
        )
    return layers[0]
