"""From a tower and a dictionary to a ``Decomposition``: factor every head, explain every pole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from sith_hf.concepts import ConceptDictionary
from sith_hf.core.fingerprint import BaseRef, tensor_sha256
from sith_hf.decomposition.decomposition import Decomposition
from sith_hf.decomposition.svd import check_rank, factored_svd
from sith_hf.errors import InputError
from sith_hf.files import Part, ResumableJob
from sith_hf.pursuit import READ, ROWS, Atoms, DictionaryIndex, Pursuit, SparseCode, as_atoms, prepared
from sith_hf.towers import VisionTower, check_mean


def decompose(
    tower: VisionTower,
    dictionary: ConceptDictionary,
    *,
    name: str = "in memory",
    revision: str | None = None,
    layers: Iterable[int] | None = None,
    rank: int | None = None,
    poles: str = "+-",
    pursuit: Pursuit | None = None,
    fold: bool = True,
    centre: bool | None = None,
    image_mean: Tensor | None = None,
    device: torch.device | str | None = None,
    job: ResumableJob | None = None,
    progress: bool = False,
) -> Decomposition:
    """Factor and explain the heads of some layers (SITH; Method, sec. 1 to 5).

    The algebra of directions runs in float64, whatever the dtype of the checkpoint, and results are stored in
    float32: so a bfloat16 tower and its float32 cast decompose alike.

    Args:
        tower: what to decompose; it needs a projection.
        dictionary: M encoded concepts.
        name, revision: where the tower's weights come from, for provenance.
        layers: layer numbers, negative ones from the last; all when None.
        rank: singular vectors kept per head; all when None.
        poles: ``"+-"``, or ``"+"`` for the paper's setting.
        pursuit: the sparse coder; COMP with five concepts and lambda 0.3 when None.
        fold: fold the layer norm into what heads read.
        centre: drop the all-ones direction; as ``fold`` when None.
        image_mean: mu, ``[P]``; zero when None, and the settings then say so.
        device: where the products with the dictionary run; the CPU when None. Concepts are the same on all devices,
            their weights up to the last bit.
        job: keeps finished heads, and shares heads between processes, all of which get the whole result, with the
            bits that one process alone gives with as many threads.
        progress: show a bar on stderr.

    Raises:
        InputError: something out of range, a dictionary that is not encoded or of another joint space.
    """
    pursuit, job = pursuit or Pursuit(), job or ResumableJob()
    numbers = check_settings(
        tower, layers=layers, rank=rank, poles=poles, pursuit=pursuit, image_mean=image_mean, concepts=len(dictionary)
    )
    projection = tower.require_projection()
    centre = fold if centre is None else centre
    head_size = tower.hidden_size // tower.num_heads
    atoms = dictionary.streamed_atoms
    if atoms.shape[1] != projection.shape[0]:
        raise InputError(
            f"the dictionary has embeddings of size {atoms.shape[1]}, this model's joint space has size "
            f"{projection.shape[0]}: encode the dictionary with this model's own text tower"
        )
    sign = torch.tensor([1.0 if pole == "+" else -1.0 for pole in poles], dtype=torch.float64)

    where = torch.device("cpu" if device is None else device)
    vectors = (rank or head_size) * len(poles)
    heads = _groups(numbers, tower.num_heads, vectors)

    @cache
    def ready() -> DictionaryIndex:
        share = len(heads) * ROWS / job.processes.world_size
        return prepared(atoms, device=where, products=int(share * pursuit.sparsity), block_size=pursuit.block_size)

    def explain(group: str) -> Part:
        number, those = heads[group]
        factors = tower.layers[number].factors(tower.num_heads, fold=fold, centre=centre)
        svd = factored_svd(factors.write[those].cpu(), factors.read[those].cpu())
        write, values, read = svd.write[:, :rank], svd.values[:, :rank], svd.read[:, :rank]
        directions = write.unsqueeze(-2) * sign.unsqueeze(-1)
        joint = tower.to_joint(directions, image_mean).flatten(0, 2).float()
        found = pursuit(joint.to(where), ready())
        code = SparseCode(found.index.cpu(), found.weight.cpu())
        shape = (*directions.shape[:3], -1)
        rebuilt = tower.from_joint(code.reconstruct(atoms).double(), image_mean).reshape(directions.shape)
        made = {
            "singular_values": values,
            "energy": (svd.values**2).sum(dim=-1),
            "write": write,
            "read": read,
            "concept": code.index.reshape(shape),
            "weight": code.weight.reshape(shape),
            "fidelity": (rebuilt * directions).sum(dim=-1),
            "coherence": mean_cosine(atoms, code.index, code.weight).reshape(shape[:3]),
            "ceiling": tower.projected_norm(write),
        }
        return {key: tensor if key == "concept" else tensor.float() for key, tensor in made.items()}

    facts: dict[str, Any] = {}
    if job.folder is not None:
        facts = {
            "layers": list(numbers),
            "rank": rank,
            "poles": poles,
            "fold": fold,
            "centre": centre,
            "method": pursuit.method,
            "sparsity": pursuit.sparsity,
            "coherence weight": pursuit.coherence_weight,
            "image mean": None if image_mean is None else tensor_sha256(image_mean),
            "weights": sorted(tower.sha256(numbers).items()),
            "heads": [tower.num_heads, tower.post_norm_eps],
            "dictionary": [dictionary.sha256, _rows_sha256(dictionary.rows)],
            "device": where.type,
        }
    done: dict[str, Part] = {}
    with tqdm(
        total=len(numbers) * tower.num_heads,
        desc="decomposing",
        unit="head",
        disable=not (progress and job.processes.is_main),
    ) as bar:
        for group, part in job.parts("decomposition", facts, list(heads), explain):
            done[group] = part
            bar.update(len(part["energy"]))
    stacks = [[done[group] for group, (number, _) in heads.items() if number == wanted] for wanted in numbers]
    stacked = {key: torch.stack([torch.cat([part[key] for part in parts]) for parts in stacks]) for key in stacks[0][0]}

    # A mean of the user's own stays as it was, whatever they do to their tensor later.
    mean = torch.zeros(projection.shape[0]) if image_mean is None else image_mean.detach().float().cpu().clone()
    used = sorted(set(stacked["concept"][stacked["concept"] >= 0].tolist()), key=dictionary.texts.__getitem__)
    index = torch.full((len(dictionary) + 1,), -1)
    index[used] = torch.arange(len(used))
    stacked["concept"] = index[stacked["concept"]]
    return Decomposition(
        layers=numbers,
        **stacked,
        texts=tuple(dictionary.texts[i] for i in used),
        embeddings=dictionary.embeddings_of(used),
        dictionary_mean=dictionary.mean,
        image_mean=mean,
        poles=tuple(poles),
        base=BaseRef(name, revision, tower.sha256(numbers)),
        settings={
            "fold": fold,
            "centre": centre,
            "image_mean": image_mean is not None,
            "method": pursuit.method,
            "sparsity": pursuit.sparsity,
            "coherence_weight": pursuit.coherence_weight,
            "dictionary_size": len(dictionary),
            "dictionary_sha256": dictionary.sha256,
            "encoder": dictionary.encoder,
            "encoder_sha256": dictionary.encoder_sha256,
            "template": dictionary.template,
        },
    )


def check_settings(
    tower: VisionTower,
    *,
    layers: Iterable[int] | None = None,
    rank: int | None = None,
    poles: str = "+-",
    pursuit: Pursuit | None = None,
    image_mean: Tensor | None = None,
    concepts: int | None = None,
) -> tuple[int, ...]:
    """The numbers of the layers, once all settings of :func:`decompose` that need no dictionary are found in order.

    Args:
        tower, layers, rank, poles, pursuit, image_mean: as for :func:`decompose`.
        concepts: M, where it is known already.

    Raises:
        InputError: something out of range.
    """
    numbers = tower.resolve_layers(layers)
    projection = tower.require_projection()
    if poles not in ("+-", "+"):
        raise InputError(f'poles is "+-" or "+"; got {poles!r}')
    check_rank(rank, tower.hidden_size // tower.num_heads)
    if image_mean is not None:
        check_mean(image_mean, projection)
    sparsity = (pursuit or Pursuit()).sparsity
    if concepts is not None and concepts < sparsity:
        raise InputError(f"an explanation of {sparsity} atoms needs a dictionary of at least as many, got {concepts}")
    return numbers


def _groups(layers: Sequence[int], heads: int, vectors: int) -> dict[str, tuple[int, slice]]:
    """Heads that are explained together, by name: as many of a layer as make a batch of pursuit, in even groups.

    How the work is cut never depends on who does it: results of batches of other sizes differ in their last bits.
    """
    count = -(-heads // max(1, ROWS // vectors))
    edges = [heads * number // count for number in range(count + 1)]
    return {
        f"layer-{layer:03d}-heads-{start:03d}-{stop - 1:03d}": (layer, slice(start, stop))
        for layer in layers
        for start, stop in pairwise(edges)
    }


def _rows_sha256(rows: Atoms) -> str:
    """The sha256 of float32 rows that may stay in their file."""
    digest = hashlib.sha256(f"{list(rows.shape)}".encode())
    size = max(1, READ // rows.shape[1])
    for start in range(0, rows.shape[0], size):
        block = rows.block(start, min(start + size, rows.shape[0])).detach().cpu().contiguous()
        digest.update(block.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def mean_cosine(atoms: Tensor | Atoms, index: Tensor, weight: Tensor) -> Tensor:
    """The mean pairwise cosine of each row's concepts of positive weight, ``[N]``; 1 where there is only one.

    Args:
        atoms: ``[M, P]`` unit rows.
        index, weight: ``[N, K]``; concepts of weight zero and padding (-1) are left out.
    """
    source = as_atoms(atoms)
    present = ((index >= 0) & (weight > 0)).to(source.dtype)
    chosen = normalize(source.rows(index.clamp(min=0)), dim=-1) * present.unsqueeze(-1)
    count = present.sum(dim=-1)
    pairs = count * (count - 1)
    total = chosen.sum(dim=1).square().sum(dim=-1) - count
    return torch.where(pairs > 0, total / pairs.clamp(min=1), 1.0)
