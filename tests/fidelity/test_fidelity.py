"""Fidelity tables, their null and p-values: properties of the reported numbers."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, kstest
from torch.nn.functional import normalize

from sith_hf.concepts.dictionary import ConceptDictionary
from sith_hf.decomposition import DecomposeSettings, measure_explanations
from sith_hf.decomposition.significance import adjusted, null_directions, p_values
from sith_hf.errors import InputError, MissingExtra
from sith_hf.fidelity import fidelity_table, grid
from sith_hf.pursuit.pursuit import Pursuit
from sith_hf.towers import Norm, Readout
from tests.support.made import tiny_concepts

COMP = Pursuit(sparsity=4)


@pytest.fixture(scope="module")
def concepts(editor):
    return editor.encode(tiny_concepts())


@pytest.fixture(scope="module")
def decomposition(editor, concepts):
    return editor.decompose(concepts, pursuit=COMP)


@pytest.fixture(scope="module")
def table(editor, concepts):
    return fidelity_table(editor.tower, concepts, grid(("comp", "omp"), (2, 6), (0.3,)), draws=200)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestMeasure:
    def test_it_is_what_a_decomposition_says(self, editor, concepts, decomposition):
        both = torch.stack([decomposition.write, -decomposition.write], dim=-2).double()
        found = measure_explanations(editor.tower, concepts.atoms, both, COMP)
        torch.testing.assert_close(found.fidelity, decomposition.fidelity, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.coherence, decomposition.coherence, atol=1e-5, rtol=0)

    def test_nothing_is_above_its_ceiling(self, table):
        for result in table.results:
            assert bool((result.fidelity <= table.ceiling.unsqueeze(-1) + 1e-5).all())
            assert bool((result.null.fidelity <= table.null_ceiling + 1e-5).all())


class TestTable:
    def test_its_means_are_those_of_the_decomposition(self, editor, concepts, decomposition):
        found = fidelity_table(editor.tower, concepts, [COMP], null=None)
        summary = found.summary(found.results[0])
        assert summary["fidelity"] == pytest.approx(float(decomposition.fidelity.mean()), abs=1e-6)
        assert summary["fidelity_spread"] == pytest.approx(float(decomposition.fidelity.std(correction=0)), abs=1e-6)
        assert summary["coherence"] == pytest.approx(float(decomposition.coherence.mean()), abs=1e-6)
        relative = decomposition.fidelity / decomposition.ceiling.unsqueeze(-1)
        assert summary["relative"] == pytest.approx(float(relative.mean()), abs=1e-6)
        assert "null_fidelity" not in summary
        assert found.results[0].p is None

    def test_by_energy_every_head_counts_alike(self, editor, concepts, decomposition):
        found = fidelity_table(editor.tower, concepts, [COMP], null=None, weight="energy")
        share = decomposition.energy_share.unsqueeze(-1)
        expected = float((decomposition.fidelity * share).sum() / (2 * share.sum()))
        assert found.summary(found.results[0])["fidelity"] == pytest.approx(expected, abs=1e-6)
        equal = float(decomposition.fidelity.mean())
        assert abs(expected - equal) > 1e-4

    def test_a_part_of_the_vectors(self, editor, concepts, decomposition):
        found = fidelity_table(editor.tower, concepts, [COMP], DecomposeSettings([-1], 3, "+"), draws=9)
        assert (found.layers, found.poles, found.count) == ((2,), ("+",), 12)
        torch.testing.assert_close(
            found.results[0].fidelity[0, ..., 0], decomposition.fidelity[2, :, :3, 0], atol=1e-5, rtol=0
        )

    def test_comp_without_coherence_is_omp(self, editor, concepts):
        found = fidelity_table(editor.tower, concepts, grid(("comp", "omp"), (4,), (0.0,)), null=None)
        torch.testing.assert_close(found.results[0].fidelity, found.results[1].fidelity)

    def test_coherence_is_bought_with_fidelity(self, editor, concepts):
        found = fidelity_table(editor.tower, concepts, grid(("comp",), (3,), (0.0, 2.0)), null=None)
        plain, coherent = (found.summary(result) for result in found.results)
        assert coherent["coherence"] > plain["coherence"] + 0.1
        assert coherent["fidelity"] < plain["fidelity"]

    def test_it_repeats_with_its_seed(self, editor, concepts):
        one, same, other = (
            fidelity_table(editor.tower, concepts, [COMP], draws=50, seed=seed).to_json() for seed in (3, 3, 4)
        )
        assert one == same
        assert one["results"] != other["results"]

    def test_every_form_of_it_says_the_same(self, table):
        columns, rows = table.rows()
        assert all(len(row) == len(columns) for row in rows)
        data = json.loads(json.dumps(table.to_json(), allow_nan=False))
        assert [row[2] for row in rows] == [result["fidelity"] for result in data["results"]]
        assert (data["explanations"], data["draws"], data["smallest_p"]) == (192, 200, 1 / 201)
        vectors = list(table.vectors())
        assert len(vectors) == 4 * 192
        for number, result in enumerate(data["results"]):
            part = vectors[192 * number : 192 * (number + 1)]
            assert sum(row["fidelity"] for row in part) / 192 == pytest.approx(result["fidelity"], abs=1e-6)
            assert sum(row["q"] <= 0.05 for row in part) == result["significant"]
            assert all(row["q"] >= row["p"] for row in part)

    def test_lasso_is_among_the_methods(self, editor, concepts):
        found = fidelity_table(editor.tower, concepts, grid(("lasso",), (3,)), DecomposeSettings([0], 2), draws=5)
        assert 0 < found.summary(found.results[0])["fidelity"] < 1

    def test_lasso_without_scikit_learn_names_its_extra(self, editor, concepts, monkeypatch):
        for name in ("sklearn", "sklearn.exceptions", "sklearn.linear_model"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingExtra, match="lasso"):
            fidelity_table(editor.tower, concepts, grid(("lasso",), (3,)), DecomposeSettings([0], 1), null=None)


class TestNullDirections:
    def test_those_of_the_stream_are_unit_and_mean_free(self):
        write = torch.zeros(1, 2, 3, 16, dtype=torch.float64)
        found = null_directions("residual", write, 500, generator=generator(0))
        torch.testing.assert_close(found.norm(dim=-1), torch.ones(500, dtype=torch.float64))
        assert float(found.sum(dim=-1).abs().max()) < 1e-12
        free = null_directions("residual", write, 500, centre=False, generator=generator(0))
        assert float(free.sum(dim=-1).abs().max()) > 0.1

    def test_those_of_a_head_are_what_it_can_write(self, decomposition):
        write = decomposition.write.double()
        found = null_directions("head", write, 50, generator=generator(0))
        assert found.shape == (3, 4, 50, 32)
        inside = (found @ write.mT).norm(dim=-1)
        torch.testing.assert_close(inside, torch.ones_like(inside), atol=1e-5, rtol=0)
        # Those of another head are not.
        assert float((found @ write.roll(1, dims=1).mT).norm(dim=-1).max()) < 0.99

    def test_no_direction_is_preferred(self, decomposition):
        write = decomposition.write.double()
        for null in ("residual", "head"):
            found = null_directions(null, write, 4000, generator=generator(1))
            assert float(found.mean(dim=-2).norm(dim=-1).max()) < 0.05


class TestPValues:
    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.lists(st.integers(0, 5), min_size=1, max_size=20))
    def test_they_count(self, observed, null):
        found = p_values(torch.tensor(observed).double(), torch.tensor(null).double())
        assert found.tolist() == [(1 + sum(n >= o for n in null)) / (1 + len(null)) for o in observed]

    def test_every_head_has_its_own(self):
        observed = torch.rand(2, 3, 4, 2, generator=generator(0))
        null = torch.rand(2, 3, 20, generator=generator(1))
        found = p_values(observed, null)
        for layer in range(2):
            for head in range(3):
                torch.testing.assert_close(found[layer, head], p_values(observed[layer, head], null[layer, head]))

    @pytest.mark.parametrize("null", ["residual", "head"])
    def test_they_are_uniform_where_nothing_is_to_be_found(self, editor, concepts, decomposition, null):
        write = decomposition.write.double()[:1, :1]
        chance, observed = (
            measure_explanations(
                editor.tower, concepts.atoms, null_directions(null, write, 600, generator=generator(s)), COMP
            )
            for s in (5, 6)
        )
        p = p_values(observed.fidelity.reshape(write.shape[0], write.shape[1], -1).squeeze(), chance.fidelity.squeeze())
        assert kstest(p.numpy(), "uniform").pvalue > 0.01
        # And not where a dash of something is.
        better = p_values((observed.fidelity + 0.05).squeeze(), chance.fidelity.squeeze())
        assert kstest(better.numpy(), "uniform").pvalue < 1e-3

    def test_they_are_smallest_for_a_direction_made_of_concepts(self, editor, concepts):
        # A tower whose way to the joint space is isometric on mean-free directions, so that nothing is lost there.
        size = editor.tower.hidden_size
        basis = torch.linalg.qr(
            torch.randn(size, 25, generator=generator(0)).double().index_fill(1, torch.tensor([0]), 1)
        )
        way = Readout("isometric", basis.Q.T[1:].float(), Norm(torch.ones(size), torch.zeros(size), 1e-12))
        flat = replace(editor.tower, layers=tuple(replace(layer, readout=way) for layer in editor.tower.layers))
        pick = torch.randint(len(concepts.atoms), (40, 2), generator=generator(2))
        made = normalize(concepts.atoms[pick].double().mean(dim=1) @ basis.Q.T[1:], dim=-1)
        random = null_directions("residual", made.reshape(1, 1, 40, size), 199, generator=generator(3))
        chance = measure_explanations(flat, concepts.atoms, random, COMP)
        found = measure_explanations(flat, concepts.atoms, made, COMP)
        assert float(found.fidelity.median()) > 0.9999  # a greedy search misses a few
        assert p_values(found.fidelity, chance.fidelity).tolist() == [1 / 200] * 40
        assert float(p_values(chance.fidelity, chance.fidelity).mean()) > 0.4

    @pytest.mark.parametrize(
        ("observed", "null"),
        [
            (torch.rand(3), torch.rand(0)),
            (torch.rand(3), torch.tensor(0.5)),
            (torch.rand(3, 2), torch.rand(4, 9)),
            (torch.tensor([float("nan")]), torch.rand(9)),
            (torch.rand(3), torch.tensor([float("inf")])),
        ],
    )
    def test_what_does_not_pair_is_refused(self, observed, null):
        with pytest.raises(InputError, match=r"null values|finite"):
            p_values(observed, null)


class TestAdjusted:
    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=30))
    def test_they_are_those_of_scipy(self, values):
        found = adjusted(torch.tensor(values, dtype=torch.float64))
        assert found.tolist() == pytest.approx(false_discovery_control(values).tolist())

    def test_the_shape_stays(self):
        p = torch.rand(2, 3, 4, generator=generator(0))
        torch.testing.assert_close(adjusted(p).flatten(), adjusted(p.flatten()))
        assert adjusted(torch.rand(0)).shape == (0,)

    def test_chance_alone_is_hardly_ever_found(self):
        trials = [bool((adjusted(torch.rand(200, generator=generator(s))) <= 0.05).any()) for s in range(200)]
        assert sum(trials) < 25
        real = torch.rand(200, generator=generator(0))
        real[:50] *= 1e-3
        assert int((adjusted(real) <= 0.05).sum()) >= 50


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            ({"pursuits": grid(("omp",), (5, 50))}, "dictionary of at least 50 concepts; this one has 35"),
            ({"pursuits": []}, "nothing to compare"),
            ({"weight": "loud"}, "equal, energy"),
            ({"null": "nothing"}, "residual, head"),
            ({"draws": 0}, "draws"),
            ({"seed": -1}, "seed"),
            ({"level": 0.0}, "level"),
            ({"level": float("nan")}, "level"),
            ({"settings": DecomposeSettings([7])}, "layer 7"),
            ({"settings": DecomposeSettings(rank=9)}, "rank"),
            ({"settings": DecomposeSettings(image_mean=torch.ones(24))}, "image_mean"),
        ],
    )
    def test_it_is_refused(self, editor, concepts, options, complaint):
        pursuits = options.pop("pursuits", [COMP])
        with pytest.raises(InputError, match=complaint):
            fidelity_table(editor.tower, concepts, pursuits, **options)

    def test_a_dictionary_of_another_space_is_refused(self, editor, concepts):
        with pytest.raises(InputError, match="joint space"):
            fidelity_table(editor.tower, replace(concepts, embeddings=torch.rand(35, 7)), [COMP])
        with pytest.raises(InputError, match="encode"):
            fidelity_table(editor.tower, ConceptDictionary.from_texts(["a", "b"]), [COMP])

    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            ({"methods": ("magic",)}, "unknown method"),
            ({"sparsities": (0,)}, "sparsity"),
            ({"coherence_weights": (-1.0,)}, "coherence_weight"),
            ({"sparsities": ()}, "nothing to compare"),
        ],
    )
    def test_a_grid_of_nonsense_is_refused(self, options, complaint):
        with pytest.raises(InputError, match=complaint):
            grid(**options)

    def test_a_grid_has_everything_once(self):
        found = grid(("comp", "omp", "omp"), (5, 5, 10), (0.1, 0.3))
        assert [(p.method, p.coherence_weight, p.sparsity) for p in found] == [
            ("comp", 0.1, 5), ("comp", 0.1, 10), ("comp", 0.3, 5), ("comp", 0.3, 10), ("omp", 0.0, 5), ("omp", 0.0, 10),
        ]  # fmt: skip
