"""From a tower and a dictionary to a ``Decomposition``: factor every head, explain every pole."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm import tqdm

from sith_hf.concepts import ConceptDictionary
from sith_hf.decomposition import Decomposition
from sith_hf.errors import InputError
from sith_hf.fingerprint import BaseRef
from sith_hf.pursuit import Pursuit
from sith_hf.svd import check_rank, factored_svd
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
    progress: bool = False,
) -> Decomposition:
    """Factor and explain the heads of some layers (SITH; METHOD.md sec. 1 to 5).

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
        progress: show a bar on stderr.

    Raises:
        InputError: something out of range, a dictionary that is not encoded or of another joint space.
    """
    numbers = tower.resolve_layers(layers)
    projection = tower.needed_projection()
    pursuit = pursuit or Pursuit()
    centre = fold if centre is None else centre
    if poles not in ("+-", "+"):
        raise InputError(f'poles is "+-" or "+"; got {poles!r}')
    head_size = tower.hidden_size // tower.num_heads
    check_rank(rank, head_size)
    if image_mean is not None:
        check_mean(image_mean, projection)
    atoms = dictionary.atoms
    if atoms.shape[1] != projection.shape[0]:
        raise InputError(
            f"the dictionary has embeddings of size {atoms.shape[1]}, this model's joint space has size "
            f"{projection.shape[0]}: encode the dictionary with this model's own text tower"
        )
    sign = torch.tensor([1.0 if pole == "+" else -1.0 for pole in poles], dtype=torch.float64)

    parts: dict[str, list[Tensor]] = {key: [] for key in _PARTS}
    for number in tqdm(numbers, desc="decomposing", unit="layer", disable=not progress):
        factors = tower.layers[number].factors(tower.num_heads, fold=fold, centre=centre)
        svd = factored_svd(factors.write.cpu(), factors.read.cpu())
        write, values, read = svd.write[:, :rank], svd.values[:, :rank], svd.read[:, :rank]
        directions = write.unsqueeze(-2) * sign.unsqueeze(-1)
        code = pursuit(tower.to_joint(directions, image_mean).flatten(0, 2).float(), atoms)
        shape = (*directions.shape[:3], -1)
        rebuilt = tower.from_joint(code.reconstruct(atoms).double(), image_mean).reshape(directions.shape)
        parts["singular_values"].append(values)
        parts["energy"].append((svd.values**2).sum(dim=-1))
        parts["write"].append(write)
        parts["read"].append(read)
        parts["concept"].append(code.index.reshape(shape))
        parts["weight"].append(code.weight.reshape(shape))
        parts["fidelity"].append((rebuilt * directions).sum(dim=-1))
        parts["coherence"].append(mean_cosine(atoms, code.index, code.weight).reshape(shape[:3]))
        parts["ceiling"].append(tower.rebuildable(write))

    # A mean of the user's own stays as it was, whatever they do to their tensor later.
    mean = torch.zeros(projection.shape[0]) if image_mean is None else image_mean.detach().float().cpu().clone()
    stacked = {key: torch.stack(items) for key, items in parts.items()}
    used = sorted(set(stacked["concept"][stacked["concept"] >= 0].tolist()), key=dictionary.texts.__getitem__)
    index = torch.full((len(dictionary) + 1,), -1)
    index[used] = torch.arange(len(used))
    stacked["concept"] = index[stacked["concept"]]
    assert dictionary.embeddings is not None  # .atoms above refuses a dictionary without them
    return Decomposition(
        layers=numbers,
        **{key: tensor if key == "concept" else tensor.float() for key, tensor in stacked.items()},
        texts=tuple(dictionary.texts[i] for i in used),
        embeddings=dictionary.embeddings[used],
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


_PARTS = ("singular_values", "energy", "write", "read", "concept", "weight", "fidelity", "coherence", "ceiling")


def mean_cosine(atoms: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """The mean pairwise cosine of each row's concepts of positive weight, ``[N]``; 1 where there is only one.

    Args:
        atoms: ``[M, P]`` unit rows.
        index, weight: ``[N, K]``; concepts of weight zero and padding (-1) are left out.
    """
    present = ((index >= 0) & (weight > 0)).to(atoms.dtype)
    chosen = normalize(atoms, dim=-1)[index.clamp(min=0)] * present.unsqueeze(-1)
    count = present.sum(dim=-1)
    pairs = count * (count - 1)
    total = chosen.sum(dim=1).square().sum(dim=-1) - count
    return torch.where(pairs > 0, total / pairs.clamp(min=1), 1.0)
