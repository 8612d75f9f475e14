"""The quality of scores by embeddings, on the embedded checkpoint, where the truth is known.

``python -m pytest tests/judges/test_calibration.py -s`` prints the figures that the docstring of ``EmbeddingJudge``
states.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch

from sith_hf.concepts.dictionary import ConceptDictionary
from sith_hf.editor import SithEditor
from sith_hf.judges.embeddings import EmbeddingJudge
from sith_hf.world import scenes as world
from sith_hf.world.embedded import embedded_checkpoint

KINDS = {
    "objects": world.OBJECTS,
    "colours": world.COLOURS,
    "backgrounds": world.BACKGROUNDS,
    "sizes": world.SIZES,
}
PICTURES, SEED = 600, 4100
BORDERS = (1, 2, 3, 4, 5.01)


class Agreement(NamedTuple):
    """How well a yes or no from the score agrees with the truth."""

    true: int
    share: float
    balanced: float


def agreement(truth, said):
    """The agreement of two boolean tensors of one shape."""
    right = (truth == said).float()
    return Agreement(int(truth.sum()), float(right.mean()), float(right[truth].mean() + right[~truth].mean()) / 2)


def share_of_words(decomposition, kind):
    """The part of each explanation's weight that lies on words of one kind, ``[L, H, R, poles]``: known, not judged."""
    words = {word for name in KINDS[kind] for word in world.names_for(name)}
    of_kind = torch.tensor([text in words for text in decomposition.texts] + [False]).float()
    return (decomposition.weight * of_kind[decomposition.concept]).sum(-1) / decomposition.weight.sum(-1)


def reactions(editor, decomposition, pictures=PICTURES, seed=SEED):
    """What each vector reacts to in pictures, ``[4, L, H, R]``, by kind in the order of KINDS; sums to 1.

    For each picture, how far the head moves the class token along the vector's write direction; of the variance of
    that over pictures whose four attributes are independent, the part that each attribute explains by itself.
    """
    scenes = world.sample_balanced(pictures, seed)
    settings = json.loads((embedded_checkpoint() / "preprocessor_config.json").read_text())
    pixels = torch.from_numpy(world.render(scenes, seed + 1)).float() / 255
    pixels = (pixels - torch.tensor(settings["image_mean"])) / torch.tensor(settings["image_std"])
    layers = {n: editor.model.vision_model.encoder.layers[n].self_attn.out_proj for n in decomposition.layers}
    caught = {n: [] for n in layers}
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, n=n: caught[n].append(inputs[0][:, 0]))
        for n, module in layers.items()
    ]
    try:
        with torch.inference_mode():
            for batch in pixels.permute(0, 3, 1, 2).split(100):
                editor.model.vision_model(pixel_values=batch)
    finally:
        for hook in hooks:
            hook.remove()
    moved = []
    for at, (n, module) in enumerate(layers.items()):
        values = torch.cat(caught[n]).unflatten(1, (decomposition.num_heads, -1))  # [N, H, d]
        columns = module.weight.detach().unflatten(1, (decomposition.num_heads, -1))  # [D, H, d]
        moved.append(torch.einsum("nhd,Dhd,hrD->nhr", values, columns, decomposition.write[at]))
    coefficient = torch.stack(moved, dim=1)
    coefficient = coefficient - coefficient.mean(dim=0)
    codes = torch.from_numpy(world.encode(scenes))
    explained = torch.stack([
        sum((codes[:, k] == c).sum() * coefficient[codes[:, k] == c].mean(dim=0) ** 2 for c in codes[:, k].unique())
        for k in range(len(KINDS))
    ])  # fmt: skip
    return explained / explained.sum(dim=0)


@pytest.fixture(scope="module")
def editor():
    return SithEditor.from_pretrained(embedded_checkpoint())


@pytest.fixture(scope="module")
def decomposition(editor):
    return editor.decompose(ConceptDictionary.from_texts(world.concepts()), layers=[-2, -1])


@pytest.fixture(scope="module")
def scores(editor, decomposition):
    """Scores by kind; each topic is named without the synonyms that half of its explanations use."""
    return {kind: EmbeddingJudge(kind, KINDS[kind], editor.embed).score(decomposition).value for kind in KINDS}


def test_three_says_that_at_least_half_of_the_explanation_is_about_the_topic(decomposition, scores):
    for kind in KINDS:
        found = agreement(share_of_words(decomposition, kind) >= 0.5, scores[kind] >= 3)
        print(f"\nwords: {kind}: {found.true} of {scores[kind].numel()} poles mainly; agreement {found.share:.3f}")
        assert found.share >= 0.99


def test_scores_of_another_topic_do_not_say_it(decomposition, scores):
    truth = share_of_words(decomposition, "backgrounds") > 0.5
    for kind in ("objects", "colours", "sizes"):
        assert agreement(truth, scores[kind] >= 3).balanced < 0.55


def test_scores_of_backgrounds_agree_with_what_vectors_react_to_in_pictures(editor, decomposition, scores):
    reacts = reactions(editor, decomposition)[list(KINDS).index("backgrounds")]
    of_vector = scores["backgrounds"].amax(dim=-1)
    found = agreement(reacts > 0.5, of_vector >= 3)
    bins = [reacts[(of_vector >= a) & (of_vector < b)] for a, b in pairwise(BORDERS)]
    means = [float(inside.mean()) for inside in bins]
    print(f"\npictures: {found.true} of {of_vector.numel()} vectors react mainly to backgrounds; {found}")
    print("reaction by score:", [f"{mean:.2f} ({len(inside)})" for mean, inside in zip(means, bins, strict=True)])
    # Scores drawn from the same ones by chance, and scores of another topic, as the control.
    order = torch.randperm(of_vector.numel(), generator=torch.Generator().manual_seed(0))
    chance = agreement(reacts > 0.5, (of_vector.flatten()[order] >= 3).reshape(of_vector.shape))
    other = agreement(reacts > 0.5, scores["colours"].amax(dim=-1) >= 3)
    print(f"by chance: {chance}; colours instead: {other}")
    assert found.share >= 0.8
    assert found.balanced >= 0.7
    assert means[0] < means[1] < means[2]
    assert means[3] > 2 * means[0]
    assert chance.balanced < 0.6
    assert other.balanced < 0.6
