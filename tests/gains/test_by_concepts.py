"""A rule by concepts chooses by the share of Method, sec. 6, as literal loops compute it."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from sith_hf.decomposition import NEAR
from sith_hf.errors import InputError
from sith_hf.gains import SHARE_THRESHOLD, Selection, by_concepts

LAYERS, HEADS, SIZE = 3, 4, 8


def double(tensor):
    return tensor.detach().numpy().astype(np.float64)


def unit(x):
    return x / np.sqrt((x * x).sum(axis=-1, keepdims=True))


def literal_shares(made, names, near):
    """(layer, head, vector) to the share of each pole, by loops over everything."""
    mean = double(made.dictionary_mean)
    rows = {text: unit(double(e) - mean) for text, e in zip(made.texts, made.embeddings, strict=True)}
    result = {}
    for layer, head, vector in product(made.layers, range(HEADS), range(SIZE)):
        shares = []
        for pole in made.poles:
            concepts = made.explain(layer, head, vector, pole).concepts
            on = 0.0
            for text, weight in concepts:
                nearest = max(rows[text] @ rows[name] for name in names)
                on += weight * nearest if nearest >= near else 0
            shares.append(on / sum(weight for _, weight in concepts))
        result[layer, head, vector] = shares
    return result


def test_by_concepts_by_literal_loops(made):
    three = ["red", "ice cream", "fog"]
    for names, threshold, near, both_poles in (
        (["boat"], SHARE_THRESHOLD, NEAR, False),
        (["boat"], 0.05, 0.2, True),
        (three, 0.3, NEAR, True),
        (three, 0.05, NEAR, False),
        (three, SHARE_THRESHOLD, 0.2, False),
        (list(made.texts[::2]), 0.3, 0.2, False),
        (list(made.texts[::2]), SHARE_THRESHOLD, NEAR, True),
    ):
        shares = literal_shares(made, names, near)
        value = {key: sum(s) / 2 if both_poles else max(s) for key, s in shares.items()}
        assert all(abs(v - threshold) > 1e-5 for v in value.values()), "too near the edge to be compared"
        wanted = {key for key, v in value.items() if v >= threshold}
        queries = {name: made.embedding_of(name) for name in names}
        select = Selection(both_poles=both_poles)
        chosen = by_concepts(made, queries, 0.25, threshold=threshold, near=near, select=select)
        assert set(chosen.gain) == set(chosen.reason) == wanted
        assert set(chosen.gain.values()) <= {0.25}
        for key, reason in chosen.reason.items():
            assert reason.partition(" (near: ")[0] == f"{', '.join(names)}: share {value[key]:.2f}"


def test_a_lower_threshold_and_more_concepts_choose_no_fewer(made):
    few = {"boat": made.embedding_of("boat")}
    more = few | {"red": made.embedding_of("red")}
    sizes = []
    for threshold in (0.5, 0.3, 0.1):
        one, two = (set(by_concepts(made, q, 0.0, threshold=threshold).gain) for q in (few, more))
        assert one <= two
        sizes.append(len(one))
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0]  # the control
    both = by_concepts(made, few, 0.0, threshold=0.1, select=Selection(both_poles=True))
    assert set(both.gain) <= set(by_concepts(made, few, 0.0, threshold=0.1).gain)


def crafted(made, weights, first=0):
    """A decomposition whose every pole has two concepts, the first and the one most different from it, and a query.

    All weight is on the second, but for the (layer, head, vector) of ``weights``.
    """
    cosine = made.atoms @ made.atoms[first]
    second = int(cosine.argmin())
    assert cosine[second] < 0.1
    concept, weight = torch.full_like(made.concept, -1), torch.zeros_like(made.weight)
    concept[..., 0], concept[..., 1] = first, second
    weight[..., 1] = 1.0
    for key, pair in weights.items():
        weight[key][:, :2] = torch.tensor(pair)
    return replace(made, concept=concept, weight=weight), {made.texts[first]: made.embeddings[first]}


def test_a_share_at_the_threshold_is_enough(made):
    at, under = (0, 1, 2), (2, 3, 4)
    for concept in range(6):  # rounding differs from concept to concept
        for threshold in (0.25, 0.75, 1.0):
            rest = 1 - threshold
            weights = {at: [[threshold, rest]] * 2, under: [[threshold - 1e-3, rest + 1e-3]] * 2}
            found, queries = crafted(made, weights, concept)
            assert set(by_concepts(found, queries, 0.0, threshold=threshold).gain) == {at}, (concept, threshold)


def test_both_poles_take_the_mean_of_the_poles(made):
    lone, even = (1, 0, 0), (1, 0, 1)
    found, queries = crafted(made, {lone: [[1.0, 0.0], [0.0, 1.0]], even: [[0.6, 0.4], [0.6, 0.4]]})
    assert set(by_concepts(found, queries, 0.0, threshold=0.55).gain) == {lone, even}
    assert set(by_concepts(found, queries, 0.0, threshold=0.55, select=Selection(both_poles=True)).gain) == {even}


def test_a_vector_without_explanation_is_never_chosen(made):
    empty = replace(made, weight=torch.zeros_like(made.weight))
    queries = dict(zip(made.texts, made.embeddings, strict=True))
    assert len(by_concepts(empty, queries, 0.0, threshold=1e-9)) == 0
    assert len(by_concepts(made, queries, 0.0, threshold=0.99)) == LAYERS * HEADS * SIZE  # the control


def test_a_choice_may_be_kept_to_layers_and_heads(made):
    queries = {"boat": made.embedding_of("boat")}
    everything = by_concepts(made, queries, 0.0, threshold=0.05).gain
    some = by_concepts(made, queries, 0.0, threshold=0.05, select=Selection([-1, 0], iter([1, 2])))
    assert set(some.gain) == {k for k in everything if k[0] in (0, 2) and k[1] in (1, 2)} != set()
    assert by_concepts(made, queries, 0.0, threshold=0.05, select=Selection("last1,0", "-3:3")).gain == some.gain
    for wrong in ({"layers": [3]}, {"heads": [4]}, {"heads": [-5]}):
        with pytest.raises(InputError):
            by_concepts(made, queries, 0.0, select=Selection(**wrong))


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.0001, math.nan, math.inf])
def test_a_threshold_out_of_range_is_refused(threshold, made):
    with pytest.raises(InputError, match="threshold"):
        by_concepts(made, {"boat": made.embedding_of("boat")}, 0.0, threshold=threshold)


def test_no_concept_is_refused(made):
    with pytest.raises(InputError, match="at least one concept"):
        by_concepts(made, {}, 0.0)
    with pytest.raises(InputError, match="near"):
        by_concepts(made, {"boat": made.embedding_of("boat")}, 0.0, near=0.0)
