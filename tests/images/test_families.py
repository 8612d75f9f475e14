"""Embedding images by models of every family: the library's own features, for evaluations, means and previews."""

from __future__ import annotations

import shutil
from functools import cache, partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize
from transformers import ViTImageProcessorPil

from sith_hf import ConceptDictionary, SithEditor
from sith_hf.editor import Comparison
from sith_hf.errors import InputError
from sith_hf.evaluation import ZeroShot, evaluate
from sith_hf.evaluation.plan import Collateral
from sith_hf.images import Columns, DatasetSettings, estimated_mean, mean_for, mean_of_images
from sith_hf.images.comparison import model_variants
from sith_hf.images.model_variant import embed_all, shared_depth
from sith_hf.pursuit import Pursuit
from tests.support.evaluating import dataset
from tests.support.families import CLASSES, save, whole
from tests.support.open_clip_folders import WEIGHTS, open_clip_folder
from tests.support.tiny import image_processor

VISION = [(family, name) for family, names in CLASSES.items() for name in names if "Text" not in name]
# The whole models, one that holds them inside, and one tower alone.
SOME = [case for case in VISION if not case[1].endswith(("VisionModel", "Projection"))] + VISION[1:2]
PIXELS = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """The folder of each class, and of the whole model that a tower alone belongs to."""
    work = tmp_path_factory.mktemp("families")
    return {name: save(family, name, work / name) for family, name in VISION}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "pictures"
    dataset([*range(0, 240, 12)], label=[0, 1] * 10).save_to_disk(folder)
    return DatasetSettings(dataset=str(folder), columns=Columns(label="label"))


@pytest.fixture(scope="module")
def opened(bases):
    """A function from a family and a class to an editor of its vision tower, and the edit of one layer; made once."""
    return cache(partial(_opened, bases))


def _opened(bases, family, name):
    companion = bases[CLASSES[family][0]] if "Vision" in name else None
    editor = SithEditor.from_pretrained(bases[name], text_model=companion, tower="vision")
    concepts = ConceptDictionary.from_texts(["dog", "red boat", "ocean"])
    editor.decompose(concepts, layers=[-1], pursuit=Pursuit(sparsity=2))
    return editor, editor.edit().vectors(-1.0, heads=[0]).spec


@pytest.mark.parametrize(("family", "name"), VISION)
def test_image_embeddings_are_those_of_the_library(opened, family, name):
    editor, spec = opened(family, name)
    base, edited = model_variants(editor, {"base": None, "edited": spec})
    with torch.no_grad():
        inner = whole(editor.model)
        if hasattr(inner, "get_image_features"):
            wanted = inner.get_image_features(pixel_values=PIXELS).pooler_output
        elif name.endswith("WithProjection"):
            wanted = inner(pixel_values=PIXELS).image_embeds
        else:
            wanted = whole(editor.companion.model).visual_projection(inner(pixel_values=PIXELS).pooler_output)
        found = embed_all([base, edited], PIXELS)
        torch.testing.assert_close(found[0], normalize(wanted, dim=-1), atol=1e-6, rtol=0)
        assert torch.equal(found[1], edited.embed(PIXELS))
        assert (found[1] - found[0]).abs().max() > 1e-3  # the control: the edit changes embeddings
    assert shared_depth(base.model, edited.model) == 2  # of three layers


@pytest.mark.parametrize("family", CLASSES)
def test_a_tower_alone_without_a_projection_is_refused(bases, family):
    name = next(name for name in CLASSES[family] if name.endswith("VisionModel"))
    (variant,) = model_variants(SithEditor.from_pretrained(bases[name]), {"base": None})
    with pytest.raises(InputError, match="text_model"):
        variant.embed(PIXELS)


@pytest.mark.parametrize(("family", "name"), SOME)
def test_evaluations(bases, opened, pictures, family, name):
    editor, spec = opened(family, name)
    companion = None if editor.companion is None else editor.companion.folder
    comparison = Comparison.from_spec(bases[name], spec, text_model=companion)
    tasks = [ZeroShot(data=pictures, classes=("dog", "boat")), Collateral(data=pictures)]
    found = evaluate(comparison.variants, tasks, text=comparison.text, resamples=100)
    drift = next(item for task in found.tasks for item in task.metrics if "drift" in item.metric)
    assert 1e-6 < drift.values["edited"] < 2


@pytest.mark.parametrize(("family", "name"), SOME)
def test_means(opened, pictures, family, name, tmp_path):
    editor, _ = opened(family, name)
    mean = mean_of_images(editor, pictures)
    assert mean.count == 20
    mean.save_pretrained(tmp_path / "mean")
    assert torch.equal(mean_for(editor, tmp_path / "mean"), mean.image_mean)
    touched = {key for key in mean.base.sha256 if "out_proj" in key}
    assert len(touched) == 6
    estimate = estimated_mean(editor)
    embeddings = whole(editor.model)
    embeddings = getattr(embeddings, "vision_model", embeddings).embeddings
    token = embeddings.class_embedding + embeddings.position_embedding.weight[0]
    torch.testing.assert_close(
        estimate.image_mean.float(), 0.3 * editor.tower.to_joint(token.detach()), atol=1e-5, rtol=0
    )


def test_clipseg_takes_images_of_any_size(opened, pictures):
    """Published checkpoints have an image_size of 224 and an image processor of 352."""
    editor, _ = opened("clipseg", "CLIPSegForImageSegmentation")
    larger = ViTImageProcessorPil(size={"height": 24, "width": 24})
    (variant,) = model_variants(editor, {"base": None}, processor=larger)
    found = mean_of_images(editor, pictures, processor=larger)
    smaller = mean_of_images(editor, pictures, processor=image_processor())
    assert (found.image_mean - smaller.image_mean).abs().max() > 1e-4
    assert variant.image_size is None
    other, _ = opened("chinese_clip", "ChineseCLIPModel")
    with pytest.raises(InputError, match="expects"):
        mean_of_images(other, pictures, processor=larger)


def test_texts_of_another_open_clip_tower_are_no_edit(tmp_path):
    base = open_clip_folder(tmp_path / "base")
    for tensor in ("token_embedding.weight", "visual.class_embedding"):
        other, state = shutil.copytree(base, tmp_path / tensor), load_file(base / WEIGHTS)
        save_file({**state, tensor: state[tensor] + 1}, other / WEIGHTS)
    with pytest.raises(InputError, match=r"different text towers: text\.token_embedding\.weight is no"):
        Comparison.from_checkpoints(base, {"other": tmp_path / "token_embedding.weight"})
    found = Comparison.from_checkpoints(base, {"other": tmp_path / "visual.class_embedding"})  # the control
    assert [variant.name for variant in found.variants] == ["base", "other"]
