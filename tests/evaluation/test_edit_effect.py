"""The effect of an edit on what it names: real edits of the drawn world pass, wrong names and random vectors do not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sith_hf.checkpoint import folder_card, history
from sith_hf.concepts import ConceptDictionary
from sith_hf.editor import SithEditor
from sith_hf.edits import EditEffect, EditSpec, make_spec
from sith_hf.errors import InputError
from sith_hf.evaluation import leaves, measure_effect
from sith_hf.evaluation.edit_effect import _kept
from sith_hf.gains import random_vectors
from sith_hf.images import DatasetSettings
from sith_hf.publish import push_edited
from sith_hf.world import concepts, embedded_checkpoint
from tests.support.cli import refused, sith, succeeded


@pytest.fixture(scope="module")
def world() -> SithEditor:
    editor = SithEditor.from_pretrained(embedded_checkpoint())
    editor.decompose(ConceptDictionary.from_texts(concepts()), layers=[-2, -1])
    return editor


@pytest.fixture(scope="module")
def sea(world: SithEditor) -> EditSpec:
    return world.suppress("sea").spec


def renamed(spec: EditSpec, concept: str) -> EditSpec:
    """The same edit, by the name of another concept."""
    assert spec.provenance is not None
    named = tuple({concept: "less"} for _ in spec.provenance.named)
    return replace(spec, provenance=replace(spec.provenance, named=named))


def test_a_real_edit_has_an_effect(world: SithEditor, sea: EditSpec) -> None:
    found = measure_effect(world, sea)
    (item,) = found.named
    found.check()
    assert item.direction == "less"
    assert list(item.kept) == ["sea"]
    assert item.mean < 0.6 < 0.8 < item.others
    assert item.random is not None
    assert item.random > 0.8
    assert "sea keeps" in str(found)
    assert EditEffect.from_data(found.to_json(), "again") == found


def test_a_wrong_name_and_random_vectors_have_none(world: SithEditor, sea: EditSpec) -> None:
    with pytest.raises(InputError, match=r"no effect on what it names.*mushroom"):
        measure_effect(world, renamed(sea, "mushroom")).check()
    gains = world.suppress("sea").gains
    drawn = random_vectors(world.decomposition, gains, 7)
    drawn = replace(drawn, named={key: {"sea": "less"} for key in drawn.gain})
    with pytest.raises(InputError, match="no effect on what it names"):
        measure_effect(world, make_spec(world.tower, world.decomposition, drawn)).check()


def test_the_direction_counts(world: SithEditor, sea: EditSpec) -> None:
    louder = world.amplify("sea", gain=2.0).spec
    found = measure_effect(world, louder)
    found.check()
    assert found.named[0].mean > 1
    assert found.named[0].direction == "more"
    assert sea.provenance is not None
    opposite = replace(sea, provenance=sea.provenance.reverse())
    with pytest.raises(InputError, match="strengthen"):
        measure_effect(world, opposite).check()
    assert measure_effect(world, world.invert("sea").spec).named[0].mean < 0.2


def test_both_directions_are_measured(world: SithEditor) -> None:
    found = measure_effect(world, world.suppress("sea").amplify("red", gain=2.0).spec)
    assert {item.direction: list(item.kept) for item in found.named} == {"less": ["sea"], "more": ["red"]}


def test_an_edit_by_number_names_nothing(world: SithEditor) -> None:
    found = measure_effect(world, world.edit().vectors(0.0, layers=[-1], heads=[0], vectors=[0]).spec)
    found.check()
    assert found.named == ()
    assert found.drift > 0
    assert "names no concepts" in str(found)


def test_slopes_are_those_of_a_regression() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 40, 6)).astype(np.float32)
    texts = [rng.normal(size=(5, 6))] * 2
    own = [image.astype(np.float64) @ text.T for image, text in zip(images, texts, strict=True)]
    base, edited = (each - each.mean(axis=1, keepdims=True) for each in own)
    expected = [np.polyfit(base[:, k], edited[:, k], 1)[0] for k in range(5)]
    np.testing.assert_allclose(_kept(images, texts, "x")[0], expected)
    with pytest.raises(InputError, match="do not differ"):
        _kept(np.repeat(images[:, :1], 40, axis=1), texts, "x")


def test_names_follow_the_arithmetic_of_edits(world: SithEditor, sea: EditSpec) -> None:
    assert sea.provenance is not None
    assert {"sea": "less"} in sea.provenance.named
    half, back = sea * 0.5, sea * -1.0
    assert half.provenance is not None
    assert half.provenance.named == sea.provenance.named
    assert back.provenance is not None
    assert {"sea": "more"} in back.provenance.named
    both = sea.compose(world.amplify("red").spec)
    assert isinstance(both, EditSpec)
    assert both.provenance is not None
    assert {name for each in both.provenance.named for name in each} == {"sea", "red"}
    numbers = world.edit().vectors(0.0, layers=[-1], heads=[0], vectors=[0]).spec
    assert numbers.provenance is not None
    assert "named" not in numbers.provenance.to_json()


def test_too_few_images(world: SithEditor, sea: EditSpec) -> None:
    with pytest.raises(InputError, match="31 readable images"):
        measure_effect(world, sea, leaves(31))
    with pytest.raises(InputError, match="missing"):
        measure_effect(world, sea, DatasetSettings(dataset="missing"))


class TestWritten:
    """``save-edited``, its card, and what a push does with them."""

    @pytest.fixture(scope="class")
    def saved(self, sea: EditSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("proof")
        sea.save_pretrained(folder / "spec")
        ran = succeeded(sith("save-edited", "embedded", "--spec", folder / "spec", "-o", folder / "edited", "--json"))
        assert ran.data["effect"]["named"][0]["kept"]["sea"] < 0.6
        return folder

    def test_the_card_shows_it(self, saved: Path) -> None:
        card = (saved / "edited" / "README.md").read_text()
        effect = json.loads((saved / "edited/sith/effect.json").read_text())
        assert f"sea {effect['named'][0]['kept']['sea']:.0%}" in card
        assert "sith-hf save-edited embedded --spec path/to/this/folder -o again" in card
        assert "![Similarity of images to weakened concepts" in card
        assert (saved / "edited/sith/before_after.png").read_bytes().startswith(b"\x89PNG")

    def test_the_same_again_is_not_measured(self, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sith_hf.editor.proof.measure_effect", None)
        ran = succeeded(sith("save-edited", "embedded", "--spec", saved / "spec", "-o", saved / "edited"))
        assert "already done" in ran.err
        assert "sea keeps" in ran.out
        push = ("push-edited", saved / "edited", "--repo-id", "me/x", "--dry-run")
        assert "Effect on what it names" in succeeded(sith(*push)).out

    def test_no_effect_leaves_nothing(self, sea: EditSpec, tmp_path: Path) -> None:
        renamed(sea, "mushroom").save_pretrained(tmp_path / "spec")
        said = refused(sith("save-edited", "embedded", "--spec", tmp_path / "spec", "-o", tmp_path / "edited"))
        assert "no effect on what it names" in said
        push = ("push-edited", "--base", "embedded", "--spec", tmp_path / "spec", "--repo-id", "me/x", "--dry-run")
        assert "no effect on what it names" in refused(sith(*push))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["spec"]

    def test_an_interrupted_measurement_leaves_nothing(
        self, saved: Path, tmp_path: Path, world: SithEditor, sea: EditSpec
    ) -> None:
        from sith_hf.checkpoint import save_edited

        def interrupted(*arguments: Any) -> EditEffect:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            save_edited(embedded_checkpoint(), sea, tmp_path / "edited", measure=interrupted)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"edit": "0" * 64}, "another edit"),
            ({"drift": "much"}, "drift"),
            ({"more": 1}, "more"),
            ({"named": [{"direction": "less", "kept": {}, "mean": 0, "others": 0}]}, "kept"),
        ],
    )
    def test_a_hostile_record_is_refused(self, saved: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
        import shutil

        shutil.copytree(saved / "edited", tmp_path / "edited")
        file = tmp_path / "edited/sith/effect.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
        with pytest.raises(InputError, match=said):
            folder_card(tmp_path / "edited")
        with pytest.raises(InputError, match=said):
            push_edited(tmp_path / "edited", "me/x", dry_run=True)

    def test_a_hostile_name_puts_nothing_into_the_card(self, saved: Path, tmp_path: Path) -> None:
        import shutil

        shutil.copytree(saved / "edited", tmp_path / "edited")
        file = tmp_path / "edited/sith/effect.json"
        data = json.loads(file.read_text())
        data["named"][0]["kept"] = {"<script>|[x](y)\u202e": 0.1}
        data["images"]["options"] = ["--images", "x; rm -rf ~ ```"]
        file.write_text(json.dumps(data))
        card = folder_card(tmp_path / "edited")
        assert "<script>" not in card
        assert "\u202e" not in card
        assert "'x; rm -rf ~ ```'" in card
        assert "````sh" in card

    def test_a_folder_without_it_is_valid(self, world: SithEditor, sea: EditSpec, tmp_path: Path) -> None:
        saved = world.save_pretrained(tmp_path / "edited", sea)
        assert saved.effect is None
        assert "Effect on what it names" not in folder_card(tmp_path / "edited")
        effect = world.effect(sea, leaves(32))
        again = world.save_pretrained(tmp_path / "again", sea, effect=effect)
        assert again.effect == effect
        assert history(tmp_path / "again")[0] == sea
        with pytest.raises(InputError, match="another edit"):
            world.save_pretrained(tmp_path / "third", sea * 0.5, effect=effect)
