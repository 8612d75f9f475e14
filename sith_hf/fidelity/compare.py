"""``fidelity_table``: explain the same vectors by several methods, and random directions beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from sith_hf.concepts import ConceptDictionary
from sith_hf.core.validation import finite_number, whole_number
from sith_hf.decomposition import DecomposeSettings, check_joint_size, factored_svd, measure_explanations
from sith_hf.errors import InputError
from sith_hf.fidelity.null import NULLS, adjusted, null_directions, null_fidelities, p_values
from sith_hf.fidelity.table import WEIGHTS, FidelityTable, MethodQuality
from sith_hf.pursuit import METHODS, Pursuit
from sith_hf.towers import VisionTower

SPARSITIES = (5, 10, 20, 50)
COHERENCE_WEIGHTS = (0.1, 0.3, 0.5)
DRAWS = {"residual": 999, "head": 199}
"""Null directions where nothing else is asked for; ``head`` needs them of every head."""


def grid(
    methods: Iterable[str] = tuple(METHODS),
    sparsities: Iterable[int] = SPARSITIES,
    coherence_weights: Iterable[float] = COHERENCE_WEIGHTS,
) -> tuple[Pursuit, ...]:
    """Every method at every sparsity, COMP at every coherence weight. Raises InputError for anything out of range."""
    pairs = [(m, weight) for m in methods for weight in (coherence_weights if m == "comp" else (0.0,))]
    found = [Pursuit(method=m, sparsity=k, coherence_weight=weight) for m, weight in pairs for k in sparsities]
    if not found:
        raise InputError("nothing to compare: name a method, a sparsity and, for comp, a coherence weight")
    return tuple(dict.fromkeys(found))


def fidelity_table(
    tower: VisionTower,
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
    """Explain the same singular vectors by several methods, and random directions beside them (METHOD.md sec. 4, 5).

    The heads are factored once; only the pursuit runs again. Every method meets the same random directions.

    Args:
        tower: whose heads; it needs a projection.
        dictionary: M encoded concepts.
        pursuits: methods and settings, as :func:`grid` makes them; every one at 5, 10, 20 and 50 concepts when None.
        settings: which vectors; ``pursuits`` take the place of its pursuit.
        weight: how vectors count in means, ``"equal"`` or ``"energy"`` (see :class:`FidelityTable`).
        null: ``"residual"``, ``"head"``, or None for no random directions (see :mod:`sith_hf.fidelity.null`).
        draws: how many random directions; 999, or 199 for each head, when None.
        seed: of the random directions.
        level: the false discovery rate that findings are counted at, above 0 and below 1.
        progress: show a bar on stderr.

    Raises:
        InputError: something out of range, a dictionary that is not encoded, of another joint space, or smaller than
            the largest sparsity.
        MissingExtra: lasso without scikit-learn.
    """
    settings = settings or DecomposeSettings()
    numbers, rank, image_mean = settings.check(tower), settings.rank, settings.image_mean
    pursuits = grid() if pursuits is None else tuple(pursuits)
    atoms = dictionary.atoms
    _check(pursuits, atoms, weight, null, level)
    check_joint_size(atoms, tower.require_projection())
    whole_number(seed, "seed", least=0, most=2**63 - 1)

    parts = []
    for number in tqdm(numbers, desc="factoring", unit="layer", disable=not progress):
        factors = tower.layers[number].factors(tower.num_heads, fold=settings.fold, centre=settings.centred)
        svd = factored_svd(factors.write.cpu(), factors.read.cpu())
        parts.append((svd.write, svd.values**2))
    write, energy = (torch.stack(part) for part in zip(*parts, strict=True))
    directions = write[:, :, :rank].unsqueeze(-2) * settings.signs.unsqueeze(-1)
    share = energy[..., :rank] / energy.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    count, random = 0, None
    if null is not None:
        count = whole_number(DRAWS[null] if draws is None else draws, "draws", least=1)
        generator = torch.Generator().manual_seed(seed)
        random = null_directions(null, write, count, centre=settings.centred, generator=generator)

    results = []
    total = directions.shape[:-1].numel() + (0 if random is None else random.shape[:-1].numel())
    with tqdm(total=total * len(pursuits), desc="explaining", unit="vector", disable=not progress) as bar:
        for pursuit in pursuits:
            found = measure_explanations(tower, atoms, directions, pursuit, image_mean, bar.update)
            chance = p = None
            if random is not None:
                chance = null_fidelities(tower, atoms, pursuit, random, image_mean, bar.update)
                p = p_values(found.fidelity, chance.fidelity)
            q = None if p is None else adjusted(p)
            results.append(MethodQuality(pursuit, found.fidelity, found.coherence, chance, p, q))
    return FidelityTable(
        results=tuple(results),
        layers=numbers,
        poles=tuple(settings.poles),
        ceiling=tower.projected_norm(write[:, :, :rank]).float(),
        share=share.float(),
        weight=weight,
        null=null,
        null_ceiling=None if random is None else tower.projected_norm(random).float(),
        draws=count,
        seed=seed,
        level=level,
        concepts=len(dictionary),
    )


def _check(pursuits: Sequence[Pursuit], atoms: Tensor, weight: str, null: str | None, level: float) -> None:
    if not pursuits:
        raise InputError("nothing to compare: give at least one pursuit")
    if weight not in WEIGHTS:
        raise InputError(f"unknown weight {weight!r}; the weights are {', '.join(WEIGHTS)}")
    if null is not None and null not in NULLS:
        raise InputError(f"unknown null {null!r}; the nulls are {', '.join(NULLS)}, or None for no null")
    if not 0 < finite_number(level, "level, a false discovery rate,") < 1:
        raise InputError(f"level is a false discovery rate above 0 and below 1; got {level}")
    most = max(pursuit.sparsity for pursuit in pursuits)
    if most > len(atoms):
        raise InputError(
            f"an explanation of {most} concepts needs a dictionary of at least as many; this one has {len(atoms)}: "
            "give smaller sparsities (--sparsities 5,10 on the command line) or more concepts"
        )
