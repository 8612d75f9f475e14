"""What differs between two edit specs, two decompositions, two checkpoints."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from sith_hf.adaptation import diff_checkpoints, diff_decompositions, diff_specs
from sith_hf.checkpoint import save_edited
from sith_hf.concepts import ConceptDictionary
from sith_hf.core.fingerprint import BaseRef
from sith_hf.edits import combined
from sith_hf.errors import BaseMismatch, InputError
from tests.support.made import WORDS, tiny_concepts, tiny_editor
from tests.support.raw import random_spec
from tests.support.tiny import save_clip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("base"))


FIRST = ((0, 1, 2, 0.0), (1, 0, 0, 2.0), (2, 3, 1, 0.5))


def spec_of(base, *terms):
    """Parts of one edit: a vector has the same directions in all of them."""
    names = {term[:3] for term in (*FIRST, (2, 3, 4, 0.0))}
    made = random_spec(base, [(*name, 3.0) for name in sorted(names)])
    gains = {term[:3]: term[3] for term in terms}
    gain = torch.tensor([gains.get(key, 1.0) for key in made.keys], dtype=torch.float64)
    return type(made).from_terms(**{**vars(made), "gain": gain})


def weights_of(spec, layer):
    change = spec.change(layer)
    full = torch.zeros(33, 32, dtype=torch.float64)
    for head, delta in change.heads.items():
        full[:32, head * 8 : (head + 1) * 8] += delta
    full[32] = change.bias
    return full


class TestSpecs:
    def test_equal_edits(self, base):
        found = diff_specs(spec_of(base, *FIRST), spec_of(base, *FIRST))
        assert found.differences == ()
        assert found.same == 3
        assert found.norm == 0
        assert found.first_norm == found.second_norm > 0

    def test_every_kind_of_difference(self, base):
        first, second = spec_of(base, *FIRST), spec_of(base, FIRST[0], (1, 0, 0, 3.0), (2, 3, 4, 0.0))
        found = diff_specs(first, second)
        assert [(d.layer, d.head, d.vector, d.first, d.second) for d in found.differences] == [
            (1, 0, 0, 2.0, 3.0),
            (2, 3, 1, 0.5, None),
            (2, 3, 4, None, 0.0),
        ]
        assert found.same == 1
        assert [row[-1] for row in found.rows()[1]] == ["", "only in A", "only in B"]
        pairs = [(weights_of(first, layer), weights_of(second, layer)) for layer in range(3)]
        size = sum(float((a - b).norm()) ** 2 for a, b in pairs) ** 0.5
        assert found.norm == pytest.approx(size)
        assert found.first_norm == pytest.approx(sum(float(a.norm()) ** 2 for a, _ in pairs) ** 0.5)

    def test_an_edit_and_its_revert_do_the_opposite(self, base):
        spec = spec_of(base, *FIRST)
        found = diff_specs(spec, spec.inverse())
        assert found.norm == pytest.approx(2 * found.first_norm)
        assert [d.second for d in found.differences] == [2 - d.first for d in found.differences]
        assert diff_specs(spec.inverse(), spec.inverse()).norm == 0

    def test_other_directions_of_the_same_numbers(self, base):
        other = random_spec(base, FIRST, seed=9)
        found = diff_specs(spec_of(base, *FIRST), other)
        assert not any(d.same_direction for d in found.differences)
        assert found.same == 0
        assert found.rows()[1][0][-1] == "another direction"

    def test_another_base(self, base, tmp_path):
        other = random_spec(save_clip(tmp_path / "other", seed=5), FIRST)
        with pytest.raises(BaseMismatch, match="has other values"):
            diff_specs(spec_of(base, *FIRST), other)

    def test_another_tower_is_only_in_one(self, base):
        first = spec_of(base, *FIRST)
        place = replace(first.place, tower="text", outputs={n: (f"t{n}", None) for n in first.layers})
        text = replace(first, place=place, base=BaseRef("b", None, {f"t{n}": "" for n in first.layers}))
        found = diff_specs(combined(first, text), first)
        assert [(d.tower, d.second) for d in found.differences] == [("text", None)] * 3
        assert found.norm == pytest.approx(found.second_norm)


class TestDecompositions:
    @pytest.fixture(scope="class")
    def editor(self, tmp_path_factory):
        return tiny_editor(tmp_path_factory.mktemp("tiny"))

    @pytest.fixture(scope="class")
    def made(self, editor):
        return editor.decompose(tiny_concepts(), layers=[0, 2])

    def test_the_same(self, made):
        found = diff_decompositions(made, made)
        assert found.same_weights
        assert (found.turned, found.words_changed, found.settings) == (0, 0, {})
        assert found.rows(9)[1] == []
        assert found.fidelity[0] == found.fidelity[1] > 0

    def test_another_dictionary_changes_words_only(self, editor, made):
        other = editor.decompose(ConceptDictionary.from_texts([*WORDS[:20], "pear", "plum"]), layers=[1, 2])
        found = diff_decompositions(made, other)
        assert found.layers == (2,)
        assert found.turned == 0
        assert 0 < found.words_changed <= len(found.blocks)
        assert "dictionary_sha256" in found.settings
        words = {text for block in found.blocks for text in block.only_second}
        assert words & {"pear", "plum"}
        assert not {text for block in found.blocks for text in block.only_first} & {"pear", "plum"}

    def test_other_weights_turn_vectors(self, made, tmp_path):
        other = tiny_editor(tmp_path, seed=3).decompose(tiny_concepts(), layers=[2])
        found = diff_decompositions(made, other)
        assert not found.same_weights
        assert found.turned == len(found.blocks)

    def test_close_vectors_are_compared_as_one_block(self, made):
        values = made.singular_values.clone()
        values[..., 1] = values[..., 0] * 0.99
        turned = made.write.clone()
        turned[..., 0, :], turned[..., 1, :] = made.write[..., 1, :], -made.write[..., 0, :]
        close, other = replace(made, singular_values=values), replace(made, singular_values=values, write=turned)
        assert diff_decompositions(close, other).turned == 0
        # The control: the same vectors with values far apart.
        assert diff_decompositions(made, replace(made, write=turned)).turned == 2 * 2 * 4

    def test_without_words(self, editor, made):
        found = diff_decompositions(editor.decompose(None, layers=[0]), made)
        assert found.turned == 0
        assert found.fidelity is None
        assert found.words_changed == 0

    def test_what_does_not_compare(self, editor, made, tmp_path):
        with pytest.raises(InputError, match="no layer in common"):
            diff_decompositions(made, editor.decompose(None, layers=[1]))
        with pytest.raises(InputError, match="number of heads"):
            diff_decompositions(made, tiny_editor(tmp_path, num_attention_heads=2).decompose(None, layers=[0]))


class TestCheckpoints:
    NAME = "vision_model.encoder.layers.1.mlp.fc1.weight"

    def altered(self, base, folder, change):
        """A copy of a checkpoint with other tensors."""
        save_clip(folder)
        tensors = load_file(base / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return folder

    def test_the_same(self, base, tmp_path):
        found = diff_checkpoints(base, self.altered(base, tmp_path / "b", dict))
        assert found.same
        assert found.explained is None
        assert found.identical > 50

    def test_values_shapes_and_dtypes(self, base, tmp_path):
        def change(tensors):
            tensors[self.NAME] = tensors[self.NAME] * 1.5
            tensors["logit_scale"] = tensors["logit_scale"].bfloat16()
            tensors["visual_projection.weight"] = torch.zeros(2, 2)
            del tensors["text_projection.weight"]

        found = diff_checkpoints(base, self.altered(base, tmp_path / "b", change))
        by_name = {item.name: item for item in found.differences}
        assert by_name.keys() == {self.NAME, "logit_scale", "visual_projection.weight"}
        assert by_name[self.NAME].relative == pytest.approx(0.5)
        assert by_name["logit_scale"].note == "dtype F32 and BF16"
        assert by_name["visual_projection.weight"].relative is None
        assert found.only_first == ("text_projection.weight",)
        assert found.only_second == ()

    def test_an_edit_explains_itself_and_nothing_more(self, base, tmp_path):
        save_edited(base, random_spec(base, FIRST), tmp_path / "edited")
        for pair, name in (((base, tmp_path / "edited"), "B"), ((tmp_path / "edited", base), "A")):
            found = diff_checkpoints(*pair)
            assert (found.explained, found.edited, found.problems) == (True, name, ())
            assert len(found.differences) == 6
        # The control: one more changed tensor.
        path = tmp_path / "edited" / "model.safetensors"
        tensors = load_file(path)
        tensors[self.NAME] += 1
        save_file(tensors, path, {"format": "pt"})
        found = diff_checkpoints(base, tmp_path / "edited")
        assert found.explained is False
        assert any(self.NAME in problem for problem in found.problems)

    def test_an_edit_of_other_weights_explains_nothing(self, base, tmp_path):
        other = save_clip(tmp_path / "other", seed=7)
        save_edited(other, random_spec(other, FIRST), tmp_path / "edited")
        found = diff_checkpoints(base, tmp_path / "edited")
        assert found.explained is False
        assert len(found.problems) == 1
