"""Every way to give words to the poles of a checkpoint's singular vectors that ``truth.py`` compares."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPImageProcessorPil
from truth_peers import cosine_cubed, soft_wpmi, text_span
from truth_scores import Reading
from truth_world import VALUES, Pictures, value_of

import sith_hf
from sith_hf import ConceptDictionary, SithEditor, world
from sith_hf.decomposition import DecomposeSettings, TotalEffect, decompose, measure_total_effect
from sith_hf.files import write_whole
from sith_hf.grounding import driven_by
from sith_hf.images import DatasetSettings
from sith_hf.pursuit import Pursuit

WORDS = 5
# Heavy words have at least this share of the largest weight.
HEAVY = 0.5
# The sources of unlabelled images, and how many of them.
PICTURES, LEAVES = "pictures", "leaves"
COUNTS = {PICTURES: 300, LEAVES: 1000}
TOTAL = 64

PURSUITS = {
    "COMP 0.2": Pursuit(coherence_weight=0.2),
    "COMP 0.3": Pursuit(),
    "COMP 0.4": Pursuit(coherence_weight=0.4),
    "COMP 1.0": Pursuit(coherence_weight=1.0),
    "OMP": Pursuit(method="omp"),
    "top-k": Pursuit(method="top-k"),
    "MP": Pursuit(method="mp"),
    "lasso": Pursuit(method="lasso"),
}
BASELINE = "COMP 0.3"


@dataclass(frozen=True, eq=False)
class Seen:
    """A checkpoint on unlabelled images.

    Attributes:
        coefficients: ``[B, L, N]`` at the class token.
        embeddings: ``[B, P]``, normalised.
        similarities: ``[B, M]``, to the words.
        pixels: ``[B, 3, side, side]``.
    """

    coefficients: Tensor
    embeddings: Tensor
    similarities: Tensor
    pixels: Tensor


class Checkpoint:
    """A trained CLIP of the world, its vectors, and unlabelled images.

    Args:
        folder: of the checkpoint.
        work: where the images are written for the package to read.
        seed: of the images.
    """

    def __init__(self, folder: Path, work: Path, seed: int) -> None:
        self.folder, self.work, self.seed = folder, work, seed
        self.editor = SithEditor.from_pretrained(folder)
        self.editor.model.eval()
        self.concepts = self.editor.encode(ConceptDictionary.from_texts(world.concepts()))
        self.names = value_of(self.concepts.texts)
        self.made = self.editor.decompose(self.concepts)
        self.data = {PICTURES: self._drawn(), LEAVES: DatasetSettings(world="leaves", seed=0, pictures=COUNTS[LEAVES])}

    @property
    def values(self) -> Tensor:
        """The text embedding of each value, the mean of its words, ``[V, P]``."""
        embeddings = self.concepts.embeddings
        assert embeddings is not None
        means = [embeddings[self.names == value].mean(dim=0) for value in range(len(VALUES))]
        return normalize(torch.stack(means), dim=-1)

    @property
    def energy(self) -> Tensor:
        """The squared singular value of each vector, ``[L, N]``."""
        return (self.made.singular_values**2).flatten(1)

    @property
    def poles(self) -> list[tuple[int, Tensor]]:
        """The number of each layer, and the write directions of its poles, ``[H, R, 2, D]``."""
        poles = torch.stack([self.made.write, -self.made.write], dim=-2)
        return list(zip(self.made.layers, poles, strict=True))

    def _drawn(self) -> DatasetSettings:
        """Draw pictures of the training distribution into a folder, without labels."""
        folder = self.work / f"pictures-{self.seed}-{COUNTS[PICTURES]}"
        if not folder.exists():
            scenes = world.sample_training(COUNTS[PICTURES], self.seed)
            folder.mkdir(parents=True)
            for number, picture in enumerate(world.render(scenes, self.seed + 1)):
                Image.fromarray(picture).save(folder / f"{number:05d}.png")
        return DatasetSettings(dataset=str(folder))

    def images(self, source: str) -> list[Any]:
        """Return the unlabelled images of a source."""
        if source == LEAVES:
            return list(world.world_dataset(LEAVES, 0, COUNTS[LEAVES])["image"])
        return [Image.open(path) for path in sorted((self.work / f"pictures-{self.seed}-{COUNTS[PICTURES]}").iterdir())]

    @cached_property
    def seen(self) -> dict[str, Seen]:
        """The checkpoint on each source of images."""
        processor = CLIPImageProcessorPil.from_pretrained(self.folder)
        found = {}
        for source in COUNTS:
            pixels = processor(self.images(source), return_tensors="pt").pixel_values
            pictures = Pictures(self.editor.model, pixels)
            pairs = zip(self.made.layers, self.made.write, strict=True)
            first = [pictures.coefficients(number, write)[:, 0] for number, write in pairs]
            texts = self.concepts.embeddings
            assert texts is not None
            found[source] = Seen(torch.stack(first, dim=1), pictures.embeddings, pictures.embeddings @ texts.T, pixels)
        return found

    @cached_property
    def total(self) -> dict[str, TotalEffect]:
        """The mean Jacobian over the first images of each source."""
        model, tower = self.editor.model, self.editor.tower
        batches = {source: seen.pixels[:TOTAL].split(8) for source, seen in self.seen.items()}
        return {
            source: measure_total_effect(model, tower, parts, images={"source": source})
            for source, parts in batches.items()
        }


Words = dict[str, Tensor]


def groups(found: Checkpoint) -> dict[str, Callable[[], Words]]:
    """Return what makes the words of each group of methods: ``[L, N, 2, K]`` by the method's name."""
    made: dict[str, Callable[[], Words]] = {"random words": lambda: {"random words": random_words(found)}}
    for source in COUNTS:
        made[f"driven by, {source}"] = partial(by_images, found, source)
        made[f"image mean of {source}"] = partial(by_image_mean, found, source)
        made[f"peers, {source}"] = partial(by_peers, found, source)
        made[f"Jacobian alone on {source}"] = partial(by_jacobian, found, source)
    for name, pursuit in PURSUITS.items():
        sources = (None, LEAVES, PICTURES) if name == BASELINE else (None, LEAVES)
        for source in sources:
            title = name if source is None else f"{name}, total effect on {source}"
            make = by_lasso if pursuit.method == "lasso" else by_pursuit
            made[title] = partial(make, found, title, pursuit, source)
    return made


def readings(found: Checkpoint) -> Iterator[tuple[str, Reading]]:
    """Yield the name and the words of every method; finished groups are kept, for these sources, in the work folder."""
    prints = found.made.base.sha256
    facts = hashlib.sha256("".join([_sources(), str(found.seed), *sorted(prints.values())]).encode()).hexdigest()[:12]
    folder = found.work / "words"
    folder.mkdir(exist_ok=True)
    for title, make in groups(found).items():
        path = folder / f"{facts}-{title.replace(' ', '-').replace(',', '')}.safetensors"
        if not path.exists():
            words = {name: tensor.contiguous() for name, tensor in make().items()}
            write_whole(path, save_tensors(words, {"order": "|".join(words)}))
        with safe_open(path, "pt") as file:
            for name in file.metadata()["order"].split("|"):
                yield name, Reading(file.get_tensor(name))


def _sources() -> str:
    """Return a fingerprint of the code that makes words."""
    package = sorted(Path(sith_hf.__file__).parent.rglob("*.py"))
    own = [Path(__file__).with_name(name) for name in ("truth_methods.py", "truth_peers.py", "truth_world.py")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in [*package, *own])).hexdigest()


def by_pursuit(found: Checkpoint, title: str, pursuit: Pursuit, source: str | None) -> Words:
    """Explain all poles, by the direct effect or by the total effect over the images of a source."""
    settings = DecomposeSettings(pursuit=pursuit, effect="direct" if source is None else "total")
    total = None if source is None else found.total[source]
    made = decompose(found.editor.tower, found.concepts, settings, total=total)
    speaks = made.beyond_chance()
    assert speaks is not None
    rules = with_heavy(title, places(found, made.texts, made.concept), made.weight.flatten(1, 2))
    silenced = {name: Reading(words).silenced(speaks.flatten(1, 2)).words for name, words in rules.items()}
    return rules | {f"{name}, beyond chance": words for name, words in silenced.items()}


def by_lasso(found: Checkpoint, title: str, pursuit: Pursuit, source: str | None) -> Words:
    """Explain all poles without their significance, which would take five minutes of lasso paths."""
    tower = found.editor.tower
    way = tower.to_joint if source is None else partial(found.total[source].to_joint, tower)
    return coded(found, title, pursuit, torch.stack([way(w, layer=number) for number, w in found.poles]))


def by_image_mean(found: Checkpoint, source: str) -> Words:
    """Explain all poles with the mean embedding of images subtracted, as in the paper."""
    mean, tower = found.seen[source].embeddings.mean(dim=0), found.editor.tower
    joint = torch.stack([tower.to_joint(w, mean, number) for number, w in found.poles])
    return coded(found, f"{BASELINE}, image mean of {source}", PURSUITS[BASELINE], joint)


def by_jacobian(found: Checkpoint, source: str) -> Words:
    """Explain what becomes of the write directions to first order, J w, without the direct effect beside it."""
    joint = torch.stack([found.total[source].change(w, number) for number, w in found.poles])
    title = f"{BASELINE}, Jacobian alone on {source}"
    return coded(found, title, PURSUITS[BASELINE], normalize(joint, dim=-1))


def coded(found: Checkpoint, title: str, pursuit: Pursuit, joint: Tensor) -> Words:
    """Explain points of the joint space, ``[L, H, R, 2, P]``."""
    code = pursuit(joint.flatten(0, -2), found.concepts.atoms)
    shape = (*found.energy.shape, 2, -1)
    return with_heavy(title, code.index.reshape(shape), code.weight.reshape(shape))


def with_heavy(title: str, words: Tensor, weight: Tensor) -> Words:
    """Return the words that have a weight, and those of them that have at least ``HEAVY`` of the first one's."""
    words = torch.where(weight > 0, words, -1)
    return {title: words, f"{title}, heavy words": torch.where(weight >= HEAVY * weight[..., :1], words, -1)}


def by_images(found: Checkpoint, source: str) -> Words:
    """Return the words of highest correlation, of all poles and of those that the package names."""
    drivers = driven_by(found.editor, found.made, found.concepts, found.data[source], most=WORDS)
    return {
        f"driven by, {source}": ranked(correlations(found.seen[source])),
        f"driven by, {source}, beyond chance": places(found, drivers.texts, drivers.concept),
    }


def by_peers(found: Checkpoint, source: str) -> Words:
    """Return the words of the peers that need images."""
    seen = found.seen[source]
    of_head, of_vector = spanned(found, seen)
    return {
        f"TextSpan-like, of the head, {source}": of_head,
        f"TextSpan-like, of the vector, {source}": of_vector,
        f"CLIP-Dissect-like, soft WPMI, {source}": ranked(dissected(soft_wpmi, seen)),
        f"CLIP-Dissect-like, cosine cubed, {source}": ranked(dissected(cosine_cubed, seen)),
    }


def places(found: Checkpoint, texts: tuple[str, ...], index: Tensor) -> Tensor:
    """Return places in the whole dictionary ``[L, N, 2, K]`` of places in some of its texts ``[L, H, R, 2, K]``."""
    known = {text: number for number, text in enumerate(found.concepts.texts)}
    numbers = torch.tensor([*(known[text] for text in texts), -1])
    return numbers[index].flatten(1, 2)


def random_words(found: Checkpoint) -> Tensor:
    """Return distinct random words for every pole."""
    layers, vectors = found.energy.shape
    generator = torch.Generator().manual_seed(found.seed)
    noise = torch.rand(layers, vectors, 2, len(found.concepts), generator=generator)
    return noise.argsort(dim=-1)[..., :WORDS]


def ranked(scores: Tensor) -> Tensor:
    """Return the words of the highest scores ``[L, N, 2, M]``."""
    return scores.topk(WORDS, dim=-1).indices


def correlations(seen: Seen) -> Tensor:
    """Return the correlation over images of each pole's coefficient and each word's similarity, ``[L, N, 2, M]``."""

    def unit(values: Tensor) -> Tensor:
        return normalize(values.double() - values.double().mean(dim=0), dim=0)

    plus = torch.einsum("bln,bm->lnm", unit(seen.coefficients), unit(seen.similarities))
    return torch.stack([plus, -plus], dim=2)


def dissected(score: Any, seen: Seen) -> Tensor:
    """Return a score of CLIP-Dissect for each pole and word, ``[L, N, 2, M]``."""
    layers, vectors = seen.coefficients.shape[1:]
    poles = torch.stack([seen.coefficients, -seen.coefficients], dim=-1).flatten(1)
    return score(poles, seen.similarities).reshape(layers, vectors, 2, -1)


def spanned(found: Checkpoint, seen: Seen) -> tuple[Tensor, Tensor]:
    """Return TextSpan's words: the first ones of the head for all its poles, and those nearest to each pole.

    A head's whole basis has as many texts as the head has dimensions. A pole takes those along which it writes most, in
    its own direction: the variance of a vector's output along a text, with the sign.
    """
    model, made = found.editor.model, found.made
    texts = found.concepts.embeddings
    assert texts is not None
    heads, rank = made.num_heads, made.rank
    gain = model.vision_model.post_layernorm.weight.detach()
    joint = (made.write * gain) @ model.visual_projection.weight.detach().T
    coefficients = seen.coefficients.unflatten(-1, (heads, rank))
    of_head = torch.full((*joint.shape[:3], 2, WORDS), -1)
    of_vector = of_head.clone()
    for layer, head in np.ndindex(*joint.shape[:2]):
        written = coefficients[:, layer, head] @ joint[layer, head]
        basis = text_span(written, texts, rank)
        of_head[layer, head] = basis[:WORDS]
        along = joint[layer, head] @ normalize(texts[basis], dim=-1).T
        for pole, sign in enumerate((1, -1)):
            best = (sign * along).topk(WORDS, dim=-1)
            of_vector[layer, head, :, pole] = torch.where(best.values > 0, basis[best.indices], -1)
    return of_head.flatten(1, 2), of_vector.flatten(1, 2)
