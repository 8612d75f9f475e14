"""The rule for single words: cosines by definition, p-values against random directions, and the estimate of an edit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy.stats import kstest
from torch.nn.functional import normalize

from sith_hf import world
from sith_hf.concepts import ConceptDictionary
from sith_hf.decomposition import null_directions
from sith_hf.editor import SithEditor
from sith_hf.errors import InputError
from sith_hf.gains import FELT, WORD_LEVEL, Gains, Selection, by_word, word_carriers
from sith_hf.gains.drift import drift_shares


@pytest.fixture(scope="module")
def one(editor, made):
    return word_carriers(editor.tower, made, {"boat": made.embedding_of("boat")})[0]


def test_cosines_by_definition(editor, made, one):
    atom = normalize(made.embedding_of("boat").double() - made.dictionary_mean.double(), dim=-1)
    plus, minus = (editor.tower.to_joint(sign * made.write.double()) @ atom for sign in (1, -1))
    torch.testing.assert_close(one.cosine, torch.maximum(plus, minus).clamp(min=0), atol=1e-6, rtol=0)
    assert torch.equal(one.positive, plus >= minus)
    written = drift_shares(editor.tower, made) * one.cosine**2
    torch.testing.assert_close(one.written, written / written.sum())


def test_p_values_of_random_directions_are_uniform(editor, made, one):
    """Random vectors in place of the singular ones carry a word by chance."""
    write = null_directions(
        "residual", made.write, made.write[..., 0].numel(), generator=torch.Generator().manual_seed(5)
    )
    random = replace(made, write=write.reshape(made.write.shape).float())
    p = word_carriers(editor.tower, random, {"boat": made.embedding_of("boat")})[0].p
    assert kstest(p.flatten().numpy(), "uniform").pvalue > 0.01
    assert kstest((p.flatten() ** 2).numpy(), "uniform").pvalue < 0.01  # the control


def test_the_strongest_beyond_chance_are_chosen(made, one):
    gains, choice = by_word(made, one, 0.25)
    chosen = {(made.layers[a], h, v) for a, h, v in torch.nonzero(one.p <= WORD_LEVEL).tolist()}
    assert set(gains.gain) == chosen != set()
    assert set(gains.gain.values()) == {0.25}
    assert (choice.chosen, choice.candidates) == (len(chosen), one.p.numel())
    weakest = min(item.cosine for (item,) in gains.evidence.values())
    for (layer, head, vector), reason in choice.left_out:
        assert float(one.cosine[made.position(layer), head, vector]) < weakest
        assert reason.endswith("no more than chance")
    fewer, _ = by_word(made, one, 0.25, level=WORD_LEVEL / 4)
    assert set(fewer.gain) < chosen


def test_top_is_a_number_of_vectors(made, one):
    three, choice = by_word(made, one, 0.0, top=3)
    assert len(three) == choice.chosen == 3
    assert {item.cosine for (item,) in three.evidence.values()} == set(one.cosine.flatten().topk(3).values.tolist())
    everything, _ = by_word(made, one, 0.0, top=10**6)
    assert len(everything) == one.p.numel()
    last, _ = by_word(made, one, 0.0, top=3, select=Selection([-1], [0]))
    assert {key[:2] for key in last.gain} == {(2, 0)}
    for wrong in (0, -1, 1.5):
        with pytest.raises(InputError, match="top"):
            by_word(made, one, 0.0, top=wrong)


def test_what_an_edit_takes(made, one):
    every = {(n, h, v): 0.0 for n in made.layers for h in range(made.num_heads) for v in range(made.rank)}
    assert one.taken(made, Gains(every)) == pytest.approx(1.0)
    assert one.taken(made, Gains(dict.fromkeys(every, 0.5))) == pytest.approx(0.5)
    assert one.taken(made, Gains()) == 0.0


def test_several_words(editor, made):
    together = editor.with_decomposition(made).suppress("boat", "red", gain=0.5)
    alone = [editor.with_decomposition(made).suppress(word, gain=0.5).gains for word in ("boat", "red")]
    assert set(together.gains.gain) < set(alone[0].gain) | set(alone[1].gain)
    assert set(together.gains.gain.values()) == {0.5}  # once, though some carry both
    assert set(together.taken) == {"boat", "red"}


def test_a_topic_or_words(editor, made):
    draft = editor.with_decomposition(made).edit()
    topic = draft.suppress("boat", threshold=0.3)
    assert not topic.choices
    assert set(topic.taken) == {"boat"}
    for limits in ({"threshold": 0.3}, {"near": 0.5}, {"both_poles": True}):
        with pytest.raises(InputError, match="top is for single words"):
            draft.suppress("boat", top=2, **limits)
    silent = torch.nonzero((draft.suppress("boat").words["boat"].p > WORD_LEVEL).all(dim=-1)).tolist()
    layer, head = silent[0]
    with pytest.raises(InputError, match="no vector carries boat beyond chance"):
        draft.suppress("boat", layers=[layer], heads=[head])


@pytest.fixture(scope="module")
def embedded():
    editor = SithEditor.from_pretrained(world.embedded_checkpoint())
    editor.decompose(ConceptDictionary.from_texts(world.concepts()))
    return editor


@pytest.mark.slow
def test_all_words_of_the_embedded_world(embedded):
    """Every word is edited; an edit takes much more of its word than of everything, or it says so."""
    for word in world.concepts():
        draft = embedded.suppress(word)
        assert 0 < len(draft.gains) < 110, word
        assert not draft.impact.excess
        assert embedded.impact(draft.spec) == draft.impact
        assert draft.taken[word] > 5 * draft.impact.drift
        assert bool(draft.warnings) == (draft.taken[word] < FELT)
    assert embedded.suppress("sea", top=1).warnings


def test_a_mistyped_word_is_edited_as_written_and_the_nearest_is_named(embedded):
    texts = embedded.decomposition.texts
    assert "seaa" not in texts
    assert any("did you mean sea?" in line for line in embedded.suppress("seaa").warnings)
    for word in ("sea", "SEA", "xylophone"):
        assert not any("did you mean" in line for line in embedded.suppress(word).warnings)


def test_the_warning_of_an_amplification(embedded):
    """It depends on the vectors, not on a gain that cannot change half of anything; a negative control beside it."""
    assert embedded.amplify("boat").taken["boat"] < FELT
    assert not embedded.amplify("boat").warnings
    assert embedded.amplify("boat", top=1).warnings
    assert embedded.suppress("boat", gain=0.5).warnings
    both = embedded.suppress("sea", "road").amplify("boat")
    assert [line.split(":")[0] for line in both.warnings] == ["sea"]


def test_the_answer_comes_first(embedded):
    draft = embedded.suppress("sea")
    first, second, *rest = str(draft).splitlines()
    assert first.endswith(str(draft.impact))
    assert second.startswith("sea: ")
    assert f"({len(draft.gains)} of 512 vectors)" in second
    assert any("left out" in line for line in rest)
