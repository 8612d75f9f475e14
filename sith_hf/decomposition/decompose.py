"""``decompose``: factor every head of a tower and explain every pole."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sith_hf.concepts import ConceptDictionary
from sith_hf.core.fingerprint import BaseRef, tensor_sha256
from sith_hf.decomposition.decomposition import Decomposition
from sith_hf.decomposition.quality import quality_of
from sith_hf.decomposition.settings import DecomposeSettings
from sith_hf.decomposition.significance import DRAWS, SEED, Significance, null_directions
from sith_hf.decomposition.svd import factored_svd
from sith_hf.errors import InputError
from sith_hf.files import Part, ResumableJob
from sith_hf.pursuit import ROWS, Atoms, DictionaryIndex, SparseCode, blocks, build_index
from sith_hf.towers import VisionTower


def decompose(
    tower: VisionTower,
    dictionary: ConceptDictionary,
    settings: DecomposeSettings | None = None,
    *,
    name: str = "in memory",
    revision: str | None = None,
    device: torch.device | str | None = None,
    job: ResumableJob | None = None,
    progress: bool = False,
) -> Decomposition:
    """Factor and explain the heads of some layers (SITH; Method, sec. 1 to 5).

    Random directions are explained too, as the null of the p-values (:class:`sith_hf.decomposition.Significance`).
    The algebra of directions runs in float64 for every dtype of the checkpoint, and results are float32, so a bfloat16
    tower and its float32 cast have the same decomposition.

    Args:
        tower: the tower to decompose; it needs a projection.
        dictionary: M encoded concepts.
        settings: the vectors to explain, and how.
        name, revision: the source of the tower's weights, for provenance.
        device: where the products with the dictionary run; the CPU when None. Every device finds the same concepts;
            weights may differ in the last bit.
        job: stores finished heads and distributes heads over its processes. Every process returns the whole result,
            with the bits of a single process with as many threads.
        progress: show a bar on stderr.

    Raises:
        InputError: a setting out of range, or a dictionary that is not encoded or of another joint space.
    """
    settings, job = settings or DecomposeSettings(), job or ResumableJob()
    numbers = settings.check(tower, len(dictionary))
    rank, pursuit, image_mean = settings.rank, settings.pursuit, settings.image_mean
    atoms, projection = dictionary.streamed_atoms, tower.require_projection()
    check_joint_size(atoms, projection)
    where = torch.device("cpu" if device is None else device)
    heads = _groups(numbers, tower.num_heads, (rank or tower.hidden_size // tower.num_heads) * len(settings.poles))
    null = {f"null-{start:04d}": slice(start, start + ROWS) for start in range(0, DRAWS, ROWS)}

    @cache
    def index() -> DictionaryIndex:
        share = (len(heads) + len(null)) * ROWS / job.processes.world_size
        return build_index(atoms, device=where, products=int(share * pursuit.sparsity), block_size=pursuit.block_size)

    def coded(directions: Tensor) -> SparseCode:
        joint = tower.to_joint(directions, image_mean).flatten(0, -2).float()
        found = pursuit(joint.to(where), index())
        return SparseCode(found.index.cpu(), found.weight.cpu())

    def by_chance(group: str) -> Part:
        generator = torch.Generator().manual_seed(SEED)
        write = torch.empty(0, tower.hidden_size)
        drawn = null_directions("residual", write, DRAWS, centre=settings.centred, generator=generator)[null[group]]
        return {"null_fidelity": quality_of(tower, atoms, drawn, coded(drawn), image_mean).fidelity}

    def explain(group: str) -> Part:
        if group in null:
            return by_chance(group)
        number, those = heads[group]
        factors = tower.layers[number].factors(tower.num_heads, fold=settings.fold, centre=settings.centred)
        svd = factored_svd(factors.write[those].cpu(), factors.read[those].cpu())
        write, values, read = svd.write[:, :rank], svd.values[:, :rank], svd.read[:, :rank]
        directions = write.unsqueeze(-2) * settings.signs.unsqueeze(-1)
        code = coded(directions)
        shape, quality = (*directions.shape[:3], -1), quality_of(tower, atoms, directions, code, image_mean)
        made = {
            "singular_values": values,
            "energy": (svd.values**2).sum(dim=-1),
            "write": write,
            "read": read,
            "concept": code.index.reshape(shape),
            "weight": code.weight.reshape(shape),
            "fidelity": quality.fidelity,
            "coherence": quality.coherence,
            "ceiling": tower.projected_norm(write),
        }
        return {key: tensor if key == "concept" else tensor.float() for key, tensor in made.items()}

    facts: dict[str, Any] = {}
    if job.folder is not None:
        facts = {
            **settings.to_json(),
            "layers": list(numbers),
            "rank": rank,
            "poles": settings.poles,
            "image mean": None if image_mean is None else tensor_sha256(image_mean),
            "weights": sorted(tower.sha256(numbers).items()),
            "heads": [tower.num_heads, tower.post_norm_eps],
            "null": ["residual", DRAWS, SEED],
            "dictionary": [dictionary.sha256, _rows_sha256(dictionary.rows)],
            "device": where.type,
        }
    done: dict[str, Part] = {}
    shown = progress and job.processes.is_main
    with tqdm(total=len(numbers) * tower.num_heads, desc="decomposing", unit="head", disable=not shown) as bar:
        for group, part in job.parts("decomposition", facts, [*heads, *null], explain):
            done[group] = part
            bar.update(len(part.get("energy", ())))
    stacks = [[done[group] for group, (number, _) in heads.items() if number == wanted] for wanted in numbers]
    stacked = {key: torch.stack([torch.cat([part[key] for part in parts]) for parts in stacks]) for key in stacks[0][0]}

    sample = torch.cat([done[group]["null_fidelity"] for group in null])

    # Copy it, so that later changes of the caller's tensor do not reach the result.
    mean = torch.zeros(projection.shape[0]) if image_mean is None else image_mean.detach().float().cpu().clone()
    used = sorted(set(stacked["concept"][stacked["concept"] >= 0].tolist()), key=dictionary.texts.__getitem__)
    renumbered = torch.full((len(dictionary) + 1,), -1)
    renumbered[used] = torch.arange(len(used))
    stacked["concept"] = renumbered[stacked["concept"]]
    return Decomposition(
        layers=numbers,
        **stacked,
        significance=Significance.of(stacked["fidelity"], sample),
        texts=tuple(dictionary.texts[i] for i in used),
        embeddings=dictionary.embeddings_of(used),
        dictionary_mean=dictionary.mean,
        image_mean=mean,
        poles=tuple(settings.poles),
        base=BaseRef(name, revision, tower.sha256(numbers)),
        settings={
            **settings.to_json(),
            "dictionary_size": len(dictionary),
            "dictionary_sha256": dictionary.sha256,
            "encoder": dictionary.encoder,
            "encoder_sha256": dictionary.encoder_sha256,
            "template": dictionary.template,
        },
    )


def check_joint_size(atoms: Tensor | Atoms, projection: Tensor) -> None:
    """Raise InputError unless atoms ``[M, P]`` and a projection ``[P, D]`` belong to one joint space."""
    if atoms.shape[1] != projection.shape[0]:
        raise InputError(
            f"the dictionary has embeddings of size {atoms.shape[1]}, this model's joint space has size "
            f"{projection.shape[0]}: encode the dictionary with this model's text tower"
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
