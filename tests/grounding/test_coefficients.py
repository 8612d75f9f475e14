"""Coefficients against a float64 forward that sums attention times what a head reads, in several families."""

import copy

import pytest
import torch

from sith_hf import SithEditor
from sith_hf.errors import BaseMismatch, InputError
from sith_hf.grounding import read_where, reading_coefficients
from tests.support.explicit import DINO_PARTS
from tests.support.families import TOKENIZERS, make
from tests.support.literal_coefficients import AIMV2_PARTS, aimv2_pool, attended, coefficients, siglip_pool
from tests.support.siglip import siglip
from tests.support.tiny import clip_model
from tests.support.vision_models import dinov2
from tests.towers.test_aimv2 import made as aimv2


def prepared(model, fold=True):
    """An editor of a float64 copy with eager attention, its decomposition, and random images."""
    model = copy.deepcopy(model).double().eval()
    model.set_attn_implementation("eager")
    editor = SithEditor.from_model(model)
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return editor, editor.decompose(None, fold=fold), pixels


def read(editor, decomposition, run, vectors=None):
    with torch.no_grad(), reading_coefficients(editor.model, editor.tower, decomposition, vectors) as reader:
        run()
        return reader.take()


def check(found, wanted):
    assert found.shape == wanted.shape
    assert found.dtype == torch.float64
    scale = wanted.abs().max()
    assert scale > 0.1
    # Directions are stored as float32.
    assert (found - wanted).abs().max() < 1e-5 * scale
    assert (found.roll(1, dims=1) - wanted).abs().max() > 0.1 * scale, "the check sees a wrong vector"


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("family", ["clip", "chinese_clip", "clipseg", "metaclip_2"])
def test_clip_and_its_relatives_are_read_at_the_class_token(family, fold, tmp_path):
    names = {"clip": "CLIPModel", "chinese_clip": "ChineseCLIPModel", "clipseg": "CLIPSegModel"}
    if family == "clip":
        model = clip_model(3)
    else:
        model = make(family, names.get(family, "MetaClip2Model"), TOKENIZERS[family](tmp_path / "t"), 3)
    editor, decomposition, pixels = prepared(model, fold)

    def run():
        return editor.model.get_image_features(pixel_values=pixels)

    sums = attended(run, editor.model.vision_model.encoder.layers, fold=fold)
    values = decomposition.singular_values, decomposition.read
    wanted = coefficients([each[:, :, 0] for each in sums], *values)
    found = read(editor, decomposition, run)
    check(found, wanted)
    assert {read_where(editor.model, editor.tower, n) for n in decomposition.layers} == {"class token"}
    other = coefficients([each[:, :, 1] for each in sums], *values)
    assert (found - other).abs().max() > 0.1, "and it sees another token"


def test_siglip_is_read_at_the_pool_and_over_all_tokens():
    editor, decomposition, pixels = prepared(siglip(seed=2))
    vision = editor.model.vision_model
    kept = {}
    vision.post_layernorm.register_forward_hook(lambda module, inputs, output: kept.update(states=inputs[0]))

    def run():
        return editor.model.get_image_features(pixel_values=pixels)

    sums = attended(run, vision.encoder.layers)
    pool = siglip_pool(vision, kept["states"])
    wanted = coefficients(
        [*(each.mean(dim=2) for each in sums), pool], decomposition.singular_values, decomposition.read
    )
    check(read(editor, decomposition, run), wanted.detach())
    where = [read_where(editor.model, editor.tower, n) for n in decomposition.layers]
    assert where == ["mean over tokens", "mean over tokens", "pool"]


@pytest.mark.parametrize("bias", [True, False])
def test_aimv2_has_rms_norms_and_a_pool(bias):
    editor, decomposition, pixels = prepared(aimv2(1, qkv_bias=bias))
    vision, kept = editor.model.vision_model, {}
    vision.rms_norm.register_forward_hook(lambda module, inputs, output: kept.update(states=inputs[0]))

    def run():
        return editor.model.get_image_features(pixel_values=pixels)

    sums = attended(run, vision.encoder.layers, AIMV2_PARTS)
    read_by = [*(each.mean(dim=2) for each in sums), aimv2_pool(vision, kept["states"])]
    check(
        read(editor, decomposition, run),
        coefficients(read_by, decomposition.singular_values, decomposition.read).detach(),
    )


def test_a_layer_scale_is_part_of_what_is_written():
    editor, decomposition, pixels = prepared(dinov2(4))

    def run():
        return editor.model(pixel_values=pixels)

    sums = attended(run, editor.model.encoder.layer, DINO_PARTS)
    wanted = coefficients([each.mean(dim=2) for each in sums], decomposition.singular_values, decomposition.read)
    check(read(editor, decomposition, run), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_some_vectors_in_any_order_over_several_batches(dtype):
    model = clip_model(5).to(dtype)
    editor = SithEditor.from_model(model)
    decomposition = editor.decompose(None)
    pixels = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(2)).to(dtype)
    vectors = [(2, 1, 3), (0, 0, 0), (2, 1, 3), (1, 3, 7)]
    before = model.get_image_features(pixel_values=pixels).pooler_output
    with torch.no_grad(), reading_coefficients(model, editor.tower, decomposition) as every:
        model.get_image_features(pixel_values=pixels)
        whole = every.take()
    with torch.inference_mode(), reading_coefficients(model, editor.tower, decomposition, vectors) as reader:
        for batch in pixels.split(2):
            model.get_image_features(pixel_values=batch)
        some = reader.take()
        with pytest.raises(InputError, match=r"no image passed through layers \[0, 1, 2\]"):
            reader.take()
    assert some.dtype == torch.float32
    assert some.shape == (5, 4)
    assert reader.vectors == tuple(vectors)
    columns = [every.vectors.index(vector) for vector in vectors]
    assert torch.allclose(some, whole[:, columns], atol=1e-5 if dtype == torch.float32 else 0.05)
    assert torch.equal(model.get_image_features(pixel_values=pixels).pooler_output, before)
    assert not model.vision_model.encoder.layers[0].self_attn.out_proj._forward_pre_hooks


def test_what_cannot_be_read_is_refused():
    editor = SithEditor.from_model(clip_model(0))
    decomposition = editor.decompose(None, layers=[1])
    other = SithEditor.from_model(clip_model(1))
    text = SithEditor.from_model(editor.model, tower="text")
    for tower, vectors, error, words in [
        (other.tower, None, BaseMismatch, "this model"),
        (text.tower, None, InputError, "text tower"),
        (editor.tower, [], InputError, "no vectors"),
        (editor.tower, [(0, 0, 0)], InputError, "layer 0 was not decomposed"),
        (editor.tower, [(1, 9, 0)], InputError, "head 9"),
    ]:
        with pytest.raises(error, match=words), reading_coefficients(editor.model, tower, decomposition, vectors):
            pass
