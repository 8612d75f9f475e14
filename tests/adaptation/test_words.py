"""A change made by hand on the embedded checkpoint: its words name the concept that was put there, and no other."""

from __future__ import annotations

import copy

import pytest
import torch

from sith_hf import ConceptDictionary, SithEditor, world
from sith_hf.adaptation import compare, explain_change
from sith_hf.errors import InputError

pytestmark = pytest.mark.usefixtures("all_draws")

LAYER, HEAD, SIZE = 3, 5, 16
WORDS = {"sea": ("sea", "ocean"), "red": ("red",), "danger": ("danger", "skull")}


@pytest.fixture(scope="module")
def editor():
    return SithEditor.from_pretrained("embedded")


@pytest.fixture(scope="module")
def concepts(editor):
    return editor.encode(ConceptDictionary.from_texts(world.concepts()))


def changed(editor, direction, strength):
    """An editor of the embedded checkpoint in which a head also writes a direction, and another head noise."""
    model = copy.deepcopy(editor.model)
    out = model.vision_model.encoder.layers[LAYER].self_attn.out_proj.weight
    noise = torch.randn(128, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out[:, HEAD * SIZE] += strength * direction.float()
        out[:, :SIZE] += strength * noise / noise.norm()
    return SithEditor.from_model(model)


def direction_of(editor, concepts, concept):
    """The direction of the residual stream whose way to the joint space ends at a concept."""
    atom = concepts.atoms[concepts.texts.index(concept)]
    return editor.tower.from_joint(atom.double(), None, LAYER)


class TestWords:
    @pytest.mark.parametrize("concept", list(WORDS))
    def test_the_change_names_what_was_put_there(self, editor, concepts, concept):
        tuned = changed(editor, direction_of(editor, concepts, concept), 0.5)
        found = editor.compare(tuned, concepts)
        assert {head.head for head in found.changed} == {0, HEAD}
        spoken = [
            (pole.head, pole.vector, pole.concepts[0][0])
            for item in found.words
            for pole, beyond in zip(item.poles, item.beyond_chance, strict=True)
            if beyond
        ]
        firsts = {word for _, _, word in spoken}
        assert firsts & set(WORDS[concept])
        # The controls: no other concept, and nothing of the noise of the other head.
        assert not firsts & {word for name, own in WORDS.items() if name != concept for word in own}
        assert {(head, vector) for head, vector, _ in spoken} == {(HEAD, 0)}
        assert len(found.word_rows(5)[1]) == len(spoken)
        silent, count = found.silent()
        assert (silent, count) == (count - len(spoken), 2 * sum(len(head.directions) for head in found.changed))

    def test_a_change_of_rank_one_has_one_direction(self, editor, concepts):
        model = copy.deepcopy(editor.model)
        with torch.no_grad():
            out = model.vision_model.encoder.layers[LAYER].self_attn.out_proj.weight
            out[:, HEAD * SIZE] += 0.5 * direction_of(editor, concepts, "sea").float()
        found = editor.compare(SithEditor.from_model(model), concepts)
        assert [len(head.directions) for head in found.changed] == [1]
        assert len(found.words) == 1
        assert found.words[0].share == pytest.approx(1)
        explanation = found.words[0].poles[0]
        assert explanation.energy_share == pytest.approx(1)
        assert explanation.singular_value == pytest.approx(found.changed[0].change_norm, rel=1e-5)

    def test_no_change_has_no_words(self, editor, concepts):
        found = editor.compare(SithEditor.from_model(copy.deepcopy(editor.model)), concepts)
        assert found.words == ()
        assert found.to_json()["words"] == []

    def test_without_concepts_there_are_no_words(self, editor):
        found = editor.compare(SithEditor.from_model(copy.deepcopy(editor.model)))
        assert found.words is None
        assert found.silent() == (0, 0)

    def test_a_dictionary_of_another_joint_space_is_refused(self, editor, concepts):
        tuned = changed(editor, direction_of(editor, concepts, "sea"), 0.5).tower
        other = ConceptDictionary.from_texts(["a", "b"])
        with pytest.raises(InputError):
            explain_change(editor.tower, tuned, compare(editor.tower, tuned).changed, other)
