"""Explanations of read directions: the paper's left singular vectors, against literal float64 formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sith_hf.cards import decomposition_card
from sith_hf.decomposition import DecomposeSettings, Decomposition
from sith_hf.edits import make_spec
from sith_hf.errors import ArtifactError, InputError
from sith_hf.files import ResumableJob
from sith_hf.gains import by_name
from sith_hf.pursuit import Pursuit
from tests.support import published
from tests.support.cli import refused, sith, succeeded
from tests.support.made import WORDS, tiny_concepts
from tests.support.raw import digest, read_raw, write_raw
from tests.support.tiny import save_clip

LAYERS = [0, 2]
OPTIONS = {"layers": LAYERS, "pursuit": Pursuit(sparsity=4)}


@pytest.fixture(scope="module")
def mean():
    return torch.linspace(-0.05, 0.15, 24)


@pytest.fixture(scope="module")
def read(editor, mean):
    return editor.decompose(tiny_concepts(), side="read", image_mean=mean, **OPTIONS)


@pytest.fixture(scope="module")
def write(editor, mean):
    return editor.decompose(tiny_concepts(), image_mean=mean, **OPTIONS)


def literal(editor, mean, fold=True):
    """(layer, head, vector, pole) to the read direction, its concepts and its fidelity."""
    model, shift = editor.model, mean.double().numpy()
    rows = published.embedded(model, editor.loaded.tokenizer, WORDS)
    atoms = published.unit(rows - rows.mean(axis=0))
    inverse = np.linalg.pinv(published.array(model.visual_projection.weight))
    found = {}
    for layer in LAYERS:
        for head in range(4):
            for vector, direction in enumerate(published.triples(model, layer, head, fold).left):
                for pole, sign in (("+", 1), ("-", -1)):
                    x = published.joint(model, sign * direction[None], shift)[0]
                    chosen, weights = published.comp(x, atoms, 4)
                    rebuilt = published.unit(inverse @ published.unit(published.unit(weights @ atoms[chosen]) + shift))
                    said = {WORDS[i]: w for i, w in zip(chosen, weights, strict=True) if w > 1e-9}
                    found[layer, head, vector, pole] = (direction, said, float(rebuilt @ (sign * direction)))
    return found


def unlike(decomposition, expected):
    """The poles whose concepts, weights or fidelity are others than expected."""
    wrong = []
    for explanation in decomposition.explanations():
        key = (explanation.layer, explanation.head, explanation.vector, explanation.pole)
        _, said, fidelity = expected[key]
        same = dict(explanation.concepts) == pytest.approx(said, abs=2e-5)
        if not same or explanation.fidelity != pytest.approx(fidelity, abs=1e-5):
            wrong.append(key)
    return wrong


def test_explanations_are_the_literal_ones(editor, read, write, mean):
    expected = literal(editor, mean)
    assert unlike(read, expected) == []
    # The control: what the same vectors write is something else.
    assert len(unlike(write, expected)) > len(expected) / 2


def test_unfolded_read_directions_keep_their_mean(editor, mean):
    made = editor.decompose(tiny_concepts(), side="read", image_mean=mean, fold=False, **OPTIONS)
    assert unlike(made, literal(editor, mean, fold=False)) == []


def test_the_largest_entry_of_a_read_direction_is_positive(editor, read):
    triples = [[published.triples(editor.model, layer, head, True).left for head in range(4)] for layer in LAYERS]
    np.testing.assert_allclose(read.read.double().numpy(), np.array(triples), atol=1e-5)
    largest = read.read.gather(-1, read.read.abs().argmax(dim=-1, keepdim=True))
    assert bool((largest > 0).all())


def test_both_sides_have_the_same_vectors(editor, read, write):
    for name in ("read", "write", "singular_values", "energy"):
        assert torch.equal(getattr(read, name), getattr(write, name))
    rows = np.linalg.svd(published.array(editor.model.visual_projection.weight))[2][:24]
    literal = np.linalg.norm(read.read.double().numpy() @ rows.T, axis=-1)
    np.testing.assert_allclose(read.ceiling.numpy(), literal, atol=1e-5)
    assert not torch.allclose(read.ceiling, write.ceiling, atol=1e-3)  # the control


def test_the_side_is_named_everywhere(read, write, tmp_path):
    assert (read.side, write.side) == ("read", "write")
    assert "read directions" in repr(read)
    assert "directions" not in repr(write)
    assert {item.side for item in read.explanations()} == {"read"}
    assert {item.side for item in write.explanations()} == {"write"}
    assert set(read.to_dataset()["side"]) == {"read"}
    assert read.find(read.texts[0])[0].explanation.side == "read"
    card = decomposition_card(read, repo_id="me/heads")
    assert "what they look for (read directions)" in card
    assert "| explained directions | read |" in card
    assert "read directions" not in decomposition_card(write, repo_id="me/heads")
    path = read.save_pretrained(tmp_path)
    again = Decomposition.from_pretrained(tmp_path)
    assert (again.side, again.explanations()) == ("read", read.explanations())
    assert again.save_pretrained(tmp_path / "again").read_bytes() == path.read_bytes()


def test_the_default_is_unchanged(editor, write, mean, tmp_path):
    named = editor.decompose(tiny_concepts(), side="write", image_mean=mean, **OPTIONS)
    assert "side" not in write.settings
    assert named.save_pretrained(tmp_path / "a").read_bytes() == write.save_pretrained(tmp_path / "b").read_bytes()
    spec = editor.with_decomposition(write).edit().vectors(0.0, layers=[0], heads=[1], vectors=[2]).spec
    assert b'"side"' not in spec.save_pretrained(tmp_path / "spec").read_bytes()


@pytest.mark.parametrize("side", ["both", "left", "", None, 1])
def test_other_sides_are_refused(editor, side):
    with pytest.raises(InputError, match='side must be "write" or "read"'):
        DecomposeSettings(side=side)
    with pytest.raises(InputError, match="side"):
        editor.decompose(tiny_concepts(), side=side)


def test_a_damaged_side_is_refused(read, tmp_path):
    path = read.save_pretrained(tmp_path)
    Decomposition.from_pretrained(tmp_path)  # the control
    tensors, metadata = read_raw(path)
    changed = {key: value.replace('"side": "read"', '"side": "reed"') for key, value in metadata.items()}
    assert changed != metadata
    write_raw(path, tensors, changed)
    with pytest.raises(ArtifactError):
        Decomposition.from_pretrained(tmp_path)


def test_edits_need_the_write_side(editor, read, write):
    by_word = editor.with_decomposition(write).suppress(write.texts[0], threshold=0.01)
    assert len(by_word.spec) > 0  # the control
    gains = by_name(read, 0.0, layers=[0], heads=[0], vectors=[0])
    for use in (
        lambda: editor.with_decomposition(read).suppress(read.texts[0], threshold=0.01),
        lambda: editor.with_decomposition(read).edit(),
        lambda: make_spec(editor.tower, read, gains),
    ):
        with pytest.raises(InputError, match="explains read directions") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_finished_parts_of_one_side_are_not_those_of_the_other(editor, read, mean, tmp_path):
    options = {"image_mean": mean, **OPTIONS}
    with ResumableJob.beside(tmp_path / "out") as job:
        editor.decompose(tiny_concepts(), job=job, **options)
        with pytest.raises(InputError, match="differs in side"):
            editor.decompose(tiny_concepts(), job=job, side="read", **options)
    with ResumableJob.beside(tmp_path / "other") as job:
        found = editor.decompose(tiny_concepts(), job=job, side="read", **options)
    assert found.explanations() == read.explanations()


def test_by_the_command_line(tmp_path):
    save_clip(tmp_path / "clip")
    (tmp_path / "words.txt").write_text("\n".join(WORDS), encoding="utf-8")
    words = ("--concepts", tmp_path / "words.txt", "--layers", "-1")
    for side, more in (("write", ()), ("read", ("--side", "read"))):
        ran = sith("decompose", tmp_path / "clip", *words, "-o", tmp_path / side, "--json", *more)
        assert succeeded(ran).data["settings"].get("side", "write") == side
        shown = succeeded(sith("show", tmp_path / side)).out
        assert ("\nRead directions" in shown) == (side == "read")
        found = succeeded(sith("find", tmp_path / side, WORDS[0], "--json")).data
        assert {item["side"] for item in found} == {side}
    pairs = succeeded(sith("show", tmp_path / "write", "--beside", tmp_path / "read", "--json")).data
    own = succeeded(sith("show", tmp_path / "read", "--json")).data
    assert [item.pop("beside") for item in pairs] == own
    assert pairs == succeeded(sith("show", tmp_path / "write", "--json")).data
    assert "reads (weight)" in succeeded(sith("show", tmp_path / "write", "--beside", tmp_path / "read", "--all")).out
    assert "two sides" in refused(sith("show", tmp_path / "write", "--beside", tmp_path / "write"))
    assert "Read directions" in succeeded(sith("find", tmp_path / "read", WORDS[0])).out
    assert digest(tmp_path / "read" / "dictionary.safetensors") == digest(tmp_path / "write" / "dictionary.safetensors")
    edit = ("edit", tmp_path / "clip", "--suppress", "sea", "-o", tmp_path / "spec", "--decomposition")
    assert "explains read directions" in refused(sith(*edit, tmp_path / "read"))
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("title: t\nbase: {model: clip}\ndecompose: {from: read}\nedits: [{concepts: [red]}]\n")
    assert "explains read directions" in refused(sith("run", recipe, "-o", tmp_path / "out"))
    assert not (tmp_path / "spec").exists()
    assert not (tmp_path / "out").exists()
    assert "--side" in refused(sith("decompose", tmp_path / "clip", *words, "-o", tmp_path / "x", "--side", "left"))
