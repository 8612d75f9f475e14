"""Drivers against correlations of every coefficient with every similarity, in float64."""

import io
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset, Features, Image
from torch.nn.functional import normalize

from sith_hf import ConceptDictionary, SithEditor
from sith_hf.errors import InputError
from sith_hf.files import ResumableJob
from sith_hf.grounding import beyond_chance, driven_by, reading_coefficients
from sith_hf.grounding.moments import Moments
from sith_hf.images import DatasetSettings
from sith_hf.images.model_variant import ModelVariant
from sith_hf.pursuit import Pursuit
from tests.support.tiny import byte_tokenizer, clip_model, image_processor

# The function of the same name hides the module in its package.
driving = sys.modules["sith_hf.grounding.driven_by"]

WORDS = ["dog", "red boat", "ocean", "car", "night", "tree", "cloud", "a lamp"]


def pictures(count, seed=0, side=16):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def saved(folder, arrays, broken=0):
    """A dataset of pictures as PNG files, the first ones damaged."""
    files = []
    for array in arrays:
        file = io.BytesIO()
        PIL.Image.fromarray(array).save(file, "PNG")
        files.append(file.getvalue())
    files[:broken] = [b"no image"] * broken
    rows = [{"bytes": file, "path": None} for file in files]
    Dataset.from_dict({"image": rows}, features=Features({"image": Image()})).save_to_disk(folder)
    return DatasetSettings(dataset=str(folder))


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    return SithEditor.from_model(clip_model(6), byte_tokenizer(tmp_path_factory.mktemp("t")))


@pytest.fixture
def explained(editor):
    concepts = editor.encode(ConceptDictionary.from_texts(WORDS))
    return editor.decompose(concepts, pursuit=Pursuit(sparsity=3), rank=4), concepts


def literal(editor, decomposition, concepts, arrays):
    """Correlations ``[N, M]`` by numpy, from a forward pass of all pictures."""
    variant = ModelVariant("base", editor.model, image_processor())
    pixels = image_processor()(images=list(arrays), return_tensors="pt")["pixel_values"]
    with torch.no_grad(), reading_coefficients(editor.model, editor.tower, decomposition) as reader:
        embeddings, values = variant.embed(pixels), reader.take()
    similarity = embeddings.double() @ concepts.embeddings_of(range(len(concepts))).double().T
    whole = np.corrcoef(values.double().T.numpy(), similarity.T.numpy())
    return whole[: values.shape[1], values.shape[1] :]


def test_drivers_are_the_highest_and_lowest_correlations(editor, explained, tmp_path):
    decomposition, concepts = explained
    arrays = pictures(300)
    wanted = literal(editor, decomposition, concepts, arrays[2:])
    data = saved(tmp_path / "data", arrays, broken=2)
    found = driven_by(editor, decomposition, concepts, data, most=3, processor=image_processor(), batch_size=64)
    assert found.concept.shape == (3, 4, 4, 2, 3)
    assert found.correlation.dtype == torch.float32
    assert found.images["count"] == 298
    assert found.images["read_at"]["0"] == "class token"
    assert list(found.images["skipped"].values()) == [2]
    named = 0
    for row, each in enumerate(found.named()):
        signed = wanted[row // 2] * (1 if row % 2 == 0 else -1)
        order = np.argsort(-signed)[: len(each)]
        assert [text for text, _ in each] == [concepts.texts[i] for i in order]
        assert np.allclose([value for _, value in each], signed[order], atol=1e-5)
        named += len(each)
        if len(each) < 3:
            z = np.arctanh(np.sort(signed)[::-1][len(each)]) * 295**0.5
            assert z < 3, "what is left out is not far beyond chance"
    assert 0 < named < 3 * len(found.named()), "some poles say something, and some words are left out"
    assert found.silent == sum(not each for each in found.named())


def test_pieces_and_processes_do_not_change_the_bits(editor, explained, tmp_path, monkeypatch):
    decomposition, concepts = explained
    monkeypatch.setattr(driving, "BATCHES", 2)
    data = saved(tmp_path / "data", pictures(90))
    options = {"processor": image_processor(), "batch_size": 10}
    whole = driven_by(editor, decomposition, concepts, data, **options)
    taken, original = [], driving._piece

    def failing(*args):
        taken.append(len(args[2]))
        if len(taken) == 3:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(driving, "_piece", failing)
    job = ResumableJob(tmp_path / "work")
    with pytest.raises(KeyboardInterrupt):
        driven_by(editor, decomposition, concepts, data, job=job, **options)
    # A damaged part in the middle is made again; the sum keeps its order.
    (tmp_path / "work" / "driven-by" / "00000-0000000.part").write_bytes(b"damaged")
    again = driven_by(editor, decomposition, concepts, data, job=job, **options)
    assert sum(taken) == 18 * 3 + 90 - 18
    assert torch.equal(again.correlation, whole.correlation)
    assert torch.equal(again.concept, whole.concept)
    assert again.images == whole.images


@pytest.mark.parametrize("arrays", [np.repeat(pictures(1), 40, axis=0), pictures(40, 3)], ids=["same", "few"])
def test_what_no_image_shows_is_silent(editor, explained, tmp_path, arrays):
    decomposition, concepts = explained
    data = saved(tmp_path / "data", arrays)
    found = driven_by(editor, decomposition, concepts, data, processor=image_processor())
    if len(np.unique(arrays, axis=0)) == 1:
        assert found.silent == decomposition.fidelity.numel()
        assert found.texts == ()
    assert bool(((found.concept >= 0) == (found.correlation > 0)).all())


def test_independent_noise_names_at_most_a_twentieth():
    generator = torch.Generator().manual_seed(0)
    coefficients = torch.randn(200, 500, generator=generator)
    embeddings = normalize(torch.randn(200, 24, generator=generator), dim=-1)
    concepts = normalize(torch.randn(50, 24, generator=generator), dim=-1)
    highest = Moments.of(coefficients, embeddings).correlation(concepts).topk(3, dim=1).values
    assert int(beyond_chance(highest, 200, 50).any(dim=1).sum()) <= 25
    planted = Moments.of(coefficients * 0.5 + 30 * embeddings @ concepts[:1].T, embeddings)
    assert bool(beyond_chance(planted.correlation(concepts).topk(3, dim=1).values, 200, 50)[:, 0].all())


def test_too_few_images_are_refused(editor, explained, tmp_path):
    decomposition, concepts = explained
    data = saved(tmp_path / "data", pictures(40), broken=10)
    with pytest.raises(InputError, match="30 readable images"):
        driven_by(editor, decomposition, concepts, data, processor=image_processor())
    few = saved(tmp_path / "more", pictures(40))
    with pytest.raises(InputError, match="no embeddings"):
        driven_by(editor, decomposition, ConceptDictionary.from_texts(WORDS), few, processor=image_processor())
