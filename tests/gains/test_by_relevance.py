"""Relevance equals the formula by loops, on a task without its class names."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch.nn.functional import normalize

from sith_hf.concepts import ConceptDictionary
from sith_hf.errors import InputError
from sith_hf.gains import Selection
from sith_hf.gains.by_relevance import by_relevance, class_task, level_offset, task_relevance
from tests.support.made import WORDS, tiny_concepts

CLASSES = ["bird", "car", "boat"]


@pytest.fixture(scope="module")
def editor(editor):
    """The tiny editor, with a decomposition."""
    editor.decompose(tiny_concepts())
    return editor


@pytest.fixture(scope="module")
def dictionary(editor):
    return editor.encode(tiny_concepts())


@pytest.fixture(scope="module")
def task(editor, dictionary):
    return class_task(editor.encode(dictionary), CLASSES, editor.embed, sparsity=5)


def test_class_names_are_left_out(editor, dictionary, task):
    assert not {t.casefold() for t in task.texts} & {"bird", "car", "boat"}
    assert set(task.texts) <= set(dictionary.texts)
    assert torch.equal(task.embeddings, torch.stack([dictionary.embedding_of(text) for text in task.texts]))
    # The control: nothing is nearer to a class than itself.
    assert {"bird", "car", "boat"} <= set(
        class_task(editor.encode(dictionary), CLASSES, editor.embed, leave_out=(), sparsity=5).texts
    )


def literal_task(rows, queries, sparsity):
    """Indices of the concepts that COMP selects for any query, in float64, one query at a time."""
    task = set()
    for query in queries:
        chosen, residual, weights = [], query, []
        for _ in range(sparsity):
            coherence = 0.3 * np.mean([rows @ rows[i] for i in chosen], axis=0) if chosen else 0.0
            score = rows @ residual + coherence
            score[chosen] = -np.inf
            chosen.append(int(score.argmax()))
            weights, _ = nnls(rows[chosen].T, query)
            residual = query - weights @ rows[chosen]
        task |= {i for i, weight in zip(chosen, weights, strict=True) if weight > 0}
    return sorted(task)


def literal_gains(made, dictionary, *, centre):
    """g = max(0.8, R + 0.3) of every vector, in float64 (Method, sec. 6); ``centre`` gives another rule's gains."""
    length = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    every = length(dictionary.embeddings.double().numpy())
    mean = every.mean(axis=0) if centre else 0.0
    left = [i for i, text in enumerate(dictionary.texts) if text not in ("bird", "car", "boat")]
    queries = every[[dictionary.texts.index(name) for name in ("bird", "car", "boat")]]
    chosen = [left[i] for i in literal_task(length(every[left] - mean), length(queries - mean), sparsity=10)]
    nearest = (every @ every[chosen].T).max(axis=1)
    gains = {}
    for layer, head, vector in np.ndindex(*made.singular_values.shape):
        relevance = max(
            sum(weight * nearest[dictionary.texts.index(text)] for text, weight in explanation.concepts)
            for explanation in (made.explain(made.layers[layer], head, vector, pole) for pole in "+-")
        )
        gains[made.layers[layer], head, vector] = max(0.8, relevance + 0.3)
    return {dictionary.texts[i] for i in chosen}, gains


def test_gains_are_those_of_the_literal_rule(editor, dictionary):
    made = editor.decomposition
    task = class_task(dictionary, CLASSES, editor.embed)
    gains = by_relevance(made, task_relevance(made, task.embeddings)).gain
    texts, literal = literal_gains(made, dictionary, centre=False)
    assert set(task.texts) == texts
    assert len(task.texts) == len(texts)
    assert gains == pytest.approx(literal, abs=1e-5)
    # The control: centred embeddings select other concepts and give other gains.
    texts, centred = literal_gains(made, dictionary, centre=True)
    assert set(task.texts) != texts
    assert gains != pytest.approx(centred, abs=1e-3)


def test_embeddings_rounded_on_disk_have_unit_length_again(editor, dictionary, tmp_path):
    dictionary.save_pretrained(tmp_path, torch.bfloat16)
    rounded = ConceptDictionary.from_pretrained(tmp_path, in_memory=False)
    assert rounded.stored is not None
    lengths = rounded.embeddings.double().norm(dim=1)
    assert float((lengths - 1).abs().max()) > 1e-4  # the control
    again = replace(rounded, embeddings=normalize(rounded.embeddings.double(), dim=1).float(), stored=None)
    found, expected = (class_task(item, CLASSES, editor.embed).texts for item in (rounded, again))
    assert found == expected


def test_a_class_that_no_explanation_has_is_encoded(editor, dictionary):
    assert class_task(editor.encode(dictionary), ["a striped lighthouse"], editor.embed, sparsity=3).texts


def test_relevance_by_literal_loops(editor, task):
    made = editor.decomposition
    found = task_relevance(made, task.embeddings).numpy()
    embeddings = made.embeddings.double().numpy()
    rows = task.embeddings.double().numpy()
    cosine = lambda a, b: a @ b / np.sqrt((a @ a) * (b @ b))  # noqa: E731
    for at in np.ndindex(*found.shape):
        total = 0.0
        for k, c in zip(made.concept[at].tolist(), made.weight[at].tolist(), strict=True):
            if k >= 0:
                total += c * max(cosine(embeddings[k], row) for row in rows)
        assert found[at] == pytest.approx(total, abs=1e-5)


def test_relevance_does_not_depend_on_lengths_and_grows_with_the_task(editor, task):
    made = editor.decomposition
    some, all_of_them = task_relevance(made, task.embeddings[:2]), task_relevance(made, task.embeddings)
    assert torch.allclose(task_relevance(made, 7 * task.embeddings), all_of_them, atol=1e-5)
    assert bool((all_of_them >= some - 1e-6).all())
    assert float((all_of_them - some).max()) > 1e-3  # the control


@pytest.mark.parametrize(("floor", "ceiling", "offset"), [(0.8, None, 0.3), (0.5, 1.2, -0.2), (0.9, 0.9, 0.0)])
def test_gains_are_relevance_and_offset_within_limits(floor, ceiling, offset, editor, task):
    made = editor.decomposition
    relevant = task_relevance(made, task.embeddings)
    chosen = by_relevance(made, relevant, floor=floor, ceiling=ceiling, offset=offset)
    assert len(chosen) == made.singular_values.numel()
    for (layer, head, vector), gain in chosen.gain.items():
        most = max(relevant[made.layers.index(layer), head, vector].tolist())
        assert gain == pytest.approx(min(max(most + offset, floor), ceiling or math.inf), abs=1e-6)
    assert set(chosen.reason) == set(chosen.gain)


def test_a_vector_has_the_relevance_of_its_better_pole(editor, task):
    made = editor.decomposition
    relevant = task_relevance(made, task.embeddings)
    assert by_relevance(made, relevant).gain == by_relevance(made, relevant.flip(-1)).gain
    lower = relevant.clone()
    lower[..., 0] = 0
    assert by_relevance(made, lower, floor=0.0).gain != by_relevance(made, relevant, floor=0.0).gain


def test_only_the_named_layers_and_heads_get_gains(editor, task):
    made = editor.decomposition
    chosen = by_relevance(made, task_relevance(made, task.embeddings), select=Selection([-1], [0, 2]))
    assert {key[:2] for key in chosen.gain} == {(2, 0), (2, 2)}


def test_a_level_offset_leaves_half_of_the_vectors_at_most_one(editor, task):
    made = editor.decomposition
    for scale in (0.1, 1.0, 10.0):
        relevant = scale * task_relevance(made, task.embeddings)
        chosen = by_relevance(made, relevant, floor=-100.0, offset=level_offset(made, relevant))
        gains = sorted(chosen.gain.values())
        assert gains[(len(gains) - 1) // 2] == pytest.approx(1)
        assert gains[0] < 1 < gains[-1]


def test_what_does_not_fit_is_refused(editor, dictionary, task):
    made = editor.decomposition
    relevant = task_relevance(made, task.embeddings)
    for use in (
        lambda: class_task(dictionary, CLASSES, lambda *texts: {text: torch.ones(23) for text in texts}),
        lambda: class_task(dictionary, CLASSES, editor.embed, leave_out=WORDS[3:]),
        lambda: class_task(tiny_concepts(), CLASSES, editor.embed),
        lambda: class_task(editor.encode(dictionary), [], editor.embed),
        lambda: class_task(editor.encode(dictionary), "bird", editor.embed),
        lambda: task_relevance(made, torch.zeros(0, 24)),
        lambda: task_relevance(made, torch.ones(2, 23)),
        lambda: by_relevance(made, relevant[..., 0]),
        lambda: level_offset(made, relevant[..., 0]),
        lambda: by_relevance(made, relevant * math.nan),
        lambda: by_relevance(made, relevant, floor=math.nan),
        lambda: by_relevance(made, relevant, floor=1.0, ceiling=0.9),
        lambda: by_relevance(made, relevant, offset="0.3"),
        lambda: by_relevance(made, relevant, select=Selection([7])),
    ):
        with pytest.raises(InputError):
            use()


def test_a_concept_in_another_case_is_another_text(editor, dictionary):
    """The aircraft "Spitfire" does not hide the concept "spitfire"."""
    classes = ["CAR", "Bird"]
    assert set(class_task(dictionary, classes, editor.embed, sparsity=1).texts) == {"car", "bird"}
    # The control: with its own case, and spaces that a dictionary does not have, it is left out.
    hidden = class_task(dictionary, classes, editor.embed, leave_out=["car", " bird "], sparsity=1)
    assert not set(hidden.texts) & {"car", "bird"}
