"""Decompositions with images: what drives vectors, and total effects, from Python and from the command line."""

import json

import pytest
import torch

from sith_hf import ConceptDictionary, Decomposition, SithEditor
from sith_hf.errors import InputError
from sith_hf.images import DatasetSettings
from sith_hf.pursuit import Pursuit
from tests.grounding.test_driven_by import WORDS, pictures, saved
from tests.support.cli import refused, sith, succeeded
from tests.support.tiny import clip_model, image_processor, save_clip
from tests.support.vision_models import dinov2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("clip")
    save_clip(home / "model", seed=6)
    image_processor().save_pretrained(home / "model")
    (home / "words.txt").write_text("\n".join(WORDS))
    saved(home / "pictures", pictures(70))
    saved(home / "few", pictures(20))
    return home


def test_both_readings_are_kept_and_neither_replaces_the_other(folder, tmp_path):
    editor = SithEditor.from_pretrained(folder / "model")
    concepts = ConceptDictionary.from_texts(WORDS)
    settings = {"pursuit": Pursuit(sparsity=2), "layers": [0, 2]}
    plain = editor.decompose(concepts, **settings)
    found = editor.decompose(concepts, **settings, images=folder / "pictures")
    assert plain.drivers is None
    assert plain.total_cosine is None
    assert torch.equal(found.concept, plain.concept)
    assert torch.equal(found.weight, plain.weight)
    assert found.drivers.concept.shape == (2, 4, 8, 2, 2)
    assert found.drivers.images["count"] == 70
    plain.save_pretrained(tmp_path / "plain")
    found.save_pretrained(tmp_path / "found")
    again = Decomposition.from_pretrained(tmp_path / "found")
    assert torch.equal(again.drivers.concept, found.drivers.concept)
    assert torch.equal(again.drivers.correlation, found.drivers.correlation)
    assert again.drivers.texts == found.drivers.texts
    assert again.drivers.images == found.drivers.images
    driven = [item.driven_by for item in again.explanations()]
    assert driven == found.drivers.named()
    assert any(driven)
    assert {item.driven_by for item in plain.explanations()} == {None}
    assert Decomposition.from_pretrained(tmp_path / "plain").drivers is None


def test_leaves_need_no_data_and_a_total_effect_takes_64(folder):
    editor = SithEditor.from_pretrained(folder / "model")
    concepts = ConceptDictionary.from_texts(WORDS)
    few = DatasetSettings(world="leaves", seed=0, pictures=40)
    found = editor.decompose(concepts, pursuit=Pursuit(sparsity=2), layers=[-1], images=few, effect="total")
    assert found.drivers.title == "40 images of drawn world: leaves, seed 0"
    assert found.settings["effect_images"]["count"] == 40
    assert found.total_cosine.shape == (1, 4, 8)
    none = editor.decompose(concepts, pursuit=Pursuit(sparsity=2), layers=[-1], effect="total")
    assert none.drivers is None
    assert none.settings["effect_images"]["count"] == 64


def test_what_has_no_images_is_refused(folder):
    model = SithEditor.from_pretrained(folder / "model")
    text = SithEditor.from_pretrained(folder / "model", tower="text")
    concepts = ConceptDictionary.from_texts(WORDS)
    numbers = SithEditor.from_model(dinov2(0))
    for call, words in [
        (lambda: text.decompose(concepts, images="leaves"), "text tower"),
        (lambda: text.decompose(concepts, effect="total"), "text tower"),
        (lambda: numbers.decompose(None, images="leaves"), "no concepts"),
        (lambda: model.decompose(concepts, images=7), "images must be"),
        (lambda: model.decompose(concepts, images=folder / "few"), "20 readable images"),
        (lambda: model.decompose(concepts, images=folder / "few", effect="total"), "20 readable images"),
        (lambda: SithEditor.from_model(clip_model(0)).decompose(None, effect="total"), "no concepts"),
    ]:
        with pytest.raises(InputError, match=words):
            call()


def test_the_command_line_measures_resumes_and_repeats(folder, tmp_path):
    out = tmp_path / "out"
    base = ["decompose", folder / "model", "--concepts", folder / "words.txt", "--sparsity", 2, "--layers", -1]
    command = [*base, "--images", folder / "pictures", "--effect", "total", "-o", out]
    first = succeeded(sith(*command))
    assert "total effect: 192 backward passes over 64 images" in first.err
    stamp = (out / "decomposition.safetensors").stat().st_mtime_ns
    succeeded(sith(*command))
    assert (out / "decomposition.safetensors").stat().st_mtime_ns == stamp
    assert "another decomposition" in refused(sith(*base, "--images", folder / "pictures", "-o", out))
    assert "another decomposition" in refused(sith(*base, "--effect", "total", "-o", out))
    found = Decomposition.from_pretrained(out)
    assert found.effect == "total"
    assert found.drivers.images["count"] == 70
    shown = json.loads(succeeded(sith("show", out, "--json")).out)
    assert shown[0]["driven_by"] == [list(pair) for pair in found.explain(2, 0, 0).driven_by]
    assert shown[0]["total_cosine"] == pytest.approx(float(found.total_cosine[0, 0, 0]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--images-column", "image"], "need --images"),
        (["--images", "few"], "20 readable images"),
        (["--images", "leaves", "--images-split", "test"], "split"),
        (["--images", "missing"], "missing"),
        (["--effect", "total", "--side", "read"], "what a vector writes"),
        (["--images", "pictures", "--tower", "text"], "text tower"),
        (["--images", "pictures", "--images-column", "photo"], "photo"),
    ],
)
def test_bad_options_are_refused_and_nothing_is_written(folder, tmp_path, options, words, monkeypatch):
    monkeypatch.chdir(folder)
    command = ["decompose", "model", "--concepts", "words.txt", "--sparsity", 2, "-o", tmp_path / "out"]
    assert words in refused(sith(*command, *options))
    assert not (tmp_path / "out").exists()


def test_tables_and_data_sets_name_both_readings(folder, tmp_path):
    out = tmp_path / "out"
    base = ["decompose", folder / "model", "--concepts", folder / "words.txt", "--sparsity", 2, "--layers", -1]
    said = succeeded(sith(*base, "--images", folder / "pictures", "-o", out)).out
    found = Decomposition.from_pretrained(out)
    named = found.fidelity.numel() - found.drivers.silent
    assert f"driven by: {named} of 64 poles name concepts" in said
    shown = succeeded(sith("show", out, "--top", 8)).out
    assert "writes (weight)" in shown
    assert "driven by (correlation)" in shown
    driven = next(item.driven_by for item in found.explanations() if item.driven_by)
    assert f"{driven[0][0]} {driven[0][1]:.2f}" in shown
    plain = tmp_path / "plain"
    succeeded(sith(*base, "-o", plain))
    assert "driven by" not in succeeded(sith("show", plain)).out
    rows = found.to_dataset()
    assert rows["driven_by"][:4] == [[text for text, _ in pairs] for pairs in found.drivers.named()[:4]]
    assert Decomposition.from_pretrained(plain).to_dataset()["driven_by"][0] is None


@pytest.mark.parametrize("stream", [False, True])
def test_an_opened_dataset_is_as_good_as_its_folder(tmp_path, stream):
    from tests.grounding.test_ground import files, rows
    from tests.support import tiny
    from tests.support.made import tiny_concepts, tiny_editor

    editor = tiny_editor(tmp_path)
    rows(files(40)).save_to_disk(tmp_path / "pictures")
    opened = rows(files(40)).to_iterable_dataset() if stream else rows(files(40))
    options = {"layers": [2], "effect": "total", "processor": tiny.image_processor()}
    by_name = editor.decompose(tiny_concepts(), images=tmp_path / "pictures", **options)
    given = editor.decompose(tiny_concepts(), images=opened, **options)
    assert torch.equal(given.drivers.correlation, by_name.drivers.correlation)
    assert torch.equal(given.total_cosine, by_name.total_cosine)
    with pytest.raises(InputError, match="31 readable"):
        editor.decompose(tiny_concepts(), images=rows(files(31)), **options)
    with pytest.raises(InputError, match="images must be"):
        editor.decompose(tiny_concepts(), images=[1, 2], **options)
