"""Grounding: top images against brute force, agreement, interruption, other sources, and what cannot be grounded."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from sith_hf import SithEditor
from sith_hf.errors import BaseMismatch, InputError, UnsupportedModel
from sith_hf.files.resumable import SUFFIX, ResumableJob
from sith_hf.grounding import chosen_vectors, ground, reading_coefficients, strongest
from sith_hf.images import Columns, DatasetSettings
from tests.support import tiny
from tests.support.made import tiny_concepts, tiny_editor
from tests.support.vision_models import dinov2

VECTORS = [(1, 0, 0), (2, 3, 5)]
BROKEN = {3: None, 20: b"no picture"}


def files(count=60, seed=0, broken=()):
    """Random pictures of several sizes and modes as files; rows that hold none."""
    random, found = np.random.default_rng(seed), []
    for number in range(count):
        size = (16, 16) if number % 3 else (40, 23)
        blocks = random.integers(0, 256, (3, 3, 3), dtype=np.uint8)
        picture = Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)
        file = io.BytesIO()
        picture.convert(("RGB", "L", "RGBA", "P")[number % 4]).save(file, format="PNG")
        found.append(file.getvalue())
    return [dict(broken).get(number, file) for number, file in enumerate(found)]


def rows(contents, names=None):
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature

    names = names or [f"{number}.png" for number in range(len(contents))]
    values = [None if c is None else {"bytes": c, "path": name} for c, name in zip(contents, names, strict=True)]
    return Dataset.from_dict({"image": values}, features=Features({"image": ImageFeature()}))


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    editor = tiny_editor(tmp_path_factory.mktemp("tiny"), seed=1)
    editor.decompose(tiny_concepts(), layers=[1, 2])
    return editor


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "pictures"
    rows(files(broken=BROKEN)).save_to_disk(folder)
    return folder


def grounded(editor, images, vectors=VECTORS, **options):
    return ground(editor, editor.decomposition, images, vectors=vectors, processor=tiny.image_processor(), **options)


@pytest.fixture(scope="module")
def found(editor, pictures):
    return grounded(editor, pictures)


def brute(editor):
    """Row to coefficients ``[N]`` and embedding of each readable picture, one at a time."""
    processor, result = tiny.image_processor(), {}
    for row, content in enumerate(files()):
        if row in BROKEN:
            continue
        picture = Image.open(io.BytesIO(content)).convert("RGB")
        pixels = processor(images=[picture], return_tensors="pt")["pixel_values"]
        model = editor.model.eval()
        with torch.no_grad(), reading_coefficients(model, editor.tower, editor.decomposition, VECTORS) as reader:
            embedding = model.get_image_features(pixel_values=pixels).pooler_output[0]
            result[row] = reader.take()[0], embedding / embedding.norm()
    return result


def test_top_images_are_those_of_brute_force(editor, found):
    wanted = brute(editor)
    assert [(p.layer, p.head, p.vector, p.pole) for p in found.poles] == [(*v, p) for v in VECTORS for p in "+-"]
    for pole in found.poles:
        number, sign = VECTORS.index((pole.layer, pole.head, pole.vector)), 1 if pole.pole == "+" else -1
        order = sorted(wanted, key=lambda row: -sign * float(wanted[row][0][number]))
        # 58 pictures: at most a quarter of them are the strongest.
        assert [image.row for image in pole.images] == order[:14]
        assert [image.row for image in pole.images] != order[1:15]
        for image in (*pole.images, *pole.random):
            assert image.coefficient == pytest.approx(float(wanted[image.row][0][number]), abs=1e-5)
            assert image.file == f"{image.row}.png"
        assert {image.row for image in pole.random} == set(order[14:])
        signs = [sign * float(values[number]) > 0 for values, _ in wanted.values()]
        assert pole.active == pytest.approx(np.mean(signs))
    assert found.images["count"] == 58
    assert sum(found.images["skipped"].values()) == 2


def test_similarity_is_that_of_the_weighted_concepts(editor, found):
    wanted, explained = brute(editor), editor.decomposition
    for pole in found.poles:
        explanation = explained.explain(pole.layer, pole.head, pole.vector, pole.pole)
        index = {text: number for number, text in enumerate(explained.texts)}
        direction = sum(weight * explained.atoms[index[text]] for text, weight in explanation.concepts)
        scores = {row: float(embedding @ direction) for row, (_, embedding) in wanted.items()}
        assert all(i.similarity == pytest.approx(scores[i.row], abs=1e-5) for i in (*pole.images, *pole.random))
        pairs = [(scores[a.row], scores[b.row]) for a in pole.images for b in pole.random]
        assert pole.agreement.auc == pytest.approx(np.mean([a > b for a, b in pairs]), abs=1e-3)
        assert 0 < pole.agreement.p_value <= 1


def test_parts_of_an_image_add_up(found):
    for pole in found.poles:
        for image in pole.images[:8]:
            assert image.patches.shape == (2, 2)
            assert float(image.patches.sum()) + image.others == pytest.approx(image.coefficient, abs=1e-5)
        assert pole.images[0].others != 0
        assert pole.images[8].patches is None
    shown = {i.row for pole in found.poles for i in (*pole.images[:8], *pole.random[:8])}
    assert found.pictures.keys() == shown


@pytest.mark.parametrize("kind", ["stream", "batches", "object", "iterable", "shards"])
def test_the_source_and_the_batches_do_not_matter(editor, pictures, found, tmp_path, monkeypatch, kind):
    from datasets import load_from_disk

    data, options = DatasetSettings(dataset=str(pictures)), {}
    match kind:
        case "stream":
            data = DatasetSettings(dataset=str(pictures), streaming=True)
        case "batches":
            monkeypatch.setattr(strongest, "BATCHES", 2)
            options = {"batch_size": 7}
        case "object":
            data = load_from_disk(pictures)
        case "iterable":
            data = load_from_disk(pictures).to_iterable_dataset()
        case "shards":
            monkeypatch.setattr(strongest, "BATCHES", 1)
            options = {"batch_size": 4}
            for number in range(3):
                load_from_disk(pictures).shard(3, number, contiguous=True).to_parquet(tmp_path / f"{number}.parquet")
            data = DatasetSettings(dataset=str(tmp_path), streaming=True)
    other = grounded(editor, data, **options)
    for one, two in zip(found.poles, other.poles, strict=True):
        assert [image.row for image in one.images] == [image.row for image in two.images]
        assert {image.row for image in one.random} == {image.row for image in two.random}
        for a, b in zip(one.images, two.images, strict=True):
            assert a.coefficient == pytest.approx(b.coefficient, abs=1e-5)
        assert one.agreement.auc == two.agreement.auc
    if kind != "shards":  # rows of several shards have other random numbers
        assert found.pictures == other.pictures


class Stop(Exception):
    """The run ends here."""


@pytest.mark.parametrize("streaming", [False, True])
def test_an_interrupted_run_goes_on_and_gives_the_same(editor, pictures, tmp_path, monkeypatch, streaming):
    monkeypatch.setattr(strongest, "BATCHES", 1)
    data = DatasetSettings(dataset=str(pictures), streaming=streaming)
    whole = grounded(editor, data, batch_size=8)
    real, calls = strongest.View.embed, []

    def stops(self, pixels):
        calls.append(len(pixels))
        if len(calls) == 5:
            raise Stop
        return real(self, pixels)

    def run():
        with ResumableJob.beside(tmp_path / "out") as job:
            return grounded(editor, data, batch_size=8, job=job)

    with monkeypatch.context() as patch:
        patch.setattr(strongest.View, "embed", stops)
        with pytest.raises(Stop):
            run()
    assert len(list((tmp_path / "out.work").rglob(f"*{SUFFIX}"))) == 4
    passes = []
    monkeypatch.setattr(strongest, "_part", lambda *args, real=strongest._part: passes.append(1) or real(*args))
    again = run()
    assert len(passes) == 4, "the finished pieces are not made again"
    assert again.to_json() == whole.to_json()
    assert again.pictures == whole.pictures
    assert not (tmp_path / "out.work").exists()


def test_other_vectors_do_not_continue_a_run(editor, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(strongest, "BATCHES", 1)
    with ResumableJob.beside(tmp_path / "out") as job:
        grounded(editor, pictures, batch_size=8, job=job)
        with pytest.raises(InputError, match="differs in vectors"):
            grounded(editor, pictures, [(1, 0, 1)], batch_size=8, job=job)


@pytest.mark.parametrize(("count", "message"), [(0, "no rows|no row|could be opened"), (31, "31 readable"), (33, None)])
def test_too_few_images_are_refused(editor, tmp_path, count, message):
    rows(files(count)).save_to_disk(tmp_path / "few")
    if message is None:
        assert len(grounded(editor, tmp_path / "few").poles[0].images) == 8
        return
    with pytest.raises(InputError, match=message):
        grounded(editor, tmp_path / "few")


def test_unreadable_images_and_missing_columns_are_refused(editor, pictures, tmp_path):
    rows([None, b"no picture"] * 20).save_to_disk(tmp_path / "broken")
    with pytest.raises(InputError, match="no row has a readable image"):
        grounded(editor, tmp_path / "broken")
    with pytest.raises(InputError, match="no column photo"):
        grounded(editor, DatasetSettings(dataset=str(pictures), columns=Columns(image="photo")))
    for images in (7, [Image.new("RGB", (8, 8))]):
        with pytest.raises(InputError, match="images must be"):
            grounded(editor, images)
    with pytest.raises(InputError, match="no vectors"):
        grounded(editor, pictures, [])


def test_weights_that_give_no_numbers_are_refused(pictures, tmp_path):
    broken = tiny_editor(tmp_path)
    broken.decompose(tiny_concepts(), layers=[1])
    with torch.no_grad():
        broken.model.vision_model.pre_layrnorm.weight[0] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        grounded(broken, pictures, [(1, 0, 0)])


def test_file_names_are_escaped(editor, tmp_path):
    names = [f"../\x1b[31m/a\u202e{n}.png" for n in range(40)]
    rows(files(40), names).save_to_disk(tmp_path / "hostile")
    found = grounded(editor, tmp_path / "hostile")
    for image in found.poles[0].images:
        assert image.file == f"a\\u202e{image.row}.png"


def test_a_tower_without_words_is_grounded_in_images_alone(pictures):
    editor = SithEditor.from_model(dinov2(3))
    editor.decompose(None)
    found = grounded(editor, pictures, [(0, 1, 0)])
    assert [pole.pole for pole in found.poles] == ["+", "-"]
    assert all(pole.agreement is None and pole.explanation is None for pole in found.poles)
    assert found.poles[0].images[0].patches is not None
    assert "no words" in found.notes[0]
    assert found.agreeing is None
    assert "AUC" in found.table()


def test_without_overlays_the_rest_is_there(editor, pictures, found, monkeypatch, tmp_path):
    def refuse(*arguments):
        raise UnsupportedModel("patches unknown")

    monkeypatch.setattr(grounding_module(), "token_parts", refuse)
    other = grounded(editor, pictures)
    assert other.notes == ("no overlays: patches unknown",)
    assert [i.row for i in other.poles[0].images] == [i.row for i in found.poles[0].images]
    assert other.poles[0].images[0].patches is None
    assert other.save_pretrained(tmp_path).is_file()


def grounding_module():
    from importlib import import_module

    return import_module("sith_hf.grounding.ground")


def test_vectors_are_chosen_by_strength_numbers_or_edit(editor):
    explained = editor.decomposition
    values = {
        (layer, head, vector): float(explained.singular_values[position, head, vector])
        for position, layer in enumerate(explained.layers)
        for head in range(4)
        for vector in range(8)
    }
    assert chosen_vectors(explained) == sorted(values, key=lambda key: -values[key])[:10]
    assert len(chosen_vectors(explained, top=99)) == 64
    named = chosen_vectors(explained, layers=[-1], heads=iter([1, 3]), vectors=(v for v in (0, 2)))
    assert sorted(named) == [(2, 1, 0), (2, 1, 2), (2, 3, 0), (2, 3, 2)]
    spec = editor.edit().vectors(0.0, layers=[1], heads=[2], vectors=range(8)).vectors(0.0, layers=[2], heads=[0]).spec
    assert sorted(chosen_vectors(explained, spec=spec)) == sorted(spec.parts[0].keys)
    assert len(chosen_vectors(explained, spec=spec, top=3)) == 3
    for options, message in (
        ({"layers": [9]}, "layer 9"),
        ({"heads": [4]}, "head 4"),
        ({"vectors": [8]}, "vector 8"),
        ({"top": 0}, "top"),
        ({"spec": spec, "heads": [0]}, "an edit names its vectors"),
    ):
        with pytest.raises(InputError, match=message):
            chosen_vectors(explained, **options)


def test_an_edit_of_other_weights_is_refused(editor, tmp_path):
    other = tiny_editor(tmp_path, seed=5)
    other.decompose(tiny_concepts(), layers=[1, 2])
    spec = other.edit().vectors(0.0, layers=[1]).spec
    with pytest.raises(BaseMismatch):
        chosen_vectors(editor.decomposition, spec=spec)
    with pytest.raises(BaseMismatch):
        ground(editor, other.decomposition, vectors=VECTORS, processor=tiny.image_processor())


def test_from_the_editor_and_from_the_decomposition(editor, pictures, found, tmp_path):
    options = {"layers": [1], "heads": [0], "vectors": [0], "processor": tiny.image_processor()}
    one = editor.ground(pictures, **options)
    assert [vars(i)["row"] for i in one.poles[0].images] == [i.row for i in found.poles[0].images]
    assert editor.decomposition.ground(pictures, editor, **options).to_json() == one.to_json()
    tiny.save_clip(tmp_path / "clip", seed=1)
    tiny.image_processor().save_pretrained(tmp_path / "clip")
    loaded = SithEditor.from_pretrained(tmp_path / "clip")
    explained = loaded.decompose(tiny_concepts(), layers=[1])
    assert explained.ground(pictures, tmp_path / "clip", layers=[1], heads=[0], vectors=[0]).agreeing in (0, 1, 2)
    with pytest.raises(InputError, match=r"ground\(images, model="):
        explained.ground(pictures)
    with pytest.raises(BaseMismatch):
        explained.ground(pictures, tiny_editor(tmp_path / "stranger", seed=7))


def test_text_vectors_have_no_images(tmp_path):
    editor = tiny_editor(tmp_path)
    text = SithEditor.from_model(editor.model, editor.loaded.tokenizer, tower="text")
    text.decompose(tiny_concepts())
    with pytest.raises(InputError, match="text tower"):
        grounded(text, None, [(0, 0, 0)])


def test_the_result_is_json(found, tmp_path):
    path = found.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["grounding.json", "grounding.png"]
    data = json.loads((tmp_path / "grounding.json").read_text())
    assert data["images"]["count"] == 58
    assert [image["row"] for image in data["poles"][0]["images"]] == [i.row for i in found.poles[0].images]
    assert path.name == "grounding.png"
    assert "Grounding(tiny" in repr(found)
