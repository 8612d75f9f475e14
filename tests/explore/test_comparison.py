"""Comparisons: another dictionary, a tuned model, and the folder of ``sith-hf compare``; heads side by side."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from transformers import CLIPModel

from sith_hf.adaptation import explain_change
from sith_hf.concepts import ConceptDictionary
from sith_hf.decomposition import Decomposition
from sith_hf.editor import SithEditor
from sith_hf.errors import InputError
from sith_hf.explore import Explorer
from sith_hf.explore.compare_tab import NOTHING, compare_html, head_html
from sith_hf.explore.compare_view import Pole, Side, Word, lost_words, vector_pairs
from sith_hf.explore.comparison import comparison_of
from tests.support.cli import HOSTILE

pytest_plugins = ["tests.support.explored"]
pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def tuned(with_model, tmp_path_factory):
    """The checkpoint with other value weights in one head of layer 1."""
    model = CLIPModel.from_pretrained(with_model.model)
    weight = model.vision_model.encoder.layers[1].self_attn.v_proj.weight
    rows = slice(0, weight.shape[0] // model.config.vision_config.num_attention_heads)
    with torch.no_grad():
        weight[rows] += 0.5 * weight.std() * torch.randn(weight[rows].shape, generator=torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("tuned")
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def turned(with_model, tmp_path):
    """The decomposition with the sign of one vector turned, and its poles with it."""
    found = with_model.decomposition
    parts = {
        name: getattr(found, name).clone() for name in ("write", "read", "concept", "weight", "fidelity", "coherence")
    }
    for name, tensor in parts.items():
        tensor[1, 2, 3] = -tensor[1, 2, 3] if name in ("write", "read") else tensor[1, 2, 3].flip(0)
    replace(found, **parts, significance=None).save_pretrained(tmp_path)
    return str(tmp_path)


class TestDecompositions:
    def test_the_same_again_differs_in_nothing(self, with_model):
        found = comparison_of(with_model, with_model.source)
        assert "They are of the same weights." in found.facts
        assert {cell.text for view in found.maps.values() for row in view.rows for cell in row} == {"0"}
        for pair in found.head(1, 2).pairs:
            assert (pair.other, pair.same) == (pair.vector, True)
            assert not any(word.only for poles in pair.poles for pole in poles for word in pole.words)

    def test_a_turned_vector_is_the_same_and_its_poles_stay_together(self, with_model, turned):
        found = comparison_of(with_model, turned)
        pair = found.head(with_model.decomposition.layers[1], 2).pairs[3]
        assert pair.same
        assert [(a.pole, b.pole) for a, b in pair.poles] == [("+", "-"), ("-", "+")]
        assert all(a.words == b.words for a, b in pair.poles)
        assert {cell.text for row in found.maps["words"].rows for cell in row} == {"0"}

    def test_words_that_the_other_lacks_are_marked_and_counted(self, with_model):
        found = with_model.decomposition
        other = replace(found, texts=tuple(f"{text}!" for text in found.texts), significance=None)
        assert lost_words(replace(found, significance=None), other, 1) == [1.0] * found.num_heads
        assert lost_words(found, found, 1) == [0.0] * found.num_heads

    def test_decompositions_of_other_towers_do_not_compare(self, with_model, tmp_path):
        SithEditor.from_pretrained(with_model.model, tower="text").decompose(None).save_pretrained(tmp_path)
        with pytest.raises(InputError, match="do not compare"):
            comparison_of(with_model, str(tmp_path))

    def test_without_words_the_vectors_are_still_there(self, with_model, tmp_path):
        SithEditor.from_pretrained(with_model.model).decompose(None).save_pretrained(tmp_path)
        found = comparison_of(with_model, str(tmp_path))
        assert list(found.maps) == ["vectors"]
        head = found.head(0, 0)
        assert "No words" in head.note
        assert all(pair.same and not pair.poles for pair in head.pairs)


class TestTuned:
    def test_the_changed_head_is_found_and_its_vectors_are_compared(self, with_model, tuned):
        found = comparison_of(with_model, str(tuned))
        changed = {(cell.layer, cell.head) for row in found.maps["change"].rows for cell in row if cell.text != "0"}
        assert changed == {(1, 0)}
        head, other = found.head(1, 0), found.head(1, 1)
        assert not all(pair.same for pair in head.pairs)
        assert all(pair.same for pair in other.pairs)
        assert dict(other.facts) == {"change": "none beyond the rounding of the weights"}
        assert len(head.writes) == len(head.reads) == 3
        assert head.writes[0].share >= head.writes[1].share
        assert other.writes is None

    def test_what_the_change_writes_is_what_compare_says(self, with_model, tuned):
        found, first = comparison_of(with_model, str(tuned)), with_model.decomposition
        concepts = ConceptDictionary(first.texts, embeddings=first.embeddings)
        words = explain_change(with_model.editor.tower, found.tuned, found.found.changed, concepts)
        said = found.head(1, 0).writes
        assert len(words) == 3
        for ours, theirs in zip(said, words, strict=True):
            assert [[word.text for word in pole.words] for pole in ours.poles] == [
                [text for text, _ in pole.concepts] for pole in theirs.poles
            ]

    def test_the_folder_of_the_command_has_the_same_numbers(self, with_model, tuned, tmp_path):
        live = comparison_of(with_model, str(tuned))
        data = {"base": "a/b", "tuned": "me/tuned", **live.found.to_json()}
        (tmp_path / "adaptation.json").write_text(json.dumps(data))
        stored = comparison_of(replace(with_model, model=None), str(tmp_path))
        assert stored.facts == live.facts
        assert stored.maps["change"].rows == live.maps["change"].rows
        assert stored.head(1, 0).facts == live.head(1, 0).facts
        with pytest.raises(InputError, match="was not compared"):
            stored.head(1, 99)

    @pytest.mark.parametrize(
        "text",
        ["", "[]", "{}", "{", '{"heads": [], "base": "a", "tuned": "b", "tower": "vision", "changed_heads": 0}', "\0"],
    )
    def test_a_damaged_file_is_refused(self, with_model, tmp_path, text):
        (tmp_path / "adaptation.json").write_text(text)
        with pytest.raises(InputError, match="run sith-hf compare again"):
            comparison_of(with_model, str(tmp_path))

    def test_a_model_needs_its_base(self, without_model, tuned):
        with pytest.raises(InputError, match="start again with --model"):
            comparison_of(without_model, str(tuned))


class TestPage:
    def test_only_what_it_was_started_with_is_read_for_others(self, with_model, tuned):
        public = replace(with_model, local=False, other=with_model.source)
        assert comparison_of(public, with_model.source).facts
        for name in (str(tuned), "/etc/passwd", "me/anything"):
            assert "open to others" in compare_html(public, (name, "", None))

    @pytest.mark.parametrize("name", [" ", "/no/where", "./x", "\0", "a" * 5000, "../.."])
    def test_what_is_no_comparison_is_a_message(self, with_model, name):
        assert 'role="alert"' in compare_html(with_model, (name, "", None))
        assert 'role="alert"' in head_html(with_model, (name, "", (0, 0)))

    def test_a_head_that_is_not_there_is_a_message(self, with_model):
        assert 'role="alert"' in head_html(with_model, (with_model.source, "", (0, 99)))
        assert head_html(with_model, NOTHING) == ""

    def test_hostile_texts_are_escaped(self, with_model, tmp_path):
        found = with_model.decomposition
        hostile = (*HOSTILE, "<img src=x onerror=alert(1)>", *found.texts)[: len(found.texts)]
        replace(found, texts=hostile).save_pretrained(tmp_path)
        explorer = Explorer(Decomposition.from_pretrained(tmp_path), "<b>x</b>")
        pages = [compare_html(explorer, (str(tmp_path), "<i>", None))]
        pages += [head_html(explorer, (str(tmp_path), "", (layer, head))) for layer in (0, 1) for head in range(4)]
        for page in pages:
            assert not [mark for mark in ("<img", "<b>", "<i>", "\x1b", "\u202e", "\u200b") if mark in page]
        assert any("&lt;img src=x" in page or "&lt;b&gt;" in page for page in pages)


def test_each_vector_is_beside_the_most_similar_one():
    ours = Side(torch.eye(3, dtype=torch.float64), (0.5, 0.3, 0.2), ((Pole("+", (Word("sea", 1.0),)),),) * 3)
    turned = torch.tensor([[0, 1, 0], [-1, 0, 0], [0, 0.6, 0.8]], dtype=torch.float64)
    theirs = Side(turned, (0.6, 0.3, 0.1), ((Pole("+", (Word("road", 1.0),)),),) * 3)
    pairs = vector_pairs(ours, theirs)
    assert [(pair.other, round(pair.cosine, 2)) for pair in pairs] == [(1, 1.0), (0, 1.0), (2, 0.8)]
    assert pairs[0].poles == ()  # turned, and the other has no pole that points this way
    assert pairs[1].poles[0][0].words == (Word("sea", 1.0, only=True),)
