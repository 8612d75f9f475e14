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
    concepts_text,
    head_p_values,
    measure_explanations,
    null_directions,
    p_values,
    silent_line,
    smallest_p,
    words_text,
)
from sith_hf.errors import ArtifactError, InputError
from sith_hf.pursuit.pursuit import Pursuit
from tests.support.made import tiny_concepts, tiny_editor
from tests.support.raw import read_raw, write_raw

pytestmark = pytest.mark.usefixtures("all_draws")

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


SHAPES = {
    "normal": lambda x: x,
    "uniform": torch.special.ndtr,
    "light": lambda x: torch.special.ndtr(x) ** 0.5,
    "heavier": lambda x: torch.exp(x / 4),
    "of two kinds": lambda x: x + 2.0 * (x > 0),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("draws", [300, 1000, 4000])
def test_the_tail_promises_no_more_than_it_keeps(draws, shape):
    samples, asked = shape(normal(100, draws)), shape(normal(100, 4000, seed=1))
    p = p_values(asked, samples)
    for level in (0.5, 0.1, 0.05, 0.02, 0.01, 0.003, 0.001):
        # Twelve standard errors of the count, or a fifth: exact on average, and never far too small.
        assert float((p <= level).double().mean()) <= 1.2 * level + 2e-4
    assert float(p.min()) >= smallest_p(draws)


def test_the_tail_has_little_noise():
    """The p-value of one value over samples of 4,000: closer together than counted ones, and right on average."""
    at = torch.tensor([2.6521], dtype=torch.float64)  # 0.004 of a normal sample is above
    samples = normal(60, 4000)
    fitted = torch.stack([p_values(at, sample) for sample in samples]).squeeze()
    counted = (1 + (samples >= at).sum(-1)).double() / 4001
    assert float(fitted.log().mean().exp()) == pytest.approx(0.004, rel=0.1)
    assert float(fitted.log().std()) < 0.85 * float(counted.log().std())


@pytest.mark.parametrize("tail", ["normal", "exponential"])
def test_the_tail_continues_the_sample_downwards(tail):
    sample = normal(2000)
    asked = torch.linspace(-3, 9, 500, dtype=torch.float64)
    p = p_values(asked, sample, tail)
    assert bool((p[1:] <= p[:-1]).all())
    assert float(p[-1]) == smallest_p(2000) < 1 / 2001
    empirical = (1 + (sample >= asked.unsqueeze(-1)).sum(-1)).double() / 2001
    body = asked <= sample.sort().values[-202]
    assert torch.equal(p[body], empirical[body])
    assert float(((p - empirical).abs() / empirical)[empirical > 0.01].max()) < 0.3


def test_an_unknown_tail_is_refused():
    with pytest.raises(InputError, match="unknown tail 'fat'; the tails are normal, exponential"):
        p_values(torch.tensor([0.5]), torch.rand(9), "fat")


def test_a_tail_of_ties_is_counted():
    p = p_values(torch.tensor([0.5, 0.4]), torch.full((1000,), 0.5))
    assert p.tolist() == [1.0, 1.0]
    assert p_values(torch.tensor([0.6]), torch.full((1000,), 0.5)).item() == 1 / 1001
    # Half of a sample may be tied, as where half of the directions have no concept.
    half = torch.cat([torch.zeros(500), torch.rand(500)]).double()
    assert float(p_values(torch.tensor([0.5]), half)) == pytest.approx(0.25, abs=0.05)


def test_p_values_of_random_towers_are_uniform(tmp_path):
    """All vectors of random towers, each tower with a null of its own: both poles, several layers, two nulls."""
    residual, head, moved = [], [], []
    for seed in range(8):
        made = tiny_editor(tmp_path / str(seed), seed=seed).decompose(tiny_concepts(), pursuit=COMP)
        residual.append(made.p_values.flatten())
        head.append(made.p_head.flatten())
        shifted = made.fidelity + 0.3 * made.significance.sample.std()
        moved.append(p_values(shifted, made.significance.sample[0]).flatten())
    assert kstest(torch.cat(residual).numpy(), "uniform").pvalue > 0.01
    assert kstest(torch.cat(head).numpy(), "uniform").pvalue > 0.01
    # The control: vectors that are a little easier to explain.
    assert kstest(torch.cat(moved).numpy(), "uniform").pvalue < 1e-6


def test_p_values_in_heads_do_not_hang_on_a_head_of_another_level():
    levels, spreads = normal(2, 8, 1, seed=3), normal(2, 8, 1, seed=4).exp()
    null, fresh = (levels + spreads * normal(2, 8, count, seed=count) for count in (64, 200))
    p = head_p_values(fresh, null)
    assert kstest(p.flatten().numpy(), "uniform").statistic < 0.05
    assert float(p.min()) < 1 / 65  # the shape is pooled
    pooled = p_values(fresh.flatten(), null.flatten())  # the control: levels are not
    assert min(kstest(each.numpy(), "uniform").pvalue for each in pooled.reshape(16, 200)) < 1e-12
    for observed, wrong in ((fresh, null[0]), (fresh[:1], null), (fresh, null[..., :2])):
        with pytest.raises(InputError, match="null values"):
            head_p_values(observed, wrong)
    assert torch.isfinite(head_p_values(torch.zeros(1, 1, 4), torch.zeros(1, 1, 9))).all()


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
    assert made.chance == pytest.approx(float(random_fidelities(editor, 4000, 1).mean()), abs=5e-3)
    assert [e.p_value for e in made.explanations()] == made.p_values.flatten().tolist()
    assert [e.p_head for e in made.explanations()] == made.p_head.flatten().tolist()
    assert [e.beyond_chance for e in made.explanations()] == made.beyond_chance().flatten().tolist()
    again = editor.decompose(tiny_concepts(), pursuit=COMP)
    assert torch.equal(again.significance.sample, made.significance.sample)
    assert torch.equal(again.p_head, made.p_head)
    for wrong in (0, 1, float("nan"), "x"):
        with pytest.raises(InputError, match="fdr"):
            made.beyond_chance(wrong)


def test_the_level_of_chance_of_each_pole_is_known(editor, made, tmp_path):
    made.save_pretrained(tmp_path)
    read = Decomposition.from_pretrained(tmp_path)
    for null, name in (("residual", "chance"), ("head", "head_chance")):
        level = made.chance_level(null)
        assert level.shape == made.fidelity.shape
        assert torch.equal(level, read.chance_level(null))
        assert [getattr(e, name) for e in made.explanations()] == level.flatten().tolist()
    assert made.chance_level().flatten().tolist() == pytest.approx([made.chance] * made.fidelity.numel(), abs=1e-6)
    assert torch.equal(read.p_head, made.p_head)
    generator = torch.Generator().manual_seed(3)
    drawn = null_directions("head", made.write.double(), 640, generator=generator)
    found = measure_explanations(editor.tower, editor.encode(tiny_concepts()).atoms, drawn, COMP).fidelity
    assert float((made.significance.head_chance - found.mean(-1)).abs().max()) < 0.03
    with pytest.raises(InputError, match="unknown null 'x'"):
        made.chance_level("x")


def test_without_it_nothing_is_known(made, tmp_path):
    bare = replace(made, significance=None)
    bare.save_pretrained(tmp_path)
    read = Decomposition.from_pretrained(tmp_path)
    assert (read.significance, read.p_values, read.p_head, read.chance, read.beyond_chance()) == (None,) * 5
    assert (read.chance_level("residual"), read.chance_level("head")) == (None, None)
    unknown = dict.fromkeys(("p_value", "p_head", "chance", "head_chance", "beyond_chance"))
    assert [replace(e, **unknown) for e in made.explanations()] == read.explanations()
    assert not any(e.silent for e in read.explanations())


def test_what_an_earlier_release_knew_is_read(made, tmp_path):
    """Files of release before heads had a null: p-values, and a sample of 4,000."""
    known = replace(made.significance, p_head=None, head_chance=None, head_draws=0)
    replace(made, significance=known).save_pretrained(tmp_path)
    tensors, metadata = read_raw(tmp_path / "decomposition.safetensors")
    assert not {"p_head", "head_chance"} & set(tensors)
    assert "head_draws" not in json.loads(metadata["sith"])["significance"]
    read = Decomposition.from_pretrained(tmp_path)
    assert (read.p_head, read.chance_level("head")) == (None, None)
    assert torch.equal(read.beyond_chance(), made.beyond_chance())


def test_another_rate_is_another_silence(embedded):
    made, _, _ = embedded
    every = made.explanations()
    few, many = (sum(not e.silent for e in made.at_rate(every, rate)) for rate in (0.001, 0.5))
    assert few < sum(not e.silent for e in every) == int(made.beyond_chance().sum()) < many
    assert made.at_rate(every, 0.05) == every
    with pytest.raises(InputError, match="fdr"):
        made.at_rate(every, 0)


def test_a_silent_pole_prints_no_words(embedded):
    made, _, _ = embedded
    loud, silent = (next(e for e in made.explanations() if e.silent is want) for want in (False, True))
    assert loud.concepts[0][0] in repr(loud)
    assert words_text(loud) in repr(loud)
    assert silent.concepts[0][0] in concepts_text(silent)
    assert silent.concepts[0][0] not in repr(silent)
    assert "pole +: silent; fidelity" in repr(replace(silent, pole="+"))
    # Where it is not known, the words are there.
    assert silent.concepts[0][0] in repr(replace(silent, beyond_chance=None))
    hostile = replace(loud, concepts=(("a\x1b[31m\nb", 0.5),))
    assert "\x1b" not in repr(hostile)
    assert "\n" not in repr(hostile)
    assert "164 of 1024 poles" in repr(made) or "poles beyond chance" in repr(made)


def test_a_line_says_how_many_are_silent(embedded):
    made, _, _ = embedded
    every = made.explanations()
    count = sum(e.silent for e in every)
    line = silent_line(every, more="--all shows them")
    assert line == (
        f"{count} of {len(every)} poles are silent: explained no better than chance (false discovery rate 5 %); --all "
        "shows them."
    )
    assert "marked (chance)" in silent_line(every, shown=True)
    assert "--all" not in silent_line([e for e in every if not e.silent], more="--all shows them")
    assert "has no p-values" in silent_line([replace(every[0], beyond_chance=None)])


@pytest.mark.parametrize(
    "change",
    [{"null": "head"}, {"draws": 5}, {"seed": -1}, {"seed": True}, {"head_draws": 0}, {"head_draws": "x"}, None, 3],
)
def test_damaged_facts_are_refused(made, tmp_path, change):
    path = made.save_pretrained(tmp_path)
    tensors, metadata = read_raw(path)
    del metadata["checksums"]
    data = json.loads(metadata["sith"])
    data["significance"] = data["significance"] | change if isinstance(change, dict) else change
    write_raw(path, tensors, {**metadata, "sith": json.dumps(data)})
    with pytest.raises(ArtifactError, match="significance"):
        Decomposition.from_pretrained(tmp_path)
