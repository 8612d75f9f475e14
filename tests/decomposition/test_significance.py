"""P-values of explanations: uniform under the null, the same for two seeds, and part of a decomposition."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from scipy.stats import kstest

from sith_hf.decomposition import (
    DRAWS,
    Decomposition,
    Significance,
    adjusted,
    measure_explanations,
    null_directions,
    p_values,
    smallest_p,
)
from sith_hf.errors import ArtifactError, InputError
from sith_hf.pursuit.pursuit import Pursuit
from tests.support.made import tiny_concepts
from tests.support.raw import read_raw, write_raw

COMP = Pursuit(sparsity=3)


@pytest.fixture(scope="module")
def made(editor):
    return editor.decompose(tiny_concepts(), pursuit=COMP)


def random_fidelities(editor, count, seed):
    """The fidelities of random directions of the residual stream."""
    generator = torch.Generator().manual_seed(seed)
    drawn = null_directions("residual", torch.empty(0, editor.tower.hidden_size), count, generator=generator)
    return measure_explanations(editor.tower, editor.encode(tiny_concepts()).atoms, drawn, COMP).fidelity


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_p_values_of_random_directions_are_uniform(editor, made):
    p = p_values(random_fidelities(editor, 2000, 7), made.significance.sample[0])
    assert kstest(p.numpy(), "uniform").pvalue > 0.01
    # The control: those of the leading vectors of a trained head, or of a shifted sample, are not.
    shifted = p_values(random_fidelities(editor, 2000, 7) + 0.05, made.significance.sample[0])
    assert kstest(shifted.numpy(), "uniform").pvalue < 1e-6


@pytest.mark.parametrize("draws", [300, 1000, 4000])
def test_the_tail_promises_no_more_than_it_keeps(draws):
    samples, asked = normal(100, draws), normal(100, 4000, seed=1)
    p = p_values(asked, samples)
    for level in (0.5, 0.1, 0.05, 0.02, 0.01, 0.003, 0.001):
        # Twelve standard errors of the count, or a tenth: exact on average, and never far too small.
        assert float((p <= level).double().mean()) <= 1.1 * level + 2e-4
    assert float(p.min()) >= smallest_p(draws)


def test_the_tail_continues_the_sample_downwards():
    sample = normal(2000)
    asked = torch.linspace(-3, 9, 500, dtype=torch.float64)
    p = p_values(asked, sample)
    assert bool((p[1:] <= p[:-1]).all())
    assert float(p[-1]) == smallest_p(2000) < 1 / 2001
    empirical = (1 + (sample >= asked.unsqueeze(-1)).sum(-1)).double() / 2001
    body = asked <= sample.sort().values[-101]
    assert torch.equal(p[body], empirical[body])
    assert float(((p - empirical).abs() / empirical)[empirical > 0.01].max()) < 0.2


def test_a_tail_of_ties_is_counted():
    p = p_values(torch.tensor([0.5, 0.4]), torch.full((1000,), 0.5))
    assert p.tolist() == [1.0, 1.0]
    assert p_values(torch.tensor([0.6]), torch.full((1000,), 0.5)).item() == 1 / 1001


def test_two_seeds_find_about_as_many(embedded):
    """On the embedded checkpoint, where there is something to find."""
    made, atoms, tower = embedded
    counts = []
    for seed in (1, 2, 3):
        generator = torch.Generator().manual_seed(seed)
        drawn = null_directions("residual", torch.empty(0, tower.hidden_size), DRAWS, generator=generator)
        sample = measure_explanations(tower, atoms, drawn, Pursuit()).fidelity
        counts.append(int((Significance.of(made.fidelity, sample[None], [0] * len(made.layers)).q <= 0.05).sum()))
    counts.append(int(made.beyond_chance().sum()))
    assert min(counts) > 50
    assert max(counts) <= 1.1 * min(counts)


@pytest.fixture(scope="module")
def embedded():
    from sith_hf import ConceptDictionary, SithEditor, world

    editor = SithEditor.from_pretrained(world.embedded_checkpoint())
    concepts = editor.encode(ConceptDictionary.from_texts(world.concepts()))
    return editor.decompose(concepts), concepts.atoms, editor.tower


def test_it_is_part_of_a_decomposition(editor, made):
    assert made.p_values.shape == made.fidelity.shape
    assert torch.equal(made.p_values, p_values(made.fidelity, made.significance.sample[0]))
    assert torch.equal(made.beyond_chance(0.2), adjusted(made.p_values) <= 0.2)
    assert made.chance == pytest.approx(float(random_fidelities(editor, DRAWS, 0).mean()), abs=1e-6)
    assert [e.p_value for e in made.explanations()] == made.p_values.flatten().tolist()
    again = editor.decompose(tiny_concepts(), pursuit=COMP)
    assert torch.equal(again.significance.sample, made.significance.sample)
    for wrong in (0, 1, float("nan"), "x"):
        with pytest.raises(InputError, match="fdr"):
            made.beyond_chance(wrong)


def test_without_it_nothing_is_known(made, tmp_path):
    bare = replace(made, significance=None)
    bare.save_pretrained(tmp_path)
    read = Decomposition.from_pretrained(tmp_path)
    assert (read.significance, read.p_values, read.chance, read.beyond_chance()) == (None,) * 4
    assert {e.p_value for e in read.explanations()} == {None}
    assert [replace(e, p_value=None) for e in made.explanations()] == read.explanations()


@pytest.mark.parametrize("change", [{"null": "head"}, {"draws": 5}, {"seed": -1}, {"seed": True}, None, 3])
def test_damaged_facts_are_refused(made, tmp_path, change):
    path = made.save_pretrained(tmp_path)
    tensors, metadata = read_raw(path)
    del metadata["checksums"]
    data = json.loads(metadata["sith"])
    data["significance"] = data["significance"] | change if isinstance(change, dict) else change
    write_raw(path, tensors, {**metadata, "sith": json.dumps(data)})
    with pytest.raises(ArtifactError, match="significance"):
        Decomposition.from_pretrained(tmp_path)
