"""``decompose``: factor every head of a tower and explain every pole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sith_hf.concepts import ConceptDictionary
from sith_hf.core.fingerprint import BaseRef, tensor_sha256
from sith_hf.decomposition.by_number import factor, record
from sith_hf.decomposition.decomposition import Decomposition
from sith_hf.decomposition.effect import Effect
from sith_hf.decomposition.settings import DecomposeSettings
from sith_hf.decomposition.significance import DRAWS, HEAD_DRAWS, LAYER_DRAWS, SEED, Significance, null_directions
from sith_hf.decomposition.svd import factored_svd
from sith_hf.decomposition.total_effect import TotalEffect
from sith_hf.errors import InputError
from sith_hf.files import Part, ResumableJob
from sith_hf.pursuit import ROWS, Atoms, DictionaryIndex, SparseCode, blocks, build_index
from sith_hf.towers import Tower


def decompose(
    tower: Tower,
    dictionary: ConceptDictionary | None,
    settings: DecomposeSettings | None = None,
    *,
    total: TotalEffect | None = None,
    name: str = "in memory",
    revision: str | None = None,
    device: torch.device | str | None = None,
    job: ResumableJob | None = None,
    progress: bool = False,
) -> Decomposition:
    """Factor and explain the heads of some layers (SITH; Method, sec. 1 to 5).

    Random directions are explained too, as the nulls of the p-values (:class:`sith_hf.decomposition.Significance`): of
    the residual stream 16,000 (4,000 for each layer of a total effect), and 64 of what each head can write.
    The algebra of directions runs in float64 for every dtype of the checkpoint, and results are float32, so a bfloat16
    tower and its float32 cast have the same decomposition.

    Args:
        tower: the tower to decompose; with a dictionary it needs a way to the joint space.
        dictionary: M encoded concepts; None for vectors without explanations, which can be edited by number.
        settings: the vectors to explain, and how.
        total: the total effect of the layers (:func:`sith_hf.decomposition.measure_total_effect`), with
            ``effect="total"`` only.
        name, revision: the source of the tower's weights, for provenance.
        device: where the products with the dictionary run; the CPU when None. Every device finds the same concepts;
            weights may differ in the last bit.
        job: stores finished heads and distributes heads over its processes. Every process returns the whole result,
            with the bits of a single process with as many threads.
        progress: show a bar on stderr.

    Raises:
        InputError: a setting out of range, a dictionary that is not encoded or of another joint space, or a total
            effect that is missing or not wanted.
    """
    settings, job = settings or DecomposeSettings(), job or ResumableJob()
    if dictionary is None:
        return factor(tower, settings, name=name, revision=revision, progress=progress and job.processes.is_main)
    numbers = settings.check(tower, len(dictionary))
    rank, pursuit, image_mean = settings.rank, settings.pursuit, settings.image_mean
    effect = Effect(tower, settings, total)
    atoms = dictionary.streamed_atoms
    check_joint_size(atoms, tower.joint_size)
    where = torch.device("cpu" if device is None else device)
    heads = _groups(numbers, tower.num_heads, (rank or tower.head_size) * len(settings.poles))
    # One sample of random directions for each way to the joint space, of the first layer that takes it.
    ways = list(dict.fromkeys(effect.way(number) for number in numbers))
    rows = [ways.index(effect.way(number)) for number in numbers]
    draws = DRAWS if total is None else min(DRAWS, LAYER_DRAWS)
    null = {
        f"null-{start:05d}" + (f"-{row}" if row else ""): (numbers[rows.index(row)], start)
        for row in range(len(ways))
        for start in range(0, draws, ROWS)
    }

    @cache
    def index() -> DictionaryIndex:
        share = (2 * len(heads) + len(null)) * ROWS / job.processes.world_size
        return build_index(atoms, device=where, products=int(share * pursuit.sparsity), block_size=pursuit.block_size)

    def coded(directions: Tensor, layer: int) -> SparseCode:
        joint = effect.to_joint(directions, layer).flatten(0, -2).float()
        found = pursuit(joint.to(where), index())
        return SparseCode(found.index.cpu(), found.weight.cpu())

    def drawn_part(group: str) -> Part:
        number, start = null[group]
        # Each block has a seed of its own, so that a process draws no more than its blocks.
        generator = torch.Generator().manual_seed(SEED + start)
        write, count = torch.empty(0, tower.hidden_size), min(ROWS, draws - start)
        centre = settings.centres(tower.layers[number])
        drawn = null_directions("residual", write, count, centre=centre, generator=generator)
        return {"null_fidelity": effect.quality(atoms, drawn, coded(drawn, number), number).fidelity}

    def drawn_in_heads(spaces: Tensor, number: int, first: int) -> Tensor:
        """Draw directions ``[h, n, D]`` in the spaces ``[h, d, D]`` of some heads of a layer, each by its seed."""
        seeds = range(number * tower.num_heads + first, number * tower.num_heads + first + len(spaces))
        # Beside the seeds of blocks above.
        generators = [torch.Generator().manual_seed(SEED + 2**32 + seed) for seed in seeds]
        drawn = [
            null_directions("head", space[None, None], HEAD_DRAWS, generator=generator)[0, 0]
            for space, generator in zip(spaces, generators, strict=True)
        ]
        return torch.stack(drawn)

    def explain(group: str) -> Part:
        if group in null:
            return drawn_part(group)
        number, those = heads[group]
        factors = tower.layers[number].factors(tower.num_heads, fold=settings.fold, centre=settings.centred)
        svd = factored_svd(factors.write[those].cpu(), factors.read[those].cpu())
        write, values, read = svd.write[:, :rank], svd.values[:, :rank], svd.read[:, :rank]
        explained = read if settings.side == "read" else write
        directions = explained.unsqueeze(-2) * settings.signs.unsqueeze(-1)
        code = coded(directions, number)
        chance = drawn_in_heads(svd.read if settings.side == "read" else svd.write, number, those.start)
        by_chance = effect.quality(atoms, chance, coded(chance, number), number)
        shape, quality = (*directions.shape[:3], -1), effect.quality(atoms, directions, code, number)
        made = {
            "singular_values": values,
            "energy": (svd.values**2).sum(dim=-1),
            "write": write,
            "read": read,
            "concept": code.index.reshape(shape),
            "weight": code.weight.reshape(shape),
            "fidelity": quality.fidelity,
            "coherence": quality.coherence,
            "head_sample": by_chance.fidelity,
            "ceiling": effect.ceiling(explained, number),
        }
        if total is not None:
            made["total_cosine"] = total.cosine(tower, write, number)
        return {key: tensor if key == "concept" else tensor.float() for key, tensor in made.items()}

    # A run may decompose both towers.
    step = "decomposition" if tower.kind == "vision" else f"decomposition-{tower.kind}"
    facts: dict[str, Any] = {}
    if job.folder is not None:
        facts = {
            **settings.to_json(),
            "layers": list(numbers),
            "rank": rank,
            "poles": settings.poles,
            "image mean": None if image_mean is None else tensor_sha256(image_mean),
            "weights": sorted(tower.sha256(numbers).items()),
            "settings of the model": dict(tower.settings),
            "null": ["residual", draws, "head", HEAD_DRAWS, SEED],
            **({} if total is None else {"total effect": tensor_sha256(total.jacobian)}),
            "dictionary": [dictionary.sha256, _rows_sha256(dictionary.rows)],
            "device": where.type,
        }
    done: dict[str, Part] = {}
    shown = progress and job.processes.is_main
    with tqdm(total=len(numbers) * tower.num_heads, desc="decomposing", unit="head", disable=not shown) as bar:
        for group, part in job.parts(step, facts, [*heads, *null], explain):
            done[group] = part
            bar.update(len(part.get("energy", ())))
    stacks = [[done[group] for group, (number, _) in heads.items() if number == wanted] for wanted in numbers]
    stacked: dict[str, Any] = {
        key: torch.stack([torch.cat([part[key] for part in parts]) for parts in stacks]) for key in stacks[0][0]
    }

    sample = torch.cat([done[group]["null_fidelity"] for group in null]).reshape(len(ways), draws)
    head_sample = stacked.pop("head_sample")

    # Copy it, so that later changes of the caller's tensor do not reach the result.
    mean = torch.zeros(tower.joint_size) if image_mean is None else image_mean.detach().float().cpu().clone()
    # A dictionary of the paper's authors may have a text twice.
    used = sorted(set(stacked["concept"][stacked["concept"] >= 0].tolist()), key=lambda i: (dictionary.texts[i], i))
    renumbered = torch.full((len(dictionary) + 1,), -1)
    renumbered[used] = torch.arange(len(used))
    stacked["concept"] = renumbered[stacked["concept"]]
    return Decomposition(
        layers=numbers,
        **stacked,
        significance=Significance.of(stacked["fidelity"], sample, rows, head_sample=head_sample),
        texts=tuple(dictionary.texts[i] for i in used),
        embeddings=dictionary.embeddings_of(used),
        dictionary_mean=dictionary.mean,
        image_mean=mean,
        poles=tuple(settings.poles),
        base=BaseRef(name, revision, tower.sha256(numbers), tower.settings),
        settings=_record(settings, dictionary, tower, None if total is None else total.images),
    )


def repeats(
    found: Decomposition,
    tower: Tower,
    dictionary: ConceptDictionary | None,
    settings: DecomposeSettings,
    images: Mapping[str, Any] | None = None,
) -> bool:
    """Return whether :func:`decompose` with these arguments made ``found``, or would make it again.

    ``images``: those of a total effect, as :attr:`TotalEffect.images` has them.
    """
    mean = found.image_mean if settings.image_mean is None else settings.image_mean.detach().float().cpu()
    if dictionary is None:
        numbers, poles, wanted = settings.check_vectors(tower), "", record(settings, tower)
    else:
        numbers, poles = settings.check(tower, len(dictionary)), settings.poles
        wanted = _record(settings, dictionary, tower, images)
    # Earlier releases did not record the way to the joint space.
    known = {key: wanted[key] for key in ("readout",) if key in wanted}
    return (
        {**known, **found.settings} == wanted
        and found.layers == numbers
        and "".join(found.poles) == poles
        and found.rank == (settings.rank or tower.head_size)
        and (found.base.sha256, found.base.settings) == (tower.sha256(numbers), tower.settings)
        and torch.equal(found.image_mean, mean)
    )


def _record(
    settings: DecomposeSettings, dictionary: ConceptDictionary, tower: Tower, images: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the settings that a decomposition stores; the tower and family only where they are not CLIP's vision."""
    ways = [way.title for way, _ in tower.readouts]
    return {
        **settings.to_json(),
        **({} if images is None else {"effect_images": dict(images)}),
        **({} if tower.kind == "vision" else {"tower": tower.kind}),
        **({} if tower.family == "clip" else {"family": tower.family}),
        "readout": "; ".join(ways),
        "dictionary_size": len(dictionary),
        "dictionary_sha256": dictionary.sha256,
        **dictionary.encoder_record,
        "template": dictionary.template,
    }


def check_joint_size(atoms: Tensor | Atoms, size: int) -> None:
    """Raise InputError unless atoms ``[M, P]`` belong to a joint space of this size."""
    if atoms.shape[1] != size:
        raise InputError(
            f"the dictionary has embeddings of size {atoms.shape[1]}, this model's joint space has size "
            f"{size}: encode the dictionary with this model's text tower"
        )


def _groups(layers: Sequence[int], heads: int, vectors: int) -> dict[str, tuple[int, slice]]:
    """Return even groups of a layer's heads by name, each about one batch of pursuit.

    The groups do not depend on the number of processes: the last bits depend on the size of a batch.
    """
    count = -(-heads // max(1, ROWS // vectors))
    edges = [heads * number // count for number in range(count + 1)]
    return {
        f"layer-{layer:03d}-heads-{start:03d}-{stop - 1:03d}": (layer, slice(start, stop))
        for layer in layers
        for start, stop in pairwise(edges)
    }


def _rows_sha256(rows: Atoms) -> str:
    """Return the sha256 of float32 rows, read block by block."""
    digest = hashlib.sha256(f"{list(rows.shape)}".encode())
    for block in blocks(rows):
        digest.update(block.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
