"""The command line on models without texts: numbers only, from decompose to revert."""

import pytest
from transformers import Dinov2Model, LlavaForConditionalGeneration

from tests.cli.conftest import WORDS
from tests.support.cli import refused, sith, succeeded
from tests.support.tiny import image_processor, save_clip
from tests.support.vision_models import dinov2, llava_model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A DINOv2, a LLaVA, and a CLIP of the widths of its tower."""
    folder = tmp_path_factory.mktemp("by-number")
    for name, model in {"dinov2": dinov2(), "llava": llava_model()}.items():
        model.save_pretrained(folder / name)
        image_processor().save_pretrained(folder / name)
    save_clip(folder / "clip", vision={"num_hidden_layers": 4})
    (folder / "words.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return folder


@pytest.mark.parametrize(("name", "kind"), [("dinov2", Dinov2Model), ("llava", LlavaForConditionalGeneration)])
def test_from_decompose_to_revert(name, kind, models, tmp_path):
    made = ("decompose", models / name, "--layers", "1,2", "--rank", "4", "-o", tmp_path / "d")
    ran = succeeded(sith(*made, "--json"))
    assert "numbers only, no words" in ran.err
    assert (ran.data["poles"], ran.data["concepts"], ran.data["fidelity"]) == ([], 0, None)
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["decomposition.safetensors"]
    again = succeeded(sith(*made, "--details"))
    assert "already done" in again.err
    assert "\nvision tower\n" in again.out
    assert "another decomposition" in refused(sith(*made[:-4], "-o", tmp_path / "d"))
    rows = succeeded(sith("show", tmp_path / "d", "--json", "--heads", "0", "--top", "2")).data
    assert [(row["layer"], row["vector"]) for row in rows] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    shown = succeeded(sith("show", tmp_path / "d")).out
    assert "by number: there are no words" in shown.splitlines()[0]
    assert "singular value" in shown
    edit = ("edit", models / name, "--decomposition", tmp_path / "d")
    chosen = ("--gain", "-1", "--layers", "2", "--vectors", "0,1", "--yes", "-o", tmp_path / "spec")
    data = succeeded(sith(*edit, *chosen, "--json")).data
    assert len(data["vectors"]) == 8
    assert data["impact"]["drift"] is None
    assert "singular" in succeeded(sith("show", tmp_path / "spec")).out
    succeeded(sith("save-edited", models / name, "--spec", tmp_path / "spec", "-o", tmp_path / "edited"))
    succeeded(sith("verify", tmp_path / "edited", "--base", models / name))
    _, report = kind.from_pretrained(tmp_path / "edited", output_loading_info=True)
    assert not any(report.values())
    assert "chosen by number" in succeeded(sith("card", tmp_path / "edited")).out
    assert "without words" in succeeded(sith("card", tmp_path / "d")).out
    succeeded(sith("revert", tmp_path / "edited", "-o", tmp_path / "again"))
    for command in (
        (*edit, "--suppress", "sea", "--dry-run"),
        ("find", tmp_path / "d", "sea"),
        ("judge", tmp_path / "d", "--export", tmp_path / "sheet.csv"),
    ):
        assert "by number" in refused(sith(*command))


def test_words_are_refused_for_a_tower_without_text(models, tmp_path):
    words = ("--concepts", models / "words.txt", "-o", tmp_path / "d")
    assert "by number" in refused(sith("decompose", models / "dinov2", *words))
    assert "--text-model" in refused(sith("decompose", models / "llava", *words))
    assert "--sparsity" in refused(sith("decompose", models / "dinov2", "--sparsity", "3", "-o", tmp_path / "d"))
    assert "trained without texts" in refused(
        sith("decompose", models / "dinov2", "--text-model", models / "clip", "-o", tmp_path / "d")
    )
    assert not (tmp_path / "d").exists()


def test_a_llava_is_explained_with_its_companion(models, tmp_path):
    text = ("--text-model", models / "clip")
    layers = ("--layers", "-2,-1", "--rank", "2", "-o", tmp_path / "d")
    made = succeeded(sith("decompose", models / "llava", "--concepts", models / "words.txt", *text, *layers, "--json"))
    assert "companion" in made.data["settings"]["readout"]
    edit = ("edit", models / "llava", "--decomposition", tmp_path / "d", "--suppress", "sea", "--top", "3")
    assert "--text-model" in refused(sith(*edit, "--dry-run"))
    data = succeeded(sith(*edit, *text, "--yes", "-o", tmp_path / "spec", "--json")).data
    assert {row["layer"] for row in data["vectors"]} == {2}
    assert "layer 3 would do nothing" in refused(sith(*edit, *text, "--layers", "3", "--dry-run"))
    succeeded(sith("save-edited", models / "llava", "--spec", tmp_path / "spec", "-o", tmp_path / "edited"))
    assert "family llava" in refused(
        sith("save-edited", models / "clip", "--spec", tmp_path / "spec", "-o", tmp_path / "other")
    )
