"""Singular vectors without explanations: numbers of any tower, an artifact that claims no more, words refused."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from sith_hf.cards import decomposition_card
from sith_hf.concepts import ConceptDictionary
from sith_hf.decomposition import DecomposeSettings, Decomposition, Significance, repeats
from sith_hf.editor import SithEditor
from sith_hf.errors import ArtifactError, BaseMismatch, InputError
from sith_hf.gains.score_csv import explanations_sha256
from sith_hf.pursuit import Pursuit
from tests.support.made import tiny_concepts, tiny_editor
from tests.support.tiny import clip_model, vision_model
from tests.support.vision_models import dinov2


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    """An editor of a CLIPModel."""
    return tiny_editor(tmp_path_factory.mktemp("by-number"))


@pytest.fixture(scope="module")
def numbers(editor):
    """The numbers of its last two layers."""
    return editor.decompose(None, layers=[-2, -1], rank=5)


def test_the_vectors_are_those_of_an_explained_decomposition(editor, numbers):
    explained = editor.decompose(tiny_concepts(), layers=[-2, -1], rank=5, pursuit=Pursuit(sparsity=1))
    for name in ("singular_values", "energy", "write", "read"):
        assert torch.allclose(getattr(numbers, name), getattr(explained, name), atol=1e-6)
    assert numbers.layers == explained.layers
    assert numbers.base == explained.base
    assert (numbers.has_words, explained.has_words) == (False, True)
    keys = [(1, 0, 2), (2, 3, 4)]
    specs = []
    for found in (numbers, explained):
        draft = editor.with_decomposition(found).edit()
        for layer, head, vector in keys:
            draft = draft.vectors(0.0, layers=[layer], heads=[head], vectors=[vector])
        specs.append(draft.spec)
    assert specs[0].keys == specs[1].keys == keys
    assert all(torch.allclose(specs[0].change(n).bias, specs[1].change(n).bias, atol=1e-6) for n in (1, 2))
    assert set(specs[0].labels) == {""}
    assert "" not in specs[1].labels


def test_it_is_saved_and_read_again(numbers, tmp_path):
    numbers.save_pretrained(tmp_path)
    found = Decomposition.from_pretrained(tmp_path)
    assert (found.poles, found.texts, found.significance, found.p_values) == ((), (), None, None)
    assert torch.equal(found.write, numbers.write)
    assert found.settings == numbers.settings == {"fold": True, "centre": True}
    assert found.beyond_chance() is None
    assert found.energy_share.shape == (2, 4, 5)
    assert "no words" in repr(found)
    stored = load_file(tmp_path / "decomposition.safetensors")
    assert stored["concept"].numel() == stored["fidelity"].numel() == stored["embeddings"].numel() == 0


ONE, NONE = torch.zeros(1), torch.zeros(0, 3)
MORE = {
    "poles": ({"poles": ("+",)}, "differ in number"),
    "ceilings": ({"ceiling": torch.full((2, 4, 5), 0.5)}, "explains nothing"),
    "a joint space": (
        {"image_mean": torch.zeros(3), "dictionary_mean": torch.zeros(3), "embeddings": NONE},
        "explains nothing",
    ),
    "a concept": (
        {"texts": ("sea",), "embeddings": torch.ones(1, 1), "image_mean": ONE, "dictionary_mean": ONE},
        "concepts without poles",
    ),
    "p-values": ({"significance": "one"}, "axis|explains nothing"),
}


@pytest.mark.parametrize(("change", "message"), MORE.values(), ids=MORE)
def test_a_file_that_claims_more_is_refused(change, message, numbers, tmp_path):
    if "significance" in change:
        change = {"significance": Significance(torch.empty(2, 4, 5, 0, dtype=torch.float64), torch.zeros(1, 9), (0, 0))}
    replace(numbers, **change).save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match=message):
        Decomposition.from_pretrained(tmp_path)


def test_an_explained_file_without_its_explanations_is_refused(editor, tmp_path):
    explained = editor.decompose(tiny_concepts(), layers=[-1], rank=2, pursuit=Pursuit(sparsity=1))
    bare = {"texts": (), "embeddings": explained.embeddings[:0], "concept": explained.concept * 0 - 1}
    replace(explained, **bare).save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="poles without concepts"):
        Decomposition.from_pretrained(tmp_path)


def test_what_needs_words_says_so(editor, numbers):
    editor = editor.with_decomposition(numbers)
    for ask in (
        lambda: editor.suppress("sea"),
        lambda: editor.find("sea"),
        lambda: editor.embed("sea"),
        lambda: numbers.find("sea"),
        lambda: numbers.find("sea", embedding=torch.ones(24)),
        lambda: numbers.share(torch.ones(1, 24)),
        lambda: numbers.explanations(),
        lambda: numbers.explain(1, 0, 0),
        lambda: numbers.theme(1, 0),
        lambda: numbers.same_vectors(numbers, []),
        lambda: explanations_sha256(numbers),
    ):
        with pytest.raises(InputError, match=r"without concepts.*by number"):
            ask()
    with pytest.raises(InputError, match="vectors 0-4"):
        editor.edit().vectors(0.0, vectors=[5])
    with pytest.raises(InputError, match="layer 0 was not decomposed"):
        editor.edit().vectors(0.0, layers=[0])


def test_its_numbers_are_rows(numbers):
    rows = numbers.strengths(2, 1, 3)
    assert [row["vector"] for row in rows] == [0, 1, 2]
    assert rows[1]["singular_value"] == float(numbers.singular_values[1, 1, 1])
    table = numbers.to_dataset()
    assert len(table) == 2 * 4 * 5
    assert set(table.column_names) == {"layer", "head", "vector", "singular_value", "energy_share"}
    card = decomposition_card(numbers, repo_id=None)
    assert "without words" in card
    assert "strengths(2, 0)" in card
    assert "fidelity" not in card


def test_the_rows_of_an_edit_have_no_explanation(editor, numbers):
    draft = editor.with_decomposition(numbers).edit().vectors(0.0, layers=[1], heads=[0], vectors=[0])
    (row,) = draft.rows()
    assert (row["pole"], row["fidelity"], row["explanation"], row["beyond_chance"]) == (None, None, "", None)
    assert "named outright" in str(draft)
    # CLIP has a way to the joint space: the drift is known without words.
    assert draft.impact.drift > 0
    assert draft.impact.by_chance is None


def test_without_a_way_to_texts_the_drift_is_not_known():
    editor = SithEditor.from_model(vision_model())
    numbers = editor.decompose(None)
    impact = editor.edit().vectors(0.0, layers=[0], heads=[0]).impact
    assert impact.drift is None
    assert "drift not known" in str(impact)
    assert impact.to_json()["drift"] is None
    taken = float((numbers.singular_values[0, 0] ** 2).sum() / numbers.energy.sum())
    assert impact.energy == pytest.approx(taken, rel=1e-5)
    assert "energy" in editor.edit().vectors(0.0, heads=range(4)).impact.excess
    with pytest.raises(BaseMismatch):
        SithEditor.from_model(vision_model(seed=5)).with_decomposition(numbers)
    with pytest.raises(BaseMismatch):
        SithEditor.from_model(dinov2()).with_decomposition(numbers)


@pytest.mark.parametrize(
    ("setting", "named"),
    [({"poles": "+"}, "--poles"), ({"side": "read"}, "--side"), ({"pursuit": Pursuit(sparsity=2)}, "--sparsity"),
     ({"image_mean": torch.zeros(24)}, "--image-mean")],
)  # fmt: skip
def test_settings_of_explanations_are_refused(setting, named, editor):
    with pytest.raises(InputError, match=named):
        editor.decompose(None, **setting)
    with pytest.raises(InputError, match="rank"):
        editor.decompose(None, rank=9)


def test_it_repeats_itself_and_nothing_else(editor, numbers):
    settings = DecomposeSettings(layers=(-2, -1), rank=5)
    assert repeats(numbers, editor.tower, None, settings)
    assert not repeats(numbers, editor.tower, None, settings.override(fold=False))
    assert not repeats(numbers, editor.tower, None, settings.override(rank=4))
    other = SithEditor.from_model(clip_model(5))
    assert not repeats(numbers, other.tower, None, settings)
    words = ConceptDictionary.from_texts(["red", "sea", "dog", "cat", "car"])
    encoded = editor.encode(words)
    assert not repeats(numbers, editor.tower, encoded, settings)
